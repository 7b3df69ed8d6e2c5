//! `sandbar replay`: history through a handler, beside its group.

use std::io;
use std::time::SystemTime;

use anyhow::anyhow;
use sandbar::bus::{Edge, Start};
use sandbar::config::{self, Config, HandlerConfig};
use sandbar::decode::Decoder;
use sandbar::dispatch::Filter;
use sandbar::event::{Effects, Encoding, Message, Outgoing, Position};
use sandbar::pipeline::replay::{Became, Ended, Replayed, Report, Request, replay};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::run::{Signals, exit_of_start};
use super::{ConfigArgs, Exit, Failure, compiler, decoder, isolator_of, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The handler that is called
    #[arg(long, value_name = "NAME")]
    handler: String,
    /// The first event: its position, "beginning", a time with its offset, or how long ago ("2h")
    #[arg(long, value_name = "WHERE", value_parser = edge)]
    from: Edge,
    /// The last event: its position; or a time, which ends before it. Default: the newest there is now
    #[arg(long, value_name = "WHERE", value_parser = edge)]
    to: Option<Edge>,
    /// Only events of types that match one of these, and the handler's own
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    types: Vec<String>,
    /// Only this one of the handler's topics
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Commit what the calls publish and write; without it that is only shown
    #[arg(long)]
    effects: bool,
    /// Call the handler for at most so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print one JSON document for each event, and one at the end
    #[arg(long)]
    json: bool,
}

