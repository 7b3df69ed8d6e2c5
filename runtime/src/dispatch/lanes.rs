//! Lanes: event n+1 of a key starts only after event n is done or a dead letter.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::event::{Lane, Position, Topic};

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
    retrying: HashSet<Position>,
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
        let retry = state.retrying.contains(first);
        let free = state.running.is_none() && (retry || (state.retrying.is_empty() && state.waiting.is_empty()));
        if free {
            state.running = Some(first.clone());
            return Some(item);
        }
        self.held_back += 1;
        // A retry was published before everything that waits.
        if retry {
            state.waiting.push_front((first.clone(), item));
        } else {
            state.waiting.push_back((first.clone(), item));
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
            Release::Gone => state.retrying.remove(first),
            Release::Retrying => state.retrying.insert(first.clone()),
        };
        self.next(&key)
    }

    /// A message that is known to wait for a retry blocks its lane until it comes back.
    pub fn block(&mut self, topic: &Topic, lane: Lane, first: &Position) {
        self.lanes.entry((Topic::clone(topic), lane)).or_default().retrying.insert(first.clone());
    }

    /// The lane that waits for the retry of this message. Looks through all of them: for the rare case that the message
    /// itself no longer says.
    #[must_use]
    pub fn waits_for(&self, topic: &Topic, first: &Position) -> Option<Lane> {
        let waits = |((of, _), state): &(&(Topic, Lane), &State<T>)| of == topic && state.retrying.contains(first);
        self.lanes.iter().find(waits).map(|((_, lane), _)| *lane)
    }

    /// Forgets all lanes of a slice and returns what was held back in them.
    pub fn forget(&mut self, topic: &Topic, slice: u16) -> Vec<T> {
        let gone = self.lanes.extract_if(|(of, lane), _| of == topic && lane.slice() == slice);
        let items: Vec<T> = gone.flat_map(|(_, state)| state.waiting).map(|(_, item)| item).collect();
        self.held_back -= items.len();
        items
    }

    /// Returns what is held back in the lanes of a slice, in order within each lane. What runs or waits for a retry
    /// stays known: what comes again goes behind it.
    pub fn give_up(&mut self, topic: &Topic, slice: u16) -> Vec<T> {
        let mut items = Vec::new();
        for ((of, lane), state) in &mut self.lanes {
            if of == topic && lane.slice() == slice {
                items.extend(state.waiting.drain(..).map(|(_, item)| item));
            }
        }
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
        self.lanes.drain().flat_map(|(_, state)| state.waiting).map(|(_, item)| item).collect()
    }

    fn next(&mut self, key: &(Topic, Lane)) -> Option<T> {
        let state = self.lanes.get_mut(key)?;
        if state.running.is_some() {
            return None;
        }
        let ready = match state.waiting.front() {
            Some((first, _)) => state.retrying.is_empty() || state.retrying.contains(first),
            None => false,
        };
        if ready && let Some((first, item)) = state.waiting.pop_front() {
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

impl<T> State<T> {
    fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty() && self.retrying.is_empty()
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { running: None, retrying: HashSet::new(), waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests;
