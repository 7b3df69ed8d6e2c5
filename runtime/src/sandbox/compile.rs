//! Compiling: in this process, or in one that can do nothing else.
//!
//! A compiler is a large program that is fed whatever a stranger wrote. [`Compiler`] is a process beside the host that
//! has none of its memory, files, connections or secrets, and from which each module gets a process of its own, with
//! bounds on time and memory (`server`). What comes back over its socket is code that this process will run: nothing here
//! can tell good code from bad. So the child is trusted to compile, and what it is denied is what a module that takes the
//! compiler over would want next: it cannot reach anything but the host's answer, it gains nothing for later modules, and
//! it cannot keep the host from going on. SECURITY.md says what remains.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::Component;

use super::beside::{Beside, Patience, Role, Starter};
use super::confine;
use super::launch::Launcher;
use super::modules::{LoadError, chain, refused};
use super::{call, limits};

pub(super) mod cell;
mod server;

pub use server::serve;

/// What a program is started with to become a [`Compiler`].
pub const COMMAND: &str = "compile-server";

/// Where modules are compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiling {
    /// In this process, on the thread that loads. Nothing bounds it but what is refused beforehand: for modules whose
    /// makers are trusted, and for programs that have no second process.
    #[default]
    InProcess,
    /// In a child of this compiler.
    InChild(Compiler),
}

/// How far compiling one module may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Time of all processors together.
    pub time: Duration,
    /// Bytes of address space, beside what the program itself takes.
    pub memory: u64,
}

/// What compiles: a process, or some if several modules are compiled at once. Cloning shares it; they end with the last
/// clone, or with this process.
#[derive(Clone)]
pub struct Compiler {
    inner: Arc<Inner>,
}

struct Inner {
    /// One for each module that is compiled at the same time; never none.
    besides: Vec<Beside>,
    limits: CompileLimits,
    yields: AtomicBool,
}

/// The first byte of whatever the other side says.
mod kind {
    /// The process is ready. Text: which measures are not in force.
    pub(super) const READY: u8 = 0;
    /// Bytes: the code.
    pub(super) const COMPILED: u8 = 1;
    /// Text: what the compiler says against it.
    pub(super) const REFUSED: u8 = 2;
    /// It took too long.
    pub(super) const TIME: u8 = 3;
    /// It took too much memory.
    pub(super) const MEMORY: u8 = 4;
    /// Text: how the child ended without an answer.
    pub(super) const DIED: u8 = 5;
}

/// What goes to the other side before a module's bytes: nanoseconds, bytes of memory, whether it yields to others, bytes
/// that follow.
type Header = [u64; 4];

/// Bytes before what the other side says: its kind, and how many follow.
const HEAD: usize = 9;

/// Beyond what a module may take, for the processes themselves.
const SLACK: Duration = Duration::from_secs(30);

// === impl CompileLimits ===

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: limits::COMPILE_TIME, memory: limits::COMPILE_MEMORY }
    }
}

impl CompileLimits {
    /// When a child is ended that takes no processor time either.
    fn wall(&self) -> Duration {
        self.time.saturating_mul(limits::COMPILE_WALL)
    }
}

// === impl Compiling ===

impl Compiling {
    /// From now on something is served, which what is compiled must not keep waiting: it gets the processor's time that
    /// nobody else wants. At the start of a host nobody else is there, and it is waited for.
    pub fn yield_to_others(&self) {
        if let Self::InChild(compiler) = self {
            compiler.inner.yields.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing is compiled now, and what follows is likely to come one by one: of several processes one is enough.
    pub(super) fn one_by_one(&self) {
        if let Self::InChild(compiler) = self {
            compiler.inner.besides[1..].iter().for_each(Beside::end);
        }
    }

    /// Makes a component's code.
    pub(super) fn compile(&self, engine: &Engine, wasm: &[u8]) -> Result<Component, LoadError> {
        match self {
            Self::InProcess => Component::from_binary(engine, wasm).map_err(|error| refused(chain(&error))),
            Self::InChild(compiler) => {
                let code = compiler.compile(wasm)?;
                load(engine, &code).map_err(|error| refused(chain(&error)))
            }
        }
    }
}

fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes came over a socket whose other end only the process has that this one started from a program of
    // its user's choice, and are what `precompile_component` of the same version of that program gave there, or what a
    // module made of the compiler's process if it took it over. Nobody can check the latter: that it is not so is what is
    // trusted. wasmtime itself refuses code of another version of its own, of other settings, or for another processor.
    unsafe { Component::deserialize(engine, code) }
}

// === impl Compiler ===

impl Compiler {
    /// Starts one. `program` must call [`serve`] when it is started with the one argument [`COMMAND`]; `sandbar` does.
    /// It inherits neither environment nor descriptors, and does not wait for anything here. If it is lost another one is
    /// started.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn start(program: &Path, limits: CompileLimits) -> io::Result<Self> {
        let compiler = Self::new(Starter::Here(program.to_owned()), limits);
        compiler.inner.besides[0].start()?;
        Ok(compiler)
    }

