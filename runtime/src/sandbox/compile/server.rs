//! The process that compiles: it waits for a module, gives it to a child, and tells what the child said.
//!
//! It never looks at a module itself, so that what one does to its compiler does not reach the next. A child is a copy of
//! this process, which holds nothing but an engine. It has one thread; a copy of it is whole.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::process::ExitStatusExt as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::super::confine;
use super::super::modules::chain;
use super::super::pool::compiling as settings;
use super::super::process::{
    close_from, drain, end_now, ends_of_children, fork, kill, link_of_host, more, pipe, ready, same, time_of, wait,
    yield_to_others,
};
use super::{CompileLimits, HEAD, Header, cell, kind, tell};
use crate::sandbox::limits;

/// Bytes of what a child writes as it dies.
const LAST_WORDS: usize = 4 << 10;

/// What this process has, beside its socket.
struct Server {
    link: File,
    /// Ready when a child has ended.
    ends: File,
    engine: Engine,
    /// Bytes of address space of this process itself.
    own: u64,
    filtered: bool,
}

/// A module that is to be compiled.
struct Request {
    limits: CompileLimits,
    /// Whether it gets the processor's time only that nobody else wants.
    yields: bool,
    wasm: Vec<u8>,
}

/// What watching a child came to.
enum Watched {
    /// It has said all that it had to, and is about to end.
    Answered(libc::pid_t, Vec<u8>),
    /// It is gone without that.
    Ended(Ended),
    /// It yielded to others and got nowhere. It is gone.
    Starved,
    /// The host is gone, and so is the child.
    HostGone,
}

/// How a child ended that gave no answer.
struct Ended {
    status: ExitStatus,
    /// Time of all processors.
    time: Duration,
    last_words: String,
}

/// Serves the host at the other end of standard input, until that one is gone.
///
/// For a program's `main`, before it has started a thread: see [`super::Compiler::start`].
///
/// # Errors
///
/// If standard input is no socket, or this process cannot be confined.
pub fn serve() -> io::Result<()> {
    let mut link = File::from(link_of_host()?);
    let server = match start(link.try_clone()?) {
        Ok((server, missing)) => {
            tell(&mut link, kind::READY, missing.join(", ").as_bytes())?;
            server
        }
        Err(error) => return tell(&mut link, kind::DIED, error.as_bytes()),
    };
    drop(link);
    server.run()
}

fn start(link: File) -> Result<(Server, Vec<&'static str>), String> {
    let engine = Engine::new(&settings()).map_err(|error| chain(&error))?;
    // If memory is short the system ends this process or its child, not the host. It may refuse.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let ends = ends_of_children().map_err(|error| error.to_string())?;
    let own = address_space();
    let missing = cell::serve().map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        format!("it cannot be confined: {error}{cause}")
    })?;
    let filtered = !missing.contains(&"no seccomp");
    Ok((Server { link, ends, engine, own, filtered }, missing))
}

/// Bytes of address space that this process takes.
pub(super) fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1 << 10)
}

// === impl Server ===

impl Server {
    fn run(mut self) -> io::Result<()> {
        while let Some(mut request) = self.next()? {
            let until = request.until();
            let mut leaving = None;
            let (kind, said) = loop {
                break match self.child(&request, until) {
                    Ok(Watched::Answered(child, said)) => {
                        leaving = Some(child);
                        answer(said)
                    }
                    Ok(Watched::Ended(ended)) => ended.answer(&request.limits),
                    Ok(Watched::Starved) => {
                        request.yields = false;
                        continue;
                    }
                    Ok(Watched::HostGone) => return Ok(()),
                    Err(error) => (kind::DIED, format!("no process can be made for it: {error}").into_bytes()),
                };
            };
            drop(request);
            tell(&mut self.link, kind, &said)?;
            // Giving its memory back takes a while, which nobody needs to wait for who waits for the code.
            if let Some(child) = leaving {
                end(child)?;
            }
        }
        Ok(())
    }

