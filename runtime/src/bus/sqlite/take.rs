//! Taking deliveries: retries that are due, what others left behind, what is new. One transaction for all of them.

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::{Connection, Row as Columns, params};

use super::super::{Origin, first};
use super::fault::Fault;
use super::member::{Item, Lease, Member, Reader, Row, Slot};
use super::place::Ahead;
use super::slices::Changes;
use super::{lease, ordered, topics};
use crate::event::{Fields, Lane, Message, Position, Topic};

/// New messages of one fetch stop at this many bytes, so that a batch of large ones does not fill the memory. A larger
/// one comes alone.
pub(super) const FETCH_BYTES: usize = 16 << 20;

/// What the caller of a fetch can take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    All,
    /// Retries that are due, and nothing that is not older than what it holds.
    Due,
}

/// What one transaction took.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) lease: Lease,
    /// What has become of its slices. If anything, nothing else was taken.
    pub(super) changes: Changes,
    /// Given back: of slices that others want.
    pub(super) freed: HashSet<Slot>,
    /// Others may have got something to do.
    pub(super) moved: bool,
    pub(super) retries: Vec<Item>,
    /// Rows that were this consumer's without its knowing, after a transaction whose end was unclear.
    pub(super) adopted: Vec<Item>,
    pub(super) inherited: Vec<Item>,
    pub(super) fresh: Vec<Item>,
    /// What was trimmed before it was read.
    pub(super) gaps: Vec<Gap>,
}

/// Messages of a topic that were trimmed unread: how many, all from `first` to `last`.
#[derive(Clone)]
pub(super) struct Gap {
    pub(super) topic: Topic,
    pub(super) count: i64,
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Gap {
    /// Nothing is missing so far.
    pub(super) fn none(reader: &Reader) -> Self {
        Self { topic: Topic::clone(&reader.topic), count: 0, first: 0, last: 0 }
    }

    /// Two positions between which there is nothing.
    pub(super) fn add(&mut self, before: i64, after: i64) {
        if after > before + 1 {
            self.first = if self.count == 0 { before + 1 } else { self.first };
            self.last = after - 1;
            self.count += after - before - 1;
        }
    }
}

pub(super) fn take(
    db: &Connection,
    member: &Member,
    max: usize,
    want: Want,
    ahead: &[Ahead<Lane>],
) -> Result<Taken, Fault> {
    if member.state().closed {
        // It has given everything back, or is about to: what it took now would wait for its lease to run out.
        return Ok(Taken { lease: member.state().lease, ..Taken::default() });
    }
    let lease = lease::extend_to_take(db, member, topics::now())?;
    let (suspect, ready) = {
        let mut state = member.state();
        (std::mem::take(&mut state.suspect), state.ready.len())
    };
    if member.order.is_some() {
        return ordered::take(db, member, max, want, ahead, lease, suspect);
    }
    let mut taken = Taken { lease, ..Taken::default() };
    let (count, rotated) = (member.readers.len(), || member.rotated());
    let mut room = max;
    for reader in rotated() {
        let retries = due_retries(db, member, reader, room)?;
        room -= retries.len();
        taken.retries.extend(retries);
    }
    if suspect {
        taken.adopted = adopt(db, member)?;
    }
    if want == Want::Due {
        return Ok(taken);
    }
    room = room.saturating_sub(ready + taken.adopted.len());
    for reader in rotated() {
        let inherited = inherit(db, member, reader, lease, room)?;
        room -= inherited.len();
        taken.inherited.extend(inherited);
    }
    // Each topic gets its share first, then those that have more get what is left.
    let mut bytes = FETCH_BYTES;
    for (at, reader) in rotated().enumerate() {
        let share = room.div_ceil(count - at);
        let found = fresh(db, member, reader, share, &mut room, &mut bytes, &mut taken.gaps)?;
        taken.fresh.extend(found);
    }
    for reader in rotated() {
        let found = fresh(db, member, reader, room, &mut room, &mut bytes, &mut taken.gaps)?;
        taken.fresh.extend(found);
    }
    Ok(taken)
}

fn due_retries(db: &Connection, member: &Member, reader: &Reader, max: usize) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    if max == 0 {
        return Ok(items);
    }
    let mut statement = db.prepare_cached(
        "SELECT id, seq, first, fields, attempts, inherited FROM retry
         WHERE reader = ?1 AND consumer IS NULL AND due_ms <= ?2 ORDER BY due_ms, id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![reader.id, topics::now(), limit(max)])?;
    while let Some(row) = rows.next()? {
        let origin = if row.get(5)? { Origin::Inherited } else { Origin::Retry };
        let slot = Slot { reader: reader.id, row: Row::Retry(row.get(0)?), token: member.token() };
        items.push(retry_item(reader, row, origin, slot)?);
    }
    drop(rows);
    items.iter().try_for_each(|item| own_retry(db, member, item))?;
    Ok(items)
}

