//! The process that makes workers, for a host that starts no process any more.
//!
//! It is the compiler's server with another child: a copy of a process that holds nothing is a worker for whoever is at the
//! other end of the socket that came with the request.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::beside::{Beside, Patience, Role, Starter};
use super::super::launch::Launcher;
use super::super::process::{
    close_from, drain, end_now, ends_of_children, fork, kill, link_of_host, ready, receive_with, same, send_with, wait,
};
use super::super::{confine, limits};
use super::{cell, worker};

/// What a program is started with to become what an [`Isolator`] speaks to.
pub const COMMAND: &str = "isolate-server";

/// How long the server may take to make a worker or to end one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked of it: one of these, and a worker's number.
const MAKE: u8 = 1;
const END: u8 = 2;
type Request = [u8; 9];

/// The greeting of one that could not confine itself, and ends. Else it is what the kernel lacks.
const UNCONFINED: i32 = -1;

/// What it says of a worker that another process made before it.
const UNKNOWN: i32 = -1;

/// Makes processes for the calls of handlers. Cloning shares it; they end with the last clone, or with this process.
#[derive(Clone)]
pub struct Isolator {
    inner: Arc<Inner>,
}

struct Inner {
    beside: Beside,
    made: AtomicU64,
}

/// A worker, as the process knows it that made it.
struct Made {
    id: u64,
    process: libc::pid_t,
    /// How it ended, once that is known.
    ended: Option<ExitStatus>,
}

/// The process that makes workers.
struct Server {
    link: UnixStream,
    /// Ready when a worker has ended.
    ends: File,
    workers: Vec<Made>,
}

// === impl Isolator ===

