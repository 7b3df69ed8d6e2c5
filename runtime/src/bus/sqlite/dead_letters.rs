//! Dead letters: stored, listed, requeued, purged.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{DeadLetter, Requeue, first};
use super::fault::Fault;
use super::topics;
use crate::event::{Cause, Fields, Message, Position, Topic, from_unix_millis};

/// Stores a message as a dead letter of a group.
pub(super) fn store(db: &Connection, reader: i64, seq: i64, message: &Message, cause: &Cause) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO dead (reader, seq, first, fields, code, reason, attempts, handler, module, at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        reader,
        seq,
        message.first.as_str(),
        &message.fields.pack()[..],
        cause.code,
        cause.reason,
        cause.attempts,
        cause.handler,
        cause.module,
        topics::stored_millis(cause.at),
    ])?;
    Ok(())
}

pub(super) fn list(
    db: &Connection,
    topic: &Topic,
    stored: &str,
    group: &str,
    after: Option<&Position>,
    count: usize,
) -> Result<Vec<DeadLetter>, Fault> {
    let Some(reader) = topics::find_reader(db, stored, group)? else {
        return Ok(Vec::new());
    };
    let after = match after.map(|after| (after, topics::parse(after))) {
        None => 0,
        Some((_, Some(after))) => after,
        Some((text, None)) => return Err(Fault::Settings(format!("{text} is no dead letter's id on this bus"))),
    };
    let mut statement = db.prepare_cached(
        "SELECT id, seq, first, fields, code, reason, attempts, handler, module, at_ms
         FROM dead WHERE reader = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![reader, after, i64::try_from(count).unwrap_or(i64::MAX)])?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(letter(topic, row)?);
    }
    Ok(letters)
}

fn letter(topic: &Topic, row: &Row<'_>) -> Result<DeadLetter, Fault> {
    Ok(DeadLetter {
        id: topics::position(row.get(0)?),
        topic: topic.clone(),
        position: topics::position(row.get(1)?),
        first: Position::from(row.get::<_, String>(2)?),
        fields: Fields::unpack(Bytes::from(row.get::<_, Vec<u8>>(3)?))?,
        cause: Cause {
            code: row.get(4)?,
            reason: row.get(5)?,
            attempts: row.get(6)?,
            handler: row.get(7)?,
            module: row.get(8)?,
            at: from_unix_millis(row.get(9)?),
        },
    })
}

pub(super) fn requeue(db: &Connection, topic: &str, group: &str, ids: &[Position], to: Requeue) -> Result<u64, Fault> {
    let Some(reader) = topics::find_reader(db, topic, group)? else {
        return Ok(0);
    };
    let mut moved = 0;
    for id in ids.iter().filter_map(topics::parse) {
        moved += match to {
            Requeue::Topic => to_topic(db, topic, reader, id)?,
            Requeue::Handler => to_handler(db, reader, id)?,
        };
    }
    Ok(moved)
}

fn to_topic(db: &Connection, topic: &str, reader: i64, id: i64) -> Result<u64, Fault> {
    let found = db
        .prepare_cached("DELETE FROM dead WHERE reader = ?1 AND id = ?2 RETURNING first, fields")?
        .query_row([reader, id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    let Some((first, fields)) = found else {
        return Ok(0);
    };
    let fields = Fields::unpack(Bytes::from(fields))?;
    topics::append(db, topic, &first::requeued(&fields, &Position::from(first)), None)?;
    Ok(1)
}

fn to_handler(db: &Connection, reader: i64, id: i64) -> Result<u64, Fault> {
    let copied = db
        .prepare_cached(
            "INSERT INTO retry (reader, seq, first, fields, attempts, due_ms, code, reason)
             SELECT reader, seq, first, fields, 0, ?3, code, reason FROM dead WHERE reader = ?1 AND id = ?2",
        )?
        .execute(params![reader, id, topics::now()])?;
    db.prepare_cached("DELETE FROM dead WHERE reader = ?1 AND id = ?2")?.execute([reader, id])?;
    Ok(copied as u64)
}

pub(super) fn purge(db: &Connection, topic: &str, group: &str, ids: &[Position]) -> Result<u64, Fault> {
    let Some(reader) = topics::find_reader(db, topic, group)? else {
        return Ok(0);
    };
    let mut purged = 0;
    let mut statement = db.prepare_cached("DELETE FROM dead WHERE reader = ?1 AND id = ?2")?;
    for id in ids.iter().filter_map(topics::parse) {
        purged += statement.execute([reader, id])? as u64;
    }
    Ok(purged)
}
