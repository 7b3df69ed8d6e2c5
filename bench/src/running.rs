//! A contender at work.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The end of a log that an error message shows.
const LOG_TAIL: usize = 2_000;

/// A thread of this program or a process. Dropping it ends it.
pub(crate) enum Running {
    Thread { thread: Option<JoinHandle<Result<()>>>, stop: Arc<AtomicBool> },
    Process { child: Child, dir: TempDir },
}

// === impl Running ===

impl Running {
    /// Runs `work` until it returns. It must return soon after the flag that it is given was set.
    pub(crate) fn thread(work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self::Thread { thread: Some(thread::spawn(move || work(&seen))), stop }
    }

    /// Starts a process in `dir`, with its log there.
    pub(crate) fn process(command: &mut Command, dir: TempDir) -> Result<Self> {
        let log = File::create(log_of(&dir))?;
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self::Process { child, dir })
    }

    /// Fails if it has failed or, being a process, has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self {
            // That it is through shows in what it has acknowledged; here only a failure matters.
            Self::Thread { thread, .. } => match thread.take_if(|thread| thread.is_finished()) {
                Some(thread) => thread.join().unwrap_or_else(|_| bail!("the thread panicked")),
                None => Ok(()),
            },
            Self::Process { child, dir } => {
                let Some(status) = child.try_wait()? else { return Ok(()) };
                let log = fs::read(log_of(dir)).unwrap_or_default();
                let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]);
                bail!("it ended too early ({status}):\n{tail}")
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self {
            // What the thread says at the end concerns nobody any more.
            Self::Thread { thread, stop } => {
                stop.store(true, Ordering::Relaxed);
                let _ = thread.take().map(JoinHandle::join);
            }
            Self::Process { child, .. } => {
                // The group is drained and thrown away: there is nothing to end gracefully.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn log_of(dir: &TempDir) -> PathBuf {
    dir.path().join("log")
}
