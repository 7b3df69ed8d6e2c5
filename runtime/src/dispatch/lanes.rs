//! Lanes: event n+1 of a key starts only after event n is done or a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

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
    /// Wait for a retry, have come back from one, or run as one; each with its place among them.
    retrying: HashMap<Position, i64>,
    /// The places in use.
    ranks: BTreeSet<i64>,
    /// Came back while an older one is away, by place. More than one is the same event, handed out anew.
    back: BTreeMap<i64, VecDeque<(Position, T)>>,
    /// Younger than all that is retrying.
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
    pub fn release(&mut self, lane: &Lane, first: &Position, how: Release) -> Option<T> {
        let state = self.lanes.get_mut(lane)?;
        if state.running.as_ref() == Some(first) {
            state.running = None;
        }
        match how {
            Release::Gone => state.forget(first),
            // What has run was the oldest of its lane.
            Release::Retrying => state.wait_for(first, |ranks| ranks.first().map_or(0, |oldest| oldest - 1)),
        }
        self.next(lane)
    }

    /// A message that is known to wait for a retry blocks its lane until it comes back. To be told of in the order in
    /// which they were published: several of one lane run in this order, whichever comes back first.
    pub fn block(&mut self, lane: &Lane, first: &Position) {
        let state = self.lanes.entry(lane.clone()).or_default();
        state.wait_for(first, |ranks| ranks.last().map_or(0, |newest| newest + 1));
    }

    /// How many events are held back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.held_back
    }

    /// Forgets everything and returns what was held back.
    pub fn clear(&mut self) -> Vec<T> {
        self.held_back = 0;
        let held_back = |state: State<T>| state.back.into_values().flatten().chain(state.waiting);
        self.lanes.drain().flat_map(|(_, state)| held_back(state)).map(|(_, item)| item).collect()
    }

    fn next(&mut self, lane: &Lane) -> Option<T> {
        let state = self.lanes.get_mut(lane)?;
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
        if state.waiting.is_empty() && state.retrying.is_empty() {
            self.lanes.remove(lane);
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
    /// The place of the oldest event that is retrying.
    fn oldest(&self) -> Option<i64> {
        self.ranks.first().copied()
    }

    /// Gives an event a place among those that are retrying, if it has none.
    fn wait_for(&mut self, first: &Position, place: impl Fn(&BTreeSet<i64>) -> i64) {
        if !self.retrying.contains_key(first) {
            let rank = place(&self.ranks);
            self.ranks.insert(rank);
            self.retrying.insert(first.clone(), rank);
        }
    }

    /// An event is no longer retrying. Void hand-outs of it that are left run next, and find out that they are void.
    fn forget(&mut self, first: &Position) {
        if let Some(rank) = self.retrying.remove(first) {
            self.ranks.remove(&rank);
            for left in self.back.remove(&rank).into_iter().flatten().rev() {
                self.waiting.push_front(left);
            }
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

    #[test]
    fn several_that_are_retrying_run_in_their_order_whichever_comes_back_first() {
        let lane = Lane::new("t", b"");
        let mut lanes = Lanes::default();
        (1..=3).for_each(|n| lanes.block(&lane, &at(n)));
        assert_eq!(lanes.admit(&lane, &at(4), 4), None);
        assert_eq!(lanes.admit(&lane, &at(3), 3), None, "1 and 2 come first");
        assert_eq!(lanes.admit(&lane, &at(1), 1), Some(1));
        assert_eq!(lanes.release(&lane, &at(1), Release::Gone), None, "2 is away");
        assert_eq!(lanes.admit(&lane, &at(2), 2), Some(2));
        assert_eq!(lanes.release(&lane, &at(2), Release::Retrying), None, "2 is away again");
        assert_eq!(lanes.admit(&lane, &at(2), 2), Some(2));
        assert_eq!(lanes.release(&lane, &at(2), Release::Gone), Some(3));
        assert_eq!(lanes.release(&lane, &at(3), Release::Gone), Some(4));
        assert_eq!(lanes.release(&lane, &at(4), Release::Gone), None);
        assert!(lanes.lanes.is_empty() && lanes.held_back() == 0);
    }

    #[test]
    fn an_event_that_comes_again_while_it_runs_stays_before_those_behind_it() {
        let lane = Lane::new("t", b"");
        let mut lanes = Lanes::default();
        assert_eq!(lanes.admit(&lane, &at(1), "void"), Some("void"));
        assert_eq!(lanes.admit(&lane, &at(2), "next"), None);
        assert_eq!(lanes.admit(&lane, &at(1), "again"), None);
        assert_eq!(lanes.release(&lane, &at(1), Release::Gone), Some("again"));
        assert_eq!(lanes.release(&lane, &at(1), Release::Gone), Some("next"));
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
