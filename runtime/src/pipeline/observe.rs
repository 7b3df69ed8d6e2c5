//! What a host tells about each delivery, and what it counts.

use std::time::SystemTime;

use crate::event::{Position, Topic};

/// Told about every settled delivery, on the handler's own task: it must not block.
pub trait Observer: Send + Sync {
    /// A delivery is settled.
    fn settled(&self, record: &Record<'_>);
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

/// One settled delivery.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The handler.
    pub handler: &'a str,
    /// The topic.
    pub topic: &'a Topic,
    /// Where the message lies.
    pub position: &'a Position,
    /// Id of the event; empty if its headers could not be read.
    pub id: &'a str,
    /// Type of the event; empty if its headers could not be read.
    pub kind: &'a str,
    /// Calls started for it, including this one.
    pub attempt: u32,
    /// What became of it.
    pub outcome: &'a Outcome,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with its effects.
    Acked {
        /// Messages published.
        published: usize,
        /// Keys written.
        written: usize,
    },
    /// Acknowledged without a call: its type is none of the handler's.
    Skipped,
    /// Waits in the retry store.
    Retrying {
        /// Code of the failure.
        code: String,
        /// Its reason.
        reason: String,
        /// When it runs again.
        due: SystemTime,
    },
    /// A dead letter.
    Dead {
        /// Its code.
        code: String,
        /// Its reason.
        reason: String,
    },
    /// Another consumer has it: nothing was changed here.
    Lost,
    /// Its start was recorded, and a drain came before the call: it waits, due at once, and no attempt is counted.
    GivenBack,
}

/// What a handler's deliveries came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The handler.
    pub handler: String,
    /// Acknowledged after a successful call.
    pub acked: u64,
    /// Acknowledged without a call.
    pub skipped: u64,
    /// Sent to the retry store.
    pub retried: u64,
    /// Sent to the dead letters.
    pub dead: u64,
    /// Taken over by others.
    pub lost: u64,
    /// Messages published.
    pub published: u64,
}

// === impl Quiet ===

impl Observer for Quiet {
    fn settled(&self, _record: &Record<'_>) {}
}

// === impl Outcome ===

impl Outcome {
    /// Whether the call, if there was one, went well.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Retrying { .. } | Self::Dead { .. })
    }
}

// === impl Tally ===

impl Tally {
    /// Adds what another consumer of the handler did.
    pub(super) fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.skipped += other.skipped;
        self.retried += other.retried;
        self.dead += other.dead;
        self.lost += other.lost;
        self.published += other.published;
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Acked { published, .. } => {
                self.acked += 1;
                self.published += *published as u64;
            }
            Outcome::Skipped => self.skipped += 1,
            Outcome::Retrying { .. } => self.retried += 1,
            Outcome::Dead { .. } => self.dead += 1,
            Outcome::Lost => self.lost += 1,
            Outcome::GivenBack => {}
        }
    }
}
