//! Who is measured, and how each is started.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::{env, fmt};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use redis::{Connection, Value};
use tempfile::TempDir;

use crate::native::Native;
use crate::stream::{PREFIX, Stream, TOPIC, key};

/// Entries per read of the bare loop: beyond this its rate no longer grows.
const BARE_BATCH: u64 = 200;
/// Events that the Python consumer handles in a round: some seconds, as the others take with the whole stream.
const PYTHON_EVENTS: u64 = 10_000;
/// The end of a log that an error message shows.
const LOG_TAIL: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Contender {
    /// XREADGROUP and XACK in a loop, nothing decoded, nothing called.
    Bare,
    /// The same loop; each event is decoded and given to a function.
    Native,
    /// `sandbar run` with a handler that does nothing, in a fresh instance for each event.
    NoopFresh,
    /// The Python consumer with a receiver that does nothing, logging off.
    Python,
}

/// What the contenders need besides the stream.
pub(crate) struct Paths {
    root: PathBuf,
    sandbar: Option<OsString>,
    guests: Option<OsString>,
    python: Option<OsString>,
}

/// A contender at work. Dropping it ends it.
pub(crate) enum Running {
    Thread(Option<JoinHandle<Result<()>>>),
    Process { child: Child, dir: TempDir },
}

// === impl Contender ===

impl Contender {
    /// Events per second in one drain of the stream, by a group of its own.
    pub(crate) fn measure(self, paths: &Paths, stream: &Stream<'_>, round: usize) -> Result<f64> {
        let group = format!("{self}-{round}");
        let mut target = stream.length;
        let mut running = match self {
            Self::Bare => looping(stream, &group, drain)?,
            Self::Native => {
                let mut native = Native::load(&paths.root)?;
                looping(stream, &group, move |connection, group| native.drain(connection, group))?
            }
            Self::NoopFresh => noop(paths, stream, &group)?,
            Self::Python => {
                target = target.min(PYTHON_EVENTS);
                python(paths, stream, &group)?
            }
        };
        stream.watch(&group, target, &mut running)
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Bare => "bare XREADGROUP COUNT 200 / XACK loop in Rust",
            Self::Native => "the same loop, decoding, and a native function instead of a sandbox",
            Self::NoopFresh => "Sandbar, no-op Rust handler, fresh instance per event",
            Self::Python => "Python consumer, no-op receiver, logging off",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::Native => "native",
            Self::NoopFresh => "noop_fresh",
            Self::Python => "python",
        })
    }
}

// === impl Paths ===

