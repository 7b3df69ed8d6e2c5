//! What is written in a handler's ledger: every module it was to run, the last one last.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::consumer::Way;
use super::shadow::EXAMPLES;
use crate::bus::LedgerName;
use crate::config::HandlerConfig;
use crate::event::unix_millis;
use crate::settle::compare::Sample;

/// Entries that are kept.
const ENTRIES: usize = 100;

/// Modules whose bytes are kept: the wanted one, the one to go back to, and one more.
const MODULES: usize = 3;

/// The history of a handler's modules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The oldest first. The last one is wanted.
    pub history: Vec<Entry>,
    /// The module that runs beside the wanted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// Modules that were given up after they ran beside another, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Entry>,
}

/// A module that runs beside the wanted one: on trial, or in its shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// SHA-256 of the module, in hex.
    pub digest: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// Which events go to it.
    pub way: Way,
    /// What its calls came to on trial, as far as hosts have told.
    #[serde(default)]
    pub new: Sample,
    /// And those of the module that is served.
    #[serde(default)]
    pub old: Sample,
    /// What came of it in the shadow, as far as hosts have told.
    #[serde(default)]
    pub shadow: Compared,
}

/// How a module in the shadow compares with the one that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Events that both handled.
    pub compared: u64,
    /// How many of them had another verdict or other effects.
    pub differed: u64,
    /// Events that say nothing: keys had moved, or the host had trouble.
    pub skipped: u64,
    /// Events that it was too slow for.
    pub dropped: u64,
    /// The first differences, each in a sentence.
    pub examples: Vec<String>,
}

/// Which modules are to be run, and since when: the one that is wanted, and the one beside it.
pub(super) type Wanted = [Option<(String, u64)>; 2];

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

    /// Which modules are to be run.
    pub(super) fn wishes(&self) -> Wanted {
        let wanted = self.wanted().map(|entry| (entry.digest.clone(), entry.at_ms));
        [wanted, self.candidate.as_ref().map(|candidate| (candidate.digest.clone(), candidate.at_ms))]
    }

    /// A module runs beside the wanted one, in the place of any other.
    pub(super) fn begin(&mut self, candidate: &Candidate) -> bool {
        self.candidate = Some(candidate.clone());
        true
    }

    /// More came of this candidate. False if it is one no more, as below.
    pub(super) fn count(&mut self, counted: &Candidate, new: Sample, old: Sample, shadow: &Compared) -> bool {
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.is(counted)) else { return false };
        (candidate.new, candidate.old) = (candidate.new + new, candidate.old + old);
        candidate.shadow.add(shadow);
        true
    }

    /// The candidate is not wanted. What only ran in the shadow was never given up: nobody was served by it.
    pub(super) fn reject(&mut self, rejected: &Candidate, at: SystemTime) -> bool {
        let Some(candidate) = self.candidate.take_if(|candidate| candidate.is(rejected)) else { return false };
        if candidate.way == Way::Shadow {
            return true;
        }
        let Sample { calls: events, failed: failures } = rejected.new;
        let (digest, by) = (candidate.digest, candidate.by);
        self.rejected.push(Entry { digest, at_ms: unix_millis(at), by, events, failures });
        let over = self.rejected.len().saturating_sub(ENTRIES);
        self.rejected.drain(..over);
        true
    }

    /// The candidate is as good: it is wanted from now on.
    pub(super) fn promote(&mut self, promoted: &Candidate, at: SystemTime) -> bool {
        let Some(candidate) = self.candidate.take_if(|candidate| candidate.is(promoted)) else { return false };
        self.push(&candidate.digest, at, &candidate.by);
        // It has served the events of its trial.
        let Sample { calls, failed } = promoted.new;
        self.add(&candidate.digest, calls, failed)
    }

    /// Another module is wanted, and none beside it.
    pub(super) fn push(&mut self, digest: &str, at: SystemTime, by: &str) -> bool {
        let (digest, by) = (digest.to_owned(), by.to_owned());
        self.candidate = None;
        self.history.push(Entry { digest, at_ms: unix_millis(at), by, events: 0, failures: 0 });
        let over = self.history.len().saturating_sub(ENTRIES);
        self.history.drain(..over);
        true
    }

    /// Adds what calls of a module came to. False if it is not known.
    pub(super) fn add(&mut self, digest: &str, events: u64, failures: u64) -> bool {
        let Some(entry) = self.history.iter_mut().rev().find(|entry| entry.digest == digest) else { return false };
        entry.events = entry.events.saturating_add(events);
        entry.failures = entry.failures.saturating_add(failures);
        true
    }

    /// The modules whose bytes are kept.
    pub(super) fn kept(&self) -> Vec<String> {
        let mut kept: Vec<String> = self.candidate.iter().map(|candidate| candidate.digest.clone()).collect();
        for entry in self.history.iter().rev() {
            if kept.len() < MODULES + usize::from(self.candidate.is_some()) && !kept.contains(&entry.digest) {
                kept.push(entry.digest.clone());
            }
        }
        kept
    }
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(digest: &str, at: SystemTime, by: &str, way: Way) -> Self {
        let (digest, by, none) = (digest.to_owned(), by.to_owned(), Sample::default());
        Self { digest, at_ms: unix_millis(at), by, way, new: none, old: none, shadow: Compared::default() }
    }

    /// Whether it is this one, not the same module another time.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.digest, self.at_ms) == (&other.digest, other.at_ms)
    }
}

