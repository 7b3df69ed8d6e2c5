//! Who is to have which slice: a pure function of who is alive and who has what now.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Whose a slice is, by consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) owner: Option<i64>,
    /// For whom the owner is to give it up. May be the owner itself: once it was told, it gives the slice up even if
    /// whoever was to have it is gone, for it has stopped handing anything of it out.
    pub(super) wanted: Option<i64>,
}

/// Divides slices among consumers, `live` in ascending order: nobody has two more than another, and what moves moves
/// because it must. A slice of a dead owner changes hands at once; one of a live owner is marked.
pub(super) fn divide(live: &[i64], shares: &[Share]) -> Vec<Share> {
    if live.is_empty() {
        return shares.to_vec();
    }
    let alive = |id: &i64| live.binary_search(id).is_ok();
    let heir = |share: &Share| share.wanted.filter(alive).or(share.owner.filter(alive));
    let mut heirs: Vec<Option<i64>> = shares.iter().map(heir).collect();
    let mut counts: BTreeMap<i64, usize> = live.iter().map(|id| (*id, 0)).collect();
    for heir in heirs.iter().flatten() {
        *counts.entry(*heir).or_default() += 1;
    }
    // Whoever has most keeps most: no other choice moves less.
    let mut ranked = live.to_vec();
    ranked.sort_by_key(|id| (Reverse(counts[id]), *id));
    let (least, rest) = (shares.len() / live.len(), shares.len() % live.len());
    let quota: BTreeMap<i64, usize> =
        ranked.iter().enumerate().map(|(rank, id)| (*id, least + usize::from(rank < rest))).collect();
    // Those on their way to somebody who has too many come first: sending them elsewhere moves nothing more.
    for on_the_way in [true, false] {
        for (share, heir) in shares.iter().zip(&mut heirs) {
            if let Some(id) = *heir
                && (share.owner != Some(id)) == on_the_way
                && counts[&id] > quota[&id]
            {
                *heir = None;
                *counts.entry(id).or_default() -= 1;
            }
        }
    }
    for (share, heir) in shares.iter().zip(&mut heirs).filter(|(_, heir)| heir.is_none()) {
        let has_room = |id: &&i64| counts[*id] < quota[*id];
        let back = share.owner.as_ref().filter(|owner| alive(owner)).filter(has_room);
        if let Some(id) = back.or_else(|| live.iter().find(has_room)).copied() {
            *heir = Some(id);
            *counts.entry(id).or_default() += 1;
        }
    }
    let settled = |(share, heir): (&Share, Option<i64>)| match share.owner.filter(alive) {
        None => Share { owner: heir, wanted: None },
        Some(owner) if heir == Some(owner) && share.wanted.is_none() => *share,
        Some(owner) => Share { owner: Some(owner), wanted: heir },
    };
    shares.iter().zip(heirs).map(settled).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whose a slice will be.
    fn heir(share: &Share) -> Option<i64> {
        share.wanted.or(share.owner)
    }

    fn counts(live: &[i64], shares: &[Share]) -> Vec<usize> {
        live.iter().map(|id| shares.iter().filter(|share| heir(share) == Some(*id)).count()).collect()
    }

    /// The fewest moves that even a search over all ways to give the larger shares out finds.
    fn fewest_moves(live: &[i64], before: &[Share]) -> usize {
        let (least, rest) = (before.len() / live.len(), before.len() % live.len());
        let had: Vec<usize> = {
            let alive = |id: &i64| live.contains(id);
            let heir = |share: &Share| share.wanted.filter(alive).or(share.owner.filter(alive));
            live.iter().map(|id| before.iter().filter(|share| heir(share) == Some(*id)).count()).collect()
        };
        let surplus = |larger: u32| {
            let quota = |at: usize| least + usize::from(larger >> at & 1 == 1);
            had.iter().enumerate().map(|(at, had)| had.saturating_sub(quota(at))).sum()
        };
        (0..1 << live.len()).filter(|larger: &u32| larger.count_ones() as usize == rest).map(surplus).min().unwrap()
    }

    fn share() -> impl Strategy<Value = Share> {
        let consumer = || prop_oneof![1 => Just(None), 4 => (1_i64..8).prop_map(Some)];
        let wanted = prop_oneof![3 => Just(None), 1 => (1_i64..8).prop_map(Some)];
        (consumer(), wanted).prop_map(|(owner, wanted)| Share { owner, wanted })
    }

    proptest! {
        #[test]
        fn every_slice_has_a_live_owner_and_the_shares_are_even(
            live in proptest::collection::btree_set(1_i64..8, 1..7),
            before in proptest::collection::vec(share(), 1..80),
        ) {
            let live: Vec<i64> = live.into_iter().collect();
            let after = divide(&live, &before);
            prop_assert!(after.iter().all(|share| share.owner.is_some_and(|owner| live.contains(&owner))));
            prop_assert!(after.iter().all(|share| share.wanted.is_none_or(|heir| live.contains(&heir))));
            let counts = counts(&live, &after);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            prop_assert_eq!(divide(&live, &after), after, "who divides again finds nothing to do");
        }

        #[test]
        fn nothing_moves_that_need_not(
            live in proptest::collection::btree_set(1_i64..8, 1..7),
            before in proptest::collection::vec(share(), 1..80),
        ) {
            let live: Vec<i64> = live.into_iter().collect();
            let alive = |id: &i64| live.contains(id);
            let after = divide(&live, &before);
            let had = |share: &Share| share.wanted.filter(alive).or(share.owner.filter(alive));
            let moved = before.iter().zip(&after).filter(|(b, a)| had(b).is_some() && had(b) != heir(a)).count();
            prop_assert_eq!(moved, fewest_moves(&live, &before));
            for (before, after) in before.iter().zip(&after) {
                if before.owner.is_some_and(|owner| live.contains(&owner)) {
                    prop_assert_eq!(before.owner, after.owner, "only its owner gives up what it has");
                    prop_assert!(before.wanted.is_none() || after.wanted.is_some(), "it was told to give it up");
                }
            }
        }
    }

    #[test]
    fn with_nobody_nothing_changes_and_one_gets_all() {
        let before = [Share { owner: Some(3), wanted: None }, Share::default()];
        assert_eq!(divide(&[], &before), before);
        assert_eq!(divide(&[9], &before), [Share { owner: Some(9), wanted: None }; 2]);
    }
}