impl Isolator {
    /// Starts one. `program` must call [`serve`] when it is started with the one argument [`COMMAND`]; `sandbar` does.
    /// It inherits neither environment nor descriptors, and does not wait for anything here. If it is lost another one is
    /// started.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let isolator = Self::new(Starter::Here(program.to_owned()));
        isolator.inner.beside.start()?;
        Ok(isolator)
    }

    /// The same, started when it is first needed, and not by this process.
    #[must_use]
    pub fn by(launcher: &Launcher) -> Self {
        Self::new(Starter::Launcher(launcher.clone()))
    }

    fn new(starter: Starter) -> Self {
        let beside = Beside::new(Role::Isolate, starter, Patience { hear: PATIENCE, answer: PATIENCE });
        Self { inner: Arc::new(Inner { beside, made: AtomicU64::new(0) }) }
    }

    /// The process, for whoever looks at it from outside, if one was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.inner.beside.id()
    }

    /// Makes a worker that speaks over this socket.
    pub(super) fn make(&self, socket: &UnixStream) -> io::Result<u64> {
        let id = self.inner.made.fetch_add(1, Ordering::Relaxed);
        let request = request(MAKE, id);
        let made = self.inner.beside.ask(greet, |link| {
            send_with(link, &request, socket.as_fd())?;
            hear(link)
        });
        match made.map_err(|error| {
            io::Error::new(error.kind(), format!("the process that makes others cannot be used: {error}"))
        })? {
            0 => Ok(id),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Ends a worker if it has not ended yet, and says how it did; `None` if it was lost with the process that made it.
    pub(super) fn end(&self, id: u64) -> Option<ExitStatus> {
        let request = request(END, id);
        let ended = self.inner.beside.ask_the_same(|link| {
            link.write_all(&request)?;
            hear(link)
        });
        ended.filter(|status| *status != UNKNOWN).map(ExitStatus::from_raw)
    }
}

impl std::fmt::Debug for Isolator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolator").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl PartialEq for Isolator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Isolator {}

/// What a new one says first.
fn greet(link: &mut UnixStream) -> io::Result<()> {
    let missing = hear(link)?;
    if missing == UNCONFINED {
        return Err(io::Error::other("it cannot be confined"));
    }
    for (bit, what) in [(cell::NO_LANDLOCK, "no Landlock"), (cell::NO_SECCOMP, "no seccomp")] {
        if missing & bit != 0 {
            tracing::warn!("the processes of isolated handlers are less confined than they could be: {what}");
        }
    }
    Ok(())
}

fn request(what: u8, id: u64) -> Request {
    let mut request = [what; 9];
    request[1..].copy_from_slice(&id.to_ne_bytes());
    request
}

fn hear(link: &mut UnixStream) -> io::Result<i32> {
    let mut number = [0; 4];
    link.read_exact(&mut number)?;
    Ok(i32::from_ne_bytes(number))
}

/// Serves the host at the other end of standard input, until that one is gone.
///
/// For a program's `main`, before it has started a thread: see [`Isolator::start`].
///
/// # Errors
///
/// If standard input is no socket, or this process cannot be confined.
pub fn serve() -> io::Result<()> {
    let mut link = UnixStream::from(link_of_host()?);
    // If memory is short the system ends this process or its workers, not the host. It may refuse.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let ends = ends_of_children()?;
    let missing = match cell::serve() {
        Ok(missing) => missing,
        Err(error) => {
            link.write_all(&UNCONFINED.to_ne_bytes())?;
            return Err(io::Error::other(error));
        }
    };
    link.write_all(&missing.to_ne_bytes())?;
    Server { link, ends, workers: Vec::new() }.run()
}

// === impl Server ===

impl Server {
    fn run(mut self) -> io::Result<()> {
        loop {
            let polled = [Some(self.link.as_raw_fd()), Some(self.ends.as_raw_fd())];
            let [asked, ended] = ready(polled, limits::FOR_EVER)?;
            if ended {
                self.bury()?;
            }
            if asked {
                let Some((request, socket)) = self.next()? else { return self.end_all() };
                let answer = self.answer(request, socket)?;
                self.link.write_all(&answer.to_ne_bytes())?;
            }
        }
    }

    /// The next request; `None` if the host is gone.
    fn next(&self) -> io::Result<Option<(Request, Option<OwnedFd>)>> {
        let mut request = Request::default();
        let (read, socket) = receive_with(&self.link, &mut request)?;
        if read == 0 {
            return Ok(None);
        }
        (&self.link).read_exact(&mut request[read..])?;
        Ok(Some((request, socket)))
    }

    fn answer(&mut self, request: Request, socket: Option<OwnedFd>) -> io::Result<i32> {
        let (mut id, what) = ([0; 8], request[0]);
        id.copy_from_slice(&request[1..]);
        let id = u64::from_ne_bytes(id);
        match (what, socket) {
            (MAKE, Some(socket)) => match make(socket) {
                Ok(process) => {
                    self.workers.push(Made { id, process, ended: None });
                    Ok(0)
                }
                Err(error) => Ok(error.raw_os_error().unwrap_or(libc::EIO)),
            },
            (END, _) => match self.workers.iter().position(|worker| worker.id == id) {
                Some(at) => self.workers.swap_remove(at).end().map(ExitStatusExt::into_raw),
                None => Ok(UNKNOWN),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks how those ended that did: until then the system keeps them.
    fn bury(&mut self) -> io::Result<()> {
        drain(&self.ends);
        for worker in &mut self.workers {
            worker.look()?;
        }
        Ok(())
    }

    fn end_all(self) -> io::Result<()> {
        self.workers.into_iter().try_for_each(|worker| worker.end().map(drop))
    }
}

// === impl Made ===

impl Made {
    fn look(&mut self) -> io::Result<()> {
        if self.ended.is_none() {
            self.ended = wait(self.process, false)?.map(|(status, _)| status);
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<ExitStatus> {
        self.look()?;
        if let Some(status) = self.ended {
            return Ok(status);
        }
        kill(self.process);
        let ended = wait(self.process, true)?;
        Ok(ended.map(|(status, _)| status).unwrap_or_default())
    }
}

/// A copy of this process, which becomes the worker of whoever is at the other end.
fn make(socket: OwnedFd) -> io::Result<libc::pid_t> {
    let parent = std::process::id();
    // SAFETY: this process has one thread, for all of its life.
    match unsafe { fork() }? {
        Some(child) => Ok(child),
        None => {
            let worked = std::panic::catch_unwind(AssertUnwindSafe(|| become_worker(&socket, parent)));
            end_now(matches!(worked, Ok(Ok(()))))
        }
    }
}

fn become_worker(socket: &OwnedFd, parent: u32) -> io::Result<()> {
    same(socket.as_raw_fd(), libc::STDIN_FILENO)?;
    close_from(libc::STDERR_FILENO + 1)?;
    confine::ends_with_its_parent().map_err(io::Error::other)?;
    // It may have ended before this one asked to end with it.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    // SAFETY: the descriptor is the socket's since above, and nothing else here uses it.
    worker::work(unsafe { UnixStream::from_raw_fd(libc::STDIN_FILENO) })
}
