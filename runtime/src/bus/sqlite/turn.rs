//! Whose turn it is in an exclusive group.

use rusqlite::Connection;

use super::super::Origin;
use super::fault::Fault;
use super::member::{Item, Lease, Member, Reader, Row, Slot};
use super::take;
use super::topics;
use crate::event::Message;

/// What became of asking for the turn.
pub(super) enum Turn {
    /// It was this consumer's already, or the group is not exclusive.
    Mine,
    /// It is this consumer's from now on.
    Begun {
        /// All that its predecessors left behind, in order.
        left: Vec<Item>,
        /// What waits for a retry.
        retrying: Vec<Message>,
    },
    /// It is another's.
    Anothers,
}

/// Takes the turn on all topics if nobody alive has it on any.
pub(super) fn ask(db: &Connection, member: &Member, lease: Lease) -> Result<Turn, Fault> {
    let now = topics::now();
    let mut mine = true;
    for reader in &member.readers {
        let (holder, until): (Option<i64>, i64) = db
            .prepare_cached(
                "SELECT r.holder, coalesce(c.lease_until_ms, 0)
                 FROM reader r LEFT JOIN consumer c ON c.id = r.holder WHERE r.id = ?1",
            )?
            .query_row([reader.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let anothers = holder.is_some_and(|holder| holder != member.consumer);
        if anothers && (until > now || lease.claim_after > now) {
            return Ok(Turn::Anothers);
        }
        mine &= holder == Some(member.consumer);
    }
    if mine && member.state().active {
        return Ok(Turn::Mine);
    }
    let (mut left, mut retrying) = (Vec::new(), Vec::new());
    for reader in &member.readers {
        db.prepare_cached("UPDATE reader SET holder = ?2 WHERE id = ?1")?.execute([reader.id, member.consumer])?;
        left.extend(take_over(db, member, reader)?);
        retrying.extend(waiting(db, reader)?);
    }
    left.sort_by_key(|item| (item.slot.reader, item.seq));
    Ok(Turn::Begun { left, retrying })
}

/// Takes everything that is in anybody's hand. What it held itself in an earlier turn is void, so that counts too.
fn take_over(db: &Connection, member: &Member, reader: &Reader) -> Result<Vec<Item>, Fault> {
    let mut left = take::claim_pending(db, member, reader, "1", i64::MAX)?;
    let mut statement = db.prepare_cached(
        "SELECT id, seq, first, fields, attempts, inherited OR consumer <> ?2
         FROM retry WHERE reader = ?1 AND consumer IS NOT NULL",
    )?;
    let mut rows = statement.query([reader.id, member.consumer])?;
    while let Some(row) = rows.next()? {
        let origin = if row.get(5)? { Origin::Inherited } else { Origin::Dropped };
        let slot = Slot { reader: reader.id, row: Row::Retry(row.get(0)?), token: member.token() };
        left.push(take::retry_item(reader, row, origin, slot)?);
    }
    drop(rows);
    for item in &left {
        take::own_retry(db, member, item)?;
    }
    Ok(left)
}

fn waiting(db: &Connection, reader: &Reader) -> Result<Vec<Message>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT id, seq, first, fields FROM retry WHERE reader = ?1 AND consumer IS NULL ORDER BY seq",
    )?;
    let mut rows = statement.query([reader.id])?;
    let mut waiting = Vec::new();
    while let Some(row) = rows.next()? {
        waiting.push(take::retry_message(reader, row)?);
    }
    Ok(waiting)
}
