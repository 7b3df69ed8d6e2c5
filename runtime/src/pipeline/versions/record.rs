//! What is written in a handler's ledger: every module it was to run, the last one last.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bus::LedgerName;
use crate::config::HandlerConfig;
use crate::event::unix_millis;

/// Entries that are kept.
const ENTRIES: usize = 100;

/// Modules whose bytes are kept: the wanted one, the one to go back to, and one more.
const MODULES: usize = 3;

/// The history of a handler's modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The oldest first. The last one is wanted.
    pub history: Vec<Entry>,
}

/// One module that was to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of the module, in hex.
    pub digest: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// Calls that ended, as far as hosts have told: they do when they leave it.
    #[serde(default)]
    pub events: u64,
    /// How many of them failed.
    #[serde(default)]
    pub failures: u64,
}

/// A ledger that another version of the host wrote.
#[derive(Debug, thiserror::Error)]
#[error("the record of the handler's modules on the bus cannot be read: {0}")]
pub struct Unreadable(#[from] serde_json::Error);

/// The ledger of a handler.
#[must_use]
pub fn ledger_of(handler: &HandlerConfig) -> LedgerName {
    // A configuration without topics is refused.
    let topic = handler.group.topics.first().cloned().unwrap_or_else(|| "".into());
    LedgerName { topic, group: handler.group.name.clone() }
}

// === impl Record ===

impl Record {
    /// Reads what a ledger holds.
    ///
    /// # Errors
    ///
    /// If it is no record.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        Ok(serde_json::from_str(text)?)
    }

    /// What is to be run now.
    #[must_use]
    pub fn wanted(&self) -> Option<&Entry> {
        self.history.last()
    }

    /// What a rollback goes back to: the module before the last change.
    #[must_use]
    pub fn previous(&self) -> Option<&Entry> {
        let wanted = self.wanted()?;
        self.history.iter().rev().find(|entry| entry.digest != wanted.digest)
    }

    pub(super) fn text(&self) -> String {
        // A record is plain data: there is nothing that could not be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn push(&mut self, digest: &str, at: SystemTime, by: &str) {
        let (digest, by) = (digest.to_owned(), by.to_owned());
        self.history.push(Entry { digest, at_ms: unix_millis(at), by, events: 0, failures: 0 });
        let over = self.history.len().saturating_sub(ENTRIES);
        self.history.drain(..over);
    }

    /// Adds what calls of a module came to.
    pub(super) fn add(&mut self, digest: &str, events: u64, failures: u64) {
        if let Some(entry) = self.history.iter_mut().rev().find(|entry| entry.digest == digest) {
            entry.events = entry.events.saturating_add(events);
            entry.failures = entry.failures.saturating_add(failures);
        }
    }

    /// The modules whose bytes are kept.
    pub(super) fn kept(&self) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        for entry in self.history.iter().rev() {
            if kept.len() < MODULES && !kept.contains(&entry.digest) {
                kept.push(entry.digest.clone());
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(digests: &[&str]) -> Record {
        let mut record = Record::default();
        digests.iter().for_each(|digest| record.push(digest, SystemTime::now(), "me"));
        record
    }

    #[test]
    fn a_rollback_undoes_the_last_change() {
        let previous = |digests: &[&str]| of(digests).previous().map(|entry| entry.digest.clone());
        assert_eq!(previous(&["a"]), None);
        assert_eq!(previous(&["a", "b"]).as_deref(), Some("a"));
        assert_eq!(previous(&["a", "b", "a"]).as_deref(), Some("b"));
        assert_eq!(previous(&["a", "b", "c", "b"]).as_deref(), Some("c"));
    }

    #[test]
    fn what_can_be_gone_back_to_is_kept() {
        assert_eq!(of(&["a", "b", "c", "b", "d"]).kept(), ["d", "b", "c"]);
        let long: Vec<String> = (0..250).map(|n| n.to_string()).collect();
        let long = of(&long.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((long.history.len(), long.kept().len()), (ENTRIES, MODULES));
    }

    #[test]
    fn counts_go_to_the_last_time_it_was_served() {
        let mut record = of(&["a", "b", "a"]);
        record.add("a", 5, 1);
        record.add("a", 2, 0);
        record.add("gone", 9, 9);
        let counts: Vec<_> = record.history.iter().map(|entry| (entry.events, entry.failures)).collect();
        assert_eq!(counts, [(0, 0), (0, 0), (7, 1)]);
        assert_eq!(Record::parse(&record.text()).unwrap(), record);
    }
}
