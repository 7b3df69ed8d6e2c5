//! Reads file and environment and joins the settings that each step owns.
//!
//! What is wrong is all said at once, each with its line ([`Problems`]); a key that is not known is refused. In order
//! of precedence: `SANDBAR_TABLE__KEY` in the environment, the file, the Python event bus's names in the environment
//! (`EVENT_BUS_…`), defaults. Relative paths are relative to the directory of the file. `docs/config.md` is the
//! reference, `docs/sandbar.toml` the commented sample.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use crate::bus;
use crate::decode;
use crate::sandbox;
use crate::telemetry;
use crate::wire;

mod environment;
mod grants;
mod handler;
mod http;
mod keys;
mod outage;
mod problem;
mod safety;
mod secrets;
mod section;
mod tree;
mod trust;
mod units;

pub use environment::Environment;
pub use handler::{HandlerConfig, PayloadForm, Places};
pub use outage::DeadLetterCap;
pub use problem::{Place, Problem, Problems};
pub use secrets::{HandlerSecrets, SecretSources};
pub use units::{duration, start};

use problem::Collector;
use section::Section;
use tree::Table;

/// Everything that the file and the environment say.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from, as the user named it.
    pub path: PathBuf,
    /// Where the bus is.
    pub bus: bus::Settings,
    /// Where `bus.url` was set.
    pub bus_place: Place,
    /// How events are written on it.
    pub profile: wire::Profile,
    /// Where schemas come from, and `host.max_payload`.
    pub schemas: decode::Settings,
    /// Where `schemas` was set.
    pub schemas_place: Place,
    /// What concerns the whole process.
    pub host: Host,
    /// Where the secrets of handlers come from.
    pub secrets: SecretSources,
    /// The handlers to run, in the order of the file.
    pub handlers: Vec<HandlerConfig>,
    /// Handlers with `enabled = false`: not run, but `status` and `dlq` know them.
    pub disabled: Vec<HandlerConfig>,
}

/// What concerns the whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Threads that call guests; 0 for one per core.
    pub threads: usize,
    /// How long a drain may take before what is in hand is given back.
    pub grace: Duration,
    /// How the source header names this service: `openedx/SERVICE/web`.
    pub service: String,
    /// The longest wait of one read from an idle bus.
    pub poll_timeout: Duration,
    /// When false, `run` says so and ends.
    pub consumers_enabled: bool,
    /// `run` ends after so many failures in a row: reads that failed, or events that were not handled.
    pub consecutive_errors_limit: Option<u32>,
    /// Seeds the random numbers of handlers; made up at each start if there is none.
    pub secret: Option<sandbox::Secret>,
    /// Who may sign modules, where a handler does not say otherwise; `None`: nobody has to.
    pub trusted_keys: Option<Vec<sandbox::TrustedKey>>,
    /// Where the running host listens for commands.
    pub control: ControlSocket,
    /// Where compiled modules are kept for later starts, if anywhere.
    pub code_cache: Option<PathBuf>,
    /// Authorities that handlers' requests trust, beside the system's: a file of certificates in PEM.
    pub http_ca_file: Option<PathBuf>,
    /// How far compiling a module may go, in a process of its own.
    pub compile: sandbox::CompileLimits,
    /// Where modules are compiled. No file says it: programs that have a second process to compile in put it here.
    pub compiling: sandbox::Compiling,
    /// What makes the processes of isolated handlers. No file says it either.
    pub isolator: Option<sandbox::Isolator>,
    /// Whether the host, once started, gives up whatever serving does not need.
    pub hardening: bool,
    /// What is logged and how.
    pub log: telemetry::Settings,
}

/// Where a running host listens for commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControlSocket {
    /// In a directory of this user's, under a name made of the configuration's path and the process.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// Here.
    At(PathBuf),
}

/// Room for every call in hand to finish at the default time limit, with retries to store, and within the time that
/// Kubernetes and systemd grant by default (30 s and 90 s).
const GRACE: Duration = Duration::from_secs(30);

