//! One consumer of a group: what it has in hand, and what it has taken but not yet handed out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::Pipeline;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::{
    Delivery, DeliveryId, Error, Fetched, Group, InHand, Origin, Settled, Subscription, unique_consumer,
};
use super::durable::Durable;
use super::fetch::{Reading, Want};
use super::hold::BEGINS;
use super::keys::Keys;
use super::renew::Marks;
use super::slices::Place;
use super::{Shared, errors, lanes, parse, scripts};
use crate::event::{Message, Position, SLICES, Settlement};

/// The consumer to whose name a leaving one moves what it has in hand. Nobody reads under it.
pub(super) const GIVEN_BACK: &str = "sandbar-given-back";

/// A consumer's membership of a group.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    /// Where settlements go if they are waited for.
    pub(super) durable: Option<Durable>,
    pub(super) group: Group,
    pub(super) topics: Vec<Keys>,
    pub(super) consumer: String,
    pub(super) hand: Arc<InHand<Held>>,
    /// Taken and not handed out.
    backlog: Mutex<Backlog>,
    /// The state of the one caller of `fetch`.
    pub(super) reading: tokio::sync::Mutex<Reading>,
    /// When the retry store has to be looked at next, as far as is known here.
    next_due: Mutex<Option<Instant>>,
    /// It is sooner than it was.
    pub(super) sooner: Notify,
    /// Lost without anybody having been told.
    pub(super) lost: Mutex<Vec<DeliveryId>>,
    /// What it tells of itself.
    pub(super) report: Mutex<String>,
    /// A group was found missing.
    pub(super) gone: AtomicBool,
    /// The group was made anew once, so that the same entry may be read twice.
    pub(super) remade: AtomicBool,
    /// Each topic's last-delivered-id when it was last looked at.
    pub(super) delivered: Mutex<Vec<String>>,
    pub(super) marks: Marks,
    /// When `fetch` was last at work.
    pub(super) fetched: Mutex<Instant>,
    /// Slices that others are to have wait until nothing of them is in hand.
    pub(super) giving: AtomicBool,
    pub(super) closing: Notify,
    pub(super) closed: AtomicBool,
    tokens: AtomicU64,
}

/// What must be known of a delivery to settle, renew or give it back.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Index of its topic.
    pub(super) topic: usize,
    pub(super) message: Message,
    pub(super) attempts: u32,
    pub(super) origin: Origin,
    /// Names this hand-out in the retry store.
    pub(super) token: u64,
    /// It lies in the retry store and is not pending.
    pub(super) stored: bool,
    /// Attempts of it are recorded on the bus.
    pub(super) counted: bool,
    /// Its slice, in a group with order.
    pub(super) place: Option<Place>,
    /// Being settled: what becomes of it is said there.
    pub(super) settling: bool,
    /// On a cluster: what its settlement publishes to other slots is there already.
    pub(super) appended: bool,
    /// Settled over the connection of this name, and not known to be safe yet.
    pub(super) done: Option<u64>,
}

/// In the order in which it is handed out.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) due: VecDeque<Held>,
    pub(super) dropped: VecDeque<Held>,
    pub(super) inherited: VecDeque<Held>,
    pub(super) new: VecDeque<Held>,
}

// === impl Member ===

impl Member {
    pub(super) fn new(shared: Arc<Shared>, group: &Group, topics: Vec<Keys>) -> Self {
        let delivered = vec![String::new(); topics.len()];
        let is_spread = shared.link.cluster().is_some() && group.order.is_none();
        let lanes = if is_spread { lanes::of(&topics) } else { Vec::new() };
        let reading = Reading::new(shared.link.epoch(), topics.len(), group.lease, lanes);
        Self {
            durable: shared.durable(),
            shared,
            group: group.clone(),
            topics,
            consumer: unique_consumer(&group.consumer),
            hand: InHand::new(),
            backlog: Mutex::default(),
            reading: tokio::sync::Mutex::new(reading),
            next_due: Mutex::default(),
            sooner: Notify::new(),
            lost: Mutex::default(),
            report: Mutex::default(),
            gone: AtomicBool::new(false),
            remade: AtomicBool::new(false),
            marks: Marks::new(delivered.len()),
            delivered: Mutex::new(delivered),
            fetched: Mutex::new(Instant::now()),
            giving: AtomicBool::new(false),
            closing: Notify::new(),
            closed: AtomicBool::new(false),
            tokens: AtomicU64::new(0),
        }
    }

