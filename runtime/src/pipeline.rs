//! Joins the five steps: opens everything, runs one [`consumer`] per handler, drains.

mod backoff;
mod cap;
mod consumer;
mod control;
mod files;
mod idle;
mod observe;
mod placing;
pub mod replay;
mod services;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use control::{Control, Report, State, UnknownHandler};
pub use observe::{Observer, Outcome, Quiet, Record, Tally};

use backoff::Backoff;
use files::Files;

use crate::bus::{self, Bus, Subscription};
use crate::config::{self, Config, HandlerConfig};
use crate::decode::{self, Decoder};
use crate::dispatch::Order;
use crate::sandbox::{self, Module, Sandbox, Workers};
use crate::settle::Breaker;
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
    let decoder = Arc::new(Decoder::load(&config.schemas).map_err(Error::Schemas)?);
    let handlers = load(config, &bus, &decoder)?;
    let shared = Arc::new(Shared {
        decoder,
        profile: config.profile,
        workers: Workers::start(Arc::clone(&handlers.sandbox)),
        observer,
        poll: config.host.poll_timeout,
        consecutive_errors_limit: config.host.consecutive_errors_limit,
    });

    let (drain, draining) = watch::channel(false);
    let (stop, mut stopped) = mpsc::channel(1);
    let mut consumers = Vec::new();
    tokio::pin!(shutdown);
    for (settings, handler) in config.handlers.iter().zip(handlers.prepared) {
        let order = placing::lane_of(settings, config.profile, &shared.decoder);
        let group = bus::Group { order, ..settings.group.clone() };
        let error = match join(bus.as_ref(), settings, &group, shutdown.as_mut()).await {
            Ok(Some(subscription)) => {
                let (group, topics, consumer) = (&group.name, &group.topics, subscription.consumer());
                let module = handler.module().digest();
                tracing::info!(
                    handler = settings.name,
                    group,
                    ?topics,
                    consumer,
                    module,
                    "the handler has joined its group"
                );
                let shared = Arc::clone(&shared);
                let (breaker, steering) = (Breaker::new(settings.breaker), control.steering(&settings.name));
                let gate = consumer::Gate::new(breaker, steering, cap::Cap::of(settings, &bus));
                consumers.push(consumer::Consumer::new(settings, handler, subscription, shared, gate, stop.clone()));
                continue;
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        for joined in consumers {
            joined.leave().await;
        }
        return error.map_or_else(|| Ok(Summary::of(config)), |error| Err(error.into()));
    }
    let gauges: Vec<_> = consumers.iter().map(consumer::Consumer::gauge).collect();
    let mut tasks = JoinSet::new();
    for (index, consumer) in consumers.into_iter().enumerate() {
        let draining = draining.clone();
        tasks.spawn(async move { (index, consumer.run(draining).await) });
    }

    let reason = tokio::select! {
        () = &mut shutdown => None,
        () = idle::reached(until, &config.handlers, &gauges, bus.as_ref()) => None,
        reason = stopped.recv() => reason,
        // No consumer ends before it is told to, unless it panicked: better no host than one that lacks a handler.
        _ = tasks.join_next() => Some(Stopped::Abnormal),
    };
    // The order matters: once nothing is read any more, calls that have not started come back.
    drain.send_replace(true);
    let closing = Arc::clone(&shared);
    // Joining threads blocks; they end with the calls that are running.
    let workers = tokio::task::spawn_blocking(move || closing.workers.shutdown());

    let mut summary = Summary { stopped: reason, ..Summary::of(config) };
    let finish = async {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok((index, tally)) => summary.handlers[index] = tally,
                Err(error) => tracing::error!(%error, "a consumer ended abnormally"),
            }
        }
    };
    if tokio::time::timeout(config.host.grace, finish).await.is_err() {
        summary.stopped = Some(Stopped::Grace);
    } else if let Err(error) = workers.await {
        tracing::error!(%error, "the worker threads ended abnormally");
    }
    Ok(summary)
}

// === impl Summary ===

impl Summary {
    /// Nothing done yet.
    fn of(config: &Config) -> Self {
        let tally = |handler: &HandlerConfig| Tally { handler: handler.name.clone(), ..Tally::default() };
        Self { handlers: config.handlers.iter().map(tally).collect(), stopped: None }
    }
}

/// Joins a handler's group, or `None` if `shutdown` comes first. A bus that is there but cannot serve yet (it is loading
/// its data, or full) is waited for; one that is not there is an error, so that a wrong address is seen at once.
async fn join(
    bus: &dyn Bus,
    settings: &HandlerConfig,
    group: &bus::Group,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<Arc<dyn Subscription>>, bus::Error> {
    let mut trouble = Backoff::new("join the group");
    loop {
        // Not to be cut short: a consumer that nobody holds would be left in the group.
        match bus.subscribe(group).await {
            Err(error @ bus::Error::Unavailable { .. }) => trouble.more(&settings.name, &error),
            joined => return joined.map(Some),
        }
        tokio::select! {
            () = tokio::time::sleep(trouble.pause()) => {}
            () = shutdown.as_mut() => return Ok(None),
        }
    }
}

struct Loaded {
    sandbox: Arc<Sandbox>,
    prepared: Vec<Arc<sandbox::Handler>>,
}

/// Reads, verifies and compiles every module once, and prepares one handler for each entry of the configuration.
fn load(config: &Config, bus: &Arc<dyn Bus>, decoder: &Arc<Decoder>) -> Result<Loaded, Error> {
    let max_memory = config.handlers.iter().map(|handler| handler.spec.limits.memory).max().unwrap_or_default();
    let (threads, secret, code_cache) =
        (config.host.threads, config.host.secret.clone(), config.host.code_cache.clone());
    let reuse = config.handlers.iter().any(|handler| handler.spec.reuse > 1);
    let http_ca_file = config.host.http_ca_file.clone();
    let settings = sandbox::Settings { threads, max_memory, secret, reuse, code_cache, http_ca_file };
    let sandbox = Sandbox::new(&settings)?;
    let (mut prepared, mut specs) = (Vec::new(), Vec::new());
    for handler in &config.handlers {
        specs.push(with_secrets(config, handler)?);
    }
    let files = Files::read(config)?;
    // Handlers that name one file share what it was compiled to.
    let mut modules: HashMap<&PathBuf, Module> = HashMap::new();
    for (handler, spec) in config.handlers.iter().zip(specs) {
        let name = &handler.spec.name;
        if handler.order != Order::None && !bus.guarantees().ordered_groups {
            return Err(Error::Order(name.clone()));
        }
        for weaker in bus.prepare(&handler.needs())? {
            tracing::warn!(handler = name, "{weaker}");
        }
        let module = match modules.entry(&handler.module) {
            Entry::Occupied(loaded) => loaded.get().clone(),
            Entry::Vacant(place) => place.insert(files.load(&sandbox, handler)?).clone(),
        };
        let services = services::HandlerServices::new(config, handler, Arc::clone(bus), Arc::clone(decoder));
        let ready = sandbox
            .handler(&module, spec, Arc::new(services))
            .map_err(|source| Error::Handler { handler: name.clone(), source })?;
        for missing in ready.missing_grants() {
            let interface = missing.capability.interface();
            tracing::warn!(handler = name, "the module imports {interface}, which it was not given: {}", missing.line);
        }
        prepared.push(ready);
    }
    Ok(Loaded { sandbox, prepared })
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