// === impl Compared ===

impl Compared {
    pub(super) fn add(&mut self, more: &Self) {
        self.compared += more.compared;
        self.differed += more.differed;
        self.skipped += more.skipped;
        self.dropped += more.dropped;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(more.examples.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(digests: &[&str]) -> Record {
        let mut record = Record::default();
        for digest in digests {
            record.push(digest, SystemTime::now(), "me");
        }
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

    #[test]
    fn what_came_of_a_trial_is_kept_with_its_module() {
        let (mut record, now) = (of(&["a"]), SystemTime::now());
        let sample = |calls, failed| Sample { calls, failed };
        let mut candidate = Candidate::new("b", now, "me", Way::First(500));
        let earlier = Candidate { at_ms: candidate.at_ms - 1, ..candidate.clone() };
        record.begin(&candidate);
        assert!(record.count(&candidate, sample(60, 2), sample(90, 1), &Compared::default()));
        assert!(record.count(&candidate, sample(40, 1), sample(10, 0), &Compared::default()));
        let counted = record.candidate.clone().unwrap();
        assert_eq!((counted.new, counted.old), (sample(100, 3), sample(100, 1)));
        let kept = record.clone();
        for one in [&earlier, &Candidate { digest: "c".into(), ..candidate.clone() }] {
            assert!(!record.count(one, sample(1, 1), sample(1, 1), &Compared::default()));
            assert!(!record.promote(one, now) && !record.reject(one, now));
        }
        assert_eq!(record, kept, "it is another trial's");

        candidate.new = sample(500, 4);
        let mut given_up = kept.clone();
        assert!(record.promote(&candidate, now) && given_up.reject(&candidate, now));
        let counts = |entries: &[Entry]| -> Vec<_> {
            entries.iter().map(|entry| (entry.digest.clone(), entry.events, entry.failures)).collect()
        };
        assert_eq!(counts(&record.history), [("a".into(), 0, 0), ("b".into(), 500, 4)]);
        assert_eq!((counts(&record.rejected), &record.candidate), (vec![], &None));
        assert_eq!(counts(&given_up.history), [("a".into(), 0, 0)]);
        assert_eq!((counts(&given_up.rejected), &given_up.candidate), (vec![("b".into(), 500, 4)], &None));
        assert_eq!(given_up.kept(), ["a"]);
        assert_eq!(kept.kept(), ["b", "a"]);

        let shadow = Candidate::new("c", now, "me", Way::Shadow);
        record.begin(&shadow);
        assert!(record.reject(&shadow, now) && record.rejected.is_empty(), "it was only looked at");
    }
}