/// Open edX's rule is 64 KiB and nobody enforces it; the largest events seen are some 100 KiB.
const MAX_PAYLOAD: u64 = 1 << 20;

/// What Redis and SQLite take in one value; more would not come back.
const MOST_PAYLOAD: u64 = 512 << 20;

/// Long enough that an idle host does next to nothing, short enough that a half-open connection is noticed.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);

/// Threads beyond this are a slip of the keyboard.
const MOST_THREADS: u64 = 1024;

/// With less no thread of a compiler could start.
const LEAST_COMPILE_MEMORY: u64 = 64 << 20;

/// Bytes of a secret at least: shorter ones can be found by trying.
const LEAST_SECRET: usize = 16;

/// The release of openedx-events that the built-in schemas are of: the `sourcelib` header.
const SOURCE_LIB: &str = "11.2.0";

const TAKES_URL: &str = "\"sqlite:PATH\", \"redis://HOST:PORT/DB\", \"rediss://…\", \"unix://…\", \
                         \"redis+sentinel://HOST:PORT,HOST:PORT/MASTER\" or \"redis+cluster://HOST:PORT,HOST:PORT\"";

const SCHEMES: [&str; 8] =
    ["sqlite", "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, Problems> {
        match inspect(path, environment) {
            (Some(config), Problems(found)) if found.is_empty() => Ok(config),
            (_, problems) => Err(problems),
        }
    }

    /// All handlers, those that are not enabled last.
    pub fn all_handlers(&self) -> impl Iterator<Item = &HandlerConfig> {
        self.handlers.iter().chain(&self.disabled)
    }

    /// What events published by this host are signed with.
    #[must_use]
    pub fn identity(&self) -> wire::Identity {
        wire::Identity {
            source: format!("openedx/{}/web", self.host.service),
            host: host_name(),
            lib: SOURCE_LIB.to_owned(),
        }
    }

    /// Something that is wrong with a setting for a reason only found later: a module that does not load, say.
    #[must_use]
    pub fn problem(&self, place: &Place, message: impl Into<String>) -> Problem {
        Problem { file: self.path.clone(), place: place.clone(), message: message.into() }
    }
}

/// Reads a configuration and says what is wrong with it, going on with what is right as far as possible: for `check`.
/// Without a usable `bus.url` the URL is empty; handlers without name, module or topics are left out.
#[must_use]
pub fn inspect(path: &Path, environment: &Environment) -> (Option<Config>, Problems) {
    let mut problems = Collector::new(path);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.add(&Place::File, unreadable(&error));
            return (None, problems.finish());
        }
    };
    let mut tree = tree::parse(&text, &mut problems);
    if !problems.is_empty() {
        // After a syntax error the parser's guesses would be reported as the user's faults.
        return (None, problems.finish());
    }
    environment::lay_under(&mut tree, environment, &mut problems);
    environment::lay_over(&mut tree, environment, &mut problems);
    let config = read(path, tree, environment, &mut problems);
    (Some(config), problems.finish())
}

/// This machine's name, as the kernel has it.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file: name it with --config or SANDBAR_CONFIG (docs/sandbar.toml is a sample)".to_owned()
        }
        io::ErrorKind::InvalidData => "the file is not UTF-8".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}