    /// The next module; `None` if the host is gone.
    fn next(&mut self) -> io::Result<Option<Request>> {
        let mut header = [[0; 8]; size_of::<Header>() / 8];
        for number in &mut header {
            match self.link.read_exact(number) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let [time, memory, yields, length] = header.map(u64::from_ne_bytes);
        let length_read = length.min(limits::MODULE_BYTES as u64);
        // Not more than it needs: what the child has from the start counts.
        let mut wasm = Vec::with_capacity(usize::try_from(length_read).unwrap_or(0));
        (&self.link).take(length_read).read_to_end(&mut wasm)?;
        let whole = wasm.len() as u64 == length;
        let limits = CompileLimits { time: Duration::from_nanos(time), memory };
        Ok(whole.then_some(Request { limits, yields: yields != 0, wasm }))
    }

    /// Lets a child compile.
    fn child(&self, request: &Request, until: Instant) -> io::Result<Watched> {
        let (output, its_output) = pipe()?;
        let (errors, its_errors) = pipe()?;
        let parent = std::process::id();
        // SAFETY: this process has one thread, so that the copy has all there is and no lock is held by one it lacks.
        match unsafe { fork() }? {
            None => self.compile(parent, request, &its_output, &its_errors),
            Some(child) => {
                drop((its_output, its_errors));
                self.watch(child, request, until, output, errors)
            }
        }
    }

    /// What the child does: it never returns.
    fn compile(&self, parent: u32, request: &Request, output: &File, errors: &File) -> ! {
        let compiled = self.try_compile(parent, request, output, errors);
        if let Err(error) = &compiled {
            // Whatever this reaches is told, and nothing is lost if it reaches nobody.
            drop(writeln!(io::stderr(), "{error}"));
        }
        end_now(compiled.is_ok())
    }

    fn try_compile(&self, parent: u32, request: &Request, output: &File, errors: &File) -> io::Result<()> {
        let Request { limits, yields, wasm } = request;
        same(output.as_raw_fd(), libc::STDOUT_FILENO)?;
        same(errors.as_raw_fd(), libc::STDERR_FILENO)?;
        close_from(libc::STDERR_FILENO + 1)?;
        confine::ends_with_its_parent().map_err(io::Error::other)?;
        // It may have ended before this one asked to end with it.
        if std::os::unix::process::parent_id() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if *yields {
            yield_to_others();
        }
        let memory = self.own.saturating_add(wasm.len() as u64).saturating_add(limits.memory);
        cell::compile(limits.time, memory, self.filtered).map_err(io::Error::other)?;
        let code = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.precompile_component(wasm)));
        // SAFETY: the descriptor is the pipe's since above, and nothing else here writes to it.
        let mut output = unsafe { File::from_raw_fd(libc::STDOUT_FILENO) };
        let (kind, said) = match code {
            Ok(Ok(code)) => (kind::COMPILED, code),
            Ok(Err(error)) => (kind::REFUSED, chain(&error).into_bytes()),
            // The hook has said where and why.
            Err(_) => return Err(io::Error::other("the compiler panicked")),
        };
        tell(&mut output, kind, &said)
    }

    /// Reads what the child says until that is all, or it has ended, or is ended.
    fn watch(
        &self,
        child: libc::pid_t,
        request: &Request,
        until: Instant,
        output: File,
        errors: File,
    ) -> io::Result<Watched> {
        let begun = Instant::now();
        let (mut output, mut errors) = (Some(output), Some(errors));
        let (mut said, mut last_words) = (Vec::new(), Vec::new());
        let mut is_killed = false;
        loop {
            let is_silent = output.is_none() && errors.is_none();
            if is_silent && let Some((status, time)) = wait(child, is_killed)? {
                let last_words = String::from_utf8_lossy(&last_words).into_owned();
                // What says nothing and takes no time either took too long as well.
                let time = if Instant::now() >= until { time.max(request.limits.time) } else { time };
                return Ok(Watched::Ended(Ended { status, time, last_words }));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && !is_killed {
                kill(child);
                (is_killed, output, errors) = (true, None, None);
                continue;
            }
            if request.yields && !is_silent && is_starved(child, begun.elapsed()) {
                end(child)?;
                return Ok(Watched::Starved);
            }
            let [host, ended, out, err] = ready(
                [
                    Some(self.link.as_raw_fd()),
                    Some(self.ends.as_raw_fd()),
                    output.as_ref().map(File::as_raw_fd),
                    errors.as_ref().map(File::as_raw_fd),
                ],
                if request.yields && !is_silent { limits::COMPILE_LOOK.min(left) } else { left },
            )?;
            if ended {
                drain(&self.ends);
            }
            if host {
                // It says nothing while it waits: this is its end.
                end(child)?;
                return Ok(Watched::HostGone);
            }
            if out && !more(&mut output, &mut said, usize::try_from(limits::COMPILED_BYTES).unwrap_or(usize::MAX))? {
                kill(child);
                (is_killed, output, errors) = (true, None, None);
            }
            if is_whole(&said) {
                return Ok(Watched::Answered(child, said));
            }
            if err {
                // What does not fit is passed over.
                more(&mut errors, &mut last_words, LAST_WORDS)?;
            }
        }
    }
}

