//! One `[[handler]]`: its subscription, its grants, its limits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::grants;
use super::keys;
use super::outage::{self, DeadLetterCap};
use super::problem::{Collector, Place};
use super::section::{Found, Section};
use super::tree::{Node, Table, Value};
use super::trust;
use super::units;
use crate::bus::{Group, Needs, Start};
use crate::dispatch::{Filter, Order};
use crate::event::{Position, Topic};
use crate::sandbox::{Spec, Trust, TrustedKey};
use crate::settle::{BreakerSettings, Policy};

/// A handler as the operator asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct HandlerConfig {
    /// Unique in the file.
    pub name: String,
    /// The component's file.
    pub module: PathBuf,
    /// Whether the file is swapped in when it changes.
    pub watch: bool,
    /// What its bytes must be.
    pub trust: Trust,
    /// The consumer group: name, topics, start, lease, prefix of the consumer's name. `order`, which needs
    /// the handler's schemas, and `join_foreign` are not set here.
    pub group: Group,
    /// Globs of the event types it gets, as written; empty for all.
    pub types: Vec<String>,
    /// The same, ready to match.
    pub filter: Filter,
    /// What must wait for what.
    pub order: Order,
    /// JSON pointer to the ordering key in the event's data, where the wire has no key.
    pub key: Option<String>,
    /// What a failure leads to.
    pub policy: Policy,
    /// When it is left alone because everything fails; `None` for never.
    pub breaker: Option<BreakerSettings>,
    /// When it pauses because of its dead letters.
    pub dead_letters: DeadLetterCap,
    /// Events in hand at once.
    pub in_flight: usize,
    /// Events it may be given in a second, by this host; `None` for as many as there are.
    pub events_per_second: Option<u32>,
    /// Retrying and held-back events kept beside the permits, before reading stops.
    pub parked_max: usize,
    /// In which form it gets an event's data.
    pub payload: PayloadForm,
    /// Name, group, limits and grants, as the sandbox takes them.
    pub spec: Spec,
    /// Where its settings stand, for what is found wrong later.
    pub places: Places,
}

/// In which form a handler gets an event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadForm {
    /// A JSON document.
    Json,
    /// The bytes as they came.
    Raw,
}

/// Where the settings of a handler stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The handler itself.
    pub handler: Place,
    /// `module`.
    pub module: Place,
    /// `topics`.
    pub topics: Place,
    /// Each of `types`, in order.
    pub types: Vec<Place>,
    /// `grants`, or the handler if there are none.
    pub grants: Place,
    /// Each secret it asks for.
    pub secrets: Vec<(String, Place)>,
}

/// What a handler takes from the rest of the configuration.
pub(super) struct Defaults<'a> {
    pub(super) directory: &'a Path,
    pub(super) consumer: &'a str,
    pub(super) trusted: Option<&'a [TrustedKey]>,
    pub(super) sqlite: bool,
}

const MAX_ATTEMPTS: u64 = 5;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);
const LEASE: Duration = Duration::from_secs(30);
const IN_FLIGHT: u64 = 256;
const PARKED_MAX: u64 = 100_000;
/// A lease is renewed three times; below this a busy machine loses what it is working on.
const LEAST_LEASE: &str = "100ms";

/// More events in hand than this only fill memory: the sandbox is long busy.
const MOST_IN_FLIGHT: u64 = 1 << 20;

/// An instance that is never dropped is one that was never tested to come back.
const MOST_REUSE: u64 = 1_000_000;

/// The attempts are kept as 32 bits, and nobody waits for more.
const MOST_ATTEMPTS: u64 = 1_000_000;

// === impl HandlerConfig ===

impl HandlerConfig {
    /// What it is going to ask of the bus.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs {
            handler: self.name.clone(),
            topics: self.group.topics.clone(),
            publish: self.spec.grants.publish.iter().map(|grant| grant.topic.as_str().into()).collect(),
            key_space: self.spec.grants.keys.then(|| self.spec.name.clone()),
            ordered: self.order != Order::None,
        }
    }
}

/// Reads all handlers, each with whether it is enabled, and checks them against each other.
pub(super) fn read_all(
    node: Option<Node>,
    defaults: &Defaults<'_>,
    problems: &mut Collector,
) -> Vec<(bool, HandlerConfig)> {
    let Some(node) = node else { return Vec::new() };
    let Value::Array(items) = node.value else {
        problems.add(&node.place, "`handler` is a list: write [[handler]], with two brackets");
        return Vec::new();
    };
    let mut names = HashMap::new();
    let mut handlers = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let place = item.place.clone();
        match item.into_table() {
            Ok(table) => handlers.extend(read(index, table, place, defaults, &mut names, problems)),
            Err(other) => problems.add(&place, format!("a handler is {}: write [[handler]]", other.shown())),
        }
    }
    refuse_shared_groups(&handlers, problems);
    handlers
}

/// A name that fits into bus keys, consumer names, logs and environment variables alike.
pub(super) fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 128 && text.chars().all(good)
}

/// A topic's prefix may be all in braces: on a Redis cluster all topics lie in one slot then.
pub(super) fn is_prefix(text: &str) -> bool {
    is_topic(text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text))
}

