//! Reading what a topic holds, beside every group.

use std::time::SystemTime;

use crate::event::{Fields, Message, Position};

/// One end of a stretch of history, as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The oldest message that is kept.
    Beginning,
    /// The message at this position.
    Position(Position),
    /// This time: the first end lies with what was published then or later, the last end before it.
    Time(SystemTime),
}

/// A stretch of a topic's history: its ends are positions, so what is published later is no part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// It begins after this one.
    pub(crate) after: Position,
    /// It ends with this one.
    pub(crate) to: Position,
}

/// What became of effects without a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// They are stored.
    Committed,
    /// A key that the call had read was written meanwhile; nothing was changed.
    Conflict,
    /// The bus refuses them whenever they are sent; nothing was changed.
    Refused(String),
}

/// How many messages to read at once, so that a page of large ones does not fill the memory.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    count: usize,
}

/// Bytes of the fields of one page, about.
const PAGE_BYTES: usize = 4 << 20;
/// The first page, of which nobody knows how large its messages are.
const FIRST: usize = 16;
/// No page has more.
const MOST: usize = 500;

// === impl Span ===

impl Span {
    /// What is left of it after this message.
    pub fn advance(&mut self, past: &Position) {
        self.after = past.clone();
    }

    /// True if nothing is left after this message, as far as that is plain without asking the bus.
    #[must_use]
    pub fn ends_with(&self, position: &Position) -> bool {
        self.to == *position
    }
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self { count: FIRST }
    }
}

impl Pace {
    /// How many to ask for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Learns from a page what the next one may hold.
    pub fn learn<'a>(&mut self, page: impl IntoIterator<Item = &'a Fields>) {
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for fields in page {
            count += 1;
            bytes += fields.byte_len();
        }
        if let Some(mean) = bytes.checked_div(count) {
            // At most twice the last page: the messages that follow may be larger than those before.
            self.count = (PAGE_BYTES / mean.max(1)).clamp(1, MOST.min(self.count * 2));
        }
    }

    /// The same, of messages.
    pub fn learn_messages(&mut self, page: &[Message]) {
        self.learn(page.iter().map(|message| &message.fields));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_with_small_messages_and_shrink_with_large_ones() {
        let of = |bytes: usize| Fields::from_pairs([("n", "x".repeat(bytes))]);
        let mut pace = Pace::default();
        let mut counts = Vec::new();
        for _ in 0..7 {
            counts.push(pace.count());
            pace.learn(&vec![of(100); pace.count()]);
        }
        assert_eq!(counts, [16, 32, 64, 128, 256, 500, 500]);
        pace.learn([&of(1 << 20), &of(1 << 20)]);
        assert_eq!(pace.count(), 3);
        pace.learn([&of(64 << 20)]);
        assert_eq!(pace.count(), 1);
        pace.learn([]);
        assert_eq!(pace.count(), 1);
    }
}
