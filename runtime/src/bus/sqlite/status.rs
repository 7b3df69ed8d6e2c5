//! How far a group is.

use rusqlite::{Connection, params};

use super::super::GroupStatus;
use super::fault::Fault;
use super::{topics, trim};

pub(super) fn read(db: &Connection, topic: &str, group: &str) -> Result<GroupStatus, Fault> {
    let Some(reader) = topics::find_reader(db, topic, group)? else {
        return Ok(GroupStatus::default());
    };
    let count =
        |sql: &str| -> Result<u64, Fault> { Ok(db.prepare_cached(sql)?.query_row([reader], |row| row.get(0))?) };
    let in_hand = count("SELECT count(*) FROM pending WHERE reader = ?1")?;
    let retries_in_hand = count("SELECT count(*) FROM retry WHERE reader = ?1 AND consumer IS NOT NULL")?;
    // What was trimmed before it was read is lost and no longer to be read.
    let trimmed = "SELECT coalesce((SELECT min(seq) FROM message m WHERE m.topic = r.topic AND m.seq > r.cursor),
                                   t.last + 1) - r.cursor - 1
                   FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1";
    let trimmed = count(trimmed)?;
    let unread = count("SELECT t.last - r.cursor FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1")?;
    let mut consumers = db.prepare_cached(
        "SELECT c.name FROM member m JOIN consumer c ON c.id = m.consumer
         WHERE m.reader = ?1 AND c.lease_until_ms > ?2 ORDER BY c.id",
    )?;
    let consumers = consumers.query_map(params![reader, topics::now()], |row| row.get(0))?;
    Ok(GroupStatus {
        exists: true,
        lag: Some(unread.saturating_sub(trimmed)),
        pending: in_hand + retries_in_hand,
        retrying: count("SELECT count(*) FROM retry WHERE reader = ?1 AND consumer IS NULL")?,
        dead_letters: count("SELECT count(*) FROM dead WHERE reader = ?1")?,
        lost: trimmed + count("SELECT lost FROM reader WHERE id = ?1")?,
        held_up_by: trim::holder(db, topic)?,
        consumers: consumers.collect::<Result<Vec<String>, _>>()?,
    })
}
