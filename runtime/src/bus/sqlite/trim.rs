//! Trimming what every group has acknowledged: about once per lease, never while publishing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::super::durability::{Trimming, say_held_up};
use super::fault::Fault;
use super::store::Store;
use super::topics;

/// Messages of a topic that one transaction removes: bounds how long it holds others up.
const STEP: i64 = 5_000;
/// Transactions of one turn; what is left then is left for the next.
const STEPS: usize = 50;
/// The shortest time between two words on topics that are nearly full.
const SAID: Duration = Duration::from_secs(300);

/// One subscription's part in it.
pub(super) struct Trimmer {
    trimming: Trimming,
    every: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    said: Option<Instant>,
}

/// A topic that is kept for somebody.
struct Kept {
    topic: String,
    length: i64,
    holder: String,
}

// === impl Trimmer ===

impl Trimmer {
    pub(super) fn new(trimming: Trimming, every: Duration) -> Self {
        Self { trimming, every, state: Mutex::default() }
    }

    /// Trims all topics of the file, if that is wanted and this subscription has not for one lease.
    pub(super) async fn trim(&self, store: &Store) {
        if !self.trimming.acked || !self.is_due() {
            return;
        }
        for _ in 0..STEPS {
            match store.write(step).await {
                Ok(true) => {}
                Ok(false) => break,
                // Nothing depends on it: the next turn comes.
                Err(error) => {
                    tracing::debug!(%error, "topics are not trimmed now");
                    return;
                }
            }
        }
        if let (Some(cap), Ok(kept)) = (self.trimming.max_len, store.read(kept).await) {
            self.say(&kept, cap);
        }
    }

    fn is_due(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.looked.is_none_or(|looked| looked.elapsed() >= self.every);
        if is_due {
            state.looked = Some(Instant::now());
        }
        is_due
    }

    fn say(&self, kept: &[Kept], cap: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| said.elapsed() < SAID) {
            return;
        }
        for Kept { topic, length, holder } in kept {
            if say_held_up(topic, holder, u64::try_from(*length).unwrap_or(0), cap) {
                state.said = Some(Instant::now());
            }
        }
    }
}

/// Removes a part of what every group has read and nobody has in hand. Returns whether there may be more.
fn step(db: &Connection) -> Result<bool, Fault> {
    let mut topics = db.prepare_cached(
        "SELECT r.topic, min(r.cursor), (SELECT min(seq) FROM message m WHERE m.topic = r.topic AND NOT EXISTS (
             SELECT 1 FROM reader o JOIN pending p ON p.reader = o.id AND p.seq = m.seq WHERE o.topic = r.topic))
         FROM reader r GROUP BY r.topic",
    )?;
    let found = topics
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut more = false;
    for (topic, read, first) in found {
        let Some(first) = first.filter(|first| *first <= read) else { continue };
        let last = read.min(first.saturating_add(STEP));
        topics::trim(db, topic, last)?;
        more |= last < read;
    }
    Ok(more)
}

/// The topics that hold something for a group, with how many messages they span.
fn kept(db: &Connection) -> Result<Vec<Kept>, Fault> {
    let mut topics = db.prepare_cached(
        "SELECT t.name, t.last + 1 - (SELECT min(seq) FROM message m WHERE m.topic = t.id) FROM topic t
         WHERE EXISTS (SELECT 1 FROM message m WHERE m.topic = t.id)",
    )?;
    let found = topics
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut kept = Vec::new();
    for (topic, length) in found {
        if let Some(holder) = holder(db, &topic)? {
            kept.push(Kept { topic, length, holder });
        }
    }
    Ok(kept)
}

/// The group with the oldest message of a topic that is not acknowledged.
pub(super) fn holder(db: &Connection, topic: &str) -> Result<Option<String>, Fault> {
    let mut find = db.prepare_cached(
        "SELECT r.name, coalesce((SELECT min(seq) FROM pending p WHERE p.reader = r.id), r.cursor + 1) AS oldest
         FROM reader r JOIN topic t ON t.id = r.topic WHERE t.name = ?1 AND oldest <= t.last ORDER BY oldest LIMIT 1",
    )?;
    Ok(find.query_row([topic], |row| row.get(0)).optional()?)
}
