//! `[handler.limits]` and `[handler.grants]`: how far a call may go, and what it was given.

use std::collections::BTreeMap;

use super::handler::{filter, is_topic, not_a_topic, required, types};
use super::keys;
use super::problem::Place;
use super::secrets;
use super::section::{Found, Section};
use super::tree::Node;
use crate::sandbox::limits::{MEMORY, MEMORY_CEILING, TIME};
use crate::sandbox::{Grants, Limits, PublishGrant, Secrets};

/// One page: no guest has less.
const LEAST_MEMORY: u64 = 64 << 10;

/// Reads `[handler.limits]`.
pub(super) fn limits(section: &mut Section<'_>) -> Limits {
    let mut section = section.inner("limits", &keys::LIMITS);
    let time = section.duration("time", "1ms").map_or(TIME, |found| found.value);
    let memory = section.size("memory", LEAST_MEMORY, MEMORY_CEILING, "from 64KiB to 4GiB").unwrap_or(MEMORY);
    section.finish();
    Limits { time, memory }
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
