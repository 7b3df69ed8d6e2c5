//! The commands, one file each, and what they share: options, exit codes, how an error is told.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sandbar::bus::{self, Bus};
use sandbar::config::{Config, Environment, HandlerConfig, Problems};
use sandbar::decode::Decoder;
use sandbar::sandbox::{self, Compiler, Compiling, Isolator};
use sandbar::telemetry;

mod check;
mod codec;
mod demo;
mod dlq;
mod documents;
mod harden;
mod inspect;
mod out;
mod probe;
mod publish;
mod replay;
mod run;
mod socket;
mod status;
mod steer;
mod swap;
mod test;
mod versions;

/// Runs event handlers in WebAssembly sandboxes over a message bus.
///
/// Exit codes: 0 done; 1 unexpected; 2 wrong use or configuration; 3 the bus cannot be reached or refuses the
/// credentials; 4 refused to start (a module that does not load, a key of the wrong type, foreign consumers); 5 the
/// drain was cut short; 6 too many failures in a row, or some in a replay or a
/// test.
#[derive(Debug, Parser)]
#[command(name = "sandbar", version, color = clap::ColorChoice::Never, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the handlers until SIGTERM or SIGINT; a second signal ends at once
    Run(run::Args),
    /// Publish events: JSON documents from a file or stdin, encoded and put on the bus
    Publish(publish::Args),
    /// Say everything that is wrong with configuration, modules, schemas and bus
    Check(check::Args),
    /// Say what a component is and what it asks for, without compiling it
    Inspect(inspect::Args),
    /// Run a component's fixtures in the sandbox, without a bus
    Test(test::Args),
    /// Show how far each handler is on each of its topics
    Status(status::Args),
    /// Let handlers read and call nothing until they are resumed, on every host of this file on this machine
    Pause(steer::Args),
    /// Let handlers that are paused go on
    Resume(steer::Args),
    /// Have a handler served by another component from the next call on, on all hosts of its group
    Swap(swap::Swap),
    /// Undo a handler's last swap, on all hosts of its group
    Rollback(swap::Rollback),
    /// Show which components handlers were to run, since when, and who asked
    Versions(versions::Args),
    /// Run history through a handler beside its group, which takes no notice
    Replay(replay::Args),
    /// List, show, send again or delete dead letters
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Run sample events through the example handlers on an embedded bus, and tell what happened to each
    Demo(demo::Args),
    /// Read one Avro datum from stdin and print its JSON
    Decode(codec::Args),
    /// Read one JSON document from stdin and write its Avro datum to stdout
    Encode(codec::Args),
    /// Compile modules for the process that started this one
    #[command(name = sandbox::COMPILER_COMMAND, hide = true)]
    CompileServer,
    /// Make the processes in which the calls of isolated handlers run
    #[command(name = sandbox::ISOLATOR_COMMAND, hide = true)]
    IsolateServer,
    /// Start the processes above for a host that starts none itself
    #[command(name = sandbox::LAUNCHER_COMMAND, hide = true)]
    LaunchServer,
    /// Try what a confined process must not be able to do
    #[command(hide = true)]
    Probe(probe::Args),
}

/// A command that is ready to run, or that is done.
#[derive(Debug)]
pub(crate) enum Prepared {
    Done(Exit),
    Work(Work),
}

/// What is left to do once there are threads.
#[derive(Debug)]
pub(crate) struct Work(Todo);

#[derive(Debug)]
enum Todo {
    /// The host, which has confined itself.
    Host(Box<run::Ready>),
    Command(Box<Command>),
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "sandbar.toml", env = "SANDBAR_CONFIG")]
    config: PathBuf,
}

/// Not by the name it was started with, under which there may be another program by now.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or stopped as asked.
    Clean = 0,
    /// What nobody foresaw.
    Unexpected = 1,
    /// Wrong use, configuration or input.
    Usage = 2,
    /// The bus cannot be reached or refuses the credentials.
    Bus = 3,
    /// Something makes it wrong to start.
    Refused = 4,
    /// The drain took longer than allowed, or a second signal ended it.
    Drain = 5,
    /// Too many failures in a row, or some in a replay.
    Failures = 6,
}

/// Why a command did not succeed: one error, or all that are wrong at once.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    errors: Vec<anyhow::Error>,
}

// === impl Cli ===

impl Cli {
    /// Does what must be done while the process has one thread.
    pub(crate) fn prepare(self) -> Result<Prepared, Failure> {
        let todo = match self.command {
            Command::CompileServer => {
                sandbox::serve_compiler()?;
                return Ok(Prepared::Done(Exit::Clean));
            }
            Command::IsolateServer => {
                sandbox::serve_isolator()?;
                return Ok(Prepared::Done(Exit::Clean));
            }
            Command::LaunchServer => {
                sandbox::serve_launcher(Path::new(THIS_PROGRAM))?;
                return Ok(Prepared::Done(Exit::Clean));
            }
            Command::Probe(args) => return probe::run(&args).map(Prepared::Done),
            Command::Run(args) => match run::prepare(args)? {
                Some(ready) => Todo::Host(Box::new(ready)),
                None => return Ok(Prepared::Done(Exit::Clean)),
            },
            command => {
                // A command tells its errors itself; the handlers of the demo fail on purpose.
                let level = if matches!(command, Command::Demo(_)) { "off" } else { "error" };
                let quiet = telemetry::Settings { level: level.to_owned(), ..telemetry::Settings::default() };
                log_to_stderr(quiet)?;
                Todo::Command(Box::new(command))
            }
        };
        Ok(Prepared::Work(Work(todo)))
    }
}