/// What was given back, and what consumers left behind whose lease has run out.
fn inherit(db: &Connection, member: &Member, reader: &Reader, lease: Lease, max: usize) -> Result<Vec<Item>, Fault> {
    if max == 0 {
        return Ok(Vec::new());
    }
    let mut items = claim_pending(db, member, reader, None, limit(max))?;
    if lease.claim_after > topics::now() {
        return Ok(items);
    }
    for gone in lease::gone(db, member, reader)? {
        items.extend(claim_pending(db, member, reader, Some(gone), limit(max - items.len()))?);
        items.extend(claim_retries(db, member, reader, gone, limit(max - items.len()))?);
    }
    items.sort_by_key(|item| item.seq);
    Ok(items)
}

/// Makes entries of the retry store this consumer's that are another's.
fn claim_retries(db: &Connection, member: &Member, reader: &Reader, from: i64, max: i64) -> Result<Vec<Item>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT id, seq, first, fields, attempts FROM retry WHERE reader = ?1 AND consumer = ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query([reader.id, from, max])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let slot = Slot { reader: reader.id, row: Row::Retry(row.get(0)?), token: member.token() };
        items.push(retry_item(reader, row, Origin::Inherited, slot)?);
    }
    drop(rows);
    items.iter().try_for_each(|item| own_retry(db, member, item))?;
    Ok(items)
}

/// Makes pending rows this consumer's: those of `from`, a consumer that is gone, or of nobody.
fn claim_pending(
    db: &Connection,
    member: &Member,
    reader: &Reader,
    from: Option<i64>,
    max: i64,
) -> Result<Vec<Item>, Fault> {
    // `IS` compares with null too, and finds the few rows by the index on `consumer`, however many there are of others.
    let mut statement = db.prepare_cached(
        "SELECT p.seq, p.attempts, p.inherited, m.fields
         FROM pending p LEFT JOIN message m ON m.topic = ?4 AND m.seq = p.seq
         WHERE p.reader = ?1 AND p.consumer IS ?2 ORDER BY p.seq LIMIT ?3",
    )?;
    let mut rows = statement.query(params![reader.id, from, max, reader.topic_id])?;
    let (mut items, mut gone) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let Some(fields) = row.get::<_, Option<Vec<u8>>>(3)? else {
            gone.push(seq);
            continue;
        };
        let origin = if from.is_some() || row.get(2)? { Origin::Inherited } else { Origin::Dropped };
        let slot = Slot { reader: reader.id, row: Row::Pending(seq), token: member.token() };
        let message = message(reader, seq, fields)?;
        items.push(Item { message, attempts: row.get(1)?, origin, seq, slot, slice: None });
    }
    drop(rows);
    for item in &items {
        let inherited = item.origin == Origin::Inherited;
        db.prepare_cached(
            "UPDATE pending SET consumer = ?3, token = ?4, inherited = ?5 WHERE reader = ?1 AND seq = ?2",
        )?
        .execute(params![reader.id, item.seq, member.consumer, item.slot.token, inherited])?;
    }
    gone.into_iter().try_for_each(|seq| lose(db, reader, seq))?;
    Ok(items)
}

/// Counts a pending message as lost. Trimming spares what is pending, so somebody has deleted it by hand.
pub(super) fn lose(db: &Connection, reader: &Reader, seq: i64) -> Result<(), Fault> {
    db.prepare_cached("DELETE FROM pending WHERE reader = ?1 AND seq = ?2")?.execute([reader.id, seq])?;
    db.prepare_cached("UPDATE reader SET lost = lost + 1 WHERE id = ?1")?.execute([reader.id])?;
    Ok(())
}

