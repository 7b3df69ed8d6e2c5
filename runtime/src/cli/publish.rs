//! `sandbar publish`: JSON documents, or raw bytes, onto the bus.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use indicatif::ProgressBar;
use sandbar::bus::{Bus, Durability};
use sandbar::config::Config;
use sandbar::decode::{self, Decoder};
use sandbar::event::{Encoding, Envelope, Metadata, Outgoing, Position};
use sandbar::wire;
use serde_json::json;
use uuid::Uuid;

use super::documents::{self, Document};
use super::{ConfigArgs, Exit, Failure, decoder, open, out};

#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The topic, without prefix
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Event type, such as org.openedx.learning.course.enrollment.created.v1
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Publish the input's bytes as the payload of one event, as they are
    #[arg(long, requires = "kind", requires = "topic")]
    raw: bool,
    /// How the payload is written: application/avro, the default, needs a schema; application/json takes any document.
    /// With --raw, whatever the bytes are
    #[arg(long, value_name = "CONTENT_TYPE")]
    content_type: Option<String>,
    /// Check and encode everything, publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document per event
    #[arg(long)]
    json: bool,
    /// One JSON document, an array, or one document per line; stdin if it is missing or `-`. A document is an event's
    /// data, or {"topic", "type", "id", "time", "source", "key", "content_type", "headers", "data"}, whose keys stand over
    /// the options
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Events sent at once: large enough that the way to the bus does not matter, small enough to be held in memory at the
/// largest payload.
const BATCH: usize = 500;

/// Headers of the profile that a producer may set; the others have keys of their own.
const ALLOWED_HEADERS: [&str; 3] = ["sourcehost", "sourcelib", "minorversion"];

const AVRO: &str = "application/avro";
const JSON: &str = "application/json";

/// One event, ready to go.
struct Ready {
    id: String,
    kind: String,
    outgoing: Outgoing,
}

struct Publisher<'a> {
    args: &'a Args,
    config: &'a Config,
    /// `None` for raw bytes, which need no schema.
    decoder: Option<Decoder>,
    identity: wire::Identity,
    bus: Option<std::sync::Arc<dyn Bus>>,
    progress: ProgressBar,
    published: usize,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    let mut input = args.input()?;
    let mut publisher = Publisher {
        decoder: if args.raw { None } else { Some(decoder(&config)?) },
        identity: config.identity(),
        bus: if args.dry_run { None } else { Some(open(&config).await?) },
        progress: out::progress(if args.dry_run { "checking" } else { "publishing" }, None),
        args: &args,
        config: &config,
        published: 0,
    };
    let mut batch = Vec::new();
    if args.raw {
        let mut payload = Vec::new();
        input.read_to_end(&mut payload)?;
        batch.push(publisher.ready(Document::default(), Some(payload)).map_err(Failure::usage)?);
    } else {
        for (index, document) in documents::read(input).enumerate() {
            let ready = document.context("cannot be read").and_then(|document| publisher.ready(document, None));
            match ready {
                Ok(ready) => batch.push(ready),
                Err(error) => {
                    publisher.progress.finish_and_clear();
                    let before = publisher.published;
                    let told =
                        if before > 0 { format!(" ({before} events before it are published)") } else { String::new() };
                    return Err(Failure::usage(error.context(format!("document {}{told}", index + 1))));
                }
            }
            if batch.len() == BATCH {
                publisher.send(std::mem::take(&mut batch)).await?;
            }
        }
    }
    publisher.send(batch).await?;
    publisher.progress.finish_and_clear();
    if publisher.published == 0 {
        return Err(Failure::usage(anyhow!("there is no document in the input")));
    }
    if args.dry_run {
        out::note(format_args!("{} events are fine; nothing was published", publisher.published));
    }
    Ok(Exit::Clean)
}

/// Reads, checks and encodes a file of events without publishing them.
pub(super) fn prepare(config: &Config, file: &Path) -> Result<Vec<Outgoing>, Failure> {
    let args = Args { file: Some(file.to_owned()), dry_run: true, ..Args::default() };
    let publisher = Publisher {
        decoder: Some(decoder(config)?),
        identity: config.identity(),
        bus: None,
        progress: ProgressBar::hidden(),
        args: &args,
        config,
        published: 0,
    };
    let ready = |(index, document): (usize, Result<Document, serde_json::Error>)| {
        let ready = document.context("cannot be read").and_then(|document| publisher.ready(document, None));
        ready.map(|ready| ready.outgoing).with_context(|| format!("document {}", index + 1)).map_err(Failure::usage)
    };
    documents::read(args.input()?).enumerate().map(ready).collect()
}

// === impl Args ===

impl Args {
    fn input(&self) -> Result<Box<dyn BufRead>, Failure> {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()));
                Ok(Box::new(BufReader::new(file.map_err(Failure::usage)?)))
            }
            _ => Ok(Box::new(io::stdin().lock())),
        }
    }
}

// === impl Publisher ===

