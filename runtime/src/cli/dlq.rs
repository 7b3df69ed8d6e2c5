//! `sandbar dlq`: dead letters, listed, shown, sent again, deleted.

use std::collections::BTreeMap;

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use sandbar::bus::Requeue;
use sandbar::decode::Decoder;
use sandbar::event::{Encoding, Message, Position, Topic};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, decoder, out};

mod select;

use select::{Desk, Filters, Letter};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Count dead letters by code and list them
    List(ListArgs),
    /// Show one dead letter: cause, headers and data
    Show(ShowArgs),
    /// Send dead letters again: by default to the handler that gave them up, its attempts counted anew
    Requeue(RequeueArgs),
    /// Delete dead letters for good
    Purge(PurgeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    filters: Filters,
    /// List at most so many; all are counted
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    filters: Filters,
    /// As `dlq list` prints it
    #[arg(value_name = "ID")]
    id: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RequeueArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    which: Which,
    /// handler: only the handler that gave it up gets it. topic: to the end of its topic, for every handler
    #[arg(long, value_enum, default_value = "handler")]
    to: To,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    which: Which,
    /// Yes, delete all of them
    #[arg(long)]
    yes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// As `dlq list` prints them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All that the filters let through
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    Handler,
    Topic,
}

/// What is done to dead letters.
#[derive(Clone, Copy)]
enum Deed {
    Requeue(Requeue),
    Purge,
}

pub(super) async fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Requeue(args) => requeue(args).await,
        Command::Purge(args) => purge(args).await,
    }
}

async fn list(args: ListArgs) -> Result<Exit, Failure> {
    let desk = Desk::open(args.config.load()?, args.filters).await?;
    let mut groups: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut count, mut shown, mut rows) = (0_usize, Vec::new(), Vec::new());
    let mut walk = desk.walk();
    while let Some(page) = walk.next().await? {
        for letter in &page.letters {
            let code = letter.dead.cause.code.clone();
            *groups.entry((letter.handler.clone(), code)).or_default() += 1;
            if count < args.limit && args.json {
                shown.push(row_document(letter));
            } else if count < args.limit {
                rows.push(row(letter));
            }
            count += 1;
        }
    }
    if args.json {
        let groups: Vec<_> = groups
            .iter()
            .map(|((handler, code), count)| json!({ "handler": handler, "code": code, "count": count }))
            .collect();
        out::json(&json!({ "count": count, "groups": groups, "letters": shown }))?;
        return Ok(Exit::Clean);
    }
    if count == 0 {
        out::line("no dead letters")?;
        return Ok(Exit::Clean);
    }
    let counts: Vec<_> =
        groups.into_iter().map(|((handler, code), count)| vec![count.to_string(), handler, code]).collect();
    out::table(&["COUNT", "HANDLER", "CODE"], &counts)?;
    out::line("")?;
    out::table(&["ID", "TIME", "CODE", "ATTEMPTS", "TYPE", "REASON"], &rows)?;
    if count > args.limit {
        out::line(&format!("… and {} more: --limit shows them", count - args.limit))?;
    }
    Ok(Exit::Clean)
}

async fn show(args: ShowArgs) -> Result<Exit, Failure> {
    let desk = Desk::open(args.config.load()?, args.filters).await?;
    let letter = desk.one(&args.id).await?;
    let decoder = decoder(&desk.config)?;
    let document = full_document(&letter, &desk, &decoder);
    if args.json {
        out::json(&document)?;
        return Ok(Exit::Clean);
    }
    let cause = &letter.dead.cause;
    for (name, value) in [
        ("id", letter.reference()),
        ("handler", letter.handler.clone()),
        ("topic", letter.dead.topic.to_string()),
        ("position", letter.dead.position.to_string()),
        ("first", letter.dead.first.to_string()),
        ("time", time(&letter)),
        ("code", cause.code.clone()),
        ("reason", cause.reason.clone()),
        ("attempts", cause.attempts.to_string()),
        ("module", cause.module.clone()),
    ] {
        out::line(&format!("{name}: {value}"))?;
    }
    out::line("headers:")?;
    for (name, value) in document["headers"].as_array().into_iter().flatten().filter_map(pair) {
        out::line(&format!("  {name}: {value}"))?;
    }
    let (name, value) = match &document["data"] {
        Value::Null => ("payload (base64)", document["payload_base64"].as_str().unwrap_or_default().to_owned()),
        data => ("data", format!("{data:#}")),
    };
    out::line(&format!("{name}:\n{value}"))?;
    Ok(Exit::Clean)
}

async fn requeue(args: RequeueArgs) -> Result<Exit, Failure> {
    let to = match args.to {
        To::Handler => Requeue::Handler,
        To::Topic => Requeue::Topic,
    };
    let desk = Desk::open(args.config.load()?, args.filters).await?;
    let (moved, asked) = desk.each_batch(&args.which, Deed::Requeue(to)).await?;
    told("requeued", moved, asked, args.json)
}

async fn purge(args: PurgeArgs) -> Result<Exit, Failure> {
    if args.which.all && !args.yes {
        return Err(Failure::usage(anyhow!(
            "--all deletes dead letters for good: add --yes, or look first with `dlq list`"
        )));
    }
    let desk = Desk::open(args.config.load()?, args.filters).await?;
    let (deleted, asked) = desk.each_batch(&args.which, Deed::Purge).await?;
    told("purged", deleted, asked, args.json)
}

