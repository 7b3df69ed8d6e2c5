//! Keys: read with their versions, checked and written at commit.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use crate::event::{Effects, KeyList, KeyRead, Versioned};

pub(super) fn read(db: &Connection, space: &str, key: &str) -> Result<Versioned, Fault> {
    let found = db
        .prepare_cached("SELECT value, version FROM key WHERE space = ?1 AND key = ?2")?
        .query_row([space, key], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u64>(1)?)))
        .optional()?;
    Ok(found.map_or_else(Versioned::default, |(value, version)| Versioned { value: Some(Bytes::from(value)), version }))
}

pub(super) fn list(db: &Connection, space: &str, prefix: &str, limit: usize) -> Result<KeyList, Fault> {
    // Keys compare by their bytes, so all with the prefix follow it.
    let mut statement = db.prepare_cached("SELECT key FROM key WHERE space = ?1 AND key >= ?2 ORDER BY key")?;
    let mut rows = statement.query([space, prefix])?;
    let mut keys = Vec::new();
    while keys.len() < limit
        && let Some(row) = rows.next()?
    {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(KeyList { keys, version: version(db, space)? })
}

/// True if nothing that the call read has been written since.
pub(super) fn unmoved(db: &Connection, effects: &Effects) -> Result<bool, Fault> {
    for KeyRead { key, version: seen, .. } in &effects.reads {
        let now = match key {
            Some(key) => db
                .prepare_cached("SELECT version FROM key WHERE space = ?1 AND key = ?2")?
                .query_row([&effects.key_space, key], |row| row.get(0))
                .optional()?
                .unwrap_or(0),
            None => version(db, &effects.key_space)?,
        };
        if now != *seen {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every write, a deletion too, takes the next version of the space. What would hold more bytes than it may is refused: the
/// caller takes everything back.
pub(super) fn apply(db: &Connection, effects: &Effects) -> Result<(), Fault> {
    match effects.key_bytes.filter(|_| !effects.writes.is_empty()) {
        None => write(db, effects),
        Some(most) => {
            let mut count = Count::of(db, &effects.key_space)?;
            let before = count.bytes;
            count.add(db, effects)?;
            if count.bytes > most && count.bytes > before {
                let bytes = count.bytes;
                return Err(Fault::TooLarge(format!(
                    "the keys of the handler would hold {bytes} bytes, and may hold {most}; more: [handler.grants] keys \
                     = {{ max_bytes = \"…\" }}"
                )));
            }
            write(db, effects)?;
            count.keep(db, &effects.key_space)
        }
    }
}

fn write(db: &Connection, effects: &Effects) -> Result<(), Fault> {
    let space = &effects.key_space;
    for write in &effects.writes {
        let version: u64 = db
            .prepare_cached(
                "INSERT INTO key_space (space, version) VALUES (?1, 1)
                 ON CONFLICT (space) DO UPDATE SET version = version + 1 RETURNING version",
            )?
            .query_row([space], |row| row.get(0))?;
        match &write.value {
            Some(value) => db
                .prepare_cached("INSERT OR REPLACE INTO key (space, key, value, version) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![space, write.key, &value[..], version])?,
            None => db.prepare_cached("DELETE FROM key WHERE space = ?1 AND key = ?2")?.execute([space, &write.key])?,
        };
    }
    Ok(())
}

/// The bytes of a space's keys, names and values.
struct Count {
    bytes: u64,
}

// === impl Count ===

impl Count {
    /// What was kept holds as long as nobody has written without counting since. The table is made when a limit is first
    /// set: hosts that know nothing of it can use the file too.
    fn of(db: &Connection, space: &str) -> Result<Self, Fault> {
        db.prepare_cached(
            "CREATE TABLE IF NOT EXISTS key_bytes (
                space TEXT PRIMARY KEY, version INTEGER NOT NULL, bytes INTEGER NOT NULL
            ) WITHOUT ROWID",
        )?
        .execute([])?;
        let kept = db
            .prepare_cached("SELECT bytes FROM key_bytes WHERE space = ?1 AND version = ?2")?
            .query_row(params![space, version(db, space)?], |row| row.get(0))
            .optional()?;
        let bytes = match kept {
            Some(bytes) => bytes,
            None => db
                .prepare_cached("SELECT coalesce(sum(octet_length(key) + length(value)), 0) FROM key WHERE space = ?1")?
                .query_row([space], |row| row.get(0))?,
        };
        Ok(Self { bytes })
    }

    /// Reckons with writes that are not made yet.
    fn add(&mut self, db: &Connection, effects: &Effects) -> Result<(), Fault> {
        let mut own: BTreeMap<&str, u64> = BTreeMap::new();
        for write in &effects.writes {
            let old = match own.get(write.key.as_str()) {
                Some(bytes) => *bytes,
                None => db
                    .prepare_cached("SELECT octet_length(key) + length(value) FROM key WHERE space = ?1 AND key = ?2")?
                    .query_row([&effects.key_space, &write.key], |row| row.get(0))
                    .optional()?
                    .unwrap_or(0),
            };
            let new = write.value.as_ref().map_or(0, |value| (write.key.len() + value.len()) as u64);
            self.bytes = (self.bytes + new).saturating_sub(old);
            own.insert(&write.key, new);
        }
        Ok(())
    }

    /// Keeps it for the next time, when the writes are made.
    fn keep(&self, db: &Connection, space: &str) -> Result<(), Fault> {
        db.prepare_cached("INSERT OR REPLACE INTO key_bytes (space, version, bytes) VALUES (?1, ?2, ?3)")?
            .execute(params![space, version(db, space)?, self.bytes])?;
        Ok(())
    }
}

fn version(db: &Connection, space: &str) -> Result<u64, Fault> {
    let sql = "SELECT version FROM key_space WHERE space = ?1";
    Ok(db.prepare_cached(sql)?.query_row([space], |row| row.get(0)).optional()?.unwrap_or(0))
}
