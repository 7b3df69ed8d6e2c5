//! Leases: a consumer has one for all that it holds, so that renewing is one write however much that is.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::fault::Fault;
use super::member::{Lease, Member, Reader, Row, Slot};
use super::topics;

/// The lease of a consumer that takes something at `now`, in the same transaction: renewed, unless most of it is left
/// and nobody divides slices by it.
pub(super) fn extend_to_take(db: &Connection, member: &Member, now: i64) -> Result<Lease, Fault> {
    let lease = member.state().lease;
    if member.order.is_none() && lease.until - now > member.lease_ms / 4 * 3 {
        return Ok(lease);
    }
    // By the same clock as the lease: slices that are taken from it sooner would be those of a host that lives.
    member.is_fetching(now);
    extend(db, member, now)
}

/// Renews the consumer's lease.
pub(super) fn extend(db: &Connection, member: &Member, now: i64) -> Result<Lease, Fault> {
    let before = member.state().lease;
    let until = now.saturating_add(member.lease_ms);
    let active_until = member.active_until(until);
    let renewed = db
        .prepare_cached("UPDATE consumer SET lease_until_ms = ?2, active_until_ms = ?3 WHERE id = ?1")?
        .execute([member.consumer, until, active_until])?;
    if renewed == 0 {
        // It was away for so long that others removed it. Ids are never used twice, so this one is still its own.
        insert(db, member, until, active_until)?;
    }
    // Its own lease ran out: then those of the others may have too, for the same reason (a lock that was held for
    // long, a machine that slept), and they come first.
    let claim_after = if before.until < now { until } else { before.claim_after };
    Ok(Lease { until, active_until, claim_after })
}

fn insert(db: &Connection, member: &Member, until: i64, active_until: i64) -> Result<(), Fault> {
    db.prepare_cached("INSERT INTO consumer (id, name, lease_until_ms, active_until_ms) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![member.consumer, member.name, until, active_until])?;
    for reader in &member.readers {
        join(db, reader.id, member.consumer)?;
    }
    Ok(())
}

pub(super) fn join(db: &Connection, reader: i64, consumer: i64) -> Result<(), Fault> {
    db.prepare_cached("INSERT OR IGNORE INTO member (reader, consumer) VALUES (?1, ?2)")?
        .execute([reader, consumer])?;
    Ok(())
}

/// Others that read the same, whose lease has run out.
pub(super) fn gone(db: &Connection, member: &Member, reader: &Reader) -> Result<Vec<i64>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT c.id FROM member m JOIN consumer c ON c.id = m.consumer
         WHERE m.reader = ?1 AND m.consumer <> ?2 AND c.lease_until_ms <= ?3",
    )?;
    let gone = statement.query_map([reader.id, member.consumer, topics::now()], |row| row.get(0))?;
    Ok(gone.collect::<Result<_, _>>()?)
}

/// Removes consumers that are gone and left nothing behind.
pub(super) fn sweep(db: &Connection) -> Result<(), Fault> {
    db.execute(
        "DELETE FROM consumer WHERE lease_until_ms < ?1
             AND NOT EXISTS (SELECT 1 FROM pending WHERE consumer = consumer.id)
             AND NOT EXISTS (SELECT 1 FROM retry WHERE consumer = consumer.id)",
        [topics::now()],
    )?;
    db.execute("DELETE FROM member WHERE consumer NOT IN (SELECT id FROM consumer)", [])?;
    db.execute("DELETE FROM report WHERE consumer NOT IN (SELECT id FROM consumer)", [])?;
    Ok(())
}

/// Stores what a consumer tells of itself.
pub(super) fn report(db: &Connection, consumer: i64, text: &str) -> Result<(), Fault> {
    db.prepare_cached("INSERT OR REPLACE INTO report (consumer, text) VALUES (?1, ?2)")?
        .execute(params![consumer, text])?;
    Ok(())
}

/// All rows that are this consumer's.
pub(super) fn owned(db: &Connection, member: &Member) -> Result<HashSet<Slot>, Fault> {
    let mut owned = HashSet::new();
    for (sql, row) in [
        ("SELECT reader, seq, token FROM pending WHERE consumer = ?1", Row::Pending as fn(i64) -> Row),
        ("SELECT reader, id, token FROM retry WHERE consumer = ?1", Row::Retry),
    ] {
        let mut statement = db.prepare_cached(sql)?;
        let slots = statement.query_map([member.consumer], |columns| {
            Ok(Slot { reader: columns.get(0)?, row: row(columns.get(1)?), token: columns.get(2)? })
        })?;
        for slot in slots {
            owned.insert(slot?);
        }
    }
    Ok(owned)
}

/// Counts an attempt that is about to start; false if the row is no longer this consumer's.
pub(super) fn begin(db: &Connection, consumer: i64, slot: Slot) -> Result<bool, Fault> {
    let counted = match slot.row {
        Row::Pending(seq) => db
            .prepare_cached(
                "UPDATE pending SET attempts = attempts + 1
                 WHERE reader = ?1 AND seq = ?2 AND consumer = ?3 AND token = ?4",
            )?
            .execute([slot.reader, seq, consumer, slot.token])?,
        Row::Retry(id) => db
            .prepare_cached(
                "UPDATE retry SET attempts = attempts + 1
                 WHERE reader = ?1 AND id = ?2 AND consumer = ?3 AND token = ?4",
            )?
            .execute([slot.reader, id, consumer, slot.token])?,
    };
    Ok(counted == 1)
}

/// Gives rows back that are this consumer's and neither in its hand nor ready to be handed out.
pub(super) fn free_strays(db: &Connection, member: &Member) -> Result<(), Fault> {
    let known = member.slots();
    owned(db, member)?.into_iter().filter(|slot| !known.contains(slot)).try_for_each(|slot| free(db, slot))
}

/// Gives a row back.
pub(super) fn free(db: &Connection, slot: Slot) -> Result<(), Fault> {
    let sql = match slot.row {
        Row::Pending(_) => "UPDATE pending SET consumer = NULL WHERE reader = ?1 AND seq = ?2",
        Row::Retry(_) => "UPDATE retry SET consumer = NULL WHERE reader = ?1 AND id = ?2",
    };
    let (Row::Pending(id) | Row::Retry(id)) = slot.row;
    db.prepare_cached(sql)?.execute([slot.reader, id])?;
    Ok(())
}

/// Gives everything back at once, slices too, and removes the consumer.
pub(super) fn release(db: &Connection, consumer: i64) -> Result<(), Fault> {
    for sql in [
        "UPDATE pending SET consumer = NULL WHERE consumer = ?1",
        "UPDATE retry SET consumer = NULL WHERE consumer = ?1",
        "UPDATE slice SET owner = NULL WHERE owner = ?1",
        "DELETE FROM member WHERE consumer = ?1",
        "DELETE FROM report WHERE consumer = ?1",
        "DELETE FROM consumer WHERE id = ?1",
    ] {
        db.prepare_cached(sql)?.execute([consumer])?;
    }
    Ok(())
}
