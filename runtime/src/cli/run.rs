//! `sandbar run`: the host itself.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sandbar::config::{Config, ControlSocket, Environment, Problems};
use sandbar::pipeline::{self, Control, Quiet, Reloaded, Stopped, Summary, Until};
use sandbar::sandbox::{Compiler, Compiling, Isolator, Launcher, is_bare_code_cache};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ConfigArgs, Exit, Failure, THIS_PROGRAM, exit_of, harden, log_to_stderr, out, socket};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Join groups although consumers that are not Sandbar's are alive in them
    #[arg(long)]
    join_foreign: bool,
    /// End when every event is settled and none waits for a retry
    #[arg(long)]
    until_idle: bool,
    /// Print what the run did as one JSON document at its end
    #[arg(long)]
    json: bool,
}

/// `timeout` and some shells signal the process and then its group, so that one wish arrives twice.
const ECHO: Duration = Duration::from_millis(300);

/// A host that has its configuration and its compiler, and has given up what it does not need.
#[derive(Debug)]
pub(super) struct Ready {
    args: Args,
    config: Config,
}

/// Reads the configuration and confines this process, which has one thread; `None` if there is nothing to run.
pub(super) fn prepare(args: Args) -> Result<Option<Ready>, Failure> {
    // A confined process starts no other. It gets ready while this one reads its configuration.
    let launcher = Launcher::start(Path::new(THIS_PROGRAM)).context("the process that starts others cannot be started");
    let launcher = launcher.map_err(Failure::unexpected)?;
    let mut config = args.config.load()?;
    log_to_stderr(config.host.log.clone())?;
    if !config.host.consumers_enabled {
        out::note(format_args!(
            "consumers are disabled by host.consumers_enabled or EVENT_BUS_REDIS_CONSUMERS_ENABLED: nothing runs"
        ));
        return Ok(None);
    }
    if config.handlers.is_empty() {
        let path = config.path.display();
        return Err(Failure::usage(anyhow::anyhow!("{path}: no handler is enabled: add a [[handler]]")));
    }
    for handler in &mut config.handlers {
        handler.group.join_foreign = args.join_foreign;
    }
    let compiler = Compiler::by(&launcher, config.host.compile);
    if config.host.code_cache.as_deref().is_none_or(is_bare_code_cache) {
        compiler.get_ready(Path::new(THIS_PROGRAM));
    }
    config.host.compiling = Compiling::InChild(compiler);
    // Also if no handler is isolated: one may be after the next reload.
    config.host.isolator = Some(Isolator::by(&launcher));
    harden::harden(&config)?;
    Ok(Some(Ready { args, config }))
}

pub(super) async fn run(Ready { args, config }: Ready) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let until = if args.until_idle { Until::Idle } else { Until::Shutdown };
    let (stop, mut stopped) = watch::channel(false);
    // An error means that `stop` is gone, which ends the run as well.
    let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let control = Control::new(&config);
    let mut serving = JoinSet::new();
    let _place = listen(&config)?.map(|(listener, place)| {
        serving.spawn(socket::serve(listener, Arc::clone(&control)));
        place
    });
    let running = pipeline::run(&config, until, Arc::new(Quiet), &control, shutdown);
    tokio::pin!(running);
    // In a terminal a hang-up means that its user has gone.
    if !std::io::stdin().is_terminal() {
        let (mut hangup, control, args) = (signal(SignalKind::hangup())?, Arc::clone(&control), args.clone());
        let (environment, begun) = (Environment::of_process(), config.clone());
        serving.spawn(async move {
            while hangup.recv().await.is_some() {
                reload(&control, &args, &environment, &begun).await;
            }
        });
    }
    let summary = tokio::select! {
        ended = &mut running => ended,
        name = signals.next() => {
            tracing::info!(signal = name, grace = ?config.host.grace, "stopping: calls in hand end first; a second signal ends at once");
            stop.send_replace(true);
            tokio::select! {
                ended = &mut running => ended,
                name = signals.another() => {
                    tracing::warn!(signal = name, "ended at once: what was in hand will be delivered again");
                    return Ok(Exit::Drain);
                }
            }
        }
    };
    let summary = summary.map_err(|error| Failure::new(exit_of_start(&error), error))?;
    if args.json {
        out::json(&document(&summary))?;
    }
    Ok(match summary.stopped {
        None => Exit::Clean,
        Some(Stopped::Grace) => {
            tracing::warn!(grace = ?config.host.grace, "the drain took too long: what was in hand will be delivered again");
            Exit::Drain
        }
        Some(Stopped::Abnormal) => {
            tracing::error!("a handler's loop ended by a bug of the host's; its events will be delivered again");
            Exit::Unexpected
        }
        Some(Stopped::ConsecutiveErrors { handler, count }) => {
            tracing::error!(handler, count, "too many failures in a row: host.consecutive_errors_limit is reached");
            Exit::Failures
        }
    })
}

