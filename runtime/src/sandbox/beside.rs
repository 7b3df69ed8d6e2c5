//! Processes beside the host that serve it over a socket: which there are, how one starts, and how one that is lost is
//! replaced.
//!
//! Most hosts need none of them most of the time: code is in the cache and no handler is isolated. So each is started when it
//! is first asked for something, or when it is known that it will be, and anew when it is gone.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::launch::Launcher;
use super::process::ready;
use super::{compile, isolate, limits};

/// How long a process may take to end when it is told to.
const FAREWELL: Duration = Duration::from_secs(2);

/// What one is for. A host has one process for each of these at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Makes workers.
    Isolate,
    /// Compiles modules; a number below [`limits::COMPILERS`].
    Compile(u8),
}

/// Who starts them.
#[derive(Clone, Debug)]
pub(super) enum Starter {
    /// This process, which executes a program.
    Here(PathBuf),
    /// A process that was made for it, for one that executes none any more.
    Launcher(Launcher),
}

/// How long a process may take to hear, and to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) hear: Duration,
    pub(super) answer: Duration,
}

/// A process of one role, while it is needed. It ends when this is dropped, or with this process.
pub(super) struct Beside {
    role: Role,
    starter: Starter,
    patience: Patience,
    /// Somebody has chosen it of several.
    asked: AtomicBool,
    /// The newest that was started; 0 if none was, or it was ended.
    id: AtomicU32,
    /// `None` until it is needed, and once anything went wrong on its socket.
    running: Mutex<Option<Running>>,
}

struct Running {
    link: UnixStream,
    /// If it is a child of this process.
    child: Option<Child>,
    /// What it says first was heard.
    greeted: bool,
}

