//! The slices of a group with order: whose they are, and what becomes of their rows when they change hands.
//!
//! Any consumer divides them anew in its own transaction when it sees that they are not as they should be; all come to
//! the same result, so whoever comes second finds nothing to do.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::super::{Slice, Turnover, Waiting};
use super::divide::{Share, divide};
use super::fault::Fault;
use super::member::{Lease, Member, Reader};
use crate::event::{Lane, SLICES};

/// A slice of one topic of the group: the reader's id, and its number.
pub(super) type Key = (i64, u16);

/// A slice as the file has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) share: Share,
    /// Grows whenever it gets an owner: who had it, lost it and has it again can tell.
    pub(super) epoch: i64,
}

/// What a consumer knows to be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) epoch: i64,
    pub(super) wanted: bool,
}

/// A consumer of the group, until when it is reckoned with, and until when it lives.
pub(super) struct Peer {
    pub(super) consumer: i64,
    pub(super) active_until: i64,
    lease_until: i64,
}

/// The group on one topic: its slices by number, and its consumers in ascending order.
pub(super) struct Division {
    pub(super) slices: Vec<Stored>,
    pub(super) peers: Vec<Peer>,
}

/// What a consumer does not know yet of its slices.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) lost: Vec<Key>,
    pub(super) gained: Vec<(Key, i64)>,
    pub(super) wanted: Vec<Key>,
    pub(super) waiting: Vec<Waiting>,
}

// === impl Division ===

impl Division {
    pub(super) fn load(db: &Connection, reader: &Reader) -> Result<Self, Fault> {
        let mut slices = vec![Stored::default(); usize::from(SLICES)];
        let mut statement = db.prepare_cached("SELECT number, owner, wanted, epoch FROM slice WHERE reader = ?1")?;
        let mut rows = statement.query([reader.id])?;
        while let Some(row) = rows.next()? {
            let share = Share { owner: row.get(1)?, wanted: row.get(2)? };
            if let Some(slice) = slices.get_mut(usize::from(row.get::<_, u16>(0)?)) {
                *slice = Stored { share, epoch: row.get(3)? };
            }
        }
        let mut peers = db.prepare_cached(
            "SELECT c.id, c.active_until_ms, c.lease_until_ms FROM member m JOIN consumer c ON c.id = m.consumer
             WHERE m.reader = ?1 ORDER BY c.id",
        )?;
        let peers = peers.query_map([reader.id], |row| {
            Ok(Peer { consumer: row.get(0)?, active_until: row.get(1)?, lease_until: row.get(2)? })
        })?;
        Ok(Self { slices, peers: peers.collect::<Result<_, _>>()? })
    }

    /// How the slices should be divided, as `consumer` sees it, which is alive because it asks.
    pub(super) fn due(&self, consumer: i64, now: i64) -> Vec<Share> {
        let active = |peer: &&Peer| peer.consumer == consumer || peer.active_until > now;
        let live: Vec<i64> = self.peers.iter().filter(active).map(|peer| peer.consumer).collect();
        let shares: Vec<Share> = self.slices.iter().map(|slice| slice.share).collect();
        divide(&live, &shares)
    }

    /// True if the slices should be divided otherwise.
    pub(super) fn is_uneven(&self, consumer: i64, now: i64) -> bool {
        self.due(consumer, now).iter().zip(&self.slices).any(|(due, slice)| *due != slice.share)
    }

    /// A consumer's own.
    pub(super) fn of(&self, consumer: i64) -> impl Iterator<Item = (u16, &Stored)> {
        (0..SLICES).zip(&self.slices).filter(move |(_, slice)| slice.share.owner == Some(consumer))
    }

