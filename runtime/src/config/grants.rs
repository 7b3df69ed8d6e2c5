//! `[handler.limits]` and `[handler.grants]`: how far a call may go, and what it was given.

use std::collections::BTreeMap;

use super::handler::{filter, is_topic, not_a_topic, required, types};
use super::keys;
use super::problem::Place;
use super::secrets;
use super::section::{Found, Section};
use super::tree::Node;
use crate::sandbox::limits::MEMORY_CEILING;
use crate::sandbox::{Grants, Limits, PublishGrant, Secrets};

/// One page: no guest has less.
const LEAST_MEMORY: u64 = 64 << 10;

/// A language runtime calls the host as it starts.
const LEAST_HOST_CALLS: u64 = 100;

/// The shortest draft and the shortest log line are handed over.
const LEAST_HOST_CALL: u64 = 1 << 10;

/// A reason that says something.
const LEAST_REASON: u64 = 16;

/// More than so many things, or bytes of one kind, of one call is no limit: every call that runs can hold as many.
const MOST_THINGS: u64 = 10_000_000;
const MOST_CORES: u64 = 4_096;
const MOST_BYTES: u64 = 1 << 30;

/// Reads `[handler.limits]`: how far a call may go, and how many events there may be in a second.
pub(super) fn limits(section: &mut Section<'_>) -> (Limits, Option<u32>) {
    let mut section = section.inner("limits", &keys::LIMITS);
    let default = Limits::default();
    let limits = Limits {
        time: section.duration("time", "1ms").map_or(default.time, |found| found.value),
        memory: section.size("memory", LEAST_MEMORY, MEMORY_CEILING, "from 64KiB to 4GiB").unwrap_or(default.memory),
        core_slots: cores(&mut section).unwrap_or(default.core_slots),
        handles: count(&mut section, "handles", default.handles),
        host_calls: section.number("host_calls", LEAST_HOST_CALLS, u64::MAX).unwrap_or(default.host_calls),
        host_call_bytes: bytes(&mut section, "host_call_bytes", LEAST_HOST_CALL, default.host_call_bytes),
        published_events: count(&mut section, "published_events", default.published_events),
        published_bytes: bytes(&mut section, "published_bytes", 0, default.published_bytes),
        key_operations: count(&mut section, "key_operations", default.key_operations),
        key_bytes: bytes(&mut section, "key_bytes", 0, default.key_bytes),
        log_lines: u32::try_from(count(&mut section, "log_lines", default.log_lines as usize)).unwrap_or(u32::MAX),
        log_bytes: bytes(&mut section, "log_bytes", 0, default.log_bytes),
        reason_bytes: bytes(&mut section, "reason_bytes", LEAST_REASON, default.reason_bytes),
    };
    let per_second = section.number("events_per_second", 1, u64::from(u32::MAX));
    section.finish();
    (limits, per_second.and_then(|number| u32::try_from(number).ok()))
}

/// A number of things that are held in memory until the call is over.
fn cores(section: &mut Section<'_>) -> Option<usize> {
    section.number("core_slots", 1, MOST_CORES).and_then(|number| usize::try_from(number).ok())
}

