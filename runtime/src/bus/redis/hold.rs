//! What shows the bus that a delivery is in this consumer's hand, for every command that settles, counts or keeps one.

use std::sync::atomic::Ordering;
use std::sync::{LazyLock, PoisonError};

use redis::Cmd;

use super::member::{Held, Member};
use super::scripts::{self, Stored};
use crate::event::{Lane, Message};

/// A script without order, and with it.
pub(super) type Scripts = [&'static LazyLock<Stored>; 2];
pub(super) const BEGINS: Scripts = [&scripts::BEGIN, &scripts::BEGIN_OWNED];
pub(super) const RESCUES: Scripts = [&scripts::RESCUE, &scripts::RESCUE_OWNED];
pub(super) const COMMITS: Scripts = [&scripts::COMMIT, &scripts::COMMIT_OWNED];
pub(super) const CHECKS: Scripts = [&scripts::CHECK, &scripts::CHECK_OWNED];
pub(super) const RETRIES: Scripts = [&scripts::RETRY, &scripts::RETRY_OWNED];
pub(super) const DEADS: Scripts = [&scripts::DEAD, &scripts::DEAD_OWNED];

// === impl Member ===

impl Member {
    /// Acknowledges without a look.
    pub(super) fn ack(&self, topic: usize, all: &[&Held]) -> Cmd {
        let mut ack = redis::cmd("XACK");
        ack.arg(&self.topics[topic].stream).arg(&self.group.name);
        for held in all {
            ack.arg(held.message.position.as_str());
        }
        ack
    }

    /// The same in a group with order, where each is checked.
    pub(super) fn acks(&self, topic: usize, all: &[&Held]) -> Cmd {
        let keys = &self.topics[topic];
        let mut acks = scripts::ACKS.call(&[&keys.stream, &keys.retry, &keys.due, &keys.attempts, &keys.slices]);
        acks.arg(&self.group.name);
        for held in all {
            let (slice, owner) = held.place.map_or((0, 0), |place| (place.slice, place.generation));
            acks.arg(held.message.position.as_str()).arg(slice).arg(self.token(owner)).arg(self.token(held.token));
        }
        acks
    }

    /// A call of a script that begins with `stores.lua`.
    pub(super) fn held_call(&self, [plain, owned]: &Scripts, held: &Held, more: &[&str]) -> Cmd {
        let keys = &self.topics[held.topic];
        let due = held.place.map_or_else(|| keys.due.clone(), |place| keys.due_of(place.slice));
        let mut named = vec![&*keys.stream, &keys.retry, &due, &keys.attempts];
        if held.place.is_some() {
            named.push(&keys.slices);
        }
        named.extend(more);
        let mut call = if held.place.is_some() { owned } else { plain }.call(&named);
        call.arg(&self.group.name).arg(&self.consumer).arg(held.message.position.as_str()).arg(self.token(held.token));
        if let Some(place) = held.place {
            // A token of the consumer's, with the generation in it, is what stands on the bus as the slice's owner.
            call.arg(place.slice).arg(self.token(place.generation));
        }
        call
    }

    /// What the retry store keeps of the lane that waits for a delivery: as it was said, or as it was named when it was
    /// read.
    pub(super) fn lane_of(&self, held: &Held, lane: Option<Lane>) -> String {
        let order = self.group.order.as_ref().filter(|_| held.place.is_some());
        lane_text(order.map(|order| lane.unwrap_or_else(|| order.lane(&held.message))), Some(&held.message))
    }

    /// True while this consumer has to be reckoned with: it fetches, or it has something in hand.
    pub(super) fn is_present(&self) -> bool {
        let fetched = *self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.elapsed() < self.group.lease || self.hand.holds_any()
    }

    /// After something has left the hand: a slice that others are to have may be free.
    pub(super) fn settled_some(&self) {
        if self.giving.load(Ordering::Acquire) {
            self.hand.nudge();
        }
    }
}

/// What the retry store keeps of the lane that waits for a message.
pub(super) fn lane_text(lane: Option<Lane>, message: Option<&Message>) -> String {
    match (lane, message) {
        (Some(lane), Some(message)) => format!("{} {}", lane.number(), message.first),
        _ => String::new(),
    }
}