/// Braces would move the keys that belong to a topic into another slot of a Redis cluster.
pub(super) fn is_topic(text: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '{' | '}');
    !text.is_empty() && !text.contains(bad)
}

pub(super) fn not_a_topic(what: &str, text: &str) -> String {
    format!("{what}: {text:?} cannot name a topic: it must have no spaces, control characters or braces")
}

fn read(
    index: usize,
    mut table: Table,
    place: Place,
    defaults: &Defaults<'_>,
    names: &mut HashMap<String, Place>,
    problems: &mut Collector,
) -> Option<(bool, HandlerConfig)> {
    let label = match table.get_mut("name").and_then(|node| node.as_string().map(str::to_owned)) {
        Some(name) => format!("{} {name:?}", keys::HANDLER.header),
        None => format!("{} number {}", keys::HANDLER.header, index + 1),
    };
    let mut section = Section::new(label.clone(), &keys::HANDLER, table, place.clone(), problems);
    let takes_name = "a name of letters, digits, `.`, `_` and `-`";
    let read_name = |node: &Node| node.as_string().filter(|name| is_name(name)).map(str::to_owned);
    let name = required(&mut section, "name", "what is the handler called?", |section| {
        section.get("name", takes_name, read_name)
    });
    if let Some(name) = &name {
        match names.get(&name.value) {
            Some(Place::Line(line)) => {
                section.problem(
                    &name.place,
                    format!("{label} has the name of the handler on line {line}: choose another"),
                );
            }
            Some(_) => section.problem(&name.place, format!("{label} has the name of another handler: choose another")),
            None => drop(names.insert(name.value.clone(), name.place.clone())),
        }
    }
    let module = required(&mut section, "module", "which component handles the events?", |section| {
        section.get("module", "the path of a component", |node| {
            node.as_string().filter(|path| !path.is_empty()).map(str::to_owned)
        })
    });
    let topics = required(&mut section, "topics", "which topics does it read?", |section| section.strings("topics"));
    let topics = topics.map(|found| check_topics(&mut section, &label, found));
    let types = types(&mut section, &label);
    let filter = filter(&mut section, &types, &format!("`types` in {label}"));

    let group_name = section.get("group", takes_name, read_name);
    let enabled = section.boolean("enabled", true);
    let watch = section.boolean("watch", false);
    let start = start(&mut section, defaults.sqlite);
    let orders = [("none", Order::None), ("key", Order::Key), ("topic", Order::Topic)];
    let order = section.word("order", &orders, Order::None);
    let key = section.get("key", "a JSON pointer that starts with `/`, such as \"/course/course_key\"", |node| {
        node.as_string().filter(|pointer| is_pointer(pointer)).map(str::to_owned)
    });
    let policy = policy(&mut section, &label);
    let (breaker, dead_letters) = (outage::breaker(&mut section, &label), outage::dead_letters(&mut section));
    let lease = section.duration("lease", LEAST_LEASE).map_or(LEASE, |found| found.value);
    let in_flight = section.number("in_flight", 1, MOST_IN_FLIGHT).unwrap_or(IN_FLIGHT);
    let parked_max = section.number("parked_max", 1, u64::from(u32::MAX)).unwrap_or(PARKED_MAX);
    let reuse = section.number("reuse", 0, MOST_REUSE).unwrap_or(0);
    let isolated = section.word("isolation", &[("none", false), ("process", true)], false);
    let forms = [("json", PayloadForm::Json), ("raw", PayloadForm::Raw)];
    let payload = section.word("payload", &forms, PayloadForm::Json);
    if order == Order::Key && (key.is_none() || payload == PayloadForm::Raw) {
        let text = if key.is_none() {
            "needs `key`, a JSON pointer to the key in the event's data, such as key = \"/course/course_key\""
        } else {
            "finds its key in the JSON document, which payload = \"raw\" does without: choose one of the two"
        };
        section.problem(&place, format!("order = \"key\" in {label} {text}"));
    }
    let (limits, events_per_second) = grants::limits(&mut section);
    let trust = trust::of_handler(&mut section, defaults.directory, defaults.trusted);
    let given = grants::grants(&mut section);
    section.finish();

    let (name, module, topics, trust) = (name?.value, module?, topics?, trust?);
    let group_name = group_name.map_or_else(|| name.clone(), |found| found.value);
    let spec = Spec {
        name: name.clone(),
        group: group_name.clone(),
        max_attempts: policy.max_attempts,
        reuse: u32::try_from(reuse).unwrap_or(u32::MAX),
        isolated,
        limits,
        grants: given.grants,
    };
    let handler = HandlerConfig {
        name,
        module: defaults.directory.join(&module.value),
        watch,
        trust,
        group: Group {
            name: group_name,
            topics: topics.value,
            start,
            lease,
            consumer: defaults.consumer.to_owned(),
            order: None,
            join_foreign: false,
        },
        types: types.iter().map(|found| found.value.clone()).collect(),
        filter,
        order,
        key: key.map(|found| found.value),
        policy,
        breaker,
        dead_letters,
        in_flight: usize::try_from(in_flight).unwrap_or(usize::MAX),
        events_per_second,
        parked_max: usize::try_from(parked_max).unwrap_or(usize::MAX),
        payload,
        spec,
        places: Places {
            handler: place.clone(),
            module: module.place,
            topics: topics.place,
            types: types.into_iter().map(|found| found.place).collect(),
            grants: given.place.unwrap_or(place),
            secrets: given.secrets,
        },
    };
    Some((enabled, handler))
}

