//! What of `[bus]` decides whether something can be lost: durability and trimming.

use super::section::Section;
use crate::bus::{Durability, Trim};

/// More replicas than anybody has are a slip of the keyboard.
const MOST_REPLICAS: u32 = 100;

const TAKES_DURABILITY: &str = "\"none\", \"fsync\" or a number of replicas from 1 to 100";

/// The keys that were read.
pub(super) struct Safety {
    pub(super) durability: Option<Durability>,
    pub(super) trim: Option<Trim>,
    pub(super) stream_max_len: Option<u64>,
}

/// Reads the keys. `sqlite`: there are no replicas.
pub(super) fn read(section: &mut Section<'_>, sqlite: bool) -> Safety {
    let durability = section.get("durability", TAKES_DURABILITY, |node| {
        if let Some(count) = node.as_integer() {
            let count = u32::try_from(count).ok().filter(|count| (1..=MOST_REPLICAS).contains(count));
            return count.map(Durability::Replicas);
        }
        match node.as_string()? {
            "none" => Some(Durability::None),
            "fsync" => Some(Durability::Fsync),
            _ => None,
        }
    });
    if let Some(found) = durability.as_ref().filter(|found| sqlite && matches!(found.value, Durability::Replicas(_))) {
        let message = "`durability` in [bus] is a number of replicas, and the embedded bus has none: write \"fsync\" or \
                       \"none\"";
        section.problem(&found.place, message);
    }
    let words = [("none", Trim::None), ("length", Trim::Length), ("acked", Trim::Acked)];
    let trim = section.get("trim", "\"none\" or \"length\" or \"acked\"", |node| {
        let text = node.as_string()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, trim)| *trim)
    });
    let stream_max_len = section.number("stream_max_len", 1, u64::MAX);
    if let Some(found) = trim.as_ref().filter(|found| found.value == Trim::Length && stream_max_len.is_none()) {
        section.problem(&found.place, "`trim` in [bus] is \"length\" and no length is set: add `stream_max_len`");
    }
    Safety { durability: durability.map(|found| found.value), trim: trim.map(|found| found.value), stream_max_len }
}
