//! The embedded bus, beside SQLite doing the same writes in the same number of transactions.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

use super::event::{Event, ORDINARY};
use super::host::{Config, Host, guest};
use super::progress::rate;
use super::publish::{documents, publish};
use crate::paths::Paths;
use crate::sample::Sample;

mod raw;

const TOPIC: &str = "events";
/// How often the file is looked at: a look is a read transaction beside the host's writes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Both drain the same file, each a copy of its own.
pub(super) fn measure(paths: &Paths, events: u64) -> Result<Vec<Sample>> {
    let dir = tempfile::tempdir()?;
    let event = Event::of_size(paths.root(), ORDINARY)?;
    let (ours, raw) = (dir.path().join("ours.db"), dir.path().join("raw.db"));
    fill(paths, &event, events, &ours, dir.path())?;
    fs::copy(&ours, &raw)?;

    let raw = raw::drain(&raw)?;
    let mut config = Config::new(&url(&ours));
    config.handler("noop", &guest(paths, "noop.wasm")?, &[TOPIC.to_owned()], "");
    let mut host = Host::start(paths, &config)?;
    let looking = Connection::open_with_flags(&ours, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    looking.busy_timeout(Duration::from_secs(5))?;
    let drained = rate(events, LOOK_EVERY, || {
        host.check()?;
        acknowledged(&looking)
    })?;
    Ok(vec![
        Sample::new("sqlite_noop", "Sandbar on the embedded bus, no-op Rust handler, synced", "events/s", drained),
        Sample::new("raw_sqlite", "SQLite alone doing the same writes, synced", "events/s", raw),
    ])
}

/// Makes a bus with so many events, all of it in the one file.
fn fill(paths: &Paths, event: &Event, events: u64, file: &Path, dir: &Path) -> Result<()> {
    let config = Config::new(&url(file)).write(dir)?;
    publish(paths, &config, TOPIC, event, &documents(event, events, dir)?)?.wait()?;
    let db = Connection::open(file)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

fn url(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

/// What the group has read, less what it holds.
fn acknowledged(db: &Connection) -> Result<u64> {
    let sql = "SELECT coalesce(sum(cursor - (SELECT count(*) FROM pending WHERE reader = reader.id)), 0) FROM reader";
    let count: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    u64::try_from(count).context("more is held than was read")
}
