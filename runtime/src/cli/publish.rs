//! `sandbar publish`: JSON documents, or raw bytes, onto the bus.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use indicatif::ProgressBar;
use sandbar::bus::{Bus, Durability};
use sandbar::config::Config;
use sandbar::decode::{self, Decoder};
use sandbar::event::{Encoding, Envelope, Metadata, Outgoing, Position};
use sandbar::wire;
use serde_json::json;
use tokio::sync::mpsc;
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

/// Batches that wait while another is sent: reading and encoding go on beside the bus, and no further than this.
const AHEAD: usize = 2;

/// One event, ready to go.
struct Ready {
    id: String,
    kind: String,
    outgoing: Outgoing,
}

/// Events that are sent together.
#[derive(Default)]
struct Batch {
    /// Id and type of each.
    names: Vec<(String, String)>,
    outgoing: Vec<Outgoing>,
}

/// Makes messages of documents.
struct Preparer {
    args: Arc<Args>,
    config: Config,
    /// `None` for raw bytes, which need no schema.
    decoder: Option<Decoder>,
    identity: wire::Identity,
}

/// Puts messages on the bus and tells where they lie.
struct Publisher {
    args: Arc<Args>,
    bus: Option<Arc<dyn Bus>>,
    progress: ProgressBar,
    published: usize,
}

/// The next batch, or what is wrong with which document.
type Prepared = Result<Batch, (usize, anyhow::Error)>;

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    let mut input = args.input()?;
    let args = Arc::new(args);
    let decoder = if args.raw { None } else { Some(decoder(&config)?) };
    let mut publisher = Publisher {
        bus: if args.dry_run { None } else { Some(open(&config).await?) },
        progress: out::progress(if args.dry_run { "checking" } else { "publishing" }, None),
        args: Arc::clone(&args),
        published: 0,
    };
    let preparer = Preparer { identity: config.identity(), args: Arc::clone(&args), config, decoder };
    if args.raw {
        let mut payload = Vec::new();
        input.read_to_end(&mut payload)?;
        let ready = preparer.ready(Document::default(), Some(payload)).map_err(Failure::usage)?;
        publisher.send(Batch::from_iter([ready])).await?;
    } else {
        let (batches, mut prepared) = mpsc::channel(AHEAD);
        let preparing = tokio::task::spawn_blocking(move || preparer.prepare(input, &batches));
        while let Some(batch) = prepared.recv().await {
            match batch {
                Ok(batch) => publisher.send(batch).await?,
                Err((number, error)) => return Err(publisher.refused(number, error)),
            }
        }
        preparing.await.map_err(Failure::unexpected)?;
    }
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
    let input = args.input()?;
    let preparer = Preparer {
        args: Arc::new(args),
        decoder: Some(decoder(config)?),
        identity: config.identity(),
        config: config.clone(),
    };
    let ready = |(index, document): (usize, Result<Document, documents::Error>)| {
        let ready = document.context("cannot be read").and_then(|document| preparer.ready(document, None));
        ready.map(|ready| ready.outgoing).with_context(|| format!("document {}", index + 1)).map_err(Failure::usage)
    };
    documents::read(input).enumerate().map(ready).collect()
}

// === impl Args ===

impl Args {
    fn input(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()));
                Ok(Box::new(file.map_err(Failure::usage)?))
            }
            _ => Ok(Box::new(io::stdin())),
        }
    }
}

// === impl Batch ===

impl FromIterator<Ready> for Batch {
    fn from_iter<I: IntoIterator<Item = Ready>>(all: I) -> Self {
        let mut batch = Self::default();
        for Ready { id, kind, outgoing } in all {
            batch.names.push((id, kind));
            batch.outgoing.push(outgoing);
        }
        batch
    }
}

// === impl Preparer ===

impl Preparer {
    /// Reads all documents and passes them on in batches, until one cannot be used or nobody takes them any more. It
    /// blocks.
    fn prepare(&self, input: impl Read, batches: &mpsc::Sender<Prepared>) {
        let mut documents = documents::read(input).enumerate();
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            for (index, document) in documents.by_ref().take(BATCH) {
                match document.context("cannot be read").and_then(|document| self.ready(document, None)) {
                    Ok(ready) => batch.push(ready),
                    Err(error) => return drop(batches.blocking_send(Err((index + 1, error)))),
                }
            }
            let is_last = batch.len() < BATCH;
            if batches.blocking_send(Ok(batch.into_iter().collect())).is_err() || is_last {
                return;
            }
        }
    }

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
}

// === impl Publisher ===

impl Publisher {
    /// What is said of a document that cannot be published.
    fn refused(&self, number: usize, error: anyhow::Error) -> Failure {
        self.progress.finish_and_clear();
        let before = self.published;
        let told = if before > 0 { format!(" ({before} events before it are published)") } else { String::new() };
        Failure::usage(error.context(format!("document {number}{told}")))
    }

    /// Publishes a batch and prints where each event lies.
    async fn send(&mut self, batch: Batch) -> Result<(), Failure> {
        let Batch { names, outgoing } = batch;
        let published = match &self.bus {
            Some(bus) if !outgoing.is_empty() => Some(bus.publish(&outgoing).await?),
            _ => None,
        };
        let at = |index: usize| published.as_ref().map(|published| (&published.positions[index], published.durability));
        let lines = names.iter().zip(&outgoing).enumerate();
        let lines: String =
            lines.map(|(index, (name, outgoing))| self.line(name, &outgoing.topic, at(index))).collect();
        // Once per batch: each time the bar is drawn anew.
        self.progress.suspend(|| out::bytes(lines.as_bytes()))?;
        self.published += names.len();
        self.progress.inc(names.len() as u64);
        Ok(())
    }

    /// What is printed of one event.
    fn line(&self, (id, kind): &(String, String), topic: &str, published: Option<(&Position, Durability)>) -> String {
        let position = published.map(|(position, _)| position.as_str());
        if self.args.json {
            // As the configuration writes it.
            let durability = published.map(|(_, durability)| match durability {
                Durability::Replicas(count) => json!(count),
                other => json!(other.to_string()),
            });
            let document = json!({
                "id": id,
                "type": kind,
                "topic": topic,
                "position": position,
                "durability": durability,
            });
            return format!("{document}\n");
        }
        let durability = published.map_or_else(|| "-".to_owned(), |(_, durability)| durability.to_string());
        format!("{id} {} {} {durability}\n", out::clean(topic), position.unwrap_or("-"))
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