fn read(path: &Path, mut tree: Table, environment: &Environment, problems: &mut Collector) -> Config {
    let directory = path.parent().unwrap_or(Path::new(""));

    let mut section = Section::below(&mut tree, "bus", &keys::BUS, problems);
    let given = section.holds("url");
    let url = section.get("url", TAKES_URL, |node| node.as_string().filter(|url| known_scheme(url)).map(str::to_owned));
    let topic_prefix = section.string("topic_prefix").filter(|found| !found.value.is_empty());
    if let Some(prefix) = &topic_prefix
        && !handler::is_prefix(&prefix.value)
    {
        section.problem(&prefix.place, handler::not_a_topic("topic_prefix in [bus]", &prefix.value));
    }
    let profile = section.word("profile", &[("openedx", wire::Profile::OpenEdx)], wire::Profile::OpenEdx);
    let sqlite = url.as_ref().is_some_and(|url| url.value.starts_with("sqlite:"));
    let safety = safety::read(&mut section, sqlite);
    if !given {
        let place = section.place().clone();
        section.problem(&place, "`url` is missing in [bus]: say where the bus is, such as url = \"sqlite:events.db\" or \"redis://127.0.0.1:6379/0\"");
    }
    let section_place = section.place().clone();
    section.finish();
    let bus_place = url.as_ref().map_or_else(|| section_place, |url| url.place.clone());
    let bus = bus::Settings {
        url: url.map(|url| resolve_url(&url.value, directory)).unwrap_or_default(),
        topic_prefix: topic_prefix.map(|found| found.value),
        stream_max_len: safety.stream_max_len,
        trim: safety.trim,
        durability: safety.durability,
    };

    let mut section = Section::below(&mut tree, "schemas", &keys::SCHEMAS, problems);
    let schemas_place = section.place().clone();
    let dirs = section.strings("dirs").map_or_else(Vec::new, |found| found.value);
    let dirs = dirs.into_iter().map(|dir| directory.join(dir.value)).collect();
    let builtin = section.boolean("builtin", true);
    section.finish();

    let mut section = Section::below(&mut tree, "host", &keys::HOST, problems);
    let max_payload = section.size("max_payload", 1, MOST_PAYLOAD, "from 1 byte to 512MiB").unwrap_or(MAX_PAYLOAD);
    let consumer = section
        .get("consumer_name", "a name of letters, digits, `.`, `_` and `-`", |node| {
            node.as_string().filter(|name| handler::is_name(name)).map(str::to_owned)
        })
        .map_or_else(|| "sandbar".to_owned(), |found| found.value);
    let host = host(&mut section, directory, environment);
    section.finish();

    let defaults = handler::Defaults { directory, consumer: &consumer, trusted: host.trusted_keys.as_deref(), sqlite };
    let all = handler::read_all(tree.take("handler"), &defaults, problems);
    let asked = all.iter().flat_map(|(_, handler)| handler.spec.grants.secrets.names());
    let secrets = secrets::read(&mut tree, directory, environment, asked, problems);
    Section::new("", &keys::ROOT, tree, Place::File, problems).finish();

    let (handlers, disabled) = all.into_iter().partition(|(enabled, _)| *enabled);
    let strip = |all: Vec<(bool, HandlerConfig)>| all.into_iter().map(|(_, handler)| handler).collect();
    Config {
        path: path.to_owned(),
        bus,
        bus_place,
        profile,
        schemas: decode::Settings { dirs, builtin, max_payload: usize::try_from(max_payload).unwrap_or(usize::MAX) },
        schemas_place,
        host,
        secrets,
        handlers: strip(handlers),
        disabled: strip(disabled),
    }
}

fn host(section: &mut Section<'_>, directory: &Path, environment: &Environment) -> Host {
    let threads = section.number("threads", 0, MOST_THREADS).unwrap_or(0);
    let limit = section.number("consecutive_errors_limit", 0, u64::from(u32::MAX)).unwrap_or(0);
    Host {
        threads: usize::try_from(threads).unwrap_or(0),
        grace: section.duration("grace", "0s").map_or(GRACE, |found| found.value),
        service: section
            .get("service", "a name without spaces or slashes", |node| {
                let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
                node.as_string().filter(|name| !name.is_empty() && name.chars().all(good)).map(str::to_owned)
            })
            .map_or_else(|| "sandbar".to_owned(), |found| found.value),
        poll_timeout: section.duration("poll_timeout", "10ms").map_or(POLL_TIMEOUT, |found| found.value),
        consumers_enabled: section.boolean("consumers_enabled", true),
        consecutive_errors_limit: u32::try_from(limit).ok().filter(|limit| *limit > 0),
        secret: secret(section),
        trusted_keys: trust::keys(section, directory),
        control: control(section, directory),
        code_cache: code_cache(section, directory, environment),
        http_ca_file: section
            .string("http_ca_file")
            .filter(|found| !found.value.is_empty())
            .map(|found| directory.join(found.value)),
        compile: compile(section),
        compiling: sandbox::Compiling::default(),
        isolator: None,
        hardening: section.word("hardening", &[("on", true), ("off", false)], true),
        log: log(section),
    }
}

