use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A bus with a few slices, as the scripts have it: what is placed in each, what of it is not settled.
#[derive(Default)]
struct Bus {
    /// Pending, by slice, in order.
    pending: BTreeMap<u16, Vec<u64>>,
    placed: BTreeMap<u16, u64>,
    backs: BTreeMap<u16, u64>,
    next: u64,
}

fn id(n: u64) -> String {
    format!("{n}-0")
}

fn at(cursor: &str) -> Option<u64> {
    cursor.split('-').next()?.parse().ok()
}

// === impl Bus ===

impl Bus {
    /// look.lua, as far as it lists.
    fn look(&self, requests: &[Request], mut room: usize) -> Vec<(u16, String, String, bool, Vec<u64>)> {
        let mut found = Vec::new();
        for Request { slice, cursor, back } in requests {
            let Some(upto) = self.placed.get(slice) else { continue };
            let now = self.backs.get(slice).map_or("0".to_owned(), u64::to_string);
            let from = if now == *back { at(cursor) } else { None };
            if room == 0 || from.is_some_and(|from| *upto <= from) {
                continue;
            }
            let after = self.pending.get(slice).into_iter().flatten().filter(|n| from.is_none_or(|from| **n > from));
            let entries: Vec<u64> = after.copied().take(room).collect();
            let more = entries.len() == room;
            room -= entries.len();
            let end = if more { entries[entries.len() - 1] } else { *upto };
            found.push((*slice, id(end), now, more, entries));
        }
        found
    }

    /// place.lua.
    fn place(&mut self, batch: &[(u64, u16)], plan: &Plan) -> BTreeSet<u16> {
        let before = self.placed.clone();
        for (n, slice) in batch {
            let pending = self.pending.entry(*slice).or_default();
            pending.push(*n);
            pending.sort_unstable();
            let placed = self.placed.entry(*slice).or_insert(*n);
            if before.get(slice).is_some_and(|before| n < before) {
                *self.backs.entry(*slice).or_default() += 1;
            }
            *placed = (*placed).max(*n);
        }
        let matches = |slice: &u16, taken: &str| before.get(slice).map_or("-".to_owned(), |n| id(*n)) == taken;
        plan.keep.iter().filter(|(slice, (taken, _))| matches(slice, taken)).map(|(slice, _)| *slice).collect()
    }
}

/// What may happen to a consumer and its bus.
#[derive(Clone, Debug)]
enum Step {
    /// It reads and places entries of these slices, with room for some; the answer may be lost.
    Read(Vec<u16>, usize, bool),
    /// Another reads and places.
    Others(Vec<u16>),
    /// It looks, with room for some; the answer may be lost.
    Look(usize, bool),
    /// It settles the oldest of what it has.
    Settle(usize),
    /// The bus was out of reach: everything is looked at anew.
    Outage,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slices = || vec(0..4_u16, 0..8);
    let step = prop_oneof![
        (slices(), 0..6_usize, any::<bool>()).prop_map(|(slices, room, lost)| Step::Read(slices, room, lost)),
        slices().prop_map(Step::Others),
        (0..6_usize, prop::bool::weighted(0.2)).prop_map(|(room, lost)| Step::Look(room, lost)),
        (0..6_usize).prop_map(Step::Settle),
        Just(Step::Outage),
    ];
    vec(step, 0..40)
}

fn owned(slices: impl IntoIterator<Item = u16>) -> Vec<Owned> {
    slices.into_iter().map(|slice| Owned { place: Place { slice, generation: 1 }, wanted: false }).collect()
}

fn batch(bus: &mut Bus, slices: &[u16]) -> Vec<(u64, u16)> {
    let batch = slices.iter().enumerate().map(|(n, slice)| (bus.next + n as u64, *slice)).collect();
    bus.next += slices.len() as u64;
    batch
}

fn look(share: &mut Share, bus: &Bus, room: usize, hand: &mut Vec<(u64, u16)>, handed: &mut Vec<(u64, u16)>) {
    let found = bus.look(&share.requests(), room);
    let count: usize = found.iter().map(|(.., entries)| entries.len()).sum();
    if count < room {
        share.looked_through(&found.iter().map(|(slice, ..)| *slice).collect());
    }
    for (slice, cursor, back, more, entries) in found {
        for n in entries.into_iter().filter(|n| !hand.iter().any(|(held, _)| held == n)).collect::<Vec<_>>() {
            hand.push((n, slice));
            handed.push((n, slice));
        }
        share.listed(slice, cursor, back, more);
    }
}

