//! Taking deliveries in a group with order: of the consumer's own slices, and in their order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::{Connection, params};

use super::super::Origin;
use super::fault::Fault;
use super::member::{Item, Lease, Member, Reader, Row, Slot};
use super::place::Ahead;
use super::slices::{Changes, Division};
use super::take::{self, FETCH_BYTES, Taken, Want, limit};
use super::{lease, topics};
use crate::event::Lane;

pub(super) fn take(
    db: &Connection,
    member: &Member,
    max: usize,
    want: Want,
    ahead: &[Ahead<Lane>],
    lease: Lease,
    suspect: bool,
) -> Result<Taken, Fault> {
    let mut taken = Taken { lease, moved: !ahead.is_empty(), ..Taken::default() };
    if suspect {
        // They come again below, each at its place.
        lease::free_strays(db, member)?;
    }
    ahead.iter().try_for_each(|ahead| ahead.place(db, member, &mut taken.gaps))?;
    let (now, told) = (topics::now(), member.state().told.clone());
    for reader in &member.readers {
        let mut division = Division::load(db, reader)?;
        taken.moved |= division.settle(db, member, reader, lease, now)?;
        let mut changes = Changes::between(&told, reader, &division, member.consumer);
        changes.list_waiting(db, reader)?;
        taken.changes.add(changes);
    }
    for slot in member.ready_of_wanted() {
        // Others are to have it: the next owner takes it at its place.
        lease::free(db, slot)?;
        taken.freed.insert(slot);
    }
    if !taken.changes.is_empty() {
        return Ok(taken);
    }
    let mut room = max;
    for reader in member.rotated() {
        let retries = due_retries(db, member, reader, room)?;
        room -= retries.len();
        taken.retries.extend(retries);
    }
    if want == Want::Due {
        return Ok(taken);
    }
    room = room.saturating_sub(member.state().ready.len());
    // Each topic gets its share first, then those that have more get what is left.
    let (mut bytes, count) = (FETCH_BYTES, member.readers.len());
    for (at, reader) in member.rotated().enumerate() {
        let share = room.div_ceil(count - at);
        room -= pending(db, member, reader, share, &mut bytes, &mut taken)?;
    }
    for reader in member.rotated() {
        room -= pending(db, member, reader, room, &mut bytes, &mut taken)?;
    }
    Ok(taken)
}

fn due_retries(db: &Connection, member: &Member, reader: &Reader, max: usize) -> Result<Vec<Item>, Fault> {
    if max == 0 {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare_cached(
        "SELECT r.id, r.slice FROM slice s CROSS JOIN retry r
             ON r.reader = s.reader AND r.slice = s.number AND r.consumer IS NULL AND r.due_ms <= ?3
         WHERE s.reader = ?1 AND s.owner = ?2 AND s.wanted IS NULL ORDER BY r.due_ms, r.id LIMIT ?4",
    )?;
    let due = statement.query_map(params![reader.id, member.consumer, topics::now(), limit(max)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, u16>(1)?))
    })?;
    let due: Vec<(i64, u16)> = due.collect::<Result<_, _>>()?;
    let mut statement =
        db.prepare_cached("SELECT id, seq, first, fields, attempts, inherited FROM retry WHERE id = ?1")?;
    let mut items = Vec::new();
    for (id, slice) in due {
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { continue };
        let origin = if row.get(5)? { Origin::Inherited } else { Origin::Retry };
        let slot = Slot { reader: reader.id, row: Row::Retry(id), token: member.token() };
        let item = Item { slice: Some(slice), ..take::retry_item(reader, row, origin, slot)? };
        take::own_retry(db, member, &item)?;
        items.push(item);
    }
    Ok(items)
}

/// Takes what is pending in the consumer's slices and in nobody's hand, oldest first, and returns how many.
fn pending(
    db: &Connection,
    member: &Member,
    reader: &Reader,
    max: usize,
    bytes: &mut usize,
    taken: &mut Taken,
) -> Result<usize, Fault> {
    if max == 0 || *bytes == 0 {
        return Ok(0);
    }
    let mut heads = BinaryHeap::new();
    let mut statement = db.prepare_cached(
        "SELECT s.number, (SELECT min(p.seq) FROM pending p
                           WHERE p.reader = s.reader AND p.slice = s.number AND p.consumer IS NULL)
         FROM slice s WHERE s.reader = ?1 AND s.owner = ?2 AND s.wanted IS NULL",
    )?;
    let mut rows = statement.query([reader.id, member.consumer])?;
    while let Some(row) = rows.next()? {
        if let Some(head) = row.get::<_, Option<i64>>(1)? {
            heads.push(Reverse((head, row.get::<_, u16>(0)?)));
        }
    }
    let mut next = db.prepare_cached(
        "SELECT min(seq) FROM pending WHERE reader = ?1 AND slice = ?2 AND consumer IS NULL AND seq > ?3",
    )?;
    let mut count = 0;
    while count < max
        && *bytes > 0
        && let Some(Reverse((seq, slice))) = heads.pop()
    {
        if let Some(item) = own(db, member, reader, seq, slice)? {
            *bytes = bytes.saturating_sub(item.message.fields.byte_len());
            count += 1;
            if item.origin == Origin::New { &mut taken.fresh } else { &mut taken.inherited }.push(item);
        }
        if let Some(head) = next.query_row(params![reader.id, slice, seq], |row| row.get(0))? {
            heads.push(Reverse((head, slice)));
        }
    }
    Ok(count)
}

/// Makes a pending row this consumer's; `None` if its message is gone.
fn own(db: &Connection, member: &Member, reader: &Reader, seq: i64, slice: u16) -> Result<Option<Item>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT p.attempts, p.inherited, p.token, m.fields
         FROM pending p LEFT JOIN message m ON m.topic = ?3 AND m.seq = p.seq WHERE p.reader = ?1 AND p.seq = ?2",
    )?;
    let mut rows = statement.query([reader.id, seq, reader.topic_id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let Some(fields) = row.get::<_, Option<Vec<u8>>>(3)? else {
        take::lose(db, reader, seq)?;
        return Ok(None);
    };
    let origin = match (row.get(1)?, row.get::<_, i64>(2)?) {
        (true, _) => Origin::Inherited,
        // No consumer has had it yet.
        (false, 0) => Origin::New,
        (false, _) => Origin::Dropped,
    };
    let slot = Slot { reader: reader.id, row: Row::Pending(seq), token: member.token() };
    db.prepare_cached("UPDATE pending SET consumer = ?3, token = ?4 WHERE reader = ?1 AND seq = ?2")?.execute([
        reader.id,
        seq,
        member.consumer,
        slot.token,
    ])?;
    let message = take::message(reader, seq, fields)?;
    Ok(Some(Item { message, attempts: row.get(0)?, origin, seq, slot, slice: Some(slice) }))
}