fn control(section: &mut Section<'_>, directory: &Path) -> ControlSocket {
    let takes = "the path of a socket, or false for none";
    let read = |node: &tree::Node| match (node.as_boolean(), node.as_string()) {
        (Some(true), _) => Some(ControlSocket::Default),
        (Some(false), _) => Some(ControlSocket::Off),
        (None, Some(path)) if !path.is_empty() => Some(ControlSocket::At(directory.join(path))),
        _ => None,
    };
    section.get("control", takes, read).map(|found| found.value).unwrap_or_default()
}

fn code_cache(section: &mut Section<'_>, directory: &Path, environment: &Environment) -> Option<PathBuf> {
    let ordinary = || {
        // The specification of XDG has relative paths ignored; an account without a home has no caches.
        let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute(environment::XDG_CACHE_HOME);
        let caches = caches.or_else(|| absolute(environment::HOME).map(|home| home.join(".cache")))?;
        Some(caches.join("sandbar/code"))
    };
    let read = |node: &tree::Node| match (node.as_boolean(), node.as_string()) {
        (Some(true), _) => Some(ordinary()),
        (Some(false), _) => Some(None),
        (None, Some(path)) if !path.is_empty() => Some(Some(directory.join(path))),
        _ => None,
    };
    let found = section.get("code_cache", "the path of a directory, or false for none", read);
    found.map_or_else(ordinary, |found| found.value)
}

fn compile(section: &mut Section<'_>) -> sandbox::CompileLimits {
    let default = sandbox::CompileLimits::default();
    sandbox::CompileLimits {
        time: section.duration("compile_time", "1s").map_or(default.time, |found| found.value),
        memory: section
            .size("compile_memory", LEAST_COMPILE_MEMORY, u64::MAX >> 1, "of 64MiB or more")
            .unwrap_or(default.memory),
    }
}

/// Not by [`Section::get`], which shows the value that it refuses.
fn secret(section: &mut Section<'_>) -> Option<sandbox::Secret> {
    let node = section.take("secret")?;
    match node.as_string() {
        Some("") => None,
        Some(text) if text.len() >= LEAST_SECRET => Some(sandbox::Secret::new(text.as_bytes())),
        _ => {
            let takes = format!("a string of {LEAST_SECRET} bytes or more, such as `openssl rand -hex 32` prints");
            section.problem(&node.place, format!("`secret` in [host] is not shown here: it takes {takes}"));
            None
        }
    }
}

fn log(section: &mut Section<'_>) -> telemetry::Settings {
    let mut section = section.inner("log", &keys::LOG);
    let mut log = telemetry::Settings::default();
    if let Some(level) = section.string("level") {
        match telemetry::check_level(&level.value) {
            Ok(()) => log.level = level.value,
            Err(error) => section.problem(&level.place, error),
        }
    }
    let formats = [("text", telemetry::Format::Text), ("json", telemetry::Format::Json)];
    log.format = section.word("format", &formats, log.format);
    section.finish();
    log
}

fn known_scheme(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty())
}

/// A file of the embedded bus lies beside the configuration, wherever the process was started.
fn resolve_url(url: &str, directory: &Path) -> String {
    match url.strip_prefix("sqlite:") {
        Some(path) if !path.starts_with(['/', ':']) => format!("sqlite:{}", directory.join(path).display()),
        _ => url.to_owned(),
    }
}
