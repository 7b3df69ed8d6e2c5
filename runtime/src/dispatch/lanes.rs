//! Lanes: event n+1 of a key starts only after event n is done or a dead letter.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::event::Position;

/// Names one sequence of events that must run one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane(Box<[u8]>);

/// The lanes of one handler that are in use. `T` is whatever stands for an event in hand.
///
/// A lane exists while one of its events runs, waits for a retry, or is held back behind another. Events are told
/// apart by where they were first published, which a retry keeps.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: HashMap<Lane, State<T>>,
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

// === impl Lane ===

impl Lane {
    /// The lane of `key` within `topic`.
    #[must_use]
    pub fn new(topic: &str, key: &[u8]) -> Self {
        // Topics hold no NUL, so no two lanes share a name.
        Self([topic.as_bytes(), b"\0", key].concat().into())
    }
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
    pub fn admit(&mut self, lane: &Lane, first: &Position, item: T) -> Option<T> {
        let state = self.lanes.entry(lane.clone()).or_default();
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
    pub fn release(&mut self, lane: &Lane, first: &Position, how: Release) -> Option<T> {
        let state = self.lanes.get_mut(lane)?;
        if state.running.as_ref() == Some(first) {
            state.running = None;
        }
        match how {
            Release::Gone => state.retrying.remove(first),
            Release::Retrying => state.retrying.insert(first.clone()),
        };
        self.next(lane)
    }

    /// A message that is known to wait for a retry blocks its lane until it comes back.
    pub fn block(&mut self, lane: &Lane, first: &Position) {
        self.lanes.entry(lane.clone()).or_default().retrying.insert(first.clone());
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

    fn next(&mut self, lane: &Lane) -> Option<T> {
        let state = self.lanes.get_mut(lane)?;
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
        if state.waiting.is_empty() && state.retrying.is_empty() {
            self.lanes.remove(lane);
        }
        None
    }
}

// === impl State ===

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { running: None, retrying: HashSet::new(), waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(n: usize) -> Position {
        Position::from(n.to_string())
    }

    #[test]
    fn a_retrying_event_holds_back_its_own_lane_only() {
        let (a, b) = (Lane::new("t", b"a"), Lane::new("t", b"b"));
        let mut lanes = Lanes::default();
        assert_eq!(lanes.admit(&a, &at(1), 1), Some(1));
        assert_eq!(lanes.admit(&a, &at(2), 2), None);
        assert_eq!(lanes.release(&a, &at(1), Release::Retrying), None, "2 waits for 1's retry");
        assert_eq!(lanes.admit(&b, &at(3), 3), Some(3), "another lane goes on");
        assert_eq!(lanes.admit(&a, &at(1), 1), Some(1), "the retry runs");
        assert_eq!(lanes.release(&a, &at(1), Release::Gone), Some(2));
        assert_eq!(lanes.release(&a, &at(2), Release::Gone), None);
        assert_eq!(lanes.release(&b, &at(3), Release::Gone), None);
        assert!(lanes.lanes.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_message_known_to_be_retrying_blocks_what_follows() {
        let lane = Lane::new("t", b"");
        let mut lanes = Lanes::default();
        lanes.block(&lane, &at(1));
        assert_eq!(lanes.admit(&lane, &at(2), 2), None);
        assert_eq!(lanes.admit(&lane, &at(1), 1), Some(1));
        assert_eq!(lanes.release(&lane, &at(1), Release::Gone), Some(2));
        assert_eq!(lanes.held_back(), 0);
    }

    proptest! {
        /// Whatever order completions and failures come in, each lane finishes its events in the order they arrived.
        #[test]
        fn every_lane_finishes_in_order(
            keys in proptest::collection::vec(0_u8..4, 1..60),
            choices in proptest::collection::vec((any::<u16>(), 0_u8..4), 400),
        ) {
            let mut lanes = Lanes::default();
            let lane = |event: usize| Lane::new("t", &[keys[event]]);
            let mut arrivals: VecDeque<usize> = (0..keys.len()).collect();
            let (mut running, mut retrying, mut finished) = (Vec::new(), Vec::new(), Vec::new());
            let mut choices = choices.into_iter().cycle();
            while finished.len() < keys.len() {
                let (pick, what) = choices.next().unwrap();
                let pick = usize::from(pick);
                match what {
                    0 if !retrying.is_empty() => {
                        let event: usize = retrying.swap_remove(pick % retrying.len());
                        running.extend(lanes.admit(&lane(event), &at(event), event));
                    }
                    1 if !running.is_empty() => {
                        let event: usize = running.swap_remove(pick % running.len());
                        retrying.push(event);
                        running.extend(lanes.release(&lane(event), &at(event), Release::Retrying));
                    }
                    2 if !running.is_empty() => {
                        let event: usize = running.swap_remove(pick % running.len());
                        finished.push(event);
                        running.extend(lanes.release(&lane(event), &at(event), Release::Gone));
                    }
                    _ => if let Some(event) = arrivals.pop_front() {
                        running.extend(lanes.admit(&lane(event), &at(event), event));
                    }
                }
                let mut busy: Vec<u8> = running.iter().map(|&event| keys[event]).collect();
                busy.sort_unstable();
                busy.dedup();
                prop_assert_eq!(busy.len(), running.len(), "two events of one lane run at once");
            }
            for key in 0..4 {
                let order: Vec<usize> = finished.iter().copied().filter(|&event| keys[event] == key).collect();
                prop_assert!(order.is_sorted(), "{:?}", order);
            }
            prop_assert!(lanes.lanes.is_empty() && lanes.held_back() == 0);
        }
    }
}
