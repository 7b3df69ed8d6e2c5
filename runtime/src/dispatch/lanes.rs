//! Lanes: event n+1 of a key starts only after event n is done or a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::event::{Lane, Position, Topic};

#[cfg(test)]
mod tests;

/// The lanes of one handler that are in use. `T` is whatever stands for an event in hand.
///
/// A lane exists while one of its events runs, waits for a retry, or is held back behind another. Events are told
/// apart by where they were first published, which a retry keeps.
///
/// A slice of a topic's lanes is this consumer's or another's: what is known of the lanes of a slice is forgotten when it
/// goes, and told anew when it comes.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: HashMap<(Topic, Lane), State<T>>,
    held_back: usize,
}

/// Why an event leaves its place at the head of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is done, a dead letter, or another consumer's business now.
    Gone,
    /// It waits for a retry: its lane waits with it.
    Retrying,
}

#[derive(Debug)]
struct State<T> {
    running: Option<Position>,
    /// Wait for a retry, have come back from one, or run as one; each with its place among them.
    retrying: HashMap<Position, i64>,
    /// The places in use.
    ranks: BTreeSet<i64>,
    /// Came back while an older one is away, by place. More than one is the same event, handed out anew.
    back: BTreeMap<i64, VecDeque<(Position, T)>>,
    /// Younger than all that is retrying.
    waiting: VecDeque<(Position, T)>,
}

// === impl Lanes ===

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), held_back: 0 }
    }
}

impl<T> Lanes<T> {
    /// An event arrives, in the order of its topic or as a retry. Returns it if it may run now; else it is held back
    /// and comes out of a later [`Lanes::release`].
    pub fn admit(&mut self, topic: &Topic, lane: Lane, first: &Position, item: T) -> Option<T> {
        let state = self.lanes.entry((Topic::clone(topic), lane)).or_default();
        let rank = state.retrying.get(first).copied();
        let free = match rank {
            Some(rank) => state.oldest() == Some(rank),
            None => state.retrying.is_empty() && state.waiting.is_empty(),
        };
        if free && state.running.is_none() {
            state.running = Some(first.clone());
            return Some(item);
        }
        self.held_back += 1;
        match rank {
            Some(rank) => state.back.entry(rank).or_default().push_back((first.clone(), item)),
            // That a running event comes again means that its first hand-out is void. It is older than all that waits.
            None if state.running.as_ref() == Some(first) => state.waiting.push_front((first.clone(), item)),
            None => state.waiting.push_back((first.clone(), item)),
        }
        None
    }

    /// The running event of a lane is settled. Returns the event that may run next, if one was held back.
    pub fn release(&mut self, topic: &Topic, lane: Lane, first: &Position, how: Release) -> Option<T> {
        let key = (Topic::clone(topic), lane);
        let state = self.lanes.get_mut(&key)?;
        if state.running.as_ref() == Some(first) {
            state.running = None;
        }
        match how {
            Release::Gone => state.forget(first),
            // What has run was the oldest of its lane.
            Release::Retrying => {
                let rank = state.wait_for(first, |ranks| ranks.first().map_or(0, |oldest| oldest - 1));
                // The retry may be due, and have come, before it is known that the first hand-out is settled.
                while state.waiting.front().is_some_and(|(waiting, _)| waiting == first) {
                    state.back.entry(rank).or_default().extend(state.waiting.pop_front());
                }
            }
        }
        self.next(&key)
    }

    /// A message that is known to wait for a retry blocks its lane until it comes back. To be told of in the order in
    /// which they were published: several of one lane run in this order, whichever comes back first.
    pub fn block(&mut self, topic: &Topic, lane: Lane, first: &Position) {
        let state = self.lanes.entry((Topic::clone(topic), lane)).or_default();
        state.wait_for(first, |ranks| ranks.last().map_or(0, |newest| newest + 1));
    }

