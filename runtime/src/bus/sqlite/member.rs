//! One consumer's membership, as its transactions see it: what it reads, what it holds, what it knows of its lease.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{Delivery, DeliveryId, InHand, LaneOf, Origin, Turnover};
use super::Names;
use super::fault::Fault;
use super::place::{Ahead, Reading};
use super::slices::{Changes, Key, Told};
use super::take::{Gap, Taken, Want};
use crate::event::{Lane, Message, Topic};

pub(super) struct Member {
    pub(super) consumer: i64,
    pub(super) name: String,
    pub(super) lease_ms: i64,
    pub(super) order: Option<LaneOf>,
    pub(super) readers: Vec<Reader>,
    pub(super) names: Names,
    pub(super) stream_max_len: Option<u64>,
    pub(super) in_hand: Arc<InHand<Item>>,
    /// Held while something is being taken, until it is handed out: a fetch that was dropped half way goes on without
    /// its caller, and what it took must be back before the next one takes what comes after.
    pub(super) taking: Arc<tokio::sync::Mutex<()>>,
    /// Held while something is being read for the group, until its lanes are named.
    pub(super) reading: Arc<tokio::sync::Mutex<()>>,
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
    /// In a group with order.
    pub(super) slice: Option<u16>,
}

#[derive(Default)]
pub(super) struct State {
    /// Taken, and waiting to be handed out (again).
    pub(super) ready: VecDeque<Item>,
    /// What `fetch` has to say before it hands anything out. Kept here, since a fetch may be dropped half way.
    news: Option<Turnover>,
    /// Its slices, as `fetch` has told or is about to.
    pub(super) told: BTreeMap<Key, Told>,
    /// How far it may read for the group, by reader.
    pub(super) reading: HashMap<i64, Reading>,
    /// Read for the group, and not in its slices yet.
    pub(super) named: Option<Vec<Ahead<Lane>>>,
    /// When `fetch` was last seen at work.
    fetched_at: Option<i64>,
    pub(super) lease: Lease,
    /// A transaction failed, so rows may be this consumer's without its knowing.
    pub(super) suspect: bool,
    /// The last transaction took as much as was wanted: there is probably more, and no need to look.
    pub(super) more: bool,
    /// Which topic is asked first.
    pub(super) rotation: usize,
    pub(super) closed: bool,
    /// What the consumer tells of itself.
    pub(super) report: String,
    /// Trimmed unread, and nobody was told yet.
    pub(super) gaps: Vec<Gap>,
}

/// What a consumer knows of its own lease, in milliseconds since the epoch.
#[derive(Clone, Copy, Default)]
pub(super) struct Lease {
    pub(super) until: i64,
    /// Until when it is reckoned with for slices.
    pub(super) active_until: i64,
    /// Nothing is claimed before: after an outage the others must have had time to renew theirs.
    pub(super) claim_after: i64,
}

// === impl Member ===

