//! One consumer's membership, as its transactions see it: what it reads, what it holds, what it knows of its lease.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{Delivery, DeliveryId, Fetched, InHand, Origin};
use super::Names;
use super::fault::Fault;
use super::take::{Gap, Taken, Want};
use super::turn::Turn;
use crate::event::{Message, Topic};

pub(super) struct Member {
    pub(super) consumer: i64,
    pub(super) name: String,
    pub(super) lease_ms: i64,
    pub(super) exclusive: bool,
    pub(super) readers: Vec<Reader>,
    pub(super) names: Names,
    pub(super) stream_max_len: Option<u64>,
    pub(super) in_hand: Arc<InHand<Held>>,
    tokens: AtomicI64,
    state: Mutex<State>,
}

/// The group on one of its topics.
pub(super) struct Reader {
    pub(super) id: i64,
    pub(super) topic_id: i64,
    pub(super) topic: Topic,
}

/// A row that this consumer has, and the token that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) reader: i64,
    pub(super) row: Row,
    pub(super) token: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// A message of the topic, by its position.
    Pending(i64),
    /// An entry of the retry store, by its id.
    Retry(i64),
}

/// A message that was taken for this consumer.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) message: Message,
    pub(super) attempts: u32,
    pub(super) origin: Origin,
    pub(super) seq: i64,
    pub(super) slot: Slot,
}

/// A message whose receipt is out.
pub(super) struct Held {
    pub(super) item: Item,
    /// Its settlement is under way: that its row is gone is no loss.
    pub(super) settling: bool,
}

#[derive(Default)]
pub(super) struct State {
    /// Taken, and waiting to be handed out (again).
    pub(super) ready: VecDeque<Item>,
    /// What `fetch` has to say before it hands anything out. Kept here, since a fetch may be dropped half way.
    news: Option<News>,
    pub(super) active: bool,
    pub(super) lease: Lease,
    /// A transaction failed, so rows may be this consumer's without its knowing.
    pub(super) suspect: bool,
    /// Which topic is asked first.
    pub(super) rotation: usize,
    pub(super) closed: bool,
    /// Trimmed unread, and nobody was told yet.
    pub(super) gaps: Vec<Gap>,
}

/// What a consumer knows of its own lease, in milliseconds since the epoch.
#[derive(Clone, Copy, Default)]
pub(super) struct Lease {
    pub(super) until: i64,
    /// Nothing is claimed before: after an outage the others must have had time to renew theirs.
    pub(super) claim_after: i64,
}

enum News {
    Active(Vec<Message>),
    StandBy,
}

// === impl Member ===

impl Member {
    #[expect(clippy::too_many_arguments, reason = "called once, where all of them are made")]
    pub(super) fn new(
        consumer: i64,
        name: String,
        lease_ms: i64,
        exclusive: bool,
        readers: Vec<Reader>,
        names: Names,
        stream_max_len: Option<u64>,
        lease: Lease,
    ) -> Self {
        let state = Mutex::new(State { lease, ..State::default() });
        let (in_hand, tokens) = (InHand::new(), AtomicI64::new(1));
        Self { consumer, name, lease_ms, exclusive, readers, names, stream_max_len, in_hand, tokens, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that this consumer has never used.
    pub(super) fn token(&self) -> i64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// What `fetch` has to say first.
    pub(super) fn news(&self) -> Option<Fetched> {
        Some(match self.state().news.take()? {
            News::Active(retrying) => Fetched::Active { retrying },
            News::StandBy => Fetched::StandBy,
        })
    }

    /// Makes what was dropped ready to be handed out again; true if anything is ready.
    pub(super) fn collect_dropped(&self, want: Want) -> bool {
        let dropped = self.in_hand.take_dropped();
        let mut state = self.state();
        for held in dropped {
            let mut item = held.item;
            // What came from a host that died stays suspected of having killed it.
            if item.origin != Origin::Inherited {
                item.origin = Origin::Dropped;
            }
            state.ready.push_back(item);
        }
        state.sort_ready();
        state.ready.iter().any(|item| item.is(want))
    }

    /// All that this consumer knows to be its own.
    pub(super) fn slots(&self) -> HashSet<Slot> {
        let mut slots: HashSet<Slot> = self.in_hand.with(|held| held.values().map(|held| held.item.slot).collect());
        slots.extend(self.state().ready.iter().map(|item| item.slot));
        slots
    }

    /// Forgets what is not in `owned` and returns what of it was in hand.
    pub(super) fn forget_lost(&self, owned: &HashSet<Slot>) -> Vec<DeliveryId> {
        self.state().ready.retain(|item| owned.contains(&item.slot));
        self.in_hand.with(|held| {
            let lost = |held: &Held| !held.settling && !owned.contains(&held.item.slot);
            let ids: Vec<DeliveryId> = held.iter().filter(|(_, held)| lost(held)).map(|(id, _)| *id).collect();
            ids.iter().for_each(|id| drop(held.remove(id)));
            ids
        })
    }

    /// Forgets everything: it is somebody else's now.
    pub(super) fn forget_all(&self) {
        self.state().ready.clear();
        // Dropped outside of the lock.
        let _forgotten = self.in_hand.with(std::mem::take);
    }

    /// Hands out what a transaction has taken, once it is known whether it is stored.
    pub(super) fn hand_out(&self, taken: Result<Taken, Fault>, max: usize, want: Want) -> Result<Vec<Delivery>, Fault> {
        let taken = taken.inspect_err(|_| self.state().suspect = true)?;
        if !matches!(taken.turn, Turn::Mine) {
            self.forget_all();
        }
        let mut state = self.state();
        state.lease = taken.lease;
        state.gaps.extend(taken.gaps);
        if state.closed {
            return Ok(Vec::new());
        }
        state.rotation = state.rotation.wrapping_add(1);
        let mut out = taken.retries;
        match taken.turn {
            Turn::Mine => {}
            Turn::Begun { left, retrying } => {
                state.active = true;
                state.ready = left.into();
                state.news = Some(News::Active(retrying));
                return Ok(Vec::new());
            }
            Turn::Anothers => {
                if std::mem::take(&mut state.active) {
                    state.news = Some(News::StandBy);
                }
                return Ok(Vec::new());
            }
        }
        state.ready.extend(taken.adopted);
        state.sort_ready();
        let room = max.saturating_sub(out.len() + taken.inherited.len() + taken.fresh.len());
        let (mut ready, later): (VecDeque<Item>, _) = state.ready.drain(..).partition(|item| item.is(want));
        state.ready = later;
        out.extend(ready.drain(..room.min(ready.len())));
        state.ready.extend(ready);
        state.sort_ready();
        out.extend(taken.inherited);
        out.extend(taken.fresh);
        drop(state);
        Ok(out.into_iter().map(|item| self.put_in_hand(item)).collect())
    }

    fn put_in_hand(&self, item: Item) -> Delivery {
        let (message, attempts, origin) = (item.message.clone(), item.attempts, item.origin);
        Delivery::new(message, attempts, origin, self.in_hand.take(Held { item, settling: false }))
    }
}

// === impl Item ===

impl Item {
    /// Whether a fetch that wants this hands it out.
    fn is(&self, want: Want) -> bool {
        want == Want::All || matches!(self.slot.row, Row::Retry(_))
    }
}

// === impl State ===

impl State {
    fn sort_ready(&mut self) {
        self.ready.make_contiguous().sort_by_key(|item| (item.slot.reader, item.seq));
    }
}