/// Rows that are this consumer's and not in its hand.
fn adopt(db: &Connection, member: &Member) -> Result<Vec<Item>, Fault> {
    lease::free_strays(db, member)?;
    let mut adopted = Vec::new();
    for reader in &member.readers {
        adopted.extend(claim_pending(db, member, reader, None, i64::MAX)?);
        adopted.extend(due_retries(db, member, reader, usize::MAX)?);
    }
    Ok(adopted)
}

/// The next messages of a topic, at most `share` of them, as far as `room` and `bytes` go.
fn fresh(
    db: &Connection,
    member: &Member,
    reader: &Reader,
    share: usize,
    room: &mut usize,
    bytes: &mut usize,
    gaps: &mut Vec<Gap>,
) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    let share = share.min(*room);
    if share == 0 || *bytes == 0 {
        return Ok(items);
    }
    let (before, last) = topics::unread(db, reader.id)?;
    if before >= last {
        return Ok(items);
    }
    let (mut cursor, mut gap, mut exhausted) = (before, Gap::none(reader), true);
    let mut statement =
        db.prepare_cached("SELECT seq, fields FROM message WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?;
    let mut rows = statement.query(params![reader.topic_id, before, limit(share)])?;
    while let Some(row) = rows.next()? {
        let (seq, fields): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        gap.add(cursor, seq);
        cursor = seq;
        *bytes = bytes.saturating_sub(fields.len());
        let slot = Slot { reader: reader.id, row: Row::Pending(seq), token: member.token() };
        let message = message(reader, seq, fields)?;
        items.push(Item { message, attempts: 0, origin: Origin::New, seq, slot, slice: None });
        if items.len() == share || *bytes == 0 {
            exhausted = false;
            break;
        }
    }
    drop(rows);
    if exhausted {
        // The rest, up to where the topic ends, was trimmed.
        gap.add(cursor, last + 1);
        cursor = last;
    }
    let mut insert = db.prepare_cached("INSERT INTO pending (reader, seq, consumer, token) VALUES (?1, ?2, ?3, ?4)")?;
    for item in &items {
        insert.execute([reader.id, item.seq, member.consumer, item.slot.token])?;
    }
    db.prepare_cached("UPDATE reader SET cursor = ?2, lost = lost + ?3 WHERE id = ?1")?
        .execute([reader.id, cursor, gap.count])?;
    gaps.extend(Some(gap).filter(|gap| gap.count > 0));
    *room -= items.len();
    Ok(items)
}

pub(super) fn message(reader: &Reader, seq: i64, fields: Vec<u8>) -> Result<Message, Fault> {
    let fields = Fields::unpack(Bytes::from(fields))?;
    Ok(first::message(reader.topic.clone(), topics::position(seq), fields))
}

/// Reads columns `id, seq, first, fields`.
pub(super) fn retry_message(reader: &Reader, row: &Columns<'_>) -> Result<Message, Fault> {
    Ok(Message {
        topic: reader.topic.clone(),
        position: topics::position(row.get(1)?),
        first: Position::from(row.get::<_, String>(2)?),
        fields: Fields::unpack(Bytes::from(row.get::<_, Vec<u8>>(3)?))?,
    })
}

/// Reads columns `id, seq, first, fields, attempts`.
pub(super) fn retry_item(reader: &Reader, row: &Columns<'_>, origin: Origin, slot: Slot) -> Result<Item, Fault> {
    let (message, attempts, seq) = (retry_message(reader, row)?, row.get(4)?, row.get(1)?);
    Ok(Item { message, attempts, origin, seq, slot, slice: None })
}

/// Makes an entry of the retry store this consumer's.
pub(super) fn own_retry(db: &Connection, member: &Member, item: &Item) -> Result<(), Fault> {
    if let Row::Retry(id) = item.slot.row {
        db.prepare_cached("UPDATE retry SET consumer = ?2, token = ?3, inherited = ?4 WHERE id = ?1")?
            .execute(params![id, member.consumer, item.slot.token, item.origin == Origin::Inherited])?;
    }
    Ok(())
}

pub(super) fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}
