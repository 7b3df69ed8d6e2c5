//! `sandbar status`: how far each handler is, and what its hosts do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use sandbar::bus::{self, Bus, GroupStatus};
use sandbar::config::{Config, HandlerConfig};
use sandbar::event::{Topic, from_unix_millis, unix_millis};
use sandbar::pipeline::Report;
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, open, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Show it again every second, until it is interrupted
    #[arg(long)]
    watch: bool,
    /// Print one JSON document; with --watch one a line
    #[arg(long)]
    json: bool,
}

const HEADER: [&str; 16] = [
    "HANDLER",
    "TOPIC",
    "GROUP",
    "LAG",
    "PENDING",
    "RETRYING",
    "DEAD LETTERS",
    "LOST",
    "CONSUMERS",
    "STATE",
    "HELD BACK",
    "OLDEST",
    "RATE",
    "MODULE",
    "SINCE",
    "HELD UP BY",
];

/// Questions to the bus at once: many handlers take no longer than one, and the bus is not flooded.
const AT_ONCE: usize = 16;
/// Between two pictures.
const INTERVAL: Duration = Duration::from_secs(1);
/// Enough of a digest to tell one from another.
pub(super) const DIGEST_CHARS: usize = 12;

/// One handler as the bus and its hosts tell it.
struct Handler<'a> {
    settings: &'a HandlerConfig,
    enabled: bool,
    topics: Vec<(&'a Topic, GroupStatus)>,
    /// By the name of the host's consumer.
    hosts: BTreeMap<String, Report>,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    let bus = open(&config).await?;
    let mut first = true;
    loop {
        match look(&config, &bus).await {
            Ok(handlers) => show(&handlers, &args, first)?,
            // Whoever watches wants to see the bus come back.
            Err(error) if args.watch && error.is_transient() && !first => out::note(format_args!("{error}")),
            Err(error) => return Err(error.into()),
        }
        if !args.watch {
            return Ok(Exit::Clean);
        }
        first = false;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks for all topics of all handlers, many at a time.
async fn look<'a>(config: &'a Config, bus: &Arc<dyn Bus>) -> Result<Vec<Handler<'a>>, bus::Error> {
    let pairs: Vec<(&HandlerConfig, &Topic)> = config
        .all_handlers()
        .flat_map(|handler| handler.group.topics.iter().map(move |topic| (handler, topic)))
        .collect();
    let ask = |(handler, topic): (&'a HandlerConfig, &'a Topic)| async move {
        Ok::<_, bus::Error>((handler, topic, bus.status(topic, &handler.group.name).await?))
    };
    let answers: Vec<_> = stream::iter(pairs.into_iter().map(ask)).buffered(AT_ONCE).try_collect().await?;
    let mut handlers: Vec<Handler<'_>> = Vec::new();
    for (settings, topic, status) in answers {
        if handlers.last().is_none_or(|last| last.settings.name != settings.name) {
            let enabled = config.handlers.iter().any(|known| known.name == settings.name);
            handlers.push(Handler { settings, enabled, topics: Vec::new(), hosts: BTreeMap::new() });
        }
        let Some(handler) = handlers.last_mut() else { continue };
        for (consumer, text) in &status.reports {
            // What cannot be read was written by another version: its host is shown without it.
            if let Ok(report) = serde_json::from_str::<Report>(text) {
                handler.hosts.insert(consumer.clone(), report);
            }
        }
        handler.topics.push((topic, status));
    }
    Ok(handlers)
}