impl Member {
    #[expect(clippy::too_many_arguments, reason = "called once, where all of them are made")]
    pub(super) fn new(
        consumer: i64,
        name: String,
        lease_ms: i64,
        order: Option<LaneOf>,
        readers: Vec<Reader>,
        names: Names,
        stream_max_len: Option<u64>,
        lease: Lease,
    ) -> Self {
        let state = Mutex::new(State { lease, ..State::default() });
        let (in_hand, tokens) = (InHand::new(), AtomicI64::new(1));
        let (taking, reading) = (Arc::default(), Arc::default());
        Self {
            consumer,
            name,
            lease_ms,
            order,
            readers,
            names,
            stream_max_len,
            in_hand,
            taking,
            reading,
            tokens,
            state,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that this consumer has never used.
    pub(super) fn token(&self) -> i64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Its readers, each fetch another one first.
    pub(super) fn rotated(&self) -> impl Iterator<Item = &Reader> {
        let (count, rotation) = (self.readers.len(), self.state().rotation);
        (0..count).map(move |at| &self.readers[(at + rotation) % count])
    }

    /// What `fetch` has to say first.
    pub(super) fn news(&self) -> Option<Turnover> {
        self.state().news.take()
    }

    /// Notes that `fetch` is at work.
    pub(super) fn is_fetching(&self, now: i64) {
        self.state().fetched_at = Some(now);
    }

    /// Until when others are to reckon with it for slices, if its lease lasts until then: as long as that if it has
    /// anything in hand, else for a lease after its last fetch.
    pub(super) fn active_until(&self, lease_until: i64) -> i64 {
        if self.order.is_none() {
            return 0;
        }
        let fetched_at = self.state().fetched_at;
        match fetched_at {
            _ if self.in_hand.holds_any() => lease_until,
            Some(at) => at.saturating_add(self.lease_ms).min(lease_until),
            None => 0,
        }
    }

    /// Makes what was dropped ready to be handed out again; true if a transaction has something to do with what is.
    pub(super) fn collect_dropped(&self, max: usize, want: Want) -> bool {
        // Under one lock, so that nothing is neither in hand nor ready in the eyes of a transaction.
        let mut state = self.state();
        for mut item in self.in_hand.take_dropped() {
            // What came from a host that died stays suspected of having killed it.
            if item.origin != Origin::Inherited {
                item.origin = Origin::Dropped;
            }
            state.ready.push_back(item);
        }
        state.sort_ready();
        state.ready.iter().any(|item| (max > 0 && item.is(want)) || state.is_wanted(item))
    }

    /// Slices of which something is in hand.
    pub(super) fn busy_slices(&self) -> HashSet<Key> {
        // The other lock too, as above.
        let _state = self.state();
        self.in_hand.with(|held| held.values().filter_map(Item::key).collect())
    }

    /// What is ready of slices that others want.
    pub(super) fn ready_of_wanted(&self) -> Vec<Slot> {
        let state = self.state();
        state.ready.iter().filter(|item| state.is_wanted(item)).map(|item| item.slot).collect()
    }

    /// True if others want slices of this consumer's: they wait for what it settles.
    pub(super) fn is_wanted_from(&self) -> bool {
        self.state().told.values().any(|told| told.wanted)
    }

    /// All that this consumer knows to be its own.
    pub(super) fn slots(&self) -> HashSet<Slot> {
        let mut slots: HashSet<Slot> = self.in_hand.with(|held| held.values().map(|item| item.slot).collect());
        slots.extend(self.state().ready.iter().map(|item| item.slot));
        slots
    }

    /// Forgets what is not in `owned` and returns what of it was in hand.
    pub(super) fn forget_lost(&self, owned: &HashSet<Slot>) -> Vec<DeliveryId> {
        self.state().ready.retain(|item| owned.contains(&item.slot));
        self.in_hand.with(|held| {
            let lost = |item: &Item| !owned.contains(&item.slot);
            let ids: Vec<DeliveryId> = held.iter().filter(|(_, item)| lost(item)).map(|(id, _)| *id).collect();
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
        let mut state = self.state();
        state.lease = taken.lease;
        state.gaps.extend(taken.gaps);
        if state.closed {
            return Ok(Vec::new());
        }
        state.rotation = state.rotation.wrapping_add(1);
        state.ready.retain(|item| !taken.freed.contains(&item.slot));
        if !taken.changes.is_empty() {
            self.turn_over(&mut state, taken.changes);
            return Ok(Vec::new());
        }
        let mut out = taken.retries;
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
        state.more = self.order.is_none() && !out.is_empty() && out.len() >= max;
        drop(state);
        Ok(out.into_iter().map(|item| self.put_in_hand(item)).collect())
    }

    /// Forgets what is of slices that are lost, and keeps the news for `fetch`.
    fn turn_over(&self, state: &mut State, changes: Changes) {
        for key in &changes.lost {
            state.told.remove(key);
        }
        let told = |item: &Item| item.key().is_none_or(|key| state.told.contains_key(&key));
        state.ready.retain(told);
        // Dropped outside of the lock.
        let _lost: Vec<Item> =
            self.in_hand.with(|held| held.extract_if(|_, item| !told(item)).map(|(_, item)| item).collect());
        for (key, epoch) in &changes.gained {
            state.told.insert(*key, Told { epoch: *epoch, wanted: false });
        }
        for key in &changes.wanted {
            state.told.entry(*key).and_modify(|told| told.wanted = true);
        }
        state.news = Some(changes.told(&self.readers));
    }

    fn put_in_hand(&self, item: Item) -> Delivery {
        let (message, attempts, origin) = (item.message.clone(), item.attempts, item.origin);
        Delivery::new(message, attempts, origin, self.in_hand.take(item))
    }
}

// === impl Item ===

impl Item {
    /// Whether a fetch that wants this hands it out.
    fn is(&self, want: Want) -> bool {
        want == Want::All || matches!(self.slot.row, Row::Retry(_))
    }

    fn key(&self) -> Option<Key> {
        self.slice.map(|number| (self.slot.reader, number))
    }
}

// === impl State ===

impl State {
    fn is_wanted(&self, item: &Item) -> bool {
        item.key().and_then(|key| self.told.get(&key)).is_some_and(|told| told.wanted)
    }

    /// Whether a transaction is called for whatever a look would find.
    pub(super) fn is_urgent(&self) -> bool {
        self.suspect || self.more
    }

    fn sort_ready(&mut self) {
        self.ready.make_contiguous().sort_by_key(|item| (item.slot.reader, item.seq));
    }
}