    /// A token that no other hand-out has.
    pub(super) fn held_token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn held(&self, topic: usize, message: Message, origin: Origin) -> Held {
        let token = self.held_token();
        Held {
            topic,
            message,
            attempts: 0,
            origin,
            token,
            stored: false,
            counted: false,
            place: None,
            settling: false,
            appended: false,
            done: None,
        }
    }

    pub(super) fn token(&self, token: u64) -> String {
        format!("{}:{token}", self.consumer)
    }

    /// The number in a token of this consumer's.
    pub(super) fn own_token(&self, token: &str) -> Option<u64> {
        token.strip_prefix(self.consumer.as_str())?.strip_prefix(':')?.parse().ok()
    }

    /// How long a sign of life counts: two leases, since a lease is renewed three times.
    pub(super) fn life(&self) -> u64 {
        millis(self.group.lease * 2)
    }

    pub(super) fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_due(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the retry store no later than at `due`.
    pub(super) fn due_by(&self, due: Instant) {
        let mut next = self.next_due();
        if next.is_none_or(|next| due < next) {
            *next = Some(due);
            // A read that waits was told when to look before.
            self.sooner.notify_one();
        }
    }

    /// Hands out.
    pub(super) fn deliver(&self, held: Held) -> Delivery {
        let (message, attempts, origin) = (held.message.clone(), held.attempts, held.origin);
        Delivery::new(message, attempts, origin, self.hand.take(held))
    }

    /// Voids older hand-outs of messages that have just been taken again: they were lost in between, although the
    /// pending list shows this consumer's name once more.
    pub(super) fn void_older(&self, taken: &[Held]) {
        if taken.is_empty() {
            return;
        }
        let again: HashSet<(usize, &Position)> =
            taken.iter().map(|held| (held.topic, &held.message.position)).collect();
        let voided: Vec<DeliveryId> = self.hand.with(|hand| {
            let voided: Vec<DeliveryId> = hand
                .iter()
                .filter(|(_, held)| again.contains(&(held.topic, &held.message.position)))
                .map(|(id, _)| *id)
                .collect();
            for id in &voided {
                hand.remove(id);
            }
            voided
        });
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(voided);
        self.backlog().retain(|held| !again.contains(&(held.topic, &held.message.position)));
    }

    /// Voids all hand-outs of what is pending; those from the retry store stay.
    pub(super) fn void_pending(&self) {
        let voided = self.hand.with(|hand| {
            let voided: Vec<DeliveryId> = hand.iter().filter(|(_, held)| !held.stored).map(|(id, _)| *id).collect();
            voided.iter().for_each(|id| drop(hand.remove(id)));
            voided
        });
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(voided);
        self.backlog().retain(|held| held.stored);
    }

    /// Everything in hand or about to be handed out, by topic.
    pub(super) fn everything(&self) -> Vec<Vec<(Option<DeliveryId>, Held)>> {
        let mut all: Vec<Vec<(Option<DeliveryId>, Held)>> = vec![Vec::new(); self.topics.len()];
        self.hand.with(|hand| {
            for (id, held) in hand.iter() {
                all[held.topic].push((Some(*id), held.clone()));
            }
        });
        for held in self.backlog().iter() {
            all[held.topic].push((None, held.clone()));
        }
        all
    }

    /// Positions in hand or about to be handed out, by topic.
    pub(super) fn positions(&self) -> Vec<HashMap<Position, bool>> {
        let everything = self.everything();
        let of = |held: Vec<(Option<DeliveryId>, Held)>| {
            held.into_iter().map(|(_, held)| (held.message.position, held.stored)).collect()
        };
        everything.into_iter().map(of).collect()
    }

    fn leaving<'a>(&self, keys: &Keys, stored: impl Iterator<Item = &'a Held>) -> redis::Cmd {
        let named =
            [&*keys.stream, &keys.retry, &keys.due, &keys.hosts, &keys.reader, &keys.slices, &keys.alive, &keys.wake];
        let is_ordered = self.group.order.is_some();
        let (script, named) =
            if is_ordered { (&scripts::LEAVE_OWNED, &named[..]) } else { (&scripts::LEAVE, &named[..4]) };
        let mut leave = script.call(named);
        leave.arg(&self.group.name).arg(&self.consumer);
        if is_ordered {
            leave.arg(SLICES)
        } else {
            leave.arg(GIVEN_BACK)
        };
        for held in stored {
            leave.arg(held.message.position.as_str());
            if let Some(place) = held.place {
                leave.arg(place.slice);
            }
            leave.arg(self.token(held.token));
        }
        leave
    }

