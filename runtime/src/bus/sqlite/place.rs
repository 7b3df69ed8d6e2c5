//! Reading for a whole group with order: what is new, and what is in no slice yet, finds its slice.
//!
//! Naming a lane decodes the message. So it happens outside of any transaction: rows are read on the reader's thread,
//! their lanes are named on a thread for blocking work, and the transaction that puts them into their slices checks that
//! nobody else has read on meanwhile. A write transaction that decoded would hold up every other process.

use rusqlite::{Connection, params};

use super::super::LaneOf;
use super::fault::Fault;
use super::member::{Member, Reader};
use super::take::{Gap, limit, message, retry_message};
use super::topics;
use crate::event::{Fields, Lane, Message};

/// Most messages read at once: some milliseconds of decoding, and one sync, for the owners of all slices.
const ROWS: usize = 512;

/// And most bytes; a larger message comes alone.
const BYTES: usize = 8 << 20;

/// A group does not read on while so many messages of a topic are not settled: one slice that stands still must not
/// make the others wait, nor fill the file.
const BACKLOG: i64 = 100_000;

/// How long until a reader that cannot go on (too much is pending, or a host of a time without order has something in
/// hand) looks again.
const AGAIN_MS: i64 = 250;

/// What the consumer that reads knows of its reading.
#[derive(Clone, Copy, Default)]
pub(super) struct Reading {
    /// How many more messages may become pending before they are counted again.
    room: i64,
    /// It does not look again before.
    pub(super) not_before: i64,
    /// Until then nothing pending is taken to be in no slice. Only consumers without order leave such rows, and finding
    /// them takes a walk over all that is pending.
    placed_until: i64,
}

/// What was read of one topic.
pub(super) struct Ahead<What> {
    reader: i64,
    /// The cursor before and after, and what was trimmed in between.
    advance: Option<Advance>,
    rows: Vec<(Source, What)>,
}

#[derive(Clone, Copy)]
enum Source {
    New(i64),
    /// Pending, by position, and in whose hand.
    Loose(i64, Option<i64>),
    /// In the retry store, by id, and in whose hand.
    LooseRetry(i64, Option<i64>),
}

/// How much may still be read.
struct Budget {
    rows: usize,
    bytes: usize,
}

/// Reads what is in no slice, and then on.
pub(super) fn read(db: &Connection, member: &Member, readers: &[usize]) -> Result<Vec<Ahead<Message>>, Fault> {
    let mut budget = Budget { rows: ROWS, bytes: BYTES };
    let (mut all, now, claim_after) = (Vec::new(), topics::now(), member.state().lease.claim_after);
    for reader in readers.iter().filter_map(|at| member.readers.get(*at)) {
        let mut reading = member.state().reading.get(&reader.id).copied().unwrap_or_default();
        let mut ahead = Ahead { reader: reader.id, advance: None, rows: Vec::new() };
        let found = ahead.loose(db, reader, &mut budget, &mut reading, (now, claim_after, member.lease_ms))?;
        if found == Loose::Stuck {
            reading.not_before = now.saturating_add(AGAIN_MS);
        } else if found == Loose::None {
            if reading.room <= 0 {
                reading.room = BACKLOG - pending(db, reader)?;
            }
            if reading.room <= 0 {
                reading.not_before = now.saturating_add(AGAIN_MS);
            } else {
                reading.room -= ahead.fresh(db, reader, &mut budget)?;
            }
        }
        member.state().reading.insert(reader.id, reading);
        all.push(ahead);
    }
    all.retain(|ahead| ahead.advance.is_some() || !ahead.rows.is_empty());
    Ok(all)
}

/// Names the lanes; the messages are no longer needed then.
pub(super) fn name(all: Vec<Ahead<Message>>, order: &LaneOf) -> Vec<Ahead<Lane>> {
    let named = |ahead: Ahead<Message>| {
        let rows = ahead.rows.into_iter().map(|(source, message)| (source, order.lane(&message))).collect();
        Ahead { reader: ahead.reader, advance: ahead.advance, rows }
    };
    all.into_iter().map(named).collect()
}

/// Whether anything is in no slice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loose {
    None,
    /// Found, and to be placed before anything is read on: what follows them in their lanes must come after them.
    Some,
    /// In the hand of a live consumer without order.
    Stuck,
}

/// How far the reading for a group goes, and what was missing on the way.
struct Advance {
    before: i64,
    after: i64,
    gap: Gap,
}

// === impl Reading ===

impl Reading {
    /// True if there is anything to read, or may be.
    pub(super) fn is_called_for(&self, db: &Connection, reader: &Reader, now: i64) -> Result<bool, Fault> {
        let (cursor, last) = topics::unread(db, reader.id)?;
        if cursor < last || self.placed_until <= now {
            return Ok(true);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM retry WHERE reader = ?1 AND slice IS NULL)";
        Ok(db.prepare_cached(sql)?.query_row([reader.id], |row| row.get(0))?)
    }
}

// === impl Ahead ===