    /// The same, started when it is first needed, and not by this process.
    #[must_use]
    pub fn by(launcher: &Launcher, limits: CompileLimits) -> Self {
        Self::new(Starter::Launcher(launcher.clone()), limits)
    }

    /// Starts it now, and by this process: there is code to make, and what it is made with gets ready meanwhile. If it cannot be
    /// started here, it is when it is needed.
    pub fn get_ready(&self, program: &Path) {
        if let Err(error) = self.inner.besides[0].start_by(&Starter::Here(program.to_owned())) {
            tracing::debug!(%error, "the compiler's process cannot be started yet");
        }
    }

    fn new(starter: Starter, limits: CompileLimits) -> Self {
        let patience = Patience { hear: SLACK, answer: limits.wall().saturating_add(SLACK) };
        let most = available_parallelism().map_or(1, usize::from).min(limits::COMPILERS.into());
        let numbers = (0..limits::COMPILERS).take(most);
        let besides = numbers.map(|number| Beside::new(Role::Compile(number), starter.clone(), patience)).collect();
        Self { inner: Arc::new(Inner { besides, limits, yields: AtomicBool::new(false) }) }
    }

    /// Its processes, for whoever looks at them from outside: those that were started and not ended since.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.inner.besides.iter().filter_map(Beside::id).collect()
    }

    /// Compiles a component, at the same time as others.
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        let Inner { besides, limits, yields } = &*self.inner;
        let ask = |link: &mut UnixStream| ask(link, limits, yields.load(Ordering::Relaxed), wasm);
        let answer = Beside::ask_one_of(besides, greet, ask);
        let (kind, answer) =
            answer.map_err(|error| LoadError::Compiler(format!("the compiler's process is lost: {error}")))?;
        match kind {
            kind::COMPILED => Ok(answer),
            kind::REFUSED => Err(refused(text_of(&answer))),
            kind::TIME => Err(LoadError::CompileTime {
                limit: format!("{:?}", limits.time),
                more: format!("{}s", limits.time.as_secs().max(1).saturating_mul(2)),
            }),
            kind::MEMORY => Err(LoadError::CompileMemory {
                limit: call::mebibytes(limits.memory),
                more: call::mebibytes(limits.memory.saturating_mul(2)),
            }),
            _ => Err(LoadError::Compiler(text_of(&answer))),
        }
    }
}

impl PartialEq for Compiler {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Compiler {}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// Confines this process as one that compiles a module, for good: to see what is left to it.
///
/// # Errors
///
/// If the kernel refuses one of the measures.
pub fn confine_as_compiler(limits: &CompileLimits) -> Result<(), confine::Error> {
    let own = server::address_space();
    let missing = cell::serve()?;
    cell::compile(limits.time, own.saturating_add(limits.memory), !missing.contains(&"no seccomp"))
}

/// What a new one says first.
fn greet(link: &mut impl Read) -> io::Result<()> {
    let (kind, text) = hear(link)?;
    if kind != kind::READY {
        return Err(io::Error::other(text_of(&text)));
    }
    if !text.is_empty() {
        tracing::warn!("the compiler's process is less confined than it could be: {}", text_of(&text));
    }
    Ok(())
}

fn ask(link: &mut (impl Read + Write), limits: &CompileLimits, yields: bool, wasm: &[u8]) -> io::Result<(u8, Vec<u8>)> {
    let time = u64::try_from(limits.time.as_nanos()).unwrap_or(u64::MAX);
    let header: Header = [time, limits.memory, u64::from(yields), wasm.len() as u64];
    for number in header {
        link.write_all(&number.to_ne_bytes())?;
    }
    link.write_all(wasm)?;
    hear(link)
}

/// Reads what the other side says: a byte, a length, and so many bytes.
fn hear(link: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEAD];
    link.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = u64::from_ne_bytes(length);
    if length > limits::COMPILED_BYTES {
        return Err(io::Error::other(format!("it has {length} bytes to say")));
    }
    let mut said = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    link.take(length).read_to_end(&mut said)?;
    if said.len() as u64 == length { Ok((kind, said)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Says it.
fn tell(link: &mut File, kind: u8, said: &[u8]) -> io::Result<()> {
    link.write_all(&[kind])?;
    link.write_all(&(said.len() as u64).to_ne_bytes())?;
    link.write_all(said)
}

/// What another process says, for a log or an error.
fn text_of(said: &[u8]) -> String {
    super::text::line(&String::from_utf8_lossy(said), limits::REASON_BYTES)
}
