//! Ledgers. Their tables are made when the first is written: hosts that know nothing of them can use the file too.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Ledger, LedgerEntry};
use super::fault::Fault;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS ledger (
        topic TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (topic, name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS ledger_bytes (
        topic TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (topic, name, key)
    );
";

pub(super) fn read(db: &Connection, topic: &str, name: &str) -> Result<Option<Ledger>, Fault> {
    if !exists(db)? {
        return Ok(None);
    }
    let found = db
        .prepare_cached("SELECT revision, text FROM ledger WHERE topic = ?1 AND name = ?2")?
        .query_row([topic, name], |row| Ok(Ledger { revision: row.get(0)?, text: row.get(1)? }))
        .optional()?;
    Ok(found)
}

pub(super) fn bytes(db: &Connection, topic: &str, name: &str, key: &str) -> Result<Option<Bytes>, Fault> {
    if !exists(db)? {
        return Ok(None);
    }
    let found = db
        .prepare_cached("SELECT value FROM ledger_bytes WHERE topic = ?1 AND name = ?2 AND key = ?3")?
        .query_row([topic, name, key], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    Ok(found.map(Bytes::from))
}

/// The new revision; `None` if the ledger is not what it was when it had revision `before`.
pub(super) fn write(
    db: &Connection,
    topic: &str,
    name: &str,
    before: u64,
    entry: &LedgerEntry,
) -> Result<Option<u64>, Fault> {
    if !exists(db)? {
        db.execute_batch(TABLES)?;
    }
    if read(db, topic, name)?.map_or(0, |ledger| ledger.revision) != before {
        return Ok(None);
    }
    let revision = before + 1;
    db.prepare_cached("INSERT OR REPLACE INTO ledger (topic, name, revision, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![topic, name, revision, entry.text])?;
    for (key, value) in &entry.add {
        db.prepare_cached("INSERT OR REPLACE INTO ledger_bytes (topic, name, key, value) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![topic, name, key, &value[..]])?;
    }
    let mut kept = db.prepare_cached("SELECT key FROM ledger_bytes WHERE topic = ?1 AND name = ?2")?;
    let kept: Vec<String> = kept.query_map([topic, name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for key in kept.iter().filter(|key| !entry.keep.contains(*key)) {
        db.prepare_cached("DELETE FROM ledger_bytes WHERE topic = ?1 AND name = ?2 AND key = ?3")?
            .execute([topic, name, key])?;
    }
    Ok(Some(revision))
}

fn exists(db: &Connection) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger_bytes'";
    Ok(db.prepare_cached(sql)?.exists([])?)
}
