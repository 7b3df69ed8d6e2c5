//! What lanes let run, whatever comes in whatever order.

use proptest::prelude::*;

use super::*;

fn topic() -> Topic {
    "t".into()
}

fn lane(key: &[u8]) -> Lane {
    Lane::of("t", key)
}

fn at(n: usize) -> Position {
    Position::from(n.to_string())
}

#[test]
fn a_retrying_event_holds_back_its_own_lane_only() {
    let (t, a, b) = (topic(), lane(b"a"), lane(b"b"));
    let mut lanes = Lanes::default();
    assert_eq!(lanes.admit(&t, a, &at(1), 1), Some(1));
    assert_eq!(lanes.admit(&t, a, &at(2), 2), None);
    assert_eq!(lanes.release(&t, a, &at(1), Release::Retrying), None, "2 waits for 1's retry");
    assert_eq!(lanes.admit(&t, b, &at(3), 3), Some(3), "another lane goes on");
    assert_eq!(lanes.admit(&t, a, &at(1), 1), Some(1), "the retry runs");
    assert_eq!(lanes.release(&t, a, &at(1), Release::Gone), Some(2));
    assert_eq!(lanes.release(&t, a, &at(2), Release::Gone), None);
    assert_eq!(lanes.release(&t, b, &at(3), Release::Gone), None);
    assert!(lanes.lanes.is_empty(), "nothing is left behind");
}

#[test]
fn a_message_known_to_be_retrying_blocks_what_follows() {
    let (t, a) = (topic(), lane(b""));
    let mut lanes = Lanes::default();
    lanes.block(&t, a, &at(1));
    assert_eq!(lanes.admit(&t, a, &at(2), 2), None);
    assert_eq!(lanes.admit(&t, a, &at(1), 1), Some(1));
    assert_eq!(lanes.release(&t, a, &at(1), Release::Gone), Some(2));
    assert_eq!(lanes.held_back(), 0);
}

#[test]
fn a_slice_goes_with_all_its_lanes_and_no_other() {
    let t = topic();
    let a = lane(b"a");
    let b = (0_u8..).map(|key| lane(&[key])).find(|other| other.slice() != a.slice()).unwrap();
    let mut lanes = Lanes::default();
    for (n, lane) in [(1, a), (2, b)] {
        assert_eq!(lanes.admit(&t, lane, &at(n), n), Some(n));
        assert_eq!(lanes.admit(&t, lane, &at(10 + n), 10 + n), None);
    }
    assert_eq!(lanes.give_up(&t, a.slice()), [11]);
    assert_eq!(lanes.admit(&t, a, &at(11), 11), None, "1 still runs");
    assert_eq!(lanes.forget(&t, a.slice()), [11]);
    assert_eq!(lanes.forget(&"other".into(), b.slice()), [0_usize; 0], "another topic's slice");
    assert_eq!(lanes.held_back(), 1);
    assert_eq!(lanes.admit(&t, a, &at(1), 1), Some(1), "nothing is known of it any more");
    assert_eq!(lanes.release(&t, b, &at(2), Release::Gone), Some(12));
}

/// One key per event, and events by their number.
struct Model {
    keys: Vec<u8>,
    lanes: Lanes<usize>,
    arrivals: VecDeque<usize>,
    running: Vec<usize>,
    retrying: Vec<usize>,
    finished: Vec<usize>,
}

impl Model {
    fn new(keys: Vec<u8>) -> Self {
        let arrivals = (0..keys.len()).collect();
        let (running, retrying, finished) = (Vec::new(), Vec::new(), Vec::new());
        Self { keys, lanes: Lanes::default(), arrivals, running, retrying, finished }
    }

    fn lane(&self, event: usize) -> Lane {
        lane(&[self.keys[event]])
    }

    fn admit(&mut self, event: usize) {
        self.running.extend(self.lanes.admit(&topic(), self.lane(event), &at(event), event));
    }

    fn release(&mut self, event: usize, how: Release) {
        self.running.extend(self.lanes.release(&topic(), self.lane(event), &at(event), how));
    }

    /// The slice goes to another consumer and comes back: calls that ran have changed nothing, so all that is not
    /// finished comes again, in order, and what waits for a retry is told beforehand.
    fn hand_over(&mut self, slice: u16) {
        self.lanes.forget(&topic(), slice);
        let of_slice = |event: &usize| lane(&[self.keys[*event]]).slice() == slice;
        self.running.retain(|event| !of_slice(event));
        let next = self.arrivals.front().copied().unwrap_or(self.keys.len());
        for event in self.retrying.iter().filter(|event| of_slice(event)) {
            self.lanes.block(&topic(), lane(&[self.keys[*event]]), &at(*event));
        }
        let again: Vec<usize> = (0..next)
            .filter(|event| of_slice(event) && !self.finished.contains(event) && !self.retrying.contains(event))
            .collect();
        again.into_iter().for_each(|event| self.admit(event));
    }
}

proptest! {
    /// Whatever order completions, failures and hand-overs come in, each lane finishes its events in the order they
    /// were published, and never runs two at once.
    #[test]
    fn every_lane_finishes_in_order(
        keys in proptest::collection::vec(0_u8..4, 1..60),
        choices in proptest::collection::vec((any::<u16>(), 0_u8..10), 400),
    ) {
        let mut model = Model::new(keys);
        let mut choices = choices.into_iter().chain((0..).map(|n| (n, [0, 2, 3][usize::from(n % 3)])));
        while model.finished.len() < model.keys.len() {
            let (pick, what) = choices.next().unwrap();
            let pick = usize::from(pick);
            match what {
                0 if !model.retrying.is_empty() => {
                    let event = model.retrying.swap_remove(pick % model.retrying.len());
                    model.admit(event);
                }
                1 if !model.running.is_empty() => {
                    let event = model.running.swap_remove(pick % model.running.len());
                    model.retrying.push(event);
                    model.release(event, Release::Retrying);
                }
                2 | 4 if !model.running.is_empty() => {
                    let event = model.running.swap_remove(pick % model.running.len());
                    model.finished.push(event);
                    model.release(event, Release::Gone);
                }
                5 => model.hand_over(lane(&[(pick % 4) as u8]).slice()),
                _ => if let Some(event) = model.arrivals.pop_front() {
                    model.admit(event);
                }
            }
            let mut busy: Vec<u8> = model.running.iter().map(|&event| model.keys[event]).collect();
            busy.sort_unstable();
            busy.dedup();
            prop_assert_eq!(busy.len(), model.running.len(), "two events of one lane run at once");
        }
        for key in 0..4 {
            let order: Vec<usize> = model.finished.iter().copied().filter(|&event| model.keys[event] == key).collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
        prop_assert!(model.lanes.lanes.is_empty() && model.lanes.held_back() == 0);
    }
}
