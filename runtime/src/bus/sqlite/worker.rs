//! A thread that owns one connection and runs jobs on it.
//!
//! The writer takes all jobs that wait into one transaction, a savepoint each, so that one sync pays for all and one
//! that fails undoes nothing of the others. While nothing waits it looks, a few dozen times a second, whether another
//! process has committed something.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::fault::Fault;
use super::schema::{self, Syncs};

/// How often the writer looks for commits of other processes. Half of the 50 ms within which a publish is to be seen;
/// one look takes a few microseconds.
const POLL: Duration = Duration::from_millis(25);

/// How often a worker looks whether the file it has open is still the one of that name.
const IDENTIFY: Duration = Duration::from_secs(1);

/// Most jobs in one transaction: bounds how long the first one waits for its answer.
const GATHER: usize = 64;

/// Something to do in a transaction.
pub(super) trait Job: Send {
    /// Does it. The transaction may yet fail, so nothing outside of it may change here.
    fn run(&mut self, db: &Connection) -> Result<(), Fault>;
    /// Whether it must be on disk before it counts as stored.
    fn needs_sync(&self) -> bool {
        true
    }
    /// Told once whether it is stored.
    fn finish(self: Box<Self>, stored: Result<(), Fault>);
}

/// Which of the two threads.
pub(super) enum Role {
    Reader,
    Writer {
        /// Told when other processes have committed something.
        changed: Arc<watch::Sender<()>>,
        /// How many subscriptions care.
        watchers: Arc<AtomicUsize>,
    },
}

pub(super) struct Worker {
    pub(super) path: PathBuf,
    pub(super) syncs: Syncs,
    pub(super) role: Role,
    /// Two threads that set up one new file would get in each other's way.
    pub(super) opening: Arc<Mutex<()>>,
    pub(super) jobs: Receiver<Box<dyn Job>>,
}

/// The file that a worker has open.
struct Open {
    db: Connection,
    /// Its device and number, or `None` once it was deleted or replaced: what is written then is lost.
    identity: Option<(u64, u64)>,
    identified: Instant,
    /// Commits are synced.
    synced: bool,
}

/// A job made of two closures; the second makes of the outcome what the caller awaits, on the worker's thread.
pub(super) struct Task<T, R, Run, Finish> {
    run: Option<Run>,
    value: Option<T>,
    finish: Finish,
    reply: oneshot::Sender<R>,
    needs_sync: bool,
}

// === impl Worker ===

