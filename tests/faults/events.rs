//! The events of a run: what each makes its handler do, and what has to become of it.

use super::dice::Dice;
use super::plan::Mode;
use crate::support::events::Draft;

/// An event of a run.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) id: String,
    /// Its ordering key.
    pub(super) lane: u64,
    /// Its number within the lane, from 0.
    pub(super) seq: u64,
    /// Attempts up to this one fail.
    pub(super) fail: u32,
    /// In which way.
    pub(super) how: &'static str,
    /// See the guest `witness`.
    pub(super) effects: &'static str,
    work: u64,
}

/// What has to become of an event if nobody takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// A dead letter with this code.
    Dead(&'static str),
}

/// The events of a seed, in the order in which they are published.
pub(super) fn events(dice: &mut Dice, mode: &Mode) -> Vec<Event> {
    let count = dice.between(120, 320);
    let lanes = dice.between(1, 8);
    let mut next = vec![0; lanes as usize];
    let mut events = Vec::new();
    for _ in 0..count {
        let lane = dice.between(0, lanes - 1);
        let seq = next[lane as usize];
        next[lane as usize] += 1;
        let (fail, how) = match dice.between(0, 99) {
            0..=79 => (0, ""),
            80..=89 => (dice.between(1, u64::from(mode.max_attempts) - 1) as u32, "retry"),
            90..=93 => (dice.between(1, u64::from(mode.max_attempts) - 1) as u32, "trap"),
            94..=96 => (u32::MAX, dice.pick(&["retry", "trap"])),
            _ => (u32::MAX, "reject"),
        };
        let effects = dice.pick(&["", "", "o", "o", "k", "ok", "oc"]);
        // Some calls take long enough to be interrupted.
        let work = if dice.percent(8) { dice.between(1, 30) * 1_000_000 } else { 0 };
        let id = uuid::Uuid::from_u64_pair(dice.next(), dice.next()).to_string();
        events.push(Event { id, lane, seq, fail, how, effects, work });
    }
    events
}

// === impl Event ===

impl Event {
    pub(super) fn fate(&self) -> Fate {
        match self.how {
            "reject" => Fate::Dead("as-told"),
            _ if self.fail < u32::MAX => Fate::Done,
            "trap" => Fate::Dead("trap"),
            _ => Fate::Dead("retry"),
        }
    }

    pub(super) fn has(&self, effect: char) -> bool {
        self.effects.contains(effect)
    }

    /// As it is published.
    pub(super) fn draft(&self) -> Draft {
        let mut draft = Draft::new("test.witness.v1")
            .header("lane", self.lane)
            .header("seq", self.seq)
            .header("fail", self.fail)
            .header("how", self.how)
            .header("effects", self.effects)
            .header("work", self.work)
            .json(&format!("{{\"lane\": \"{}\"}}", self.lane));
        draft.id.clone_from(&self.id);
        draft
    }
}
