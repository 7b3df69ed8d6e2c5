//! `sandbar demo`: the whole line on an embedded bus that is gone afterwards.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sandbar::bus::{Bus, Fetched, Group, Start};
use sandbar::config::{Config, Environment};
use sandbar::event::Message;
use sandbar::pipeline::{self, Control, Observer, Outcome, Record, Summary, Tally, Until};
use serde_json::json;

use super::run::{document, exit_of_start};
use super::{Exit, Failure, compiler, isolator_of, open, out, publish};

/// Where the built guests are, if not where the demo's configuration says.
const GUESTS: &str = "SANDBAR_GUESTS";

/// The topic that the demo shows the end of.
const STATEMENTS: &str = "xapi-statements";

/// Longer than any read of the embedded bus takes that has something to give.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder with the demo's sandbar.toml and events.jsonl
    #[arg(long, value_name = "DIR", default_value = "example-handlers/demo")]
    dir: PathBuf,
    /// Print one JSON document per settled delivery, and one for the whole at the end
    #[arg(long)]
    json: bool,
}

/// Keeps a line for every settled delivery, in the order they were settled.
#[derive(Default)]
struct Story(Mutex<Vec<Line>>);

struct Line {
    handler: String,
    position: String,
    kind: String,
    attempt: u32,
    outcome: Outcome,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let events = args.dir.join("events.jsonl");
    let scratch = tempfile::tempdir()?;
    let config = config(&args, scratch.path())?;
    let bus = open(&config).await?;
    let messages = publish::prepare(&config, &events)?;
    bus.publish(&messages).await?;
    if !args.json {
        out::line(&format!("published {} events to an embedded bus, {}\n", messages.len(), config.bus.url))?;
    }

    let story = Arc::new(Story::default());
    let observer = Arc::clone(&story) as Arc<dyn Observer>;
    let control = Control::new(&config);
    let summary = pipeline::run(&config, Until::Idle, observer, &control, std::future::pending())
        .await
        .map_err(|error| Failure::new(exit_of_start(&error), error))?;
    let statements = read(&bus, STATEMENTS).await?;
    if args.json {
        tell_json(&story, &summary)?
    } else {
        tell(&story, &summary, &statements)?
    }

    match summary.stopped {
        None => Ok(Exit::Clean),
        Some(_) => Err(Failure::unexpected(anyhow!("not every event was settled"))),
    }
}

/// The demo's configuration, with a bus and guests of this run.
fn config(args: &Args, scratch: &Path) -> Result<Config, Failure> {
    let environment = Environment::of_process();
    let guests = environment.get(GUESTS).map(PathBuf::from);
    let mut config = Config::load(&args.dir.join("sandbar.toml"), &environment).map_err(|problems| {
        Failure::from(problems).with("run it from the project's folder, or name the demo's with --dir")
    })?;
    config.bus.url = format!("sqlite:{}", scratch.join("demo.db").display());
    config.host.compiling = compiler(&config)?;
    config.host.isolator = isolator_of(&config.handlers)?;
    for handler in &mut config.handlers {
        if let (Some(dir), Some(file)) = (&guests, handler.module.file_name()) {
            handler.module = dir.join(file);
        }
        if !handler.module.is_file() {
            let error = anyhow!("{} is missing: run `make guests`", handler.module.display());
            return Err(Failure::new(Exit::Refused, error));
        }
    }
    Ok(config)
}

fn tell(story: &Story, summary: &Summary, statements: &[Message]) -> Result<(), Failure> {
    let lines = story.0.lock().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<Vec<String>> = lines.iter().map(Line::row).collect();
    out::table(&["HANDLER", "AT", "EVENT", "ATTEMPT", "WHAT BECAME OF IT"], &rows)?;
    out::line("")?;
    let count = |number: u64| number.to_string();
    let rows: Vec<Vec<String>> = summary
        .handlers
        .iter()
        .map(|tally| {
            let Tally { handler, acked, skipped, retried, dead, published, .. } = tally;
            vec![handler.clone(), count(*acked), count(*skipped), count(*retried), count(*dead), count(*published)]
        })
        .collect();
    out::table(&["HANDLER", "ACKED", "SKIPPED", "RETRIED", "DEAD", "PUBLISHED"], &rows)?;
    if let Some(first) = statements.first() {
        let text = String::from_utf8_lossy(first.fields.get("event_data").unwrap_or_default()).into_owned();
        out::line(&format!("\n{} messages in {STATEMENTS}, the first:\n{text}", statements.len()))?;
    }
    Ok(())
}

fn tell_json(story: &Story, summary: &Summary) -> Result<(), Failure> {
    for line in story.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        out::json(&line.document())?;
    }
    out::json(&document(summary))?;
    Ok(())
}

/// Everything in a topic.
async fn read(bus: &Arc<dyn Bus>, topic: &str) -> Result<Vec<Message>, Failure> {
    let group = Group {
        name: "demo".to_owned(),
        topics: vec![topic.into()],
        start: Start::Beginning,
        lease: Duration::from_secs(60),
        consumer: "demo".to_owned(),
        order: None,
        join_foreign: false,
    };
    let subscription = bus.subscribe(&group).await?;
    let (mut held, mut messages) = (Vec::new(), Vec::new());
    loop {
        let fetched = subscription.fetch(1_000, PATIENCE).await.context("read what was published");
        let Fetched::Deliveries(batch) = fetched.map_err(Failure::unexpected)? else { break };
        if batch.is_empty() {
            break;
        }
        messages.extend(batch.iter().map(|delivery| delivery.message.clone()));
        // Dropped, they would come again.
        held.extend(batch);
    }
    subscription.close().await?;
    Ok(messages)
}

// === impl Story ===

impl Observer for Story {
    fn settled(&self, record: &Record<'_>) {
        let line = Line {
            handler: record.handler.to_owned(),
            position: format!("{}:{}", record.topic, record.position),
            kind: record.kind.to_owned(),
            attempt: record.attempt,
            outcome: record.outcome.clone(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

// === impl Line ===

impl Line {
    fn row(&self) -> Vec<String> {
        // The common beginning of all types only takes room.
        let kind = self.kind.strip_prefix("org.openedx.").unwrap_or(&self.kind).to_owned();
        vec![self.handler.clone(), self.position.clone(), kind, self.attempt.to_string(), self.outcome()]
    }

    fn outcome(&self) -> String {
        match &self.outcome {
            Outcome::Acked { published: 0, written: 0 } => "acked".to_owned(),
            Outcome::Acked { published, written: 0 } => format!("acked, {published} published"),
            Outcome::Acked { published: 0, written } => format!("acked, {written} keys written"),
            Outcome::Acked { published, written } => format!("acked, {published} published, {written} keys written"),
            Outcome::Skipped => "acked, not its type".to_owned(),
            Outcome::Retrying { code, reason, .. } => format!("retry ({code}): {reason}"),
            Outcome::Dead { code, reason } => format!("dead letter ({code}): {reason}"),
            Outcome::Lost => "taken over".to_owned(),
            Outcome::GivenBack => "given back".to_owned(),
        }
    }

    fn document(&self) -> serde_json::Value {
        let word = match &self.outcome {
            Outcome::Acked { .. } => "acked",
            Outcome::Skipped => "skipped",
            Outcome::Retrying { .. } => "retrying",
            Outcome::Dead { .. } => "dead",
            Outcome::Lost => "lost",
            Outcome::GivenBack => "given-back",
        };
        json!({
            "handler": self.handler,
            "position": self.position,
            "type": self.kind,
            "attempt": self.attempt,
            "outcome": word,
            "detail": self.outcome(),
        })
    }
}
