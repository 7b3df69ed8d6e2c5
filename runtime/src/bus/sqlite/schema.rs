//! The file: its tables, and how a connection to it is set up.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::fault::Fault;

/// How long a write waits for other processes. Far longer than any transaction of ours, so that only a process that is
/// frozen in the middle of one is reported.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Kept in `PRAGMA user_version`: how many of the steps a file has taken.
const VERSION: usize = STEPS.len();

/// What makes a file of each format out of one of the format before; the first makes one out of an empty file. A step
/// that was released never changes: what is new is a step at the end, and a new file takes them all.
const STEPS: [&str; 2] = [TABLES, SLICES];

/// Kept in `PRAGMA application_id`: `Sbar`. Tells our files from other programs'.
const APPLICATION: i64 = 0x5362_6172;

/// Statements that are kept prepared, per connection: more than there are in this backend.
const STATEMENTS: usize = 100;

/// A write-ahead log that grew larger in a burst is cut back to this many bytes.
const LOG_BYTES: i64 = 64 << 20;

/// Times are milliseconds since the Unix epoch. `consumer` is null where a row is in nobody's hand; with `token` it is
/// the right to settle: a consumer gives every delivery a token of its own, so a receipt of an earlier turn is void.
const TABLES: &str = "
    CREATE TABLE topic (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        last INTEGER NOT NULL, last_ms INTEGER NOT NULL
    );
    CREATE TABLE message (
        topic INTEGER NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, fields BLOB NOT NULL,
        PRIMARY KEY (topic, seq)
    );
    -- A group on one topic. `cursor` is the last position it has read; `holder` reads for a group with order.
    CREATE TABLE reader (
        id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, name TEXT NOT NULL,
        cursor INTEGER NOT NULL, lost INTEGER NOT NULL DEFAULT 0, holder INTEGER,
        UNIQUE (topic, name)
    );
    CREATE TABLE consumer (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, lease_until_ms INTEGER NOT NULL
    );
    CREATE TABLE member (
        reader INTEGER NOT NULL, consumer INTEGER NOT NULL, PRIMARY KEY (reader, consumer)
    ) WITHOUT ROWID;
    CREATE TABLE pending (
        reader INTEGER NOT NULL, seq INTEGER NOT NULL, consumer INTEGER, token INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, inherited INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (reader, seq)
    ) WITHOUT ROWID;
    CREATE INDEX pending_consumer ON pending (consumer);
    CREATE TABLE retry (
        id INTEGER PRIMARY KEY AUTOINCREMENT, reader INTEGER NOT NULL, seq INTEGER NOT NULL, first TEXT NOT NULL,
        fields BLOB NOT NULL, attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL,
        code TEXT NOT NULL, reason TEXT NOT NULL,
        consumer INTEGER, token INTEGER NOT NULL DEFAULT 0, inherited INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX retry_due ON retry (reader, consumer, due_ms);
    CREATE INDEX retry_consumer ON retry (consumer) WHERE consumer IS NOT NULL;
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT, reader INTEGER NOT NULL, seq INTEGER NOT NULL, first TEXT NOT NULL,
        fields BLOB NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL,
        handler TEXT NOT NULL, module TEXT NOT NULL, at_ms INTEGER NOT NULL
    );
    CREATE INDEX dead_reader ON dead (reader, id);
    CREATE TABLE key (
        space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (space, key)
    );
    CREATE TABLE key_space (space TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
";

/// Groups with order are divided over their consumers. Null in `pending.slice` or `retry.slice`: not in a slice yet.
/// A pending row whose token is 0 was in nobody's hand so far. Only what is free is indexed by slice: groups without
/// order pay nothing.
const SLICES: &str = "
    -- `owner` has the slice, `wanted` is to have it, `epoch` counts its owners.
    CREATE TABLE slice (
        reader INTEGER NOT NULL, number INTEGER NOT NULL, owner INTEGER, wanted INTEGER, epoch INTEGER NOT NULL,
        PRIMARY KEY (reader, number)
    ) WITHOUT ROWID;
    -- Until when a consumer is reckoned with for slices; 0 in a group without order.
    ALTER TABLE consumer ADD COLUMN active_until_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE pending ADD COLUMN slice INTEGER;
    ALTER TABLE retry ADD COLUMN slice INTEGER;
    -- The lane's number, its bits read as a signed one.
    ALTER TABLE retry ADD COLUMN lane INTEGER;
    CREATE INDEX pending_slice ON pending (reader, slice, seq) WHERE consumer IS NULL AND slice IS NOT NULL;
    CREATE INDEX retry_slice ON retry (reader, slice, consumer, due_ms, lane, first);
    -- What a consumer tells of itself.
    CREATE TABLE report (consumer INTEGER PRIMARY KEY, text TEXT NOT NULL);
";

/// When what was committed is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syncs {
    /// At each commit.
    Commits,
    /// Now and then, when the log is taken over into the file. A power cut takes the last moments, and leaves the file
    /// whole; a crash of the process takes nothing.
    Checkpoints,
}