fn count(section: &mut Section<'_>, key: &'static str, default: usize) -> usize {
    section.number(key, 0, MOST_THINGS).and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

/// A number of bytes that are held in memory until the call is over.
fn bytes(section: &mut Section<'_>, key: &'static str, least: u64, default: usize) -> usize {
    let bounds = match least {
        0 => "up to 1GiB".to_owned(),
        least => format!("from {least} bytes to 1GiB"),
    };
    section.size(key, least, MOST_BYTES, &bounds).and_then(|size| usize::try_from(size).ok()).unwrap_or(default)
}

/// What `[handler.grants]` says.
pub(super) struct Given {
    pub(super) grants: Grants,
    /// Where the table stands, if there is one.
    pub(super) place: Option<Place>,
    /// Each secret that is asked for, with where.
    pub(super) secrets: Vec<(String, Place)>,
}

/// Reads `[handler.grants]`.
pub(super) fn grants(section: &mut Section<'_>) -> Given {
    let given = section.holds("grants");
    let mut section = section.inner("grants", &keys::GRANTS);
    let place = given.then(|| section.place().clone());
    let takes = "a list of topics, such as [\"statements\", { topic = \"alerts\", types = [\"org.example.*\"] }]";
    let items = section.get("publish", takes, Node::as_items).map_or_else(Vec::new, |found| found.value);
    let publish = items.into_iter().filter_map(|item| publish(&mut section, item)).collect();
    let (keys, key_bytes) = keys_of(&mut section);
    let config = section.take("config").map(|node| config(&mut section, node));
    let asked = secrets::asked(&mut section);
    let (clock, random) = (section.boolean("clock", false), section.boolean("random", false));
    section.finish();
    let secrets = Secrets::asked(asked.iter().map(|(name, _)| name.clone()));
    Given { grants: Grants { publish, keys, key_bytes, config, secrets, clock, random }, place, secrets: asked }
}

/// Whether there are keys, and how many bytes they may hold.
fn keys_of(section: &mut Section<'_>) -> (bool, Option<u64>) {
    let Some(node) = section.take("keys") else { return (false, None) };
    if let Some(granted) = node.as_boolean() {
        return (granted, None);
    }
    let (place, shown, what) = (node.place.clone(), node.shown(), format!("`keys` in {}", section.label()));
    let Ok(table) = node.into_table() else {
        section.problem(&place, format!("{what} is {shown}: it takes true, false or {{ max_bytes = \"10MiB\" }}"));
        return (false, None);
    };
    let mut inner = section.child(what, &keys::KEYS, table, place);
    let most = required(&mut inner, "max_bytes", "how many bytes may all keys hold?", |inner| {
        let place = inner.place().clone();
        inner.size("max_bytes", 1, i64::MAX.unsigned_abs(), "of 1 byte or more").map(|value| Found { value, place })
    });
    inner.finish();
    (true, most.map(|found| found.value))
}

fn publish(section: &mut Section<'_>, item: Node) -> Option<PublishGrant> {
    let (place, shown) = (item.place.clone(), item.shown());
    let what = format!("`publish` in {}", section.label());
    if let Some(topic) = item.as_string().map(str::to_owned)
        && !topic.starts_with('{')
    {
        if is_topic(&topic) {
            return Some(PublishGrant { topic, types: Vec::new() });
        }
        section.problem(&place, not_a_topic(&what, &topic));
        return None;
    }
    let Ok(table) = item.into_table() else {
        section
            .problem(&place, format!("{what} has {shown}: it takes a topic or {{ topic = \"…\", types = [\"…\"] }}"));
        return None;
    };
    let mut entry = section.child(what.clone(), &keys::PUBLISH, table, place);
    let topic = required(&mut entry, "topic", "where may it publish?", |entry| {
        entry.get("topic", "the name of a topic", |node| node.as_string().filter(|t| is_topic(t)).map(str::to_owned))
    });
    let types = types(&mut entry, &what);
    filter(&mut entry, &types, &format!("`types` of {what}"));
    entry.finish();
    Some(PublishGrant { topic: topic?.value, types: types.into_iter().map(|found| found.value).collect() })
}

fn config(section: &mut Section<'_>, node: Node) -> BTreeMap<String, String> {
    let (place, what) = (node.place.clone(), format!("`config` in {}", section.label()));
    let Ok(table) = node.into_table() else {
        section.problem(
            &place,
            format!("{what} takes a table of strings, such as {{ base = \"https://lms.example.org\" }}"),
        );
        return BTreeMap::new();
    };
    let mut values = BTreeMap::new();
    for (key, node) in table.0 {
        match node.as_string() {
            Some(value) => drop(values.insert(key, value.to_owned())),
            None => {
                let message = format!("{what}: `{key}` is {}: a handler reads strings, put it in quotes", node.shown());
                section.problem(&node.place, message);
            }
        }
    }
    values
}