    /// The lane that waits for the retry of this message. Looks through all of them: for the rare case that the message
    /// itself no longer says.
    #[must_use]
    pub fn waits_for(&self, topic: &Topic, first: &Position) -> Option<Lane> {
        let waits = |((of, _), state): &(&(Topic, Lane), &State<T>)| of == topic && state.retrying.contains_key(first);
        self.lanes.iter().find(waits).map(|((_, lane), _)| *lane)
    }

    /// Forgets all lanes of a slice and returns what was held back in them.
    pub fn forget(&mut self, topic: &Topic, slice: u16) -> Vec<T> {
        let gone = self.lanes.extract_if(|(of, lane), _| of == topic && lane.slice() == slice);
        let items: Vec<T> = gone.flat_map(|(_, mut state)| state.held_back()).collect();
        self.held_back -= items.len();
        items
    }

    /// Returns what is held back in the lanes of a slice, in order within each lane. What runs or waits for a retry
    /// stays known: what comes again goes behind it.
    pub fn give_up(&mut self, topic: &Topic, slice: u16) -> Vec<T> {
        self.give_up_if(|(of, lane)| of == topic && lane.slice() == slice)
    }

    /// The same for all slices.
    pub fn give_up_all(&mut self) -> Vec<T> {
        self.give_up_if(|_| true)
    }

    fn give_up_if(&mut self, which: impl Fn(&(Topic, Lane)) -> bool) -> Vec<T> {
        let lanes = self.lanes.iter_mut().filter(|(key, _)| which(key));
        let items: Vec<T> = lanes.flat_map(|(_, state)| state.held_back()).collect();
        self.held_back -= items.len();
        self.lanes.retain(|_, state| !state.is_idle());
        items
    }

    /// How many events are held back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.held_back
    }

    /// Forgets everything and returns what was held back.
    pub fn clear(&mut self) -> Vec<T> {
        self.held_back = 0;
        self.lanes.drain().flat_map(|(_, mut state)| state.held_back()).collect()
    }

    fn next(&mut self, key: &(Topic, Lane)) -> Option<T> {
        let state = self.lanes.get_mut(key)?;
        if state.running.is_some() {
            return None;
        }
        let ready = match state.oldest() {
            Some(rank) => state.take_back(rank),
            None => state.waiting.pop_front(),
        };
        if let Some((first, item)) = ready {
            state.running = Some(first);
            self.held_back -= 1;
            return Some(item);
        }
        if state.is_idle() {
            self.lanes.remove(key);
        }
        None
    }
}

// === impl State ===

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            running: None,
            retrying: HashMap::new(),
            ranks: BTreeSet::new(),
            back: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl<T> State<T> {
    fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty() && self.retrying.is_empty()
    }

    /// Takes out what is held back, in order. What came back from a retry is away again.
    fn held_back(&mut self) -> Vec<T> {
        let back = std::mem::take(&mut self.back).into_values().flatten();
        back.chain(self.waiting.drain(..)).map(|(_, item)| item).collect()
    }

    /// The place of the oldest event that is retrying.
    fn oldest(&self) -> Option<i64> {
        self.ranks.first().copied()
    }

    /// The place of an event among those that are retrying; it gets one if it has none.
    fn wait_for(&mut self, first: &Position, place: impl Fn(&BTreeSet<i64>) -> i64) -> i64 {
        if let Some(rank) = self.retrying.get(first) {
            return *rank;
        }
        let rank = place(&self.ranks);
        self.ranks.insert(rank);
        self.retrying.insert(first.clone(), rank);
        rank
    }

    /// An event is no longer retrying, unless it has been handed out anew: then the hand-out that ends was void.
    fn forget(&mut self, first: &Position) {
        if let Some(rank) = self.retrying.get(first).copied()
            && !self.back.contains_key(&rank)
        {
            self.retrying.remove(first);
            self.ranks.remove(&rank);
        }
    }

    fn take_back(&mut self, rank: i64) -> Option<(Position, T)> {
        let copies = self.back.get_mut(&rank)?;
        let item = copies.pop_front();
        if copies.is_empty() {
            self.back.remove(&rank);
        }
        item
    }
}
