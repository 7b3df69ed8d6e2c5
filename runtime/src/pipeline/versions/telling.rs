//! What a keeper writes into the ledger: which module is wanted, and what calls came to.

use std::sync::Arc;

use bytes::Bytes;

use super::super::consumer::{Calls, Version};
use super::{Keeper, Record, Refusal};
use crate::bus::LedgerEntry;

/// How often it tries again when others write the ledger too.
const TRIES: usize = 5;

/// Who asked for the first module.
pub(super) const CONFIGURATION: &str = "the configuration";

/// Calls of one version, and how much of them the ledger has.
pub(super) struct Untold {
    digest: String,
    calls: Arc<Calls>,
    told: (u64, u64),
}

// === impl Keeper ===

impl Keeper {
    /// Changes what the ledger says, unless somebody else changes meanwhile what is to be run; that others only tell what
    /// calls came to is no reason not to. `change` says whether there is anything to write: if not, nothing is.
    pub(super) async fn write(
        &mut self,
        add: Option<(String, Bytes)>,
        change: impl Fn(&mut Record) -> bool,
    ) -> Result<bool, Refusal> {
        let mut wanted_before = None;
        for _ in 0..TRIES {
            let ledger = self.maker.bus.ledger(&self.name).await?;
            let before = ledger.as_ref().map_or(0, |ledger| ledger.revision);
            let mut record = ledger.map_or_else(|| Ok(Record::default()), |ledger| Record::parse(&ledger.text))?;
            let wanted = record.wishes();
            if *wanted_before.get_or_insert_with(|| wanted.clone()) != wanted {
                break;
            }
            let mut add: Vec<_> = add.iter().cloned().collect();
            if record.history.is_empty() {
                let first = self.digest().to_owned();
                record.push(&first, self.since, CONFIGURATION);
                add.extend(self.first.clone().map(|wasm| (first, wasm)));
            }
            if !change(&mut record) {
                return Ok(false);
            }
            let entry = LedgerEntry { text: record.text(), add, keep: record.kept() };
            if let Some(revision) = self.maker.bus.write_ledger(&self.name, before, &entry).await? {
                // What others have written before is looked at yet.
                if self.seen == before {
                    self.seen = revision;
                }
                self.first = None;
                return Ok(true);
            }
        }
        Err(Refusal::Moved)
    }

    /// Records the first module, if the ledger wants another.
    pub(super) async fn insist(&mut self) {
        let (Ok(Some(ledger)), Some(wasm)) = (self.maker.bus.ledger(&self.name).await, self.first.clone()) else {
            return;
        };
        let record = Record::parse(&ledger.text).unwrap_or_default();
        let (own, at) = (self.digest().to_owned(), self.since);
        if record.wanted().is_none_or(|wanted| wanted.digest == own) {
            return;
        }
        let written = self.write(Some((own.clone(), wasm)), |record| record.push(&own, at, CONFIGURATION)).await;
        if let Err(refusal) = written {
            let handler = &*self.maker.settings.name;
            tracing::error!(handler, %refusal, "the module that the configuration names anew could not be recorded");
        }
    }

    /// Writes into the ledger what calls came to; of the version that is served now only at the end.
    pub(super) async fn tell_calls(&mut self, all: bool) {
        // Nothing is written about a handler that was never swapped.
        if self.first.is_some() {
            return;
        }
        let current = Arc::clone(&self.current.calls);
        for place in 0..self.untold.len() {
            let Untold { digest, calls, told } = &self.untold[place];
            let (digest, now) = (digest.clone(), calls.read());
            let (events, failures) = (now.0 - told.0, now.1 - told.1);
            if events == 0 || (Arc::ptr_eq(calls, &current) && !all) {
                continue;
            }
            if self.write(None, |record| record.add(&digest, events, failures)).await.is_ok() {
                self.untold[place].told = now;
            }
        }
        // A version that nobody calls any more and that is told needs no more telling.
        self.untold.retain(|untold| Arc::strong_count(&untold.calls) > 1 || untold.calls.read() != untold.told);
    }
}

// === impl Untold ===

impl Untold {
    pub(super) fn of(version: &Version) -> Self {
        let digest = version.handler.module().digest().to_owned();
        Self { digest, calls: Arc::clone(&version.calls), told: (0, 0) }
    }
}
