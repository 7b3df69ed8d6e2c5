//! How far a group is.

use rusqlite::{Connection, OptionalExtension, params};

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::GroupStatus;
use super::fault::Fault;
use super::{topics, trim};
use crate::event::from_unix_millis;

pub(super) fn read(db: &Connection, topic: &str, group: &str) -> Result<GroupStatus, Fault> {
    let Some(reader) = topics::find_reader(db, topic, group)? else {
        return Ok(GroupStatus::default());
    };
    let count =
        |sql: &str| -> Result<u64, Fault> { Ok(db.prepare_cached(sql)?.query_row([reader], |row| row.get(0))?) };
    // A group with order reads ahead: what waits for its slice's owner, and nobody has had yet, is as good as unread.
    let waiting = count("SELECT count(*) FROM pending WHERE reader = ?1 AND consumer IS NULL AND token = 0")?;
    let in_hand = count("SELECT count(*) FROM pending WHERE reader = ?1")? - waiting;
    let retries_in_hand = count("SELECT count(*) FROM retry WHERE reader = ?1 AND consumer IS NOT NULL")?;
    // What was trimmed before it was read is lost and no longer to be read.
    let trimmed = "SELECT coalesce((SELECT min(seq) FROM message m WHERE m.topic = r.topic AND m.seq > r.cursor),
                                   t.last + 1) - r.cursor - 1
                   FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1";
    let trimmed = count(trimmed)?;
    let unread = count("SELECT t.last - r.cursor FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1")?;
    let mut consumers = db.prepare_cached(
        "SELECT c.name, r.text FROM member m JOIN consumer c ON c.id = m.consumer
         LEFT JOIN report r ON r.consumer = c.id
         WHERE m.reader = ?1 AND c.lease_until_ms > ?2 ORDER BY c.id",
    )?;
    let consumers = consumers.query_map(params![reader, topics::now()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let consumers = consumers.collect::<Result<Vec<(String, Option<String>)>, _>>()?;
    let reports: BTreeMap<_, _> =
        consumers.iter().filter_map(|(name, text)| Some((name.clone(), text.clone()?))).collect();
    Ok(GroupStatus {
        exists: true,
        lag: Some(unread.saturating_sub(trimmed) + waiting),
        pending: in_hand + retries_in_hand,
        retrying: count("SELECT count(*) FROM retry WHERE reader = ?1 AND consumer IS NULL")?,
        dead_letters: count("SELECT count(*) FROM dead WHERE reader = ?1")?,
        lost: trimmed + count("SELECT lost FROM reader WHERE id = ?1")?,
        oldest: oldest(db, reader)?,
        oldest_dead_letter: first(db, reader, "SELECT at_ms FROM dead WHERE reader = ?1 ORDER BY id LIMIT 1")?,
        consumers: consumers.into_iter().map(|(name, _)| name).collect(),
        reports,
        held_up_by: trim::holder(db, topic)?,
    })
}

/// When the oldest message that is not settled was published. Of one that waits for a retry and was trimmed since, only
/// the oldest that is kept after it is known.
fn oldest(db: &Connection, reader: i64) -> Result<Option<SystemTime>, Fault> {
    let at = "SELECT coalesce(
                  (SELECT m.at_ms FROM message m WHERE m.topic = r.topic AND m.seq >= o.seq ORDER BY m.seq LIMIT 1),
                  t.last_ms)
              FROM reader r JOIN topic t ON t.id = r.topic";
    let mut oldest = None;
    for seq in [
        "(SELECT min(seq) AS seq FROM pending WHERE reader = ?1)",
        "(SELECT min(seq) AS seq FROM retry WHERE reader = ?1)",
        "(SELECT cursor + 1 AS seq FROM reader WHERE id = ?1)",
    ] {
        let sql = format!("{at} JOIN {seq} o ON o.seq <= t.last WHERE r.id = ?1");
        oldest = oldest.into_iter().chain(first(db, reader, &sql)?).min();
    }
    Ok(oldest)
}

fn first(db: &Connection, reader: i64, sql: &str) -> Result<Option<SystemTime>, Fault> {
    let millis: Option<u64> = db.prepare_cached(sql)?.query_row([reader], |row| row.get(0)).optional()?;
    Ok(millis.map(from_unix_millis))
}