    /// Divides anew, and hands over what others want of this consumer's and it has nothing of in hand. True if anything
    /// changed.
    pub(super) fn settle(
        &mut self,
        db: &Connection,
        member: &Member,
        reader: &Reader,
        lease: Lease,
        now: i64,
    ) -> Result<bool, Fault> {
        let mut changed = false;
        if lease.claim_after <= now {
            for (number, due) in (0..SLICES).zip(self.due(member.consumer, now)) {
                changed |= self.change(db, reader, number, due, now)?;
            }
        }
        let busy = member.busy_slices();
        for number in 0..SLICES {
            let Share { owner, wanted } = self.slices[usize::from(number)].share;
            if owner == Some(member.consumer) && wanted.is_some() && !busy.contains(&(reader.id, number)) {
                // Even if it wants it back itself: it has told its caller that nothing more of it comes.
                self.give(db, reader, number, Share { owner: wanted, wanted: None }, now)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn change(&mut self, db: &Connection, reader: &Reader, number: u16, due: Share, now: i64) -> Result<bool, Fault> {
        let before = self.slices[usize::from(number)].share;
        if before == due {
            return Ok(false);
        }
        if before.owner != due.owner {
            self.give(db, reader, number, due, now)?;
            return Ok(true);
        }
        db.prepare_cached("UPDATE slice SET wanted = ?3 WHERE reader = ?1 AND number = ?2")?
            .execute(params![reader.id, number, due.wanted])?;
        self.slices[usize::from(number)].share = due;
        Ok(true)
    }

    /// Gives a slice to another owner: what the one before has of it in hand is nobody's from now on.
    fn give(&mut self, db: &Connection, reader: &Reader, number: u16, to: Share, now: i64) -> Result<(), Fault> {
        let slice = &mut self.slices[usize::from(number)];
        if let Some(before) = slice.share.owner {
            // What a dead host had in hand may be what it died of.
            let alive = self.peers.iter().any(|peer| peer.consumer == before && peer.lease_until > now);
            for sql in [
                "UPDATE pending SET consumer = NULL, inherited = inherited OR ?4
                 WHERE consumer = ?3 AND reader = ?1 AND slice = ?2",
                "UPDATE retry SET consumer = NULL, inherited = inherited OR ?4
                 WHERE consumer = ?3 AND reader = ?1 AND slice = ?2",
            ] {
                db.prepare_cached(sql)?.execute(params![reader.id, number, before, !alive])?;
            }
        }
        *slice = Stored { share: to, epoch: slice.epoch + 1 };
        db.prepare_cached(
            "INSERT OR REPLACE INTO slice (reader, number, owner, wanted, epoch) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![reader.id, number, to.owner, to.wanted, slice.epoch])?;
        Ok(())
    }
}

// === impl Changes ===

impl Changes {
    /// What differs between what a consumer was told and what is so. What it lost and has again is lost now, and gained
    /// the next time.
    pub(super) fn between(told: &BTreeMap<Key, Told>, reader: &Reader, division: &Division, consumer: i64) -> Self {
        let mut changes = Self::default();
        for (number, slice) in (0..SLICES).zip(&division.slices) {
            let (key, mine) = ((reader.id, number), slice.share.owner == Some(consumer));
            match told.get(&key) {
                Some(told) if !mine || told.epoch != slice.epoch => changes.lost.push(key),
                Some(told) if slice.share.wanted.is_some() && !told.wanted => changes.wanted.push(key),
                None if mine => changes.gained.push((key, slice.epoch)),
                _ => {}
            }
        }
        changes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty() && self.wanted.is_empty()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.lost.extend(other.lost);
        self.gained.extend(other.gained);
        self.wanted.extend(other.wanted);
        self.waiting.extend(other.waiting);
    }

    /// Adds what waits for a retry in the slices that come.
    pub(super) fn list_waiting(&mut self, db: &Connection, reader: &Reader) -> Result<(), Fault> {
        let mut statement =
            db.prepare_cached("SELECT lane, first FROM retry WHERE reader = ?1 AND slice = ?2 ORDER BY seq")?;
        for ((_, number), _) in self.gained.iter().filter(|((id, _), _)| *id == reader.id) {
            let mut rows = statement.query(params![reader.id, number])?;
            while let Some(row) = rows.next()? {
                let slice = Slice { topic: reader.topic.clone(), number: *number };
                let lane = Lane::from_number(row.get::<_, i64>(0)?.cast_unsigned());
                self.waiting.push(Waiting { slice, lane, first: row.get::<_, String>(1)?.into() });
            }
        }
        Ok(())
    }

    /// As the caller of `fetch` gets it.
    pub(super) fn told(self, readers: &[Reader]) -> Turnover {
        let slice = |(id, number): Key| {
            let reader = readers.iter().find(|reader| reader.id == id)?;
            Some(Slice { topic: reader.topic.clone(), number })
        };
        Turnover {
            lost: self.lost.into_iter().filter_map(slice).collect(),
            gained: self.gained.into_iter().filter_map(|(key, _)| slice(key)).collect(),
            waiting: self.waiting,
            wanted: self.wanted.into_iter().filter_map(slice).collect(),
        }
    }
}