/// Opens the file, makes it and its tables if they are missing, and sets the connection up.
pub(super) fn connect(path: &Path, syncs: Syncs) -> Result<Connection, Fault> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match try_connect(path, syncs) {
            // Several processes that set up one new file collide in ways that SQLite's own waiting does not cover.
            Err(Fault::Locked) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// Opens a file that exists, without changing it, and says whether it is one that could be used.
pub(super) fn inspect(path: &Path) -> Result<(), Fault> {
    let mut db =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_LIMIT)?;
    if db.is_readonly(rusqlite::MAIN_DB)? {
        return Err(Fault::ReadOnly);
    }
    steps_taken(&db.transaction()?).map(drop)
}

fn try_connect(path: &Path, syncs: Syncs) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_LIMIT)?;
    let found = steps_taken(&db.transaction()?)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::CannotOpen(format!("its file system does not support WAL (journal mode stays {mode})")));
    }
    sync(&db, syncs)?;
    db.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Else a statement is planned again whenever another number is bound to its LIMIT.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    if found < VERSION {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        for step in STEPS.iter().skip(steps_taken(&transaction)?) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(db)
}

/// Sets when the commits from here on are synced. Not to be called in a transaction.
pub(super) fn sync(db: &Connection, syncs: Syncs) -> Result<(), Fault> {
    // In WAL mode only FULL syncs at each commit.
    db.pragma_update(None, "synchronous", if syncs == Syncs::Commits { "FULL" } else { "NORMAL" })?;
    Ok(())
}

/// How many steps a file has taken: none if it is empty. An error if it is not ours, or newer than this host.
///
/// In a transaction, since another process may be taking them.
fn steps_taken(db: &Transaction<'_>) -> Result<usize, Fault> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i64 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let path = db.path().unwrap_or_default();
    match (application, usize::try_from(version)) {
        (0, Ok(0)) if tables == 0 => Ok(0),
        (APPLICATION, Ok(version @ 1..=VERSION)) => Ok(version),
        (APPLICATION, _) => Err(Fault::Settings(format!(
            "bus at sqlite:{path} has format {version} and this host knows {VERSION}: use the version of sandbar that \
             made it, or a newer one"
        ))),
        _ => Err(Fault::Settings(format!(
            "bus at sqlite:{path} is another program's database: name another file in bus.url"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn who_opens_a_new_file_while_others_make_it_finds_it_empty_or_whole() {
        for _ in 0..50 {
            let directory = tempfile::TempDir::new().unwrap();
            let path = directory.path().join("events.db");
            let together = Barrier::new(4);
            thread::scope(|scope| {
                let open = || {
                    together.wait();
                    connect(&path, Syncs::Checkpoints).map(drop)
                };
                let others: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                for other in others {
                    assert_eq!(other.join().unwrap(), Ok(()));
                }
            });
        }
    }

    #[test]
    fn every_connection_syncs_at_commit_unless_told_otherwise() {
        let directory = tempfile::TempDir::new().unwrap();
        for (syncs, expected) in [(Syncs::Commits, 2), (Syncs::Commits, 2), (Syncs::Checkpoints, 1)] {
            let db = connect(&directory.path().join("events.db"), syncs).unwrap();
            let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!(synchronous, expected, "2 is FULL: less does not sync a commit in WAL mode; 1 is NORMAL");
        }
    }
}
