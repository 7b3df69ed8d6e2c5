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

#[test]
fn several_that_are_retrying_run_in_their_order_whichever_comes_back_first() {
    let (t, a) = (topic(), lane(b""));
    let mut lanes = Lanes::default();
    (1..=3).for_each(|n| lanes.block(&t, a, &at(n)));
    assert_eq!(lanes.admit(&t, a, &at(4), 4), None);
    assert_eq!(lanes.admit(&t, a, &at(3), 3), None, "1 and 2 come first");
    assert_eq!(lanes.admit(&t, a, &at(1), 1), Some(1));
    assert_eq!(lanes.release(&t, a, &at(1), Release::Gone), None, "2 is away");
    assert_eq!(lanes.admit(&t, a, &at(2), 2), Some(2));
    assert_eq!(lanes.release(&t, a, &at(2), Release::Retrying), None, "2 is away again");
    assert_eq!(lanes.admit(&t, a, &at(2), 2), Some(2));
    assert_eq!(lanes.release(&t, a, &at(2), Release::Gone), Some(3));
    assert_eq!(lanes.release(&t, a, &at(3), Release::Gone), Some(4));
    assert_eq!(lanes.release(&t, a, &at(4), Release::Gone), None);
    assert!(lanes.lanes.is_empty() && lanes.held_back() == 0);
}

#[test]
fn an_event_that_comes_again_while_it_runs_stays_before_those_behind_it() {
    let (t, a) = (topic(), lane(b""));
    let mut lanes = Lanes::default();
    assert_eq!(lanes.admit(&t, a, &at(1), "void"), Some("void"));
    assert_eq!(lanes.admit(&t, a, &at(2), "next"), None);
    assert_eq!(lanes.admit(&t, a, &at(1), "again"), None);
    assert_eq!(lanes.release(&t, a, &at(1), Release::Gone), Some("again"));
    assert_eq!(lanes.release(&t, a, &at(1), Release::Gone), Some("next"));
}

/// The events of one topic, as a consumer and its bus see them.
struct Model {
    keys: Vec<u8>,
    lanes: Lanes<usize>,
    arrived: usize,
    running: Vec<usize>,
    retrying: Vec<usize>,
    finished: Vec<usize>,
    /// Lie in the retry store, until they are finished.
    stored: Vec<bool>,
    /// Handed out anew while their first hand-out runs.
    anew: Vec<usize>,
}

impl Model {
    fn new(keys: Vec<u8>) -> Self {
        let (running, retrying, finished) = (Vec::new(), Vec::new(), Vec::new());
        let (stored, anew) = (vec![false; keys.len()], Vec::new());
        Self { keys, lanes: Lanes::default(), arrived: 0, running, retrying, finished, stored, anew }
    }

    fn lane(&self, event: usize) -> Lane {
        lane(&[self.keys[event]])
    }

    fn admit(&mut self, event: usize) {
        let lane = self.lane(event);
        self.running.extend(self.lanes.admit(&topic(), lane, &at(event), event));
    }

    fn release(&mut self, event: usize, how: Release) {
        let lane = self.lane(event);
        self.running.extend(self.lanes.release(&topic(), lane, &at(event), how));
    }

    fn step(&mut self, what: u8, pick: usize) {
        match what {
            0 if !self.retrying.is_empty() => {
                let event = self.retrying.swap_remove(pick % self.retrying.len());
                self.admit(event);
            }
            1 | 2 if !self.running.is_empty() => {
                let event = self.running.swap_remove(pick % self.running.len());
                if let Some(again) = self.anew.iter().position(|anew| *anew == event) {
                    self.anew.swap_remove(again);
                    // It is void; or it was settled as a retry, which came back at once.
                    self.release(event, if what == 1 { Release::Retrying } else { Release::Gone });
                } else if what == 1 {
                    self.retrying.push(event);
                    self.stored[event] = true;
                    self.release(event, Release::Retrying);
                } else {
                    self.finished.push(event);
                    self.release(event, Release::Gone);
                }
            }
            3 if !self.running.is_empty() => {
                let event = self.running[pick % self.running.len()];
                if !self.anew.contains(&event) {
                    self.anew.push(event);
                    self.admit(event);
                }
            }
            4 if pick.is_multiple_of(8) => self.hand_over(lane(&[(pick / 8 % 4) as u8]).slice(), pick / 32),
            _ if self.arrived < self.keys.len() => {
                self.arrived += 1;
                self.admit(self.arrived - 1);
            }
            _ => {}
        }
    }

    /// A slice goes to another consumer and comes back. Of what was in hand the oldest have been trimmed, and wait in
    /// the retry store.
    fn hand_over(&mut self, slice: u16, trimmed: usize) {
        self.lanes.forget(&topic(), slice);
        let of_slice = |event: &usize| lane(&[self.keys[*event]]).slice() == slice;
        self.running.retain(|event| !of_slice(event));
        self.anew.retain(|event| !of_slice(event));
        self.retrying.retain(|event| !of_slice(event));
        let left: Vec<usize> =
            (0..self.arrived).filter(|event| of_slice(event) && !self.finished.contains(event)).collect();
        for event in &left[..trimmed % (left.len() + 1)] {
            self.stored[*event] = true;
        }
        let (retrying, pending): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|event| self.stored[*event]);
        for event in &retrying {
            self.lanes.block(&topic(), lane(&[self.keys[*event]]), &at(*event));
        }
        self.retrying.extend(retrying);
        pending.into_iter().for_each(|event| self.admit(event));
    }
}

proptest! {
    /// Whatever order completions, failures and hand-overs of slices come in, each lane finishes its events in the
    /// order they arrived.
    #[test]
    fn every_lane_finishes_in_order(
        keys in proptest::collection::vec(0_u8..4, 1..60),
        choices in proptest::collection::vec((any::<u16>(), 0_u8..6), 600),
    ) {
        let mut model = Model::new(keys);
        let mut choices = choices.into_iter();
        let mut drains = [0, 2, 5].into_iter().cycle();
        while model.finished.len() < model.keys.len() {
            // When the choices are used up, everything comes back and succeeds.
            let (pick, what) = choices.next().unwrap_or_else(|| (1, drains.next().unwrap()));
            model.step(what, usize::from(pick));
            let mut busy: Vec<u8> = model.running.iter().map(|&event| model.keys[event]).collect();
            busy.sort_unstable();
            busy.dedup();
            prop_assert_eq!(busy.len(), model.running.len(), "two events of one lane run at once");
        }
        for key in 0..4 {
            let of_key = |event: &usize| model.keys[*event] == key;
            let order: Vec<usize> = model.finished.iter().copied().filter(of_key).collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
        prop_assert!(model.lanes.lanes.is_empty() && model.lanes.held_back() == 0);
    }
}
