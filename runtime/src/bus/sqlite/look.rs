//! Is there anything to take? Asked in a read transaction, so that an idle host writes nothing.

use rusqlite::{Connection, OptionalExtension};

use super::fault::Fault;
use super::member::{Member, Reader};
use super::take::Want;
use super::topics;

/// What a look found.
pub(super) struct Look {
    /// A transaction would take something.
    pub(super) work: bool,
    /// When there will be something to take though nobody writes: a retry falls due, a lease runs out.
    pub(super) next_ms: Option<i64>,
}

pub(super) fn look(db: &Connection, member: &Member, want: Want) -> Result<Look, Fault> {
    let (active, claim_after) = {
        let state = member.state();
        (state.active, state.lease.claim_after)
    };
    let now = topics::now();
    let mut look = Look { work: false, next_ms: None };
    if member.exclusive {
        let free = turn_free_at(db, member, claim_after)?;
        if !active {
            look.at(free, now);
            return Ok(look);
        }
        if free != i64::MIN {
            // The turn is no longer its own: taking finds that out.
            look.work = true;
        }
    }
    for reader in &member.readers {
        look.at(first_retry(db, reader)?, now);
        if want == Want::All {
            look.work |= unread(db, reader)?;
            look.at(first_claim(db, reader, member.consumer, claim_after)?, now);
        }
        if look.work {
            break;
        }
    }
    Ok(look)
}

/// `i64::MIN` stands for "now, whatever the clock says", `i64::MAX` for never.
fn turn_free_at(db: &Connection, member: &Member, claim_after: i64) -> Result<i64, Fault> {
    let mut at = i64::MIN;
    for reader in &member.readers {
        let mut holder = db.prepare_cached(
            "SELECT r.holder, coalesce(c.lease_until_ms, 0)
             FROM reader r LEFT JOIN consumer c ON c.id = r.holder WHERE r.id = ?1",
        )?;
        let holder: Option<(Option<i64>, i64)> =
            holder.query_row([reader.id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        at = at.max(match holder {
            Some((Some(holder), until)) if holder != member.consumer => until.max(claim_after),
            _ => i64::MIN,
        });
    }
    Ok(at)
}

fn unread(db: &Connection, reader: &Reader) -> Result<bool, Fault> {
    let sql = "SELECT t.last > r.cursor FROM reader r JOIN topic t ON t.id = r.topic WHERE r.id = ?1";
    Ok(db.prepare_cached(sql)?.query_row([reader.id], |row| row.get(0)).optional()?.unwrap_or(false))
}

fn first_retry(db: &Connection, reader: &Reader) -> Result<i64, Fault> {
    let sql = "SELECT min(due_ms) FROM retry WHERE reader = ?1 AND consumer IS NULL";
    let due: Option<i64> = db.prepare_cached(sql)?.query_row([reader.id], |row| row.get(0))?;
    Ok(due.unwrap_or(i64::MAX))
}

/// When the first thing in another's hand may be taken over.
fn first_claim(db: &Connection, reader: &Reader, consumer: i64, claim_after: i64) -> Result<i64, Fault> {
    let given_back = "SELECT EXISTS (SELECT 1 FROM pending WHERE reader = ?1 AND consumer IS NULL)";
    if db.prepare_cached(given_back)?.query_row([reader.id], |row| row.get(0))? {
        return Ok(i64::MIN);
    }
    let mut first = i64::MAX;
    for sql in [
        "SELECT min(coalesce(c.lease_until_ms, 0)) FROM pending p LEFT JOIN consumer c ON c.id = p.consumer
         WHERE p.reader = ?1 AND p.consumer <> ?2",
        "SELECT min(coalesce(c.lease_until_ms, 0)) FROM retry p LEFT JOIN consumer c ON c.id = p.consumer
         WHERE p.reader = ?1 AND p.consumer IS NOT NULL AND p.consumer <> ?2",
    ] {
        let until: Option<i64> = db.prepare_cached(sql)?.query_row([reader.id, consumer], |row| row.get(0))?;
        first = first.min(until.map_or(i64::MAX, |until| until.max(claim_after)));
    }
    Ok(first)
}

// === impl Look ===

impl Look {
    fn at(&mut self, at: i64, now: i64) {
        if at <= now {
            self.work = true;
        } else if at != i64::MAX {
            self.next_ms = Some(self.next_ms.map_or(at, |next| next.min(at)));
        }
    }
}
