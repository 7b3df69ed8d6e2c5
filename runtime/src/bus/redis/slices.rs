//! What a consumer of a group with order knows of its slices of one topic: which it has, how far it has taken each, and
//! what changed hands. Nothing here talks to the bus.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::{Slice, Turnover};
use crate::event::{SLICES, Topic};

/// Where a slice that nothing was taken from begins.
const START: &str = "-";

/// A slice at the time a delivery of it was handed out. It changes with every change of hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The slice's number.
    pub(super) slice: u16,
    /// Which time it changed hands, as the bus counts.
    pub(super) generation: u64,
}

/// What the bus says of a slice that is this consumer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    /// Its number and generation.
    pub(super) place: Place,
    /// Another is to have it.
    pub(super) wanted: bool,
}

/// One consumer's share of a topic.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// What the bus counts up whenever a slice changes hands or is wanted; empty when it is to be learnt anew.
    version: String,
    own: BTreeMap<u16, Own>,
    rotation: u16,
}

#[derive(Debug)]
struct Own {
    generation: u64,
    /// The last entry taken.
    cursor: String,
    /// How often the bus has set it back.
    back: String,
    /// There may be more after the cursor.
    behind: bool,
    /// Another is to have it: nothing more is taken.
    leaving: bool,
}

/// A slice to look through: its number, the last entry taken, how often it was set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) slice: u16,
    pub(super) cursor: String,
    pub(super) back: String,
}

/// What of a batch just read goes to this consumer without another look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Of each slice, the last entry taken before and the last to be kept.
    pub(super) keep: BTreeMap<u16, (String, String)>,
    /// Which entries of the batch.
    kept: Vec<bool>,
}

/// What changed hands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) lost: BTreeSet<u16>,
    pub(super) gained: BTreeSet<u16>,
    pub(super) wanted: BTreeSet<u16>,
}

// === impl Share ===

impl Share {
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// True if every slice is this consumer's and nobody wants one.
    pub(super) fn is_sole(&self) -> bool {
        self.own.len() == usize::from(SLICES) && !self.own.values().any(|own| own.leaving)
    }

    /// True if one of its slices may hold something that was not taken.
    pub(super) fn is_behind(&self) -> bool {
        self.own.values().any(|own| own.behind && !own.leaving)
    }

    /// The slice as it is now, if it is this consumer's.
    pub(super) fn place(&self, slice: u16) -> Option<Place> {
        self.own.get(&slice).map(|own| Place { slice, generation: own.generation })
    }

    /// True if what was handed out there is still this consumer's to hand out.
    pub(super) fn may_hand_out(&self, place: Place) -> bool {
        self.own.get(&place.slice).is_some_and(|own| own.generation == place.generation && !own.leaving)
    }

    /// The slices that things are taken from.
    pub(super) fn taking(&self) -> impl Iterator<Item = u16> {
        self.own.iter().filter(|(_, own)| !own.leaving).map(|(slice, _)| *slice)
    }

    /// The slices that others are to have.
    pub(super) fn leaving(&self) -> impl Iterator<Item = Place> {
        let leaving = self.own.iter().filter(|(_, own)| own.leaving);
        leaving.map(|(slice, own)| Place { slice: *slice, generation: own.generation })
    }

    /// What the bus's word on what is this consumer's changes.
    pub(super) fn change(&self, owned: &[Owned]) -> Change {
        let now: HashMap<u16, &Owned> = owned.iter().map(|owned| (owned.place.slice, owned)).collect();
        let mut change = Change::default();
        for (slice, own) in &self.own {
            if now.get(slice).is_none_or(|owned| owned.place.generation != own.generation) {
                change.lost.insert(*slice);
            }
        }
        for owned in owned {
            let known = self.own.get(&owned.place.slice).filter(|own| own.generation == owned.place.generation);
            if known.is_none() {
                change.gained.insert(owned.place.slice);
            }
            if owned.wanted && known.is_none_or(|own| !own.leaving) {
                change.wanted.insert(owned.place.slice);
            }
        }
        change
    }