impl Paths {
    /// As `make bench` sets them.
    pub(crate) fn from_env(root: &Path) -> Result<Self> {
        Ok(Self {
            root: root.canonicalize()?,
            sandbar: env::var_os("SANDBAR_BIN"),
            guests: env::var_os("SANDBAR_GUESTS"),
            python: env::var_os("SANDBAR_PYTHON"),
        })
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The host's binary.
    pub(crate) fn sandbar(&self) -> Result<&Path> {
        self.sandbar.as_deref().map(Path::new).context("SANDBAR_BIN is not set: run `make bench`")
    }

    /// The directory of the built guests.
    pub(crate) fn guests(&self) -> Result<&Path> {
        self.guests.as_deref().map(Path::new).context("SANDBAR_GUESTS is not set: run `make bench`")
    }

    /// The interpreter that has the Python event bus.
    pub(crate) fn python(&self) -> Result<&Path> {
        self.python.as_deref().map(Path::new).context("SANDBAR_PYTHON is not set: run `make bench`")
    }
}

// === impl Running ===

impl Running {
    fn start(command: &mut Command, dir: TempDir) -> Result<Self> {
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

    /// Fails if it has ended, which is always too early.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self {
            // That it is through shows in what it has acknowledged; here only a failure matters.
            Self::Thread(thread) => match thread.take_if(|thread| thread.is_finished()) {
                Some(thread) => thread.join().unwrap_or_else(|_| bail!("the thread panicked")),
                None => Ok(()),
            },
            Self::Process { child, dir } => {
                let Some(status) = child.try_wait()? else { return Ok(()) };
                let log = fs::read_to_string(log_of(dir)).unwrap_or_default();
                let tail = log.get(log.len().saturating_sub(LOG_TAIL)..).unwrap_or(&log);
                bail!("it ended too early ({status}):\n{tail}")
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Process { child, .. } = self {
            // The group is drained and thrown away: there is nothing to end gracefully.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn log_of(dir: &TempDir) -> PathBuf {
    dir.path().join("log")
}

/// A loop in a thread of this process.
fn looping(
    stream: &Stream<'_>,
    group: &str,
    mut drain: impl FnMut(&mut Connection, &str) -> Result<()> + Send + 'static,
) -> Result<Running> {
    let mut connection = stream.server.connect()?;
    redis::cmd("XGROUP").arg("CREATE").arg(key()).arg(group).arg("0").exec(&mut connection)?;
    let group = group.to_owned();
    Ok(Running::Thread(Some(thread::spawn(move || drain(&mut connection, &group)))))
}

/// Acknowledges what it has read and reads on in one write, until nothing is left.
fn drain(connection: &mut Connection, group: &str) -> Result<()> {
    let mut done: Vec<Vec<u8>> = Vec::new();
    while let Some(reply) = acknowledge_and_read(connection, group, &done)? {
        done = ids(reply).context("XREADGROUP answered in another shape")?;
    }
    Ok(())
}

/// One round trip; `None` when nothing is left.
pub(crate) fn acknowledge_and_read(
    connection: &mut Connection,
    group: &str,
    done: &[Vec<u8>],
) -> Result<Option<Value>> {
    let mut batch = redis::pipe();
    if !done.is_empty() {
        batch.cmd("XACK").arg(key()).arg(group).arg(done).ignore();
    }
    batch.cmd("XREADGROUP").arg("GROUP").arg(group).arg("loop").arg("COUNT").arg(BARE_BATCH);
    batch.arg("STREAMS").arg(key()).arg(">");
    let (reply,): (Value,) = batch.query(connection)?;
    Ok((reply != Value::Nil).then_some(reply))
}

/// The entries in the answer to a read of one stream, `[[key, [[id, fields], …]]]`. The client library's own type for it
/// would put every field into a map first.
pub(crate) fn entries(reply: Value) -> Option<Vec<Value>> {
    let only_stream = reply.into_sequence().ok()?.into_iter().next()?;
    only_stream.into_sequence().ok()?.into_iter().nth(1)?.into_sequence().ok()
}

/// The ids of all entries read.
fn ids(reply: Value) -> Option<Vec<Vec<u8>>> {
    let id = |entry: Value| match entry.into_sequence().ok()?.into_iter().next()? {
        Value::BulkString(id) => Some(id),
        _ => None,
    };
    entries(reply)?.into_iter().map(id).collect()
}

fn noop(paths: &Paths, stream: &Stream<'_>, group: &str) -> Result<Running> {
    let sandbar = paths.sandbar()?;
    let module = paths.guests()?.join("noop.wasm");
    ensure!(module.exists(), "{} is missing: run `make guests`", module.display());

    let dir = tempfile::tempdir()?;
    let mut config = String::new();
    // Debug of a Rust string is a TOML basic string for the characters that occur in paths and URLs.
    writeln!(config, "[bus]\nurl = {:?}\ntopic_prefix = {PREFIX:?}\nprofile = \"openedx\"", stream.server.url())?;
    writeln!(config, "[schemas]\ndirs = [{:?}]", paths.root.join("schemas/openedx"))?;
    writeln!(
        config,
        "[[handler]]\nname = {group:?}\nmodule = {module:?}\ntopics = [{TOPIC:?}]\nstart = \"beginning\""
    )?;
    let file = dir.path().join("sandbar.toml");
    fs::write(&file, config)?;
    Running::start(Command::new(sandbar).arg("run").arg("-c").arg(file), dir)
}

fn python(paths: &Paths, stream: &Stream<'_>, group: &str) -> Result<Running> {
    Running::start(
        Command::new(paths.python()?)
            .arg(paths.root.join("tests/peers/consume.py"))
            .args(["--url", &stream.server.url(), "--prefix", PREFIX, "--topic", TOPIC, "--group", group])
            .args(["--quiet", "--seconds", "120"]),
        tempfile::tempdir()?,
    )
}
