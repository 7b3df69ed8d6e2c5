//! Ledgers: each is a hash in the slot of its handler's first topic. What is kept lies under its name with a mark before
//! it.

use bytes::Bytes;
use redis::Value;

use super::super::{Error, Ledger, LedgerEntry, LedgerName};
use super::{Shared, errors, keys, misused, parse, scripts};

// === impl Shared ===

impl Shared {
    pub(super) async fn ledger(&self, name: &LedgerName) -> Result<Option<Ledger>, Error> {
        let hash = self.keys(&name.topic, &name.group).ledger;
        let mut get = redis::cmd("HMGET");
        get.arg(&hash).arg("revision").arg("text");
        let mut found = parse::array(self.key_value(&hash, get).await?, "HMGET")?.into_iter().map(parse::text);
        let (Some(Some(revision)), Some(Some(text))) = (found.next(), found.next()) else { return Ok(None) };
        let revision = revision.parse().map_err(|_| errors::unexpected("a ledger"))?;
        Ok(Some(Ledger { revision, text }))
    }

    pub(super) async fn ledger_bytes(&self, name: &LedgerName, key: &str) -> Result<Option<Bytes>, Error> {
        let hash = self.keys(&name.topic, &name.group).ledger;
        let mut get = redis::cmd("HGET");
        get.arg(&hash).arg(keys::field(key));
        Ok(parse::bytes(self.key_value(&hash, get).await?).map(Bytes::from))
    }

    pub(super) async fn write_ledger(
        &self,
        name: &LedgerName,
        before: u64,
        entry: &LedgerEntry,
    ) -> Result<Option<u64>, Error> {
        let hash = self.keys(&name.topic, &name.group).ledger;
        let mut write = scripts::LEDGER.call(&[&hash]);
        write.arg(before).arg(&entry.text).arg(entry.add.len());
        for (key, value) in &entry.add {
            write.arg(key).arg(&value[..]);
        }
        write.arg(entry.keep.len()).arg(&entry.keep);
        let answer = self.link.value(write).await?;
        let words = match &answer {
            Value::Array(words) => words.iter().cloned().filter_map(parse::text).collect(),
            _ => Vec::new(),
        };
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["done", revision] => revision.parse().map(Some).map_err(|_| errors::unexpected("a ledger")),
            ["moved"] => Ok(None),
            _ => Err(misused(answer).unwrap_or_else(|| errors::unexpected("a ledger"))),
        }
    }
}