pub(super) fn required<T>(
    section: &mut Section<'_>,
    key: &str,
    question: &str,
    get: impl FnOnce(&mut Section<'_>) -> Option<Found<T>>,
) -> Option<Found<T>> {
    if !section.holds(key) {
        let (place, label) = (section.place().clone(), section.label().to_owned());
        section.problem(&place, format!("`{key}` is missing in {label}: {question}"));
        return None;
    }
    get(section)
}

fn check_topics(section: &mut Section<'_>, label: &str, found: Found<Vec<Found<String>>>) -> Found<Vec<Topic>> {
    if found.value.is_empty() {
        section.problem(&found.place, format!("`topics` in {label} is empty: a handler reads at least one topic"));
    }
    let mut topics: Vec<Topic> = Vec::new();
    for topic in found.value {
        if !is_topic(&topic.value) {
            section.problem(&topic.place, not_a_topic(&format!("`topics` in {label}"), &topic.value));
        } else if topics.iter().any(|known| **known == *topic.value) {
            section.problem(&topic.place, format!("`topics` in {label} names {:?} twice: leave one out", topic.value));
        } else {
            topics.push(topic.value.into());
        }
    }
    Found { value: topics, place: found.place }
}

pub(super) fn types(section: &mut Section<'_>, label: &str) -> Vec<Found<String>> {
    let Some(types) = section.strings("types") else { return Vec::new() };
    if types.value.is_empty() {
        section.problem(&types.place, format!("`types` in {label} is empty: leave it out to get events of all types"));
    }
    types.value
}

/// Checks each glob by itself, so that each bad one is named with its line.
pub(super) fn filter(section: &mut Section<'_>, types: &[Found<String>], what: &str) -> Filter {
    let mut good = Vec::new();
    for found in types {
        match Filter::new(std::slice::from_ref(&found.value)) {
            Ok(_) => good.push(found.value.clone()),
            Err(error) => section.problem(&found.place, format!("{what}: {error}")),
        }
    }
    Filter::new(&good).unwrap_or_default()
}

fn start(section: &mut Section<'_>, sqlite: bool) -> Start {
    let position = if sqlite { "42" } else { "1526919030474-0" };
    let takes = format!(
        "\"new\", \"beginning\", a time with its offset such as \"2026-01-31T00:00:00Z\", or a position \
                         such as \"{position}\""
    );
    let read = |node: &Node| {
        let start = match &node.value {
            Value::Datetime(time) => units::start(time)?,
            Value::Integer(number) => Start::After(Position::from(u64::try_from(*number).ok()?.to_string())),
            _ => units::start(node.as_string()?)?,
        };
        match &start {
            Start::After(position) if sqlite && position.as_str().contains('-') => None,
            _ => Some(start),
        }
    };
    section.get("start", &takes, read).map_or(Start::New, |found| found.value)
}

fn policy(section: &mut Section<'_>, label: &str) -> Policy {
    let attempts = section.number("max_attempts", 1, MOST_ATTEMPTS).unwrap_or(MAX_ATTEMPTS);
    let (first, max) = (section.duration("retry_first", "1ms"), section.duration("retry_max", "1ms"));
    let place = first.as_ref().or(max.as_ref()).map(|found| found.place.clone());
    let policy = Policy {
        max_attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        first: first.map_or(RETRY_FIRST, |found| found.value),
        max: max.map_or(RETRY_MAX, |found| found.value),
    };
    if policy.first > policy.max
        && let Some(place) = place
    {
        let message = format!(
            "`retry_first` in {label} is longer than `retry_max` ({:?} and {:?}): the first wait is the shortest",
            policy.first, policy.max
        );
        section.problem(&place, message);
    }
    policy
}

/// Two handlers in one group on one topic would each get a part of its events.
fn refuse_shared_groups(handlers: &[(bool, HandlerConfig)], problems: &mut Collector) {
    let mut readers: HashMap<(&str, &str), &str> = HashMap::new();
    for (_, handler) in handlers.iter().filter(|(enabled, _)| *enabled) {
        for topic in &handler.group.topics {
            let (group, name) = (handler.group.name.as_str(), handler.name.as_str());
            match readers.get(&(group, &**topic)) {
                // A name used twice is reported as such.
                Some(other) if *other != name => problems.add(
                    &handler.places.handler,
                    format!(
                        "[[handler]] {name:?} reads topic {topic:?} in group {group:?}, and so does {other:?}: each would \
                         get a part of the events; give one of them another `group`"
                    ),
                ),
                Some(_) => {}
                None => drop(readers.insert((group, &**topic), name)),
            }
        }
    }
}

/// RFC 6901: tokens after slashes, in which `~` is written `~0` and `/` is written `~1`.
fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}
