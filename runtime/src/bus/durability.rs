//! How safe a write is to be before it counts, and what may be trimmed.

use std::fmt;

use crate::event::Position;

/// What must be true of a write before it is reported as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The bus has taken it. What it took in the last moments may be gone after a crash or a failover.
    #[default]
    None,
    /// It is on the bus's own disk.
    Fsync,
    /// So many replicas have received it into memory.
    Replicas(u32),
}

/// Where published messages lie, and how safe they were when this was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The position of each, in the order given.
    pub positions: Vec<Position>,
    /// What was reached, at least what the bus was set up to wait for.
    pub durability: Durability,
}

/// What is removed from a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Nothing.
    None,
    /// What exceeds the length that is set, read or not.
    Length,
    /// What every group of the topic has acknowledged, and what exceeds the length if one is set.
    Acked,
}

/// What [`Trim`] and the length come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimming {
    /// Entries kept at most, about.
    pub(crate) max_len: Option<u64>,
    /// Also remove what every group has acknowledged.
    pub(crate) acked: bool,
}

// === impl Durability ===

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fsync => f.write_str("fsync"),
            Self::Replicas(count) => write!(f, "replicas={count}"),
        }
    }
}

// === impl Trimming ===

impl Trimming {
    /// A length alone means that topics are trimmed to it.
    pub(crate) fn new(trim: Option<Trim>, max_len: Option<u64>) -> Self {
        match trim {
            Some(Trim::None) => Self::default(),
            Some(Trim::Length) | None => Self { max_len, acked: false },
            Some(Trim::Acked) => Self { max_len, acked: true },
        }
    }
}

/// How full a topic may be, of its cap, before somebody is told which group holds it up.
const NEARLY_FULL: f64 = 0.8;

/// Says which group keeps a topic from being trimmed, before the cap does it regardless and at the cap. Returns whether
/// there was something to say.
pub(crate) fn say_held_up(topic: &str, group: &str, length: u64, cap: u64) -> bool {
    if length >= cap {
        tracing::error!(%topic, %group, length, cap, "the topic is at its cap and is trimmed although a group has not acknowledged: what the group has not read is lost (bus.stream_max_len)");
    } else if length as f64 >= cap as f64 * NEARLY_FULL {
        tracing::warn!(%topic, %group, length, cap, "a group holds the topic up: at the cap it is trimmed all the same (bus.stream_max_len); start the group's consumers, or remove the group");
    } else {
        return false;
    }
    true
}
