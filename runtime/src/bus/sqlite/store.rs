//! The file as the rest of the backend uses it: closures that run in a transaction, on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::super::{Error, Group};
use super::fault::Fault;
use super::probe;
use super::schema::Syncs;
use super::worker::{Job, Role, Task, Worker};

pub(super) struct Store {
    path: PathBuf,
    reader: Sender<Box<dyn Job>>,
    writer: Sender<Box<dyn Job>>,
    changed: Arc<watch::Sender<()>>,
    watchers: Arc<AtomicUsize>,
}

/// When a write is on disk, on a bus that syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synced {
    /// Before it counts as stored.
    AtCommit,
    /// With the next write that is synced: for what a power cut may undo, such as what is in whose hand. Until then only a
    /// crash of the whole machine loses it, and with it everybody who had something in hand.
    Later,
}

/// Keeps the writer looking for other processes' commits.
pub(super) struct Watching(Arc<AtomicUsize>);

// === impl Store ===

impl Store {
    /// Starts the threads. The file is opened by the first job, so that a host can start before its disk is there.
    pub(super) fn start(path: PathBuf, syncs: Syncs) -> Result<Arc<Self>, Error> {
        let changed = Arc::new(watch::Sender::new(()));
        let watchers = Arc::new(AtomicUsize::new(0));
        let opening = Arc::new(Mutex::new(()));
        let start = |name: &str, role: Role| {
            let (sender, jobs) = channel();
            let worker = Worker { path: path.clone(), syncs, role, opening: Arc::clone(&opening), jobs };
            let spawned = std::thread::Builder::new().name(name.into()).spawn(move || worker.run());
            let failed = |error: std::io::Error| Fault::Failing(format!("no thread: {error}")).error(&path);
            spawned.map(|_| sender).map_err(failed)
        };
        let reader = start("sqlite-reader", Role::Reader)?;
        let role = Role::Writer { changed: Arc::clone(&changed), watchers: Arc::clone(&watchers) };
        let writer = start("sqlite-writer", role)?;
        Ok(Arc::new(Self { path, reader, writer, changed, watchers }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `run` in a read transaction, beside the writer.
    pub(super) async fn read<T, Run>(&self, run: Run) -> Result<T, Error>
    where
        T: Send + 'static,
        Run: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.read_then(run, |outcome| outcome).await?.map_err(|fault| fault.error(&self.path))
    }

    /// The same, and runs `finish` on the reader's thread. Once this is polled it happens, whether or not anybody waits.
    pub(super) async fn read_then<T, R, Run, Finish>(&self, run: Run, finish: Finish) -> Result<R, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
        Run: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
        Finish: FnOnce(Result<T, Fault>) -> R + Send + 'static,
    {
        let (task, answer) = Task::new(run, finish);
        send(&self.reader, task);
        self.answer(answer).await
    }

    /// Runs `run` in a write transaction. Once this is polled it happens, whether or not anybody waits for it.
    pub(super) async fn write<T, Run>(&self, run: Run) -> Result<T, Error>
    where
        T: Send + 'static,
        Run: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.write_then(Synced::AtCommit, run, |outcome| outcome).await?.map_err(|fault| fault.error(&self.path))
    }

    /// The same, and runs `finish` on the writer's thread when it is known whether it is stored.
    pub(super) async fn write_then<T, R, Run, Finish>(
        &self,
        synced: Synced,
        run: Run,
        finish: Finish,
    ) -> Result<R, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
        Run: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
        Finish: FnOnce(Result<T, Fault>) -> R + Send + 'static,
    {
        let (task, answer) = Task::new(run, finish);
        self.submit(match synced {
            Synced::AtCommit => task,
            Synced::Later => task.without_sync(),
        });
        self.answer(answer).await
    }

    pub(super) fn submit(&self, job: Box<dyn Job>) {
        send(&self.writer, job);
    }

    pub(super) async fn answer<R>(&self, answer: oneshot::Receiver<R>) -> Result<R, Error> {
        answer.await.map_err(|_| Fault::Failing("the thread that uses it has ended".into()).error(&self.path))
    }

    /// Looks at the file without changing it.
    pub(super) async fn probe(&self, _groups: &[Group]) -> Result<Vec<Error>, Error> {
        // A file has no topics of a wrong type and no foreign consumers, so there is nothing to say of a group.
        let path = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || probe::probe(&path)).await;
        let ended = |_| Fault::Failing("looking at it was interrupted".into());
        looked.map_err(ended).and_then(|found| found).map(|()| Vec::new()).map_err(|fault| fault.error(&self.path))
    }

    /// Tells whoever waits in this process that there may be something to do.
    pub(super) fn wake(&self) {
        self.changed.send_replace(());
    }

    /// Told of [`Store::wake`] and of other processes' commits.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn watch(&self) -> Watching {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(Arc::clone(&self.watchers))
    }
}

fn send(to: &Sender<Box<dyn Job>>, job: Box<dyn Job>) {
    if let Err(unsent) = to.send(job) {
        unsent.0.finish(Err(Fault::Failing("the thread that uses it has ended".into())));
    }
}

// === impl Watching ===

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synchronous(db: &Connection) -> Result<i64, Fault> {
        Ok(db.query_row("PRAGMA synchronous", [], |row| row.get(0))?)
    }

    async fn note<Run>(store: &Store, run: Run) -> Result<Option<i64>, Error>
    where
        Run: FnOnce(&Connection) -> Result<i64, Fault> + Send + 'static,
    {
        store.write_then(Synced::Later, run, Result::ok).await
    }

    #[tokio::test]
    async fn what_a_power_cut_may_undo_waits_for_no_disk_and_what_it_may_not_does() {
        for (syncs, settled) in [(Syncs::Commits, 2), (Syncs::Checkpoints, 1)] {
            let directory = tempfile::TempDir::new().unwrap();
            let store = Store::start(directory.path().join("events.db"), syncs).unwrap();
            for _ in 0..2 {
                assert_eq!(store.write(synchronous).await.unwrap(), settled, "2 is FULL: synced at commit");
                let noted = note(&store, synchronous).await.unwrap();
                assert_eq!(noted, Some(1), "1 is NORMAL: not synced at commit");
            }
            // Both wait while the writer is busy, so one transaction takes them together.
            let ((started, starts), (release, released)) = (channel(), channel());
            let busy = move |db: &Connection| {
                let _ = (started.send(()), released.recv());
                synchronous(db)
            };
            let later = async {
                tokio::task::spawn_blocking(move || starts.recv()).await.unwrap().unwrap();
                let (noted, written) = (note(&store, synchronous), store.write(synchronous));
                tokio::join!(noted, written, async { release.send(()).unwrap() })
            };
            let (busy, (noted, written, ())) = tokio::join!(note(&store, busy), later);
            assert_eq!(busy.unwrap(), Some(1));
            assert_eq!((noted.unwrap(), written.unwrap()), (Some(settled), settled));
        }
    }
}