impl Worker {
    /// Runs jobs until nobody can send any more.
    pub(super) fn run(self) {
        let mut connection: Option<Open> = None;
        let mut seen: Option<i64> = None;
        let mut looked = Instant::now();
        loop {
            let first = match self.next() {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(first) = first {
                let mut batch = vec![first];
                if matches!(self.role, Role::Writer { .. }) {
                    batch.extend(self.jobs.try_iter().take(GATHER - 1));
                }
                self.transact(&mut connection, batch);
            }
            if let (Role::Writer { changed, .. }, Some(Open { db, .. })) = (&self.role, &connection)
                && looked.elapsed() >= POLL
            {
                looked = Instant::now();
                let version = data_version(db);
                if seen != version {
                    seen = version;
                    changed.send_replace(());
                }
            }
        }
    }

    fn next(&self) -> Result<Box<dyn Job>, RecvTimeoutError> {
        match &self.role {
            Role::Writer { watchers, .. } if watchers.load(Ordering::Relaxed) > 0 => self.jobs.recv_timeout(POLL),
            _ => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn transact(&self, connection: &mut Option<Open>, batch: Vec<Box<dyn Job>>) {
        let opened = connection.take().map_or_else(|| self.connect(), Ok);
        let opened = opened.and_then(|open| self.identify(open, connection));
        let syncs = self.syncs == Syncs::Commits && batch.iter().any(|job| job.needs_sync());
        let open = match opened.and_then(|open| open.syncing(syncs)) {
            Ok(open) => open,
            Err(fault) => {
                batch.into_iter().for_each(|job| job.finish(Err(fault.clone())));
                return;
            }
        };
        let begin = if matches!(self.role, Role::Reader) { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let (jobs, outcomes, whole) = transaction(&open.db, begin, batch);
        let spoilt = outcomes.iter().chain([&whole]).any(|outcome| matches!(outcome, Err(f) if f.spoils_connection()));
        if !spoilt {
            *connection = Some(open);
        }
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            job.finish(whole.clone().and(outcome));
        }
    }

    fn connect(&self) -> Result<Open, Fault> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let db = schema::connect(&self.path, self.syncs)?;
        let (identity, synced) = (identity(&self.path), self.syncs == Syncs::Commits);
        Ok(Open { db, identity, identified: Instant::now(), synced })
    }

    /// Sees that the file is still there. If not, the connection is kept, so that every later job fails too: the
    /// groups and positions that subscriptions know are those of the file that is gone.
    fn identify(&self, mut open: Open, kept: &mut Option<Open>) -> Result<Open, Fault> {
        if open.identity.is_some() && open.identified.elapsed() >= IDENTIFY {
            open.identified = Instant::now();
            open.identity = open.identity.filter(|known| identity(&self.path) == Some(*known));
        }
        if open.identity.is_none() {
            *kept = Some(open);
            let path = self.path.display();
            return Err(Fault::Settings(format!(
                "bus at sqlite:{path} was moved, replaced or deleted while in use: put it back and start again"
            )));
        }
        Ok(open)
    }
}

// === impl Open ===

impl Open {
    /// The same; the next commit is synced, or is not.
    fn syncing(mut self, synced: bool) -> Result<Self, Fault> {
        if self.synced != synced {
            schema::sync(&self.db, if synced { Syncs::Commits } else { Syncs::Checkpoints })?;
            self.synced = synced;
        }
        Ok(self)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

type Outcome = Result<(), Fault>;

/// Runs the jobs in one transaction: what became of each, and of the whole.
fn transaction(
    db: &Connection,
    begin: &str,
    mut jobs: Vec<Box<dyn Job>>,
) -> (Vec<Box<dyn Job>>, Vec<Outcome>, Outcome) {
    let mut outcomes = vec![Ok(()); jobs.len()];
    let whole = (|| {
        execute(db, begin)?;
        let alone = jobs.len() == 1;
        for (job, outcome) in jobs.iter_mut().zip(&mut outcomes) {
            if !alone {
                execute(db, "SAVEPOINT job")?;
            }
            *outcome = job.run(db);
            match outcome {
                // A full disk or a failed write may have ended the transaction, and with it what others did.
                Err(fault) if db.is_autocommit() => return Err(fault.clone()),
                Err(fault) if alone => return Err(fault.clone()),
                Err(_) => execute(db, "ROLLBACK TO job").and_then(|()| execute(db, "RELEASE job"))?,
                Ok(()) if alone => {}
                Ok(()) => execute(db, "RELEASE job")?,
            }
        }
        execute(db, "COMMIT")
    })();
    if whole.is_err() && !db.is_autocommit() {
        // If even this fails the connection is of no more use, and the next job will say so.
        let _ = execute(db, "ROLLBACK");
    }
    (jobs, outcomes, whole)
}

pub(super) fn execute(db: &Connection, sql: &str) -> Result<(), Fault> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Changes whenever another connection has committed.
fn data_version(db: &Connection) -> Option<i64> {
    db.prepare_cached("PRAGMA data_version").and_then(|mut pragma| pragma.query_row([], |row| row.get(0))).ok()
}

// === impl Task ===

impl<T, R, Run, Finish> Task<T, R, Run, Finish> {
    pub(super) fn new(run: Run, finish: Finish) -> (Box<Self>, oneshot::Receiver<R>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { run: Some(run), value: None, finish, reply, needs_sync: true }), answer)
    }

    /// The same; see [`Job::needs_sync`].
    pub(super) fn without_sync(mut self: Box<Self>) -> Box<Self> {
        self.needs_sync = false;
        self
    }
}

impl<T, R, Run, Finish> Job for Task<T, R, Run, Finish>
where
    T: Send,
    R: Send,
    Run: FnOnce(&Connection) -> Result<T, Fault> + Send,
    Finish: FnOnce(Result<T, Fault>) -> R + Send,
{
    fn run(&mut self, db: &Connection) -> Result<(), Fault> {
        if let Some(run) = self.run.take() {
            self.value = Some(run(db)?);
        }
        Ok(())
    }

    fn needs_sync(&self) -> bool {
        self.needs_sync
    }

    fn finish(self: Box<Self>, stored: Result<(), Fault>) {
        let Self { value, finish, reply, .. } = *self;
        let outcome = stored.and_then(|()| value.ok_or_else(|| Fault::Other("a job was left out".into())));
        // Nobody may be waiting any more; what the answer holds is then dropped, and says so itself.
        let _ = reply.send(finish(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts a number, then fails or not.
    struct Insert {
        number: i64,
        bytes: i64,
        fails: bool,
    }

    impl Job for Insert {
        fn run(&mut self, db: &Connection) -> Result<(), Fault> {
            db.execute("INSERT INTO t VALUES (?1, zeroblob(?2))", [self.number, self.bytes])?;
            if self.fails { Err(Fault::Other("refused".into())) } else { Ok(()) }
        }

        fn finish(self: Box<Self>, _stored: Result<(), Fault>) {}
    }

    fn job(number: i64, bytes: i64, fails: bool) -> Box<dyn Job> {
        Box::new(Insert { number, bytes, fails })
    }

    fn stored(db: &Connection) -> Vec<i64> {
        let mut select = db.prepare("SELECT n FROM t ORDER BY n").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn table() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (n INTEGER, b BLOB)").unwrap();
        db
    }

    #[test]
    fn a_job_that_fails_undoes_nothing_of_the_others() {
        let db = table();
        let batch = vec![job(1, 1, false), job(2, 1, true), job(3, 1, false)];
        let (_, outcomes, whole) = transaction(&db, "BEGIN IMMEDIATE", batch);
        assert_eq!(whole, Ok(()));
        assert_eq!(outcomes, [Ok(()), Err(Fault::Other("refused".into())), Ok(())]);
        assert_eq!(stored(&db), [1, 3]);
        let (_, _, alone) = transaction(&db, "BEGIN IMMEDIATE", vec![job(4, 1, true)]);
        assert_eq!(alone, Err(Fault::Other("refused".into())));
        assert_eq!(stored(&db), [1, 3]);
        assert!(db.is_autocommit(), "a transaction stays open");
    }

    #[test]
    fn a_full_disk_is_told_to_those_it_hits_and_passes() {
        let db = table();
        db.pragma_update(None, "max_page_count", 10).unwrap();
        let batch = vec![job(1, 1, false), job(2, 1 << 20, false), job(3, 1, false)];
        let (_, outcomes, whole) = transaction(&db, "BEGIN IMMEDIATE", batch);
        let told: Vec<Outcome> = outcomes.into_iter().map(|outcome| whole.clone().and(outcome)).collect();
        assert_eq!(told[1], Err(Fault::Full));
        let kept: Vec<i64> = (1..).zip(&told).filter(|(_, told)| told.is_ok()).map(|(n, _)| n).collect();
        assert_eq!(stored(&db), kept, "exactly what was confirmed is there");
        db.pragma_update(None, "max_page_count", 10_000).unwrap();
        assert_eq!(transaction(&db, "BEGIN IMMEDIATE", vec![job(4, 1 << 20, false)]).2, Ok(()));
        let error = Fault::Full.error(Path::new("events.db"));
        assert!(error.is_transient() && error.to_string().contains("disk is full"), "{error}");
    }
}
