//! Is there anything to take? Asked in a read transaction, so that an idle host writes nothing.

use rusqlite::Connection;

use super::fault::Fault;
use super::member::{Member, Reader};
use super::slices::{Changes, Division, Peer, Stored};
use super::take::Want;
use super::topics;

/// What a look found.
#[derive(Default)]
pub(super) struct Look {
    /// A transaction would take something, or change something.
    pub(super) work: bool,
    /// When there will be something to take though nobody writes: a retry falls due, a lease runs out.
    pub(super) next_ms: Option<i64>,
    /// In a group with order: on which topics there is something to read for the group, by this consumer.
    pub(super) read: Vec<usize>,
}

pub(super) fn look(db: &Connection, member: &Member, max: usize, want: Want) -> Result<Look, Fault> {
    let (claim_after, now) = (member.state().lease.claim_after, topics::now());
    let mut look = Look::default();
    if member.order.is_some() {
        for (at, reader) in member.readers.iter().enumerate() {
            look.ordered(db, member, (at, reader), (max, want), now)?;
        }
        return Ok(look);
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

fn unread(db: &Connection, reader: &Reader) -> Result<bool, Fault> {
    topics::unread(db, reader.id).map(|(cursor, last)| cursor < last)
}

fn first_retry(db: &Connection, reader: &Reader) -> Result<i64, Fault> {
    let sql = "SELECT min(due_ms) FROM retry WHERE reader = ?1 AND consumer IS NULL";
    let due: Option<i64> = db.prepare_cached(sql)?.query_row([reader.id], |row| row.get(0))?;
    Ok(due.unwrap_or(i64::MAX))
}

/// When the first retry of a consumer's slices is due, and whether anything else of them is in nobody's hand.
fn first_of_slices(db: &Connection, reader: &Reader, consumer: i64) -> Result<(Option<i64>, bool), Fault> {
    let mut first = db.prepare_cached(
        "SELECT min((SELECT min(r.due_ms) FROM retry r
                     WHERE r.reader = s.reader AND r.slice = s.number AND r.consumer IS NULL)),
                max(EXISTS (SELECT 1 FROM pending p
                            WHERE p.reader = s.reader AND p.slice = s.number AND p.consumer IS NULL))
         FROM slice s WHERE s.reader = ?1 AND s.owner = ?2 AND s.wanted IS NULL",
    )?;
    let found = first.query_row([reader.id, consumer], |row| Ok((row.get(0)?, row.get::<_, Option<bool>>(1)?)))?;
    Ok((found.0, found.1.unwrap_or(false)))
}

/// True if it is for this consumer to read for the group: because it did so before, or whoever did is gone.
fn is_reading(
    db: &Connection,
    member: &Member,
    reader: &Reader,
    division: &Division,
    gone: impl Fn(&Peer) -> bool,
) -> Result<bool, Fault> {
    let sql = "SELECT holder FROM reader WHERE id = ?1";
    let holder: Option<i64> = db.prepare_cached(sql)?.query_row([reader.id], |row| row.get(0))?;
    let another = division.peers.iter().find(|peer| Some(peer.consumer) == holder && peer.consumer != member.consumer);
    Ok(another.is_none_or(gone))
}

/// When the first thing in another's hand may be taken over.
fn first_claim(db: &Connection, reader: &Reader, consumer: i64, claim_after: i64) -> Result<i64, Fault> {
    let given_back = "SELECT EXISTS (SELECT 1 FROM pending WHERE reader = ?1 AND consumer IS NULL)";
    if db.prepare_cached(given_back)?.query_row([reader.id], |row| row.get(0))? {
        return Ok(i64::MIN);
    }
    let held = "SELECT min(c.lease_until_ms) FROM member m JOIN consumer c ON c.id = m.consumer
         WHERE m.reader = ?1 AND m.consumer <> ?2 AND (
             EXISTS (SELECT 1 FROM pending p WHERE p.consumer = m.consumer AND p.reader = m.reader)
             OR EXISTS (SELECT 1 FROM retry r WHERE r.consumer = m.consumer AND r.reader = m.reader))";
    let until: Option<i64> = db.prepare_cached(held)?.query_row([reader.id, consumer], |row| row.get(0))?;
    Ok(until.map_or(i64::MAX, |until| until.max(claim_after)))
}

// === impl Look ===

impl Look {
    /// What there is to do on one topic of a group with order.
    fn ordered(
        &mut self,
        db: &Connection,
        member: &Member,
        (at, reader): (usize, &Reader),
        (max, want): (usize, Want),
        now: i64,
    ) -> Result<(), Fault> {
        let division = Division::load(db, reader)?;
        let (lease, reading, changes) = {
            let state = member.state();
            let changes = Changes::between(&state.told, reader, &division, member.consumer);
            (state.lease, state.reading.get(&reader.id).copied().unwrap_or_default(), changes)
        };
        self.work |= !changes.is_empty();
        let busy = member.busy_slices();
        let to_give =
            |(number, slice): (u16, &Stored)| slice.share.wanted.is_some() && !busy.contains(&(reader.id, number));
        self.work |= division.of(member.consumer).any(to_give);
        if division.is_uneven(member.consumer, now) {
            self.at(lease.claim_after, now);
        }
        let others = division.peers.iter().filter(|peer| peer.consumer != member.consumer);
        for peer in others.filter(|peer| peer.active_until > now) {
            self.at(peer.active_until.max(lease.claim_after), now);
        }
        if max > 0 {
            let (retry, given) = first_of_slices(db, reader, member.consumer)?;
            self.at(retry.unwrap_or(i64::MAX), now);
            self.work |= given && want == Want::All;
        }
        let gone = |peer: &Peer| peer.active_until.max(lease.claim_after) <= now;
        if is_reading(db, member, reader, &division, gone)? && reading.is_called_for(db, reader, now)? {
            if reading.not_before <= now {
                self.read.push(at);
            } else {
                self.at(reading.not_before, now);
            }
        }
        Ok(())
    }

    fn at(&mut self, at: i64, now: i64) {
        if at <= now {
            self.work = true;
        } else if at != i64::MAX {
            self.next_ms = Some(self.next_ms.map_or(at, |next| next.min(at)));
        }
    }
}