fn told(what: &str, count: u64, asked: u64, json: bool) -> Result<Exit, Failure> {
    if json {
        let mut document = json!({ "asked": asked });
        document[what] = count.into();
        out::json(&document)?;
    } else {
        out::line(&format!("{what} {count} of {asked}"))?;
    }
    Ok(Exit::Clean)
}

fn row(letter: &Letter) -> Vec<String> {
    let cause = &letter.dead.cause;
    // A row is one line, whatever the handler wrote.
    let reason: String = cause.reason.lines().next().unwrap_or_default().chars().take(100).collect();
    let attempts = cause.attempts.to_string();
    vec![letter.reference(), time(letter), cause.code.clone(), attempts, letter.kind.clone(), reason]
}

fn row_document(letter: &Letter) -> Value {
    let cause = &letter.dead.cause;
    json!({
        "id": letter.reference(),
        "handler": letter.handler,
        "topic": &*letter.dead.topic,
        "type": letter.kind,
        "position": letter.dead.position.as_str(),
        "first": letter.dead.first.as_str(),
        "time": time(letter),
        "code": cause.code,
        "reason": cause.reason,
        "attempts": cause.attempts,
        "module": cause.module,
    })
}

/// The row, with headers and data: JSON if the payload decodes, else base64.
fn full_document(letter: &Letter, desk: &Desk, decoder: &Decoder) -> Value {
    let mut document = row_document(letter);
    let (headers, payload, data) = match desk.config.profile.read(&letter.message()) {
        Ok(envelope) => {
            let metadata = &envelope.metadata;
            let mut headers = vec![
                json!(["id", metadata.id]),
                json!(["type", metadata.kind]),
                json!(["source", metadata.source]),
                json!(["time", metadata.time]),
            ];
            headers.extend(metadata.headers.iter().map(|(name, value)| json!([name, out::shown(value)])));
            let text = match envelope.encoding {
                Encoding::Avro => decoder.to_json(&metadata.kind, &envelope.payload).ok(),
                Encoding::Json => String::from_utf8(envelope.payload.to_vec()).ok(),
                Encoding::Other(_) => None,
            };
            let data = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            (headers, BASE64.encode(&envelope.payload), data)
        }
        // Headers that cannot be read are the reason that it is here: the fields as they came.
        Err(_) => {
            let fields = letter.dead.fields.iter();
            let fields = fields.map(|(name, value)| json!([String::from_utf8_lossy(name), out::shown(value)]));
            (fields.collect(), BASE64.encode(letter.dead.fields.pack()), None)
        }
    };
    document["headers"] = headers.into();
    document["payload_base64"] = payload.into();
    document["data"] = data.unwrap_or(Value::Null);
    document
}

fn pair(value: &Value) -> Option<(&str, &str)> {
    Some((value.get(0)?.as_str()?, value.get(1)?.as_str()?))
}

fn time(letter: &Letter) -> String {
    jiff::Timestamp::try_from(letter.dead.cause.at).map_or_else(|_| "?".to_owned(), |at| format!("{at:.3}"))
}

// === impl Desk ===

impl Desk {
    /// Does it to all that are chosen and returns how many were there for it, and how many were chosen. A page is one call
    /// of the bus, whatever ends this process: each letter of it has either been moved or still lies here.
    async fn each_batch(&self, which: &Which, deed: Deed) -> Result<(u64, u64), Failure> {
        if !which.all {
            let letters = self.of(&which.ids).await?;
            let mut done = 0;
            let same = |a: &Letter, b: &Letter| a.group == b.group && a.dead.topic == b.dead.topic;
            for letters in letters.chunk_by(same) {
                done += self.act(&letters[0].dead.topic, &letters[0].group, letters, deed).await?;
            }
            return Ok((done, letters.len() as u64));
        }
        let survey = self.survey().await?;
        let doing = if matches!(deed, Deed::Purge) { "deleting" } else { "requeueing" };
        let progress = out::progress(doing, Some(survey.chosen));
        let (mut done, mut walk) = (0, self.walk_again(&survey));
        while let Some(page) = walk.next().await? {
            done += self.act(page.topic, page.group, &page.letters, deed).await?;
            progress.inc(page.letters.len() as u64);
        }
        progress.finish_and_clear();
        Ok((done, survey.chosen))
    }

    async fn act(&self, topic: &Topic, group: &str, letters: &[Letter], deed: Deed) -> Result<u64, Failure> {
        let ids: Vec<Position> = letters.iter().map(Letter::id).collect();
        Ok(match deed {
            _ if ids.is_empty() => 0,
            Deed::Requeue(to) => self.bus.requeue(topic, group, &ids, to).await?,
            Deed::Purge => self.bus.purge(topic, group, &ids).await?,
        })
    }
}

// === impl Letter ===

impl Letter {
    /// The message that it was.
    fn message(&self) -> Message {
        Message {
            topic: self.dead.topic.clone(),
            position: self.dead.position.clone(),
            first: self.dead.first.clone(),
            fields: self.dead.fields.clone(),
        }
    }

    fn id(&self) -> Position {
        self.dead.id.clone()
    }
}
