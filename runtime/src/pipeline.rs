//! Joins the five steps: opens everything, runs one [`consumer`] per handler, drains.

mod backoff;
mod cap;
mod consumer;
mod control;
mod files;
mod fleet;
mod idle;
mod observe;
mod placing;
mod reload;
pub mod replay;
pub mod selftest;
mod services;
mod signing;
#[cfg(test)]
mod tests;
pub mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use control::{Control, Report, State, UnknownHandler};
pub use observe::{Observer, Outcome, Quiet, Record, Tally};
pub use reload::{NotReloaded, Reloaded};

use files::Files;
use fleet::Fleet;
use signing::Signer;
use versions::Maker;

use crate::bus::{self, Bus};
use crate::config::{self, Config, HandlerConfig};
use crate::decode::{self, Decoder};
use crate::dispatch::Order;
use crate::sandbox::{self, Sandbox, Workers};
use crate::wire;

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: only `shutdown` ends it.
    Shutdown,
    /// When every message of every topic is settled and none waits for a retry.
    Idle,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// One entry per handler, in the order of the configuration.
    pub handlers: Vec<Tally>,
    /// Why the run ended by itself, if it was not asked to.
    pub stopped: Option<Stopped>,
}

/// Why a run ended although nobody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A handler failed this many times in a row.
    ConsecutiveErrors {
        /// The handler.
        handler: String,
        /// The limit that was reached.
        count: u32,
    },
    /// The drain took longer than `grace`; what was in hand will be delivered again.
    Grace,
    /// A handler's loop panicked.
    Abnormal,
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is not there or refuses.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// Schemas cannot be used.
    #[error("{} of the schemas cannot be used: {}", .0.len(), list(.0))]
    Schemas(Vec<decode::SchemaError>),
    /// The sandbox cannot be set up.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// A module file cannot be read.
    #[error("module {path} of handler {handler} cannot be read")]
    Unreadable {
        /// The handler.
        handler: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A module is refused.
    #[error("module {path} of handler {handler} is refused")]
    Module {
        /// The handler.
        handler: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: sandbox::LoadError,
    },
    /// A handler's secrets cannot be read.
    #[error("a secret is missing or cannot be used")]
    Secrets(#[from] config::Problems),
    /// A handler cannot be prepared.
    #[error("handler {handler} cannot be prepared")]
    Handler {
        /// The handler.
        handler: String,
        /// Why.
        source: sandbox::Error,
    },
    /// Order was asked for on a bus that cannot keep it.
    #[error("handler {0} asks for order, which this bus cannot keep across hosts")]
    Order(String),
}

/// How long the end of a run waits for what keepers have to tell the bus.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all consumers of a host share.
struct Shared {
    decoder: Arc<Decoder>,
    profile: wire::Profile,
    workers: Workers<consumer::Ticket>,
    observer: Arc<dyn Observer>,
    poll: Duration,
    consecutive_errors_limit: Option<u32>,
}

/// Runs all handlers until `shutdown` is ready (or, with [`Until::Idle`], there is nothing left to do), then drains:
/// nothing new is read, calls that have started end and settle, everything else is given back. `control` sees and steers
/// it meanwhile.
///
/// # Errors
///
/// Anything that keeps a handler from starting; then none was started.
pub async fn run(
    config: &Config,
    until: Until,
    observer: Arc<dyn Observer>,
    control: &Control,
    shutdown: impl Future<Output = ()>,
) -> Result<Summary, Error> {
    let bus = bus::open(&config.bus).await?;
    let mut beforehand = JoinSet::new();
    // While modules are loaded.
    beforehand.spawn({
        let bus = Arc::clone(&bus);
        async move { bus.get_ready().await }
    });
    let decoder = Arc::new(Decoder::load(&config.schemas).map_err(Error::Schemas)?);
    let Loaded { sandbox, prepared } = load(config, &bus, &decoder)?;
    let shared = Arc::new(Shared {
        decoder,
        profile: config.profile,
        workers: Workers::start(Arc::clone(&sandbox)),
        observer,
        poll: config.host.poll_timeout,
        consecutive_errors_limit: config.host.consecutive_errors_limit,
    });

    let (stop, mut stopped) = mpsc::channel(1);
    tokio::pin!(shutdown);
    let mut fleet = Fleet::new(config, Arc::clone(&bus), Arc::clone(&shared), control, stop);
    let Some(joined) = fleet.join(prepared, shutdown.as_mut()).await? else { return Ok(Summary::of(config)) };
    fleet.start(joined, &[]).await;
    let gauges = fleet.gauges();
    let mut reloads = control.take_reloads();
    let mut now = config.clone();

    let reason = {
        let idle = idle::reached(until, &config.handlers, &gauges, bus.as_ref());
        tokio::pin!(idle);
        loop {
            tokio::select! {
                () = &mut shutdown => break None,
                () = &mut idle => break None,
                reason = stopped.recv() => break reason,
                // No consumer ends before it is told to, unless it panicked: better no host than one that lacks a handler.
                () = fleet.fails() => break Some(Stopped::Abnormal),
                reload::Wish { config: new, answer } = next(&mut reloads) => {
                    let done = match until {
                        Until::Idle => Err(NotReloaded::UntilIdle),
                        Until::Shutdown => reload::reload(&mut fleet, control, &sandbox, &now, &new).await,
                    };
                    if done.is_ok() {
                        now = *new;
                    }
                    // Whoever asked may have gone.
                    drop(answer.send(done));
                }
            }
        }
    };
    // The order matters: once nothing is read any more, calls that have not started come back.
    fleet.drain();
    let closing = Arc::clone(&shared);
    // Joining threads blocks; they end with the calls that are running.
    let workers = tokio::task::spawn_blocking(move || closing.workers.shutdown());

    let finished = tokio::time::timeout(now.host.grace, fleet.drained()).await;
    let names: Vec<String> = now.handlers.iter().map(|handler| handler.name.clone()).collect();
    let mut summary = Summary { handlers: fleet.close(&names).await, stopped: reason };
    if finished.is_err() {
        summary.stopped = Some(Stopped::Grace);
    } else if let Err(error) = workers.await {
        tracing::error!(%error, "the worker threads ended abnormally");
    }
    Ok(summary)
}

/// The next configuration to take over; never, if nobody can have one.
async fn next(reloads: &mut Option<mpsc::Receiver<reload::Wish>>) -> reload::Wish {
    if let Some(reloads) = reloads
        && let Some(wish) = reloads.recv().await
    {
        return wish;
    }
    std::future::pending().await
}

// === impl Summary ===

impl Summary {
    /// Nothing done yet.
    fn of(config: &Config) -> Self {
        let tally = |handler: &HandlerConfig| Tally { handler: handler.name.clone(), ..Tally::default() };
        Self { handlers: config.handlers.iter().map(tally).collect(), stopped: None }
    }
}

struct Loaded {
    sandbox: Arc<Sandbox>,
    prepared: Vec<Prepared>,
}

/// A handler with the module that the configuration names, and what makes others.
struct Prepared {
    handler: Arc<sandbox::Handler>,
    maker: Arc<Maker>,
    /// The module's bytes.
    wasm: Bytes,
}

/// Reads, verifies and compiles every module once, and prepares one handler for each entry of the configuration.
fn load(config: &Config, bus: &Arc<dyn Bus>, decoder: &Arc<Decoder>) -> Result<Loaded, Error> {
    let max_memory = config.handlers.iter().map(|handler| handler.spec.limits.memory).max().unwrap_or_default();
    let config::Host { threads, secret, code_cache, compiling, isolator, http_ca_file, .. } = config.host.clone();
    let reuse = config.handlers.iter().any(|handler| handler.spec.reuse > 1);
    let settings =
        sandbox::Settings { threads, max_memory, secret, reuse, code_cache, compiling, isolator, http_ca_file };
    let sandbox = Sandbox::new(&settings)?;
    let prepared = prepare(config, &sandbox, bus, decoder)?;
    config.host.compiling.yield_to_others();
    Ok(Loaded { sandbox, prepared })
}

/// The same in a sandbox that is there.
fn prepare(
    config: &Config,
    sandbox: &Arc<Sandbox>,
    bus: &Arc<dyn Bus>,
    decoder: &Arc<Decoder>,
) -> Result<Vec<Prepared>, Error> {
    let (mut prepared, mut specs) = (Vec::new(), Vec::new());
    // What costs nothing to find out comes first.
    for handler in &config.handlers {
        specs.push(with_secrets(config, handler)?);
        if handler.order != Order::None && !bus.guarantees().ordered_groups {
            return Err(Error::Order(handler.name.clone()));
        }
        for weaker in bus.prepare(&handler.needs())? {
            tracing::warn!(handler = handler.name, "{weaker}");
        }
    }
    let look =
        |handler: &HandlerConfig| std::fs::metadata(&handler.module).ok().and_then(|found| versions::look(&found));
    let looks: Vec<_> = config.handlers.iter().map(look).collect();
    let files = Files::read(config)?;
    let modules = files.load(sandbox, &config.handlers)?;
    for ((handler, spec), file) in config.handlers.iter().zip(specs).zip(looks) {
        let name = &handler.spec.name;
        let maker = Maker {
            settings: handler.clone(),
            spec,
            sandbox: Arc::clone(sandbox),
            bus: Arc::clone(bus),
            signer: Signer::new(config, handler, Arc::clone(decoder)),
            bench: selftest::Bench::of(config, handler, Arc::clone(decoder)),
            file,
        };
        let ready = maker
            .join(&modules[handler.module.as_path()], None)
            .map_err(|source| Error::Handler { handler: name.clone(), source })?;
        for missing in ready.missing_grants() {
            let interface = missing.capability.interface();
            tracing::warn!(handler = name, "the module imports {interface}, which it was not given: {}", missing.line);
        }
        prepared.push(Prepared { handler: ready, maker: Arc::new(maker), wasm: files.bytes(handler) });
    }
    Ok(prepared)
}

/// What a handler may do, with the values of its secrets.
fn with_secrets(config: &Config, handler: &HandlerConfig) -> Result<sandbox::Spec, config::Problems> {
    let found = config.secrets_of(handler)?;
    for warning in &found.warnings {
        tracing::warn!(handler = handler.name, "{warning}");
    }
    let mut spec = handler.spec.clone();
    spec.grants.secrets = found.secrets;
    Ok(spec)
}

fn list(errors: &[decode::SchemaError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