fn show(handlers: &[Handler<'_>], args: &Args, first: bool) -> std::io::Result<()> {
    let now = SystemTime::now();
    if args.json {
        let documents: Vec<Value> = handlers.iter().flat_map(|handler| handler.documents(now)).collect();
        return out::json(&json!({ "handlers": documents }));
    }
    if args.watch {
        out::picture(first)?;
    }
    let rows: Vec<Vec<String>> = handlers.iter().flat_map(|handler| handler.rows(now)).collect();
    out::table(&HEADER, &rows)?;
    for handler in handlers {
        for (consumer, trouble) in handler.troubles() {
            out::line(&format!("{}: {consumer} does not serve the wanted module: {trouble}", handler.settings.name))?;
        }
    }
    Ok(())
}

// === impl Handler ===

impl Handler<'_> {
    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let name = if self.enabled { self.settings.name.clone() } else { format!("{} (disabled)", self.settings.name) };
        let group = &self.settings.group.name;
        let (state, modules) = (self.state().unwrap_or_else(|| "-".to_owned()), self.modules().join(", "));
        let held_back = self.held_back().map_or_else(|| "-".to_owned(), |count| count.to_string());
        let rate = self.rate().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}/s"));
        let since = self.since();
        let row = |(topic, status): &(&Topic, GroupStatus)| {
            vec![
                name.clone(),
                topic.to_string(),
                if status.exists { group.clone() } else { format!("{group} (not made yet)") },
                status.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
                status.pending.to_string(),
                status.retrying.to_string(),
                status.dead_letters.to_string(),
                status.lost.to_string(),
                status.consumers.len().to_string(),
                state.clone(),
                held_back.clone(),
                status.oldest.map_or_else(|| "-".to_owned(), |oldest| short(age(oldest, now))),
                rate.clone(),
                if modules.is_empty() { "-".to_owned() } else { modules.clone() },
                since.map_or_else(|| "-".to_owned(), |since| short(age(since, now))),
                status.held_up_by.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        };
        self.topics.iter().map(row).collect()
    }

    fn documents(&self, now: SystemTime) -> Vec<Value> {
        let seconds = |time: Option<SystemTime>| time.map(|time| age(time, now).as_millis() as f64 / 1_000.0);
        let hosts: Vec<Value> = self
            .hosts
            .iter()
            .map(|(consumer, report)| {
                json!({
                    "consumer": consumer,
                    "pid": report.pid,
                    "state": report.state.as_str(),
                    "in_hand": report.in_hand,
                    "held_back": report.held_back,
                    "rate": report.rate,
                    "module": report.module,
                    "module_since": report.module_since_ms,
                    "module_calls": report.module_calls,
                    "module_failures": report.module_failures,
                    "module_trouble": report.module_trouble,
                })
            })
            .collect();
        let document = |(topic, status): &(&Topic, GroupStatus)| {
            json!({
                "handler": self.settings.name,
                "enabled": self.enabled,
                "topic": &***topic,
                "group": self.settings.group.name,
                "isolation": if self.settings.spec.isolated { "process" } else { "none" },
                "exists": status.exists,
                "lag": status.lag,
                "pending": status.pending,
                "retrying": status.retrying,
                "dead_letters": status.dead_letters,
                "lost": status.lost,
                "oldest_seconds": seconds(status.oldest),
                "oldest_dead_letter_seconds": seconds(status.oldest_dead_letter),
                "consumers": status.consumers,
                "held_up_by": status.held_up_by,
                "state": self.state(),
                "held_back": self.held_back(),
                "rate": self.rate(),
                "modules": self.modules(),
                "hosts": hosts,
            })
        };
        self.topics.iter().map(document).collect()
    }

    /// The state of its hosts; how many are in which, if they differ. Nothing if no host tells.
    fn state(&self) -> Option<String> {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for report in self.hosts.values() {
            *states.entry(report.state.as_str()).or_default() += 1;
        }
        match states.len() {
            0 => None,
            1 => states.keys().next().map(|state| (*state).to_owned()),
            _ => Some(states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")),
        }
    }

    fn held_back(&self) -> Option<usize> {
        (!self.hosts.is_empty()).then(|| self.hosts.values().map(|report| report.held_back).sum())
    }

    fn rate(&self) -> Option<f64> {
        (!self.hosts.is_empty()).then(|| self.hosts.values().map(|report| report.rate).sum())
    }

    /// Since when the last of its hosts serves its module.
    fn since(&self) -> Option<SystemTime> {
        let since = self.hosts.values().map(|report| report.module_since_ms).filter(|millis| *millis > 0);
        since.max().map(from_unix_millis)
    }

    /// Hosts that cannot serve what is wanted, and why not.
    fn troubles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hosts.iter().filter_map(|(consumer, report)| Some((consumer.as_str(), report.module_trouble.as_deref()?)))
    }

    /// The modules that its hosts run, shortened; more than one while a new one is rolled out.
    fn modules(&self) -> Vec<String> {
        let mut modules: Vec<String> =
            self.hosts.values().map(|report| report.module.chars().take(DIGEST_CHARS).collect()).collect();
        modules.sort_unstable();
        modules.dedup();
        modules
    }
}

/// By the clock of whoever asks; what lies in its future is new.
pub(super) fn age(time: SystemTime, now: SystemTime) -> Duration {
    Duration::from_millis(unix_millis(now).saturating_sub(unix_millis(time)))
}

/// Two units at most.
pub(super) fn short(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}