impl Publisher<'_> {
    /// Checks, encodes and signs one event.
    fn ready(&self, document: Document, raw: Option<Vec<u8>>) -> anyhow::Result<Ready> {
        let topic = document.topic.or_else(|| self.args.topic.clone()).context("it has no topic: give --topic")?;
        let kind = document.kind.or_else(|| self.args.kind.clone()).context("it has no type: give --type")?;
        let content_type = document.content_type.as_ref().or(self.args.content_type.as_ref());
        let encoding = encoding(content_type.map(String::as_str), raw.is_some())?;
        let payload = match (&self.decoder, raw) {
            (_, Some(bytes)) => bytes,
            (Some(decoder), None) if encoding == Encoding::Avro => to_avro(decoder, &kind, &document.data)?,
            (_, None) => document.data.into_bytes(),
        };
        let limit = self.config.schemas.max_payload;
        if payload.len() > limit {
            bail!("the payload has {} bytes, the limit is {limit}; host.max_payload sets it", payload.len());
        }
        let id = match document.id {
            Some(id) if Uuid::parse_str(&id).is_err() => bail!("id {id:?} is no UUID"),
            Some(id) => id,
            None => Uuid::new_v4().to_string(),
        };
        let time = match document.time {
            Some(time) if !is_utc(&time) => bail!("time {time:?} is no time in UTC, such as 2026-01-31T00:00:00+00:00"),
            Some(time) => time,
            None => wire::now_time(),
        };
        let reserved =
            |name: &&String| self.config.profile.is_reserved(name) && !ALLOWED_HEADERS.contains(&name.as_str());
        if let Some(name) = document.headers.keys().find(reserved) {
            bail!("header {name:?} belongs to the wire; set it by the envelope's own keys, or leave it out");
        }
        let metadata = Metadata {
            id: id.clone(),
            kind: kind.clone(),
            source: document.source.unwrap_or_default(),
            time,
            key: document.key.map(Bytes::from),
            headers: document.headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect(),
            hops: 0,
        };
        let envelope = Envelope { metadata, encoding, payload: payload.into() };
        let fields = self.config.profile.write(&envelope, &self.identity);
        Ok(Ready { id, kind, outgoing: Outgoing { topic: topic.into(), fields } })
    }

    /// Publishes a batch and prints where each event lies.
    async fn send(&mut self, batch: Vec<Ready>) -> Result<(), Failure> {
        let outgoing: Vec<Outgoing> = batch.iter().map(|ready| ready.outgoing.clone()).collect();
        let published = match &self.bus {
            Some(bus) if !outgoing.is_empty() => Some(bus.publish(&outgoing).await?),
            _ => None,
        };
        let at = |index: usize| published.as_ref().map(|published| (&published.positions[index], published.durability));
        let lines: String = batch.iter().enumerate().map(|(index, ready)| self.line(ready, at(index))).collect();
        // Once per batch: each time the bar is drawn anew.
        self.progress.suspend(|| out::bytes(lines.as_bytes()))?;
        self.published += batch.len();
        self.progress.inc(batch.len() as u64);
        Ok(())
    }

    /// What is printed of one event.
    fn line(&self, ready: &Ready, published: Option<(&Position, Durability)>) -> String {
        let topic = &*ready.outgoing.topic;
        let position = published.map(|(position, _)| position.as_str());
        if self.args.json {
            // As the configuration writes it.
            let durability = published.map(|(_, durability)| match durability {
                Durability::Replicas(count) => json!(count),
                other => json!(other.to_string()),
            });
            let document = json!({
                "id": ready.id,
                "type": ready.kind,
                "topic": topic,
                "position": position,
                "durability": durability,
            });
            return format!("{document}\n");
        }
        let durability = published.map_or_else(|| "-".to_owned(), |(_, durability)| durability.to_string());
        format!("{} {} {} {durability}\n", ready.id, out::clean(topic), position.unwrap_or("-"))
    }
}

/// What a payload is to be, by its content type.
fn encoding(content_type: Option<&str>, raw: bool) -> anyhow::Result<Encoding> {
    let is = |known: &str| content_type.is_some_and(|name| name.eq_ignore_ascii_case(known));
    match content_type {
        None => Ok(Encoding::Avro),
        Some(_) if is(AVRO) => Ok(Encoding::Avro),
        Some(_) if is(JSON) => Ok(Encoding::Json),
        Some(name) if raw && !name.is_empty() => Ok(Encoding::Other(name.to_owned())),
        Some(name) => {
            bail!("content type {name:?} is not known: give {AVRO} or {JSON}, or publish the bytes with --raw")
        }
    }
}

fn to_avro(decoder: &Decoder, kind: &str, document: &str) -> anyhow::Result<Vec<u8>> {
    decoder.to_avro(kind, document).map_err(|error| match error {
        decode::Error::NoSchema { .. } => anyhow!("{error}, or publish it as JSON: --content-type {JSON}"),
        error => error.into(),
    })
}

/// What the Python consumer takes: a time whose offset is zero and written.
fn is_utc(time: &str) -> bool {
    (time.ends_with('Z') || time.ends_with("+00:00")) && time.parse::<jiff::Timestamp>().is_ok()
}