// === impl Work ===

impl Work {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let command = match self.0 {
            Todo::Host(ready) => return run::run(*ready).await,
            Todo::Command(command) => *command,
        };
        match command {
            // None of them comes here.
            Command::Run(_)
            | Command::CompileServer
            | Command::IsolateServer
            | Command::LaunchServer
            | Command::Probe(_) => Ok(Exit::Clean),
            Command::Publish(args) => publish::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Inspect(args) => inspect::run(&args),
            Command::Test(args) => test::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Pause(args) => steer::run(args, steer::Wish::Pause).await,
            Command::Resume(args) => steer::run(args, steer::Wish::Resume).await,
            Command::Swap(args) => swap::swap(args).await,
            Command::Rollback(args) => swap::roll_back(args).await,
            Command::Versions(args) => versions::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Dlq(command) => dlq::run(command).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Decode(args) => codec::decode(args),
            Command::Encode(args) => codec::encode(args),
        }
    }
}

/// Sets logging up; the environment's level comes first.
fn log_to_stderr(mut settings: telemetry::Settings) -> Result<(), Failure> {
    if let Some(level) = Environment::of_process().get(telemetry::LEVEL_VARIABLE) {
        level.clone_into(&mut settings.level);
        telemetry::check_level(level).map_err(|error| {
            Failure::usage(anyhow::Error::new(error).context(format!("{} cannot be used", telemetry::LEVEL_VARIABLE)))
        })?;
    }
    telemetry::init(&settings).map_err(Failure::unexpected)
}

fn decoder(config: &Config) -> Result<Decoder, Failure> {
    Decoder::load(&config.schemas).map_err(|errors| Failure {
        exit: Exit::Usage,
        errors: errors.into_iter().map(|e| anyhow::anyhow!("{e}")).collect(),
    })
}

/// Starts the process in which the modules of this configuration are compiled: this program, once more.
fn compiler(config: &Config) -> Result<Compiling, Failure> {
    let started = Compiler::start(Path::new(THIS_PROGRAM), config.host.compile)
        .context("the compiler's process cannot be started");
    Ok(Compiling::InChild(started.map_err(Failure::unexpected)?))
}

/// Starts the process that makes those in which the calls of isolated handlers run, this program once more, if one of them is.
fn isolator_of(handlers: &[HandlerConfig]) -> Result<Option<Isolator>, Failure> {
    if !handlers.iter().any(|handler| handler.spec.isolated) {
        return Ok(None);
    }
    let started = Isolator::start(Path::new(THIS_PROGRAM));
    let started = started.context("the process that makes those of isolated handlers cannot be started");
    started.map(Some).map_err(Failure::unexpected)
}

async fn open(config: &Config) -> Result<Arc<dyn Bus>, Failure> {
    Ok(bus::open(&config.bus).await?)
}

// === impl ConfigArgs ===

impl ConfigArgs {
    fn path(&self) -> &std::path::Path {
        &self.config
    }

    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config, &Environment::of_process())?)
    }
}

// === impl Exit ===

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

// === impl Failure ===

impl Failure {
    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, errors: vec![error.into()] }
    }

    pub(crate) fn unexpected(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unexpected, error)
    }

    fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// One more thing to say.
    fn with(mut self, hint: &'static str) -> Self {
        self.errors.push(anyhow::anyhow!(hint));
        self
    }

    /// Tells every error and each of its causes once.
    pub(crate) fn report(self) -> ExitCode {
        for error in &self.errors {
            // Whoever reads stdout has seen enough.
            if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
                return Exit::Clean.into();
            }
            let mut told = vec![error.to_string()];
            out::note(format_args!("error: {error}"));
            for cause in error.chain().skip(1) {
                let text = cause.to_string();
                if !told.contains(&text) {
                    out::note(format_args!("  because: {text}"));
                    told.push(text);
                }
            }
        }
        self.exit.into()
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self { exit: Exit::Usage, errors: problems.0.into_iter().map(|problem| anyhow::anyhow!("{problem}")).collect() }
    }
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        Self::new(exit_of(&error), error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::unexpected(error)
    }
}

/// What trouble with the bus means for the exit code.
fn exit_of(error: &bus::Error) -> Exit {
    match error {
        bus::Error::Unreachable { .. }
        | bus::Error::Unavailable { .. }
        | bus::Error::NotDurable { .. }
        | bus::Error::Credentials { .. } => Exit::Bus,
        bus::Error::Foreign { .. } | bus::Error::WrongType { .. } => Exit::Refused,
        bus::Error::Settings(_) => Exit::Usage,
        bus::Error::Unexpected(_) => Exit::Unexpected,
    }
}
