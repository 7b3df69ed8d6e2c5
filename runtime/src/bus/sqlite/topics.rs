//! Topics: appending, trimming, and where a new group starts.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::Start;
use super::fault::Fault;
use crate::event::{Fields, Position, unix_millis};

/// Appends a message, making the topic if it is missing, and returns where it lies.
pub(super) fn append(db: &Connection, topic: &str, fields: &Fields, max_len: Option<u64>) -> Result<i64, Fault> {
    // Times never go back within a topic, so that a start by time finds one place.
    let mut next = db.prepare_cached(
        "INSERT INTO topic (name, last, last_ms) VALUES (?1, 1, ?2)
         ON CONFLICT (name) DO UPDATE SET last = last + 1, last_ms = max(last_ms, excluded.last_ms)
         RETURNING id, last, last_ms",
    )?;
    let (id, seq, at): (i64, i64, i64) =
        next.query_row(params![topic, now()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    db.prepare_cached("INSERT INTO message (topic, seq, at_ms, fields) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        id,
        seq,
        at,
        &fields.pack()[..]
    ])?;
    if let Some(max_len) = max_len {
        trim(db, id, seq.saturating_sub(max_len.try_into().unwrap_or(i64::MAX)))?;
    }
    Ok(seq)
}

/// Deletes messages up to `last`, except those in somebody's hand.
pub(super) fn trim(db: &Connection, topic: i64, last: i64) -> Result<(), Fault> {
    db.prepare_cached(
        "DELETE FROM message WHERE topic = ?1 AND seq <= ?2 AND NOT EXISTS (
             SELECT 1 FROM reader r JOIN pending p ON p.reader = r.id AND p.seq = message.seq WHERE r.topic = ?1)",
    )?
    .execute([topic, last])?;
    Ok(())
}

/// The topic's row, made if it is missing.
pub(super) fn ensure(db: &Connection, topic: &str) -> Result<i64, Fault> {
    db.prepare_cached("INSERT INTO topic (name, last, last_ms) VALUES (?1, 0, 0) ON CONFLICT DO NOTHING")?
        .execute([topic])?;
    Ok(db.prepare_cached("SELECT id FROM topic WHERE name = ?1")?.query_row([topic], |row| row.get(0))?)
}

/// The row of a group on a topic, made if it is missing: only then does `start` matter.
pub(super) fn ensure_reader(db: &Connection, topic: i64, group: &str, start: &Start) -> Result<i64, Fault> {
    let find = "SELECT id FROM reader WHERE topic = ?1 AND name = ?2";
    let found = db.prepare_cached(find)?.query_row(params![topic, group], |row| row.get(0)).optional()?;
    if let Some(found) = found {
        return Ok(found);
    }
    let cursor = cursor(db, topic, start)?;
    db.prepare_cached("INSERT INTO reader (topic, name, cursor) VALUES (?1, ?2, ?3)")?
        .execute(params![topic, group, cursor])?;
    Ok(db.last_insert_rowid())
}

/// The row of a group on a topic, if there is one.
pub(super) fn find_reader(db: &Connection, topic: &str, group: &str) -> Result<Option<i64>, Fault> {
    let sql = "SELECT r.id FROM reader r JOIN topic t ON t.id = r.topic WHERE t.name = ?1 AND r.name = ?2";
    Ok(db.prepare_cached(sql)?.query_row([topic, group], |row| row.get(0)).optional()?)
}

/// The position up to which a group has read, and the last one of the topic.
pub(super) fn unread(db: &Connection, reader: i64) -> Result<(i64, i64), Fault> {
    let sql = "SELECT r.cursor, t.last FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1";
    Ok(db.prepare_cached(sql)?.query_row([reader], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn cursor(db: &Connection, topic: i64, start: &Start) -> Result<i64, Fault> {
    let last: i64 = db.query_row("SELECT last FROM topic WHERE id = ?1", [topic], |row| row.get(0))?;
    let before = |sql: &str, value: i64| -> Result<i64, Fault> {
        let first: Option<i64> = db.query_row(sql, [topic, value], |row| row.get(0))?;
        Ok(first.map_or(last, |first| first - 1))
    };
    match start {
        Start::New => Ok(last),
        Start::Beginning => before("SELECT min(seq) FROM message WHERE topic = ?1 AND seq > ?2", 0),
        Start::At(time) => {
            before("SELECT min(seq) FROM message WHERE topic = ?1 AND at_ms >= ?2", stored_millis(*time))
        }
        Start::After(position) => {
            let unusable = || {
                let text = "is no position on this bus: positions are whole numbers from 1";
                Fault::Settings(format!("start = {:?} {text}", position.as_str()))
            };
            let after = parse(position).ok_or_else(unusable)?;
            // What was trimmed before the group existed was never its own, so it is not counted as lost.
            Ok(before("SELECT min(seq) FROM message WHERE topic = ?1 AND seq > ?2", after)?.min(last))
        }
    }
}

pub(super) fn position(seq: i64) -> Position {
    Position::from(seq.to_string())
}

pub(super) fn parse(position: &Position) -> Option<i64> {
    position.as_str().parse().ok().filter(|seq| *seq >= 0)
}

/// Milliseconds since the epoch as SQLite stores them.
pub(super) fn stored_millis(time: SystemTime) -> i64 {
    i64::try_from(unix_millis(time)).unwrap_or(i64::MAX)
}

pub(super) fn now() -> i64 {
    stored_millis(SystemTime::now())
}