fn edge(text: &str) -> Result<Edge, String> {
    if let Some(ago) = config::duration(text) {
        let time = SystemTime::now().checked_sub(ago);
        return time.map(Edge::Time).ok_or_else(|| "that is too long ago".to_owned());
    }
    match config::start(text) {
        Some(Start::Beginning) => Ok(Edge::Beginning),
        Some(Start::After(position)) => Ok(Edge::Position(position)),
        Some(Start::At(time)) => Ok(Edge::Time(time)),
        Some(Start::New) | None => Err("give a position, \"beginning\", a time such as 2026-01-31T00:00:00Z, or how \
                                        long ago, such as 2h"
            .to_owned()),
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let mut config = args.config.load()?;
    config.host.compiling = compiler(&config)?;
    let handler = chosen(&config, &args)?;
    config.handlers = vec![handler];
    config.host.isolator = isolator_of(&config.handlers)?;
    let request = Request {
        topic: args.topic.as_deref().map(Into::into),
        from: args.from,
        to: args.to,
        types: Filter::new(&args.types).map_err(Failure::usage)?,
        effects: args.effects,
        limit: args.limit,
    };
    let teller = Teller { decoder: decoder(&config)?, config: config.clone(), json: args.json };
    let mut signals = Signals::new()?;
    let (stop, mut stopped) = watch::channel(false);
    // An error means that `stop` is gone, which ends it as well.
    let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let mut tell = |event: &Replayed| teller.tell(event);
    let running = replay(&config, &request, &mut tell, shutdown);
    tokio::pin!(running);
    let report = tokio::select! {
        ended = &mut running => ended,
        _ = signals.next() => {
            stop.send_replace(true);
            tokio::select! {
                ended = &mut running => ended,
                _ = signals.another() => return Ok(Exit::Drain),
            }
        }
    };
    let report = report.map_err(|error| Failure::new(exit_of_start(&error), error))?;
    conclude(report, &args.handler, args.effects, args.json)
}

/// The handler, enabled or not: nothing of its group is touched.
fn chosen(config: &Config, args: &Args) -> Result<HandlerConfig, Failure> {
    let Some(handler) = config.all_handlers().find(|handler| handler.name == args.handler) else {
        let names: Vec<_> = config.all_handlers().map(|handler| handler.name.as_str()).collect();
        let name = &args.handler;
        return Err(Failure::usage(anyhow!("there is no handler {name:?}; known are {}", names.join(", "))));
    };
    let topics = &handler.group.topics;
    if let Some(topic) = args.topic.as_deref().filter(|topic| !topics.iter().any(|known| **known == **topic)) {
        let name = &args.handler;
        return Err(Failure::usage(anyhow!("{name} does not read {topic:?}; its topics are {}", topics.join(", "))));
    }
    Ok(handler.clone())
}

fn conclude(report: Report, handler: &str, effects: bool, json: bool) -> Result<Exit, Failure> {
    let Report { done, failed, skipped, published, written, next, ended } = report;
    let ended = match ended {
        Some(Ended::Output(error)) => return Err(error.into()),
        ended => ended,
    };
    let next = next.map(|(topic, position)| (topic.to_string(), position.to_string()));
    if json {
        let ended = ended.as_ref().map(|ended| match ended {
            Ended::Asked => "asked",
            Ended::Limit => "limit",
            Ended::Bus(_) => "bus",
            Ended::Output(_) => "output",
        });
        let next = next.map(|(topic, position)| json!({ "topic": topic, "position": position }));
        out::json(&json!({
            "handler": handler, "done": done, "failed": failed, "skipped": skipped, "published": published,
            "written": written, "effects": effects, "ended": ended, "next": next,
        }))?;
    } else {
        let would = if effects { "" } else { "would have been " };
        let count = done + failed;
        out::line(&format!("{count} events: {done} done, {failed} failed; {skipped} of other types"))?;
        out::line(&format!("{published} {would}published, {written} keys {would}written"))?;
        if let Some((topic, position)) = next {
            out::line(&format!("the next one is {topic} {position}"))?;
        }
    }
    match ended {
        Some(Ended::Bus(error)) => Err(error.into()),
        _ if failed > 0 => Ok(Exit::Failures),
        _ => Ok(Exit::Clean),
    }
}

/// Tells what became of each event.
struct Teller {
    config: Config,
    decoder: Decoder,
    json: bool,
}

// === impl Teller ===

impl Teller {
    fn tell(&self, event: &Replayed) -> io::Result<()> {
        if self.json { out::json(&self.document(event)) } else { self.lines(event) }
    }

    fn lines(&self, event: &Replayed) -> io::Result<()> {
        let Replayed { topic, position, kind, became, .. } = event;
        let what = match became {
            Became::Done(_) => "done".to_owned(),
            Became::Failed { code, reason } => {
                format!("failed ({code}): {}", reason.lines().next().unwrap_or_default())
            }
        };
        out::line(&format!("{topic} {position} {kind} {what}"))?;
        let Became::Done(effects) = became else { return Ok(()) };
        for message in &effects.publish {
            let shown = self.published(message);
            let text = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
            out::line(&format!("  publishes {} to {} as {}", text("type"), message.topic, text("id")))?;
        }
        for write in &effects.writes {
            let verb = if write.value.is_some() { "writes" } else { "deletes" };
            out::line(&format!("  {verb} the key {}", write.key.escape_default()))?;
        }
        Ok(())
    }

    fn document(&self, event: &Replayed) -> Value {
        let Replayed { topic, position, id, kind, became } = event;
        let mut document = json!({ "topic": &**topic, "position": position.as_str(), "id": id, "type": kind });
        match became {
            Became::Done(Effects { publish, writes, .. }) => {
                document["outcome"] = "done".into();
                document["published"] = publish.iter().map(|message| self.published(message)).collect();
                document["keys"] = writes
                    .iter()
                    .map(|write| {
                        let value = write.value.as_deref().map(out::shown);
                        json!({ "key": write.key, "value": value })
                    })
                    .collect();
            }
            Became::Failed { code, reason } => {
                document["outcome"] = "failed".into();
                document["code"] = code.as_str().into();
                document["reason"] = reason.as_str().into();
            }
        }
        document
    }

    /// A message as a consumer would read it.
    fn published(&self, outgoing: &Outgoing) -> Value {
        let Outgoing { topic, fields } = outgoing;
        let nowhere = Position::from("");
        let message =
            Message { topic: topic.clone(), position: nowhere.clone(), first: nowhere, fields: fields.clone() };
        let Ok(envelope) = self.config.profile.read(&message) else { return json!({ "topic": &**topic }) };
        let metadata = envelope.metadata;
        let text = match envelope.encoding {
            Encoding::Avro => self.decoder.to_json(&metadata.kind, &envelope.payload).ok(),
            Encoding::Json => String::from_utf8(envelope.payload.to_vec()).ok(),
            Encoding::Other(_) => None,
        };
        let data = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        json!({ "topic": &**topic, "id": metadata.id, "type": metadata.kind, "data": data })
    }
}
