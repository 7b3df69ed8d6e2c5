//! Reading what a topic holds, and effects without a delivery.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Applied, Edge, Span, first};
use super::fault::Fault;
use super::{Names, keys, topics};
use crate::event::{Effects, Fields, Message, Position, Topic};

pub(super) fn span(db: &Connection, stored: &str, from: &Edge, to: Option<&Edge>) -> Result<Option<Span>, Fault> {
    let find = "SELECT id, last FROM topic WHERE name = ?1";
    let found = db.prepare_cached(find)?.query_row([stored], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (from, to) = (edge(from)?, to.map(edge).transpose()?);
    let Some((topic, last)) = found else { return Ok(None) };
    // Times never go back within a topic, so the messages before a time lie before those after it.
    let since = |millis: i64| -> Result<i64, Fault> {
        let sql = "SELECT min(seq) FROM message WHERE topic = ?1 AND at_ms >= ?2";
        let first: Option<i64> = db.prepare_cached(sql)?.query_row([topic, millis], |row| row.get(0))?;
        Ok(first.unwrap_or(last + 1))
    };
    let after = match from {
        Place::Sequence(seq) => seq - 1,
        Place::Millis(millis) => since(millis)? - 1,
    };
    let to: i64 = match to {
        None => last,
        Some(Place::Sequence(seq)) => seq.min(last),
        Some(Place::Millis(millis)) => since(millis)? - 1,
    };
    Ok((after < to).then(|| Span { after: topics::position(after.max(0)), to: topics::position(to) }))
}

enum Place {
    Sequence(i64),
    Millis(i64),
}

fn edge(edge: &Edge) -> Result<Place, Fault> {
    match edge {
        Edge::Beginning => Ok(Place::Sequence(0)),
        Edge::Time(time) => Ok(Place::Millis(topics::stored_millis(*time))),
        Edge::Position(position) => {
            let unusable = || {
                Fault::Settings(format!("{position} is no position on this bus: positions are whole numbers from 1"))
            };
            topics::parse(position).map(Place::Sequence).ok_or_else(unusable)
        }
    }
}

pub(super) fn read(
    db: &Connection,
    topic: &Topic,
    stored: &str,
    (after, to): (&Position, &Position),
    count: usize,
) -> Result<Vec<Message>, Fault> {
    let (after, to) = (topics::parse(after).unwrap_or(0), topics::parse(to).unwrap_or(0));
    let mut statement = db.prepare_cached(
        "SELECT m.seq, m.fields FROM message m JOIN topic t ON t.id = m.topic
         WHERE t.name = ?1 AND m.seq > ?2 AND m.seq <= ?3 ORDER BY m.seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![stored, after, to, i64::try_from(count).unwrap_or(i64::MAX)])?;
    let mut messages = Vec::new();
    while let Some(row) = rows.next()? {
        let fields = Fields::unpack(Bytes::from(row.get::<_, Vec<u8>>(1)?))?;
        messages.push(first::message(topic.clone(), topics::position(row.get(0)?), fields));
    }
    Ok(messages)
}

pub(super) fn apply(db: &Connection, names: &Names, max_len: Option<u64>, effects: &Effects) -> Result<Applied, Fault> {
    if !keys::unmoved(db, effects)? {
        return Ok(Applied::Conflict);
    }
    keys::apply(db, effects)?;
    for outgoing in &effects.publish {
        topics::append(db, &names.stored(&outgoing.topic), &outgoing.fields, max_len)?;
    }
    Ok(Applied::Committed)
}

/// What the caller is told: a value that the file does not take is a refusal, not trouble.
pub(super) fn applied(outcome: Result<Applied, Fault>) -> Result<Applied, Fault> {
    match outcome {
        Err(Fault::TooLarge(reason)) => Ok(Applied::Refused(reason)),
        outcome => outcome,
    }
}