impl Ahead<Message> {
    fn loose(
        &mut self,
        db: &Connection,
        reader: &Reader,
        budget: &mut Budget,
        reading: &mut Reading,
        (now, claim_after, lease_ms): (i64, i64, i64),
    ) -> Result<Loose, Fault> {
        let mut found = Loose::None;
        // Whose lease has run out is dead, but not before others had time to renew theirs.
        let dead_at = if claim_after <= now { now } else { i64::MIN };
        let mut statement = db.prepare_cached(
            "SELECT r.id, r.seq, r.first, r.fields, r.consumer, coalesce(c.lease_until_ms, 0)
             FROM retry r LEFT JOIN consumer c ON c.id = r.consumer
             WHERE r.reader = ?1 AND r.slice IS NULL ORDER BY r.id LIMIT ?2",
        )?;
        let mut rows = statement.query(params![reader.id, limit(ROWS)])?;
        while let Some(row) = rows.next()? {
            let (consumer, until): (Option<i64>, i64) = (row.get(4)?, row.get(5)?);
            if consumer.is_some() && until > dead_at {
                found = Loose::Stuck;
                continue;
            }
            let message = retry_message(reader, row)?;
            budget.take(&message);
            self.rows.push((Source::LooseRetry(row.get(0)?, consumer), message));
            if budget.is_spent() {
                break;
            }
        }
        if reading.placed_until <= now && !budget.is_spent() {
            let mut statement = db.prepare_cached(
                "SELECT p.seq, m.fields, p.consumer, coalesce(c.lease_until_ms, 0)
                 FROM pending p LEFT JOIN message m ON m.topic = ?3 AND m.seq = p.seq
                     LEFT JOIN consumer c ON c.id = p.consumer
                 WHERE p.reader = ?1 AND p.slice IS NULL ORDER BY p.seq LIMIT ?2",
            )?;
            let mut rows = statement.query(params![reader.id, limit(ROWS), reader.topic_id])?;
            let mut any = false;
            while let Some(row) = rows.next()? {
                any = true;
                let (consumer, until): (Option<i64>, i64) = (row.get(2)?, row.get(3)?);
                if consumer.is_some() && until > dead_at {
                    // Those behind it may be of its lane.
                    found = Loose::Stuck;
                    break;
                }
                // If somebody has deleted the message by hand, whoever takes it finds that out.
                let fields: Option<Vec<u8>> = row.get(1)?;
                let fields = fields.unwrap_or_else(|| Fields::default().pack().to_vec());
                let message = message(reader, row.get(0)?, fields)?;
                budget.take(&message);
                self.rows.push((Source::Loose(row.get(0)?, consumer), message));
                if budget.is_spent() {
                    break;
                }
            }
            if !any {
                reading.placed_until = now.saturating_add(lease_ms);
            }
        }
        if found == Loose::None && !self.rows.is_empty() {
            found = Loose::Some;
        }
        Ok(found)
    }

    /// Reads on, and returns how many it read.
    fn fresh(&mut self, db: &Connection, reader: &Reader, budget: &mut Budget) -> Result<i64, Fault> {
        let (before, last) = topics::unread(db, reader.id)?;
        if before >= last || budget.is_spent() {
            return Ok(0);
        }
        let (mut cursor, mut gap, mut count, mut exhausted) = (before, Gap::none(reader), 0, true);
        let mut statement =
            db.prepare_cached("SELECT seq, fields FROM message WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?;
        let mut rows = statement.query(params![reader.topic_id, before, limit(budget.rows)])?;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            gap.add(cursor, seq);
            cursor = seq;
            count += 1;
            let message = message(reader, seq, row.get(1)?)?;
            budget.take(&message);
            self.rows.push((Source::New(seq), message));
            if budget.is_spent() {
                exhausted = false;
                break;
            }
        }
        if exhausted {
            // The rest, up to where the topic ends, was trimmed.
            gap.add(cursor, last + 1);
            cursor = last;
        }
        self.advance = Some(Advance { before, after: cursor, gap });
        Ok(count)
    }
}

impl Ahead<Lane> {
    /// Puts what was read into its slices, as far as nobody else has meanwhile.
    pub(super) fn place(&self, db: &Connection, member: &Member, gaps: &mut Vec<Gap>) -> Result<(), Fault> {
        let mut reads_on = false;
        if let Some(Advance { before, after, gap }) = &self.advance {
            reads_on = 1
                == db
                    .prepare_cached(
                        "UPDATE reader SET cursor = ?3, lost = lost + ?4, holder = ?5 WHERE id = ?1 AND cursor = ?2",
                    )?
                    .execute([self.reader, *before, *after, gap.count, member.consumer])?;
            gaps.extend(Some(gap).filter(|gap| reads_on && gap.count > 0).cloned());
        }
        for (source, lane) in &self.rows {
            match *source {
                Source::New(seq) if reads_on => {
                    db.prepare_cached("INSERT INTO pending (reader, seq, token, slice) VALUES (?1, ?2, 0, ?3)")?
                        .execute(params![self.reader, seq, lane.slice()])?;
                }
                Source::New(_) => {}
                Source::Loose(seq, consumer) => {
                    db.prepare_cached(
                        "UPDATE pending SET slice = ?3, inherited = inherited OR consumer IS NOT NULL, consumer = NULL
                         WHERE reader = ?1 AND seq = ?2 AND slice IS NULL AND consumer IS ?4",
                    )?
                    .execute(params![self.reader, seq, lane.slice(), consumer])?;
                }
                Source::LooseRetry(id, consumer) => {
                    db.prepare_cached(
                        "UPDATE retry SET slice = ?2, lane = ?3, inherited = inherited OR consumer IS NOT NULL,
                             consumer = NULL
                         WHERE id = ?1 AND slice IS NULL AND consumer IS ?4",
                    )?
                    .execute(params![id, lane.slice(), lane.number().cast_signed(), consumer])?;
                }
            }
        }
        Ok(())
    }
}

// === impl Budget ===

impl Budget {
    fn take(&mut self, message: &Message) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.fields.byte_len());
    }

    fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

fn pending(db: &Connection, reader: &Reader) -> Result<i64, Fault> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM pending WHERE reader = ?1 LIMIT ?2)";
    Ok(db.prepare_cached(sql)?.query_row([reader.id, BACKLOG], |row| row.get(0))?)
}
