//! The least that SQLite has to do for a durable drain: what is read is noted as held in one transaction, and the notes
//! are taken away in another when it is done. Both are synced. The batch is as large as what a host has in hand.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

use super::super::progress::float;

/// What a host has in hand unless it is told otherwise.
const BATCH: i64 = 256;
/// The row of the one group and of its one consumer.
const ID: i64 = 1;

/// Events per second in one drain of the first topic of a bus's file that nobody has read.
pub(super) fn drain(file: &Path) -> Result<f64> {
    let db = Connection::open(file)?;
    // As the embedded bus sets its connections up.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let topic: i64 = db.query_row("SELECT min(id) FROM topic", [], |row| row.get(0))?;
    db.execute("INSERT INTO reader (id, topic, name, cursor) VALUES (?1, ?2, 'raw', 0)", [ID, topic])?;
    db.execute("INSERT INTO consumer (id, name, lease_until_ms) VALUES (?1, 'raw', 0)", [ID])?;

    let (mut done, start) = (0, Instant::now());
    loop {
        let taken = take(&db, topic, done)?;
        let Some(last) = taken.last() else { break };
        done = *last;
        settle(&db, &taken)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(done > 0, "there was nothing to drain");
    Ok(float(done.unsigned_abs()) / seconds)
}

/// Reads a batch and notes it as held.
fn take(db: &Connection, topic: i64, after: i64) -> Result<Vec<i64>> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut taken = Vec::new();
    {
        let mut select =
            db.prepare_cached("SELECT seq, fields FROM message WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?;
        let mut rows = select.query([topic, after, BATCH])?;
        while let Some(row) = rows.next()? {
            let (seq, fields): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            std::hint::black_box(fields);
            taken.push(seq);
        }
    }
    let mut insert = db.prepare_cached("INSERT INTO pending (reader, seq, consumer, token) VALUES (?1, ?2, ?3, ?4)")?;
    for seq in &taken {
        insert.execute([ID, *seq, ID, *seq])?;
    }
    let last = taken.last().copied().unwrap_or(after);
    db.prepare_cached("UPDATE reader SET cursor = ?2 WHERE id = ?1")?.execute([ID, last])?;
    db.prepare_cached("UPDATE consumer SET lease_until_ms = ?2 WHERE id = ?1")?.execute([ID, last])?;
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(taken)
}

/// Takes the notes away.
fn settle(db: &Connection, taken: &[i64]) -> Result<()> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut remove =
        db.prepare_cached("DELETE FROM pending WHERE reader = ?1 AND seq = ?2 AND consumer = ?3 AND token = ?4")?;
    for seq in taken {
        remove.execute(params![ID, seq, ID, seq])?;
    }
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}