/// Ends a child, and is there until it has.
fn end(child: libc::pid_t) -> io::Result<()> {
    kill(child);
    wait(child, true).map(drop)
}

/// Whether that is an answer and nothing is missing.
fn is_whole(said: &[u8]) -> bool {
    let Some((head, rest)) = said.split_first_chunk::<HEAD>() else { return false };
    let [kind, length @ ..] = *head;
    matches!(kind, kind::COMPILED | kind::REFUSED) && rest.len() as u64 == u64::from_ne_bytes(length)
}

/// What the host is told of that.
fn answer(mut said: Vec<u8>) -> (u8, Vec<u8>) {
    let rest = said.split_off(HEAD);
    match said[0] {
        kind::REFUSED if ran_out(&String::from_utf8_lossy(&rest)) => (kind::MEMORY, Vec::new()),
        kind => (kind, rest),
    }
}

/// Whether this is said for want of memory.
fn ran_out(text: &str) -> bool {
    text.contains("memory allocation of") || text.contains("Cannot allocate memory")
}

/// Whether a child that yields to others has had too little of them, this long after its start.
fn is_starved(child: libc::pid_t, age: Duration) -> bool {
    age >= limits::COMPILE_LOOK && time_of(child).is_some_and(|time| time * limits::COMPILE_SHARE < age)
}

// === impl Request ===

impl Request {
    /// When its child is ended whatever it does.
    fn until(&self) -> Instant {
        let now = Instant::now();
        // A limit that nobody lives to see is none.
        now.checked_add(self.limits.wall()).unwrap_or(now + limits::FOR_EVER)
    }
}

// === impl Ended ===

impl Ended {
    /// What the host is told.
    fn answer(self, limits: &CompileLimits) -> (u8, Vec<u8>) {
        if self.status.signal() == Some(libc::SIGXCPU) || self.time >= limits.time {
            return (kind::TIME, Vec::new());
        }
        if ran_out(&self.last_words) {
            return (kind::MEMORY, Vec::new());
        }
        let ended = match self.status.signal() {
            Some(signal) => format!("the process that compiled it was ended by signal {signal}"),
            None => format!("the process that compiled it ended with {}", self.status.code().unwrap_or_default()),
        };
        let last_words = self.last_words.trim();
        let text = if last_words.is_empty() { ended } else { format!("{ended}, after it said: {last_words}") };
        (kind::DIED, text.into_bytes())
    }
}