/// Starts a program with one argument, an environment of what it is told and nothing else, and one end of a socket as its
/// standard input. It inherits no other descriptor and waits for nothing here.
pub(super) fn execute(program: &Path, command: &str, told: &[(&str, String)], link: OwnedFd) -> io::Result<Child> {
    Command::new(program)
        .arg0("sandbar")
        .arg(command)
        .env_clear()
        .envs(told.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        // What a terminal sends to the host's group is not meant for it.
        .process_group(0)
        .stdin(link)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

// === impl Role ===

impl Role {
    /// How many there are.
    pub(super) const COUNT: usize = 1 + limits::COMPILERS as usize;

    /// The role of this number, below [`Self::COUNT`].
    pub(super) fn of(number: u8) -> Option<Self> {
        match number.checked_sub(1) {
            None => Some(Self::Isolate),
            Some(number) => (number < limits::COMPILERS).then_some(Self::Compile(number)),
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Isolate => 0,
            Self::Compile(number) => number + 1,
        }
    }

    /// Starts a program in it.
    pub(super) fn execute(self, program: &Path, link: OwnedFd) -> io::Result<Child> {
        // The allocator would take a large piece of address space at once, of which nothing could be bounded.
        let mut told = vec![("MIMALLOC_ARENA_RESERVE", "16MiB".to_owned())];
        let command = match self {
            Self::Compile(number) => {
                // The others compile beside the first.
                let share = if number == 0 { 1 } else { usize::from(limits::COMPILERS) };
                let cores = available_parallelism().map_or(1, usize::from);
                let threads = (cores / share).clamp(1, limits::COMPILE_THREADS);
                told.push(("RAYON_NUM_THREADS", threads.to_string()));
                // Whatever compiles one module starts with nothing, and would clear pages of 2 MiB of which it needs little.
                told.push(("MIMALLOC_ALLOW_THP", "0".to_owned()));
                compile::COMMAND
            }
            Self::Isolate => isolate::COMMAND,
        };
        execute(program, command, &told, link)
    }
}

// === impl Beside ===

impl Beside {
    /// Nothing is started yet.
    pub(super) fn new(role: Role, starter: Starter, patience: Patience) -> Self {
        Self {
            role,
            starter,
            patience,
            asked: AtomicBool::new(false),
            id: AtomicU32::new(0),
            running: Mutex::default(),
        }
    }

    /// Starts it if there is none.
    pub(super) fn start(&self) -> io::Result<()> {
        self.start_by(&self.starter)
    }

    /// The same by this starter, unlike those that follow if it is lost.
    pub(super) fn start_by(&self, starter: &Starter) -> io::Result<()> {
        let mut running = self.lock();
        if running.is_none() {
            *running = Some(self.begin(starter)?);
        }
        Ok(())
    }

    /// Ends it if nobody asks it now; whoever does later gets another one.
    pub(super) fn end(&self) {
        if let Ok(mut running) = self.running.try_lock() {
            running.take();
            self.id.store(0, Ordering::Relaxed);
        }
    }

    /// The process, for whoever looks at it from outside, if one was started and not ended since.
    pub(super) fn id(&self) -> Option<u32> {
        Some(self.id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Asks it something, one at a time; whatever goes wrong loses the process, and the next gets another one. `greet` hears
    /// what a new one says first.
    pub(super) fn ask<T>(
        &self,
        greet: impl FnOnce(&mut UnixStream) -> io::Result<()>,
        ask: impl FnOnce(&mut UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut place = self.lock();
        let mut running = match place.take().filter(Running::is_there) {
            Some(running) => running,
            None => self.begin(&self.starter)?,
        };
        let lost = |error: io::Error| io::Error::new(error.kind(), format!("{error}; the next gets another one"));
        if !running.greeted {
            greet(&mut running.link).map_err(lost)?;
            running.greeted = true;
        }
        let answer = ask(&mut running.link).map_err(lost)?;
        *place = Some(running);
        Ok(answer)
    }

    /// The same of one of these: if all are being asked, the first.
    pub(super) fn ask_one_of<T>(
        them: &[Self],
        greet: impl FnOnce(&mut UnixStream) -> io::Result<()>,
        ask: impl FnOnce(&mut UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        match them.iter().find(|one| !one.asked.swap(true, Ordering::Acquire)) {
            Some(free) => {
                let answer = free.ask(greet, ask);
                free.asked.store(false, Ordering::Release);
                answer
            }
            None => them[0].ask(greet, ask),
        }
    }

    /// The same if one is there and has been asked before; `None` if not, or if it is lost now.
    pub(super) fn ask_the_same<T>(&self, ask: impl FnOnce(&mut UnixStream) -> io::Result<T>) -> Option<T> {
        let mut place = self.lock();
        let mut running = place.take_if(|running| running.greeted).filter(Running::is_there)?;
        let answer = ask(&mut running.link).ok()?;
        *place = Some(running);
        Some(answer)
    }

    fn begin(&self, starter: &Starter) -> io::Result<Running> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(self.patience.hear))?;
        ours.set_read_timeout(Some(self.patience.answer))?;
        let (id, child) = match starter {
            Starter::Here(program) => {
                let child = self.role.execute(program, theirs.into())?;
                (child.id(), Some(child))
            }
            Starter::Launcher(launcher) => (launcher.launch(self.role, theirs)?, None),
        };
        self.id.store(id, Ordering::Relaxed);
        Ok(Running { link: ours, child, greeted: false })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Running ===

impl Running {
    /// Once it was greeted it says nothing unasked: whatever there is to read is its end.
    fn is_there(&self) -> bool {
        !self.greeted || ready([Some(self.link.as_raw_fd())], Duration::ZERO).is_ok_and(|[spoke]| !spoke)
    }
}

impl Drop for Running {
    /// It ends by itself once nobody holds the other end of its socket, in a millisecond, and takes its children with it. A
    /// signal might be refused by now. One that hangs is left to the system.
    fn drop(&mut self) {
        drop(self.link.shutdown(std::net::Shutdown::Both));
        let (Some(child), begun) = (&mut self.child, Instant::now()) else { return };
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < FAREWELL {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