proptest! {
    #[test]
    fn each_slice_comes_whole_and_in_order(steps in steps()) {
        let (mut share, mut bus) = (Share::default(), Bus { next: 1, ..Bus::default() });
        // Slice 3 is another's.
        share.apply("1".into(), &owned(0..3));
        let mut hand: Vec<(u64, u16)> = Vec::new();
        let mut handed: Vec<(u64, u16)> = Vec::new();
        for step in steps {
            match step {
                Step::Read(slices, room, lost) => {
                    let batch = batch(&mut bus, &slices);
                    let ids: Vec<(String, u16)> = batch.iter().map(|(n, slice)| (id(*n), *slice)).collect();
                    let read: Vec<(&str, u16)> = ids.iter().map(|(id, slice)| (id.as_str(), *slice)).collect();
                    let plan = share.plan(&read, room);
                    let granted = bus.place(&batch, &plan);
                    if lost {
                        share.doubt();
                        continue;
                    }
                    let kept = share.placed(&read, plan, &granted);
                    let kept: Vec<_> = batch.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(n, _)| n).collect();
                    prop_assert!(kept.len() <= room);
                    hand.extend(&kept);
                    handed.extend(&kept);
                }
                Step::Others(slices) => {
                    let batch = batch(&mut bus, &slices);
                    bus.place(&batch, &Plan::default());
                }
                Step::Look(_, true) => share.doubt(),
                Step::Look(room, false) => look(&mut share, &bus, room, &mut hand, &mut handed),
                Step::Settle(count) => {
                    for (n, slice) in hand.drain(..count.min(hand.len())) {
                        bus.pending.get_mut(&slice).unwrap().retain(|pending| *pending != n);
                    }
                }
                Step::Outage => {
                    share.rewind();
                    share.apply("1".into(), &owned(0..3));
                }
            }
        }
        for _ in 0..50 {
            look(&mut share, &bus, 10, &mut hand, &mut handed);
        }
        prop_assert!(!share.is_behind());
        for slice in 0..3 {
            let of: Vec<u64> = handed.iter().filter(|(_, of)| *of == slice).map(|(n, _)| *n).collect();
            prop_assert!(of.is_sorted_by(|one, other| one < other), "slice {slice}: {of:?}");
            let left = bus.pending.get(&slice).cloned().unwrap_or_default();
            let held: BTreeSet<u64> = hand.iter().filter(|(_, of)| *of == slice).map(|(n, _)| *n).collect();
            prop_assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), held, "slice {}", slice);
        }
        prop_assert!(handed.iter().all(|(_, slice)| *slice < 3));
    }
}

#[test]
fn what_changes_hands_is_told_once() {
    let mut share = Share::default();
    let change = share.change(&owned([1, 2]));
    assert_eq!((change.gained, change.lost.len(), change.wanted.len()), (BTreeSet::from([1, 2]), 0, 0));
    share.apply("1".into(), &owned([1, 2]));
    assert_eq!(share.change(&owned([1, 2])), Change::default());
    // It went and came back: another generation.
    let mut back = owned([1, 2]);
    back[0].place.generation = 7;
    back[1].wanted = true;
    let change = share.change(&back);
    assert_eq!((change.lost, change.gained), (BTreeSet::from([1]), BTreeSet::from([1])));
    assert_eq!(change.wanted, BTreeSet::from([2]));
    share.apply("2".into(), &back);
    assert_eq!(share.change(&back), Change::default());
    assert!(!share.may_hand_out(Place { slice: 1, generation: 1 }) && share.may_hand_out(back[0].place));
    // Who was told that a slice is wanted gives it up, whatever is said later.
    assert!(!share.may_hand_out(back[1].place));
    share.apply("3".into(), &owned([2]));
    assert_eq!(share.leaving().collect::<Vec<_>>(), [Place { slice: 2, generation: 1 }]);
    share.give(2);
    assert_eq!(share.leaving().count(), 0);
}

#[test]
fn who_is_behind_keeps_nothing_of_what_it_reads() {
    let mut share = Share::default();
    share.apply("1".into(), &owned([1, 2]));
    let read = [("5-0", 1), ("6-0", 2), ("7-0", 1), ("8-0", 3)];
    assert_eq!(share.plan(&read, 9).keep.len(), 0, "nothing was looked at yet");
    share.looked_through(&BTreeSet::new());
    let plan = share.plan(&read, 2);
    assert_eq!(plan.kept, [true, true, false, false]);
    let kept = share.placed(&read, plan, &BTreeSet::from([1]));
    assert_eq!(kept, [true, false, false, false]);
    assert!(share.is_behind());
    let cursors: BTreeMap<u16, String> = share.requests().into_iter().map(|one| (one.slice, one.cursor)).collect();
    assert_eq!(cursors, BTreeMap::from([(1, "5-0".to_owned()), (2, "-".to_owned())]));
}