    async fn leave(&self) -> Result<(), Error> {
        self.stop_reading().await;
        // Rescues what was trimmed; what is lost is lost.
        let _ = self.renew_all().await;
        let mut commands = Pipeline::new();
        for (keys, all) in self.topics.iter().zip(self.everything()) {
            let stored = all.iter().map(|(_, held)| held).filter(|held| held.stored);
            commands.add_command(self.leaving(keys, stored));
            commands.cmd("HDEL").arg(&keys.reports).arg(&self.consumer);
        }
        self.hand.with(HashMap::clear);
        *self.backlog() = Backlog::default();
        for answer in self.shared.link.send(commands).await? {
            answer.map_err(|error| errors::answered(self.shared.link.target(), &error))?;
        }
        Ok(())
    }
}

// === impl Held ===

impl Held {
    /// As it is handed out again after it was dropped. What came from a host that died stays suspected of having killed
    /// it.
    pub(super) fn dropped(mut self) -> Self {
        if self.origin != Origin::Inherited {
            self.origin = Origin::Dropped;
        }
        self
    }
}

#[async_trait]
impl Subscription for Member {
    fn consumer(&self) -> &str {
        &self.consumer
    }

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Fetched, Error> {
        self.fetch_some(max, wait, Want::All).await
    }

    async fn fetch_due(&self, max: usize, wait: Duration) -> Result<Fetched, Error> {
        self.fetch_some(max, wait, Want::Due).await
    }

    async fn settle(&self, batch: Vec<(Delivery, Settlement)>) -> Vec<Settled> {
        self.settle_all(batch).await
    }

    async fn begin(&self, delivery: &Delivery) -> Result<bool, Error> {
        let Some(held) = self.hand.with(|hand| hand.get(&delivery.id()).cloned()) else {
            return Ok(false);
        };
        let attempts = delivery.attempts + 1;
        let mut begin = self.held_call(&BEGINS, &held, &[]);
        begin.arg(attempts);
        let answer = self.shared.link.value(begin).await?;
        match parse::int(&answer) {
            Some(1) => {
                self.hand.with(|hand| {
                    if let Some(held) = hand.get_mut(&delivery.id()) {
                        (held.attempts, held.counted) = (attempts, true);
                    }
                });
                Ok(true)
            }
            Some(_) => {
                // Its receipt tells nobody: what another has is not to be handed out here again.
                self.hand.remove(delivery.id());
                Ok(false)
            }
            None => Err(self.misused(answer)),
        }
    }

    fn report(&self, text: String) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    async fn renew(&self) -> Result<Vec<DeliveryId>, Error> {
        let lost = self.renew_all().await?;
        self.shared.trim(&self.topics, &self.consumer, self.group.lease).await;
        Ok(lost)
    }

    async fn close(&self) -> Result<(), Error> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.closing.notify_waiters();
        self.leave().await
    }
}

// === impl Backlog ===

impl Backlog {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.due.iter().chain(&self.dropped).chain(&self.inherited).chain(&self.new)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.due.iter_mut().chain(&mut self.dropped).chain(&mut self.inherited).chain(&mut self.new)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Held) -> bool) {
        for queue in [&mut self.due, &mut self.dropped, &mut self.inherited, &mut self.new] {
            queue.retain(&keep);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.due.len() + self.dropped.len() + self.inherited.len() + self.new.len()
    }

    pub(super) fn pop(&mut self, want: Want) -> Option<Held> {
        if want == Want::Due {
            return self.due.pop_front();
        }
        let queues = [&mut self.due, &mut self.dropped, &mut self.inherited, &mut self.new];
        queues.into_iter().find_map(VecDeque::pop_front)
    }
}

/// Milliseconds, for the server.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