    /// Takes the bus's word.
    pub(super) fn apply(&mut self, version: String, owned: &[Owned]) {
        let change = self.change(owned);
        self.own.retain(|slice, _| !change.lost.contains(slice));
        for Owned { place, wanted } in owned {
            let fresh = || Own {
                generation: place.generation,
                cursor: START.to_owned(),
                back: "0".to_owned(),
                behind: true,
                leaving: false,
            };
            // Once its consumer has been told, it goes through with it.
            self.own.entry(place.slice).or_insert_with(fresh).leaving |= wanted;
        }
        self.version = version;
    }

    /// Has given up a slice.
    pub(super) fn give(&mut self, slice: u16) {
        self.own.remove(&slice);
        self.version.clear();
    }

    /// Nothing that is known here is sure any more: the bus may have lost its last moments.
    pub(super) fn rewind(&mut self) {
        self.version.clear();
        for own in self.own.values_mut() {
            (own.cursor, own.behind) = (START.to_owned(), true);
        }
    }

    /// An answer may have been lost.
    pub(super) fn doubt(&mut self) {
        self.own.values_mut().for_each(|own| own.behind = true);
    }

    /// What to look through, another one first each time.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        let taking = self.own.iter().filter(|(_, own)| !own.leaving);
        let mut requests: Vec<Request> = taking
            .map(|(slice, own)| Request { slice: *slice, cursor: own.cursor.clone(), back: own.back.clone() })
            .collect();
        if !requests.is_empty() {
            self.rotation = self.rotation.wrapping_add(1);
            let first = usize::from(self.rotation) % requests.len();
            requests.rotate_left(first);
        }
        requests
    }

    /// A look found entries of a slice, up to `cursor`.
    pub(super) fn listed(&mut self, slice: u16, cursor: String, back: String, more: bool) {
        if let Some(own) = self.own.get_mut(&slice) {
            (own.cursor, own.back, own.behind) = (cursor, back, more);
        }
    }

    /// A look went through all slices and found nothing in others than these.
    pub(super) fn looked_through(&mut self, found: &BTreeSet<u16>) {
        for (slice, own) in &mut self.own {
            own.behind &= found.contains(slice);
        }
    }

    /// Of what was just read, in order, what may be kept: of slices of which everything before was taken.
    pub(super) fn plan(&self, read: &[(&str, u16)], room: usize) -> Plan {
        let mut plan = Plan { keep: BTreeMap::new(), kept: vec![false; read.len()] };
        let mut room = room;
        for ((id, slice), kept) in read.iter().zip(&mut plan.kept) {
            let Some(own) = self.own.get(slice).filter(|own| room > 0 && !own.behind && !own.leaving) else {
                continue;
            };
            let (_, upto) = plan.keep.entry(*slice).or_insert_with(|| (own.cursor.clone(), String::new()));
            (*upto, *kept, room) = ((*id).to_owned(), true, room - 1);
        }
        plan
    }

    /// It was placed, and of these slices the bus lets this consumer keep what was planned. Returns which entries it
    /// keeps.
    pub(super) fn placed(&mut self, read: &[(&str, u16)], plan: Plan, granted: &BTreeSet<u16>) -> Vec<bool> {
        let Plan { mut keep, mut kept } = plan;
        for ((_, slice), kept) in read.iter().zip(&mut kept) {
            *kept &= granted.contains(slice);
            if let Some(own) = self.own.get_mut(slice) {
                own.behind |= !*kept;
            }
        }
        for (slice, own) in &mut self.own {
            if let (Some((_, upto)), true) = (keep.remove(slice), granted.contains(slice)) {
                own.cursor = upto;
            }
        }
        kept
    }
}

// === impl Change ===

impl Change {
    /// As the contract tells it.
    pub(super) fn tell(self, topic: &Topic, turnover: &mut Turnover) {
        let named = |slices: BTreeSet<u16>| slices.into_iter().map(|number| Slice { topic: topic.clone(), number });
        turnover.lost.extend(named(self.lost));
        turnover.gained.extend(named(self.gained));
        turnover.wanted.extend(named(self.wanted));
    }
}

#[cfg(test)]
mod tests;
