//! Which dead letters a command is about.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::anyhow;
use sandbar::bus::{Bus, DeadLetter, Pace};
use sandbar::config::{self, Config, HandlerConfig};
use sandbar::dispatch::Filter;
use sandbar::event::{Position, Topic};

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
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) dead: DeadLetter,
}

/// Where dead letters are looked up.
pub(super) struct Desk {
    pub(super) config: Config,
    pub(super) bus: Arc<dyn Bus>,
    filters: Filters,
}

/// Goes through all that the filters let through, a page at a time: there may be more than fit into the memory.
pub(super) struct Walk<'a> {
    desk: &'a Desk,
    places: VecDeque<Place<'a>>,
    pace: Pace,
}

/// The dead letters of one group on one topic, as far as a walk is.
struct Place<'a> {
    handler: &'a HandlerConfig,
    topic: &'a Topic,
    after: Option<Position>,
    /// How many more to look at.
    left: u64,
}

/// Some dead letters of one group on one topic, oldest first.
pub(super) struct Page<'a> {
    pub(super) topic: &'a Topic,
    pub(super) group: &'a str,
    pub(super) letters: Vec<Letter>,
    /// How many were looked at.
    seen: u64,
}

/// How many dead letters there are.
#[derive(Default)]
pub(super) struct Survey {
    /// Those that the filters let through.
    pub(super) chosen: u64,
    /// All of each place, in the order of a walk.
    seen: Vec<u64>,
}

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
    pub(super) fn walk(&self) -> Walk<'_> {
        let mut places = VecDeque::new();
        for handler in self.config.all_handlers() {
            for topic in handler.group.topics.iter().filter(|topic| self.filters.covers(handler, topic)) {
                places.push_back(Place { handler, topic, after: None, left: u64::MAX });
            }
        }
        Walk { desk: self, places, pace: Pace::default() }
    }

    /// A walk that leaves out what has come since the survey: a handler that runs may give up again at once what was
    /// just sent to it, and there would be no end. The oldest are those that were there.
    pub(super) fn walk_again(&self, survey: &Survey) -> Walk<'_> {
        let mut walk = self.walk();
        for (place, seen) in walk.places.iter_mut().zip(&survey.seen) {
            place.left = *seen;
        }
        walk
    }

    pub(super) async fn survey(&self) -> Result<Survey, Failure> {
        let mut walk = self.walk();
        let (places, mut survey) = (walk.places.len(), Survey::default());
        survey.seen.resize(places, 0);
        loop {
            let Some(page) = walk.next().await? else { return Ok(survey) };
            // Those that a walk is done with are gone from its front.
            let place = places - walk.places.len();
            survey.chosen += page.letters.len() as u64;
            survey.seen[place] += page.seen;
        }
    }

    /// The letter of this id, as `list` prints it or the last part of it alone.
    pub(super) async fn one(&self, id: &str) -> Result<Letter, Failure> {
        Ok(self.of(&[id.to_owned()]).await?.remove(0))
    }

    /// The letters of these ids. An id that is not there, or that several letters have, is an error.
    pub(super) async fn of(&self, ids: &[String]) -> Result<Vec<Letter>, Failure> {
        let mut found = Vec::new();
        let mut walk = self.walk();
        while let Some(page) = walk.next().await? {
            found.extend(page.letters.into_iter().filter(|letter| ids.iter().any(|id| is(letter, id))));
        }
        for id in ids {
            let names: Vec<_> = found.iter().filter(|letter| is(letter, id)).map(Letter::reference).collect();
            match names.len() {
                1 => {}
                0 => {
                    return Err(Failure::usage(anyhow!(
                        "there is no dead letter {id}: `dlq list` lists those there are"
                    )));
                }
                _ => {
                    return Err(Failure::usage(anyhow!(
                        "{id} is the id of several dead letters, give one of {}",
                        names.join(", ")
                    )));
                }
            }
        }
        Ok(found)
    }
}

// === impl Walk ===

impl<'a> Walk<'a> {
    /// The next page, perhaps an empty one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Page<'a>>, Failure> {
        loop {
            let Some(place) = self.places.front_mut() else { return Ok(None) };
            let (handler, topic) = (place.handler, place.topic);
            let group = handler.group.name.as_str();
            let count = self.pace.count().min(usize::try_from(place.left).unwrap_or(usize::MAX));
            let page = match count {
                0 => Vec::new(),
                count => self.desk.bus.dead_letters(topic, group, place.after.as_ref(), count).await?,
            };
            let Some(last) = page.last() else {
                self.places.pop_front();
                continue;
            };
            place.after = Some(last.id.clone());
            let seen = page.len() as u64;
            place.left -= seen;
            self.pace.learn(page.iter().map(|dead| &dead.fields));
            let letters = page.into_iter().map(|dead| letter(handler, dead));
            let letters = letters.filter(|letter| self.desk.filters.lets_through(letter)).collect();
            return Ok(Some(Page { topic, group, letters, seen }));
        }
    }
}

fn letter(handler: &HandlerConfig, dead: DeadLetter) -> Letter {
    let kind = dead.fields.get("type").map(|kind| String::from_utf8_lossy(kind).into_owned()).unwrap_or_default();
    Letter { handler: handler.name.clone(), group: handler.group.name.clone(), kind, dead }
}

fn is(letter: &Letter, id: &str) -> bool {
    letter.dead.id.as_str() == id || letter.reference() == id
}