/// Takes the configuration over as it stands now. Whatever is wrong is said, and changes nothing. `begun`: what the
/// process was confined for.
async fn reload(control: &Control, args: &Args, environment: &Environment, begun: &Config) {
    let path = args.config.path();
    let mut config = match Config::load(path, environment) {
        Ok(config) => config,
        Err(Problems(problems)) => {
            for problem in &problems {
                tracing::error!(%problem, "the configuration is not taken over");
            }
            return;
        }
    };
    for handler in &mut config.handlers {
        handler.group.join_foreign = args.join_foreign;
    }
    // There are no others: a confined process starts none.
    config.host.compiling = begun.host.compiling.clone();
    config.host.isolator = begun.host.isolator.clone();
    if let Some(error) = harden::misses(begun, &config) {
        tracing::error!(error, "the configuration is not taken over");
        return;
    }
    match control.reload(config).await {
        Ok(Reloaded { added, changed, removed }) => {
            tracing::info!(?added, ?changed, ?removed, "the configuration is taken over");
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(error = format!("{error:#}"), "the configuration is not taken over");
        }
    }
}

/// A socket that was asked for must be there; one that was not is no reason not to run.
fn listen(config: &Config) -> Result<Option<(tokio::net::UnixListener, socket::Place)>, Failure> {
    match socket::listen(config) {
        Ok(None) => Ok(None),
        Ok(Some((listener, place))) => {
            tracing::info!(path = %place.path().display(), "the control socket listens");
            Ok(Some((listener, place)))
        }
        Err(error) if config.host.control == ControlSocket::Default => {
            let error = anyhow::Error::new(error);
            tracing::warn!(
                error = format!("{error:#}"),
                "there is no control socket: pause and resume will not find this host"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::new(Exit::Refused, error)),
    }
}

pub(super) fn exit_of_start(error: &pipeline::Error) -> Exit {
    match error {
        pipeline::Error::Bus(error) => exit_of(error),
        pipeline::Error::Schemas(_) => Exit::Usage,
        _ => Exit::Refused,
    }
}

pub(super) fn document(summary: &Summary) -> serde_json::Value {
    let handlers: Vec<_> = summary
        .handlers
        .iter()
        .map(|tally| {
            json!({
                "handler": tally.handler,
                "acked": tally.acked,
                "skipped": tally.skipped,
                "retried": tally.retried,
                "dead": tally.dead,
                "lost": tally.lost,
                "published": tally.published,
            })
        })
        .collect();
    let stopped = summary.stopped.as_ref().map(|stopped| match stopped {
        Stopped::Grace => "grace",
        Stopped::Abnormal => "abnormal",
        Stopped::ConsecutiveErrors { .. } => "consecutive-errors",
    });
    json!({ "handlers": handlers, "stopped": stopped })
}

/// What ends a command that runs handlers.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal that is not the echo of the last.
    pub(super) async fn another(&mut self) -> &'static str {
        let first = Instant::now();
        loop {
            let name = self.next().await;
            if first.elapsed() > ECHO {
                return name;
            }
        }
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn terminate_self() {
        let id = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().is_ok_and(|status| status.success()));
    }

    #[tokio::test]
    async fn an_echo_of_the_first_signal_is_not_the_second() {
        let mut signals = Signals::new().unwrap_or_else(|failure| panic!("{failure:?}"));
        terminate_self();
        assert_eq!(signals.next().await, "SIGTERM");
        terminate_self();
        let echo = tokio::time::timeout(ECHO * 2, signals.another()).await;
        assert!(echo.is_err(), "the echo ended the wait");

        let second = async {
            tokio::time::sleep(ECHO * 2).await;
            terminate_self();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            name = tokio::time::timeout(Duration::from_secs(30), signals.another()) => assert_eq!(name, Ok("SIGTERM")),
            () = second => {}
        }
    }
}
