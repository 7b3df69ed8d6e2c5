//! Which dead letters a command is about.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::anyhow;
use sandbar::bus::{Bus, DeadLetter};
use sandbar::config::{self, Config, HandlerConfig};
use sandbar::dispatch::Filter;
use sandbar::event::{Position, Topic};

use super::Which;
use crate::cli::{Failure, open};

/// What narrows the choice down.
#[derive(Debug, clap::Args)]
pub(super) struct Filters {
    /// Only of this handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Only of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only with this code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only of event types that match
    #[arg(long = "type", value_name = "GLOB", value_parser = glob)]
    kind: Option<Filter>,
    /// Only given up at this time or later: a time with its offset, or how long ago ("2h")
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Only given up before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
}

/// A dead letter and whose it is.
pub(super) struct Letter {
    pub(super) handler: String,
    group: String,
    pub(super) kind: String,
    pub(super) dead: DeadLetter,
}

/// Where dead letters are looked up.
pub(super) struct Desk {
    pub(super) config: Config,
    pub(super) bus: Arc<dyn Bus>,
    filters: Filters,
}

/// Dead letters of one group on one topic.
pub(super) struct Batch<'a> {
    pub(super) topic: &'a Topic,
    pub(super) group: &'a str,
    pub(super) ids: Vec<Position>,
}

/// Dead letters read at once.
const PAGE: usize = 500;

fn glob(text: &str) -> Result<Filter, String> {
    Filter::new(&[text.to_owned()]).map_err(|error| error.to_string())
}

fn moment(text: &str) -> Result<SystemTime, String> {
    if let Some(ago) = config::duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| "that is too long ago".to_owned());
    }
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(Into::into).map_err(|_| "give a time such as 2026-01-31T00:00:00Z, or how long ago, such as 2h".to_owned())
}

// === impl Letter ===

impl Letter {
    /// What names it on the command line: ids alone repeat from topic to topic.
    pub(super) fn reference(&self) -> String {
        format!("{}/{}/{}", self.handler, self.dead.topic, self.dead.id)
    }
}

// === impl Filters ===

impl Filters {
    fn lets_through(&self, letter: &Letter) -> bool {
        let cause = &letter.dead.cause;
        self.code.as_ref().is_none_or(|code| *code == cause.code)
            && self.kind.as_ref().is_none_or(|filter| filter.matches(&letter.kind))
            && self.since.is_none_or(|since| cause.at >= since)
            && self.until.is_none_or(|until| cause.at < until)
    }

    fn covers(&self, handler: &HandlerConfig, topic: &str) -> bool {
        self.handler.as_ref().is_none_or(|name| *name == handler.name)
            && self.topic.as_ref().is_none_or(|name| name == topic)
    }
}

// === impl Desk ===

impl Desk {
    pub(super) async fn open(config: Config, filters: Filters) -> Result<Self, Failure> {
        let names: Vec<_> = config.all_handlers().map(|handler| handler.name.as_str()).collect();
        if let Some(name) = filters.handler.as_deref().filter(|name| !names.contains(name)) {
            return Err(Failure::usage(anyhow!("there is no handler {name:?}; known are {}", names.join(", "))));
        }
        let bus = open(&config).await?;
        Ok(Self { config, bus, filters })
    }

    /// All that the filters let through, oldest first within each handler and topic.
    pub(super) async fn all(&self) -> Result<Vec<Letter>, Failure> {
        let mut letters = Vec::new();
        for handler in self.config.all_handlers() {
            for topic in handler.group.topics.iter().filter(|topic| self.filters.covers(handler, topic)) {
                self.read(handler, topic, &mut letters).await?;
            }
        }
        Ok(letters)
    }

    async fn read(&self, handler: &HandlerConfig, topic: &Topic, letters: &mut Vec<Letter>) -> Result<(), Failure> {
        let mut after: Option<Position> = None;
        loop {
            let page = self.bus.dead_letters(topic, &handler.group.name, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            let letter = |dead: DeadLetter| Letter {
                handler: handler.name.clone(),
                group: handler.group.name.clone(),
                kind: dead
                    .fields
                    .get("type")
                    .map(|kind| String::from_utf8_lossy(kind).into_owned())
                    .unwrap_or_default(),
                dead,
            };
            letters.extend(page.into_iter().map(letter).filter(|letter| self.filters.lets_through(letter)));
        }
    }

    /// The letter of this id, as `list` prints it or the last part of it alone.
    pub(super) async fn one(&self, id: &str) -> Result<Letter, Failure> {
        let mut found: Vec<Letter> = self.all().await?.into_iter().filter(|letter| is(letter, id)).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Failure::usage(anyhow!("there is no dead letter {id}: `dlq list` lists those there are"))),
            _ => {
                let names: Vec<_> = found.iter().map(Letter::reference).collect();
                Err(Failure::usage(anyhow!("{id} is the id of several dead letters, give one of {}", names.join(", "))))
            }
        }
    }

    /// What the command line asks for. An id that is not there, or that several letters have, changes nothing.
    pub(super) async fn chosen(&self, which: &Which) -> Result<Vec<Letter>, Failure> {
        let all = self.all().await?;
        if which.all {
            return Ok(all);
        }
        for id in &which.ids {
            match all.iter().filter(|letter| is(letter, id)).count() {
                1 => {}
                0 => {
                    return Err(Failure::usage(anyhow!(
                        "there is no dead letter {id}: `dlq list` lists those there are"
                    )));
                }
                _ => {
                    return Err(Failure::usage(anyhow!(
                        "{id} is the id of several dead letters: write HANDLER/TOPIC/ID"
                    )));
                }
            }
        }
        Ok(all.into_iter().filter(|letter| which.ids.iter().any(|id| is(letter, id))).collect())
    }

    /// The letters by topic and group, at most `size` together.
    pub(super) fn batches<'a>(&self, letters: &'a [Letter], size: usize) -> Vec<Batch<'a>> {
        let same = |a: &Letter, b: &Letter| a.group == b.group && a.dead.topic == b.dead.topic;
        letters
            .chunk_by(same)
            .flat_map(|of_one| of_one.chunks(size))
            .map(|chunk| Batch {
                topic: &chunk[0].dead.topic,
                group: &chunk[0].group,
                ids: chunk.iter().map(Letter::id).collect(),
            })
            .collect()
    }
}

fn is(letter: &Letter, id: &str) -> bool {
    letter.dead.id.as_str() == id || letter.reference() == id
}
