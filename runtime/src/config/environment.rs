//! Settings from the environment: `SANDBAR_TABLE__KEY` over the file, the Python bus's names under it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{self, Keys};
use super::problem::{Collector, Place};
use super::tree::{Node, Table, Value};

/// The environment's variables. Those that are not ours are there for `[secrets]`, which may name any.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Only names that begin with this and hold [`BETWEEN`] override a setting; `SANDBAR_CONFIG`, `SANDBAR_LOG` and
/// whatever build scripts use are left alone.
const PREFIX: &str = "SANDBAR_";
const BETWEEN: &str = "__";

/// Names that begin with this hold a handler's secret; what follows is its name, which may have [`BETWEEN`] in it.
pub(super) const SECRET_PREFIX: &str = "SANDBAR_SECRET_";

/// Names that the Python event bus reads, and the setting each of them means. The first of two for one setting wins.
const OLD_NAMES: [(&str, &[&str], Meaning); 8] = [
    ("EVENT_BUS_REDIS_CONNECTION_URL", &["bus", "url"], Meaning::Same),
    ("EVENT_BUS_TOPIC_PREFIX", &["bus", "topic_prefix"], Meaning::Same),
    ("EVENT_BUS_REDIS_STREAM_MAX_LEN", &["bus", "stream_max_len"], Meaning::Same),
    ("EVENT_BUS_REDIS_CONSUMER_POLL_TIMEOUT", &["host", "poll_timeout"], Meaning::Seconds),
    ("EVENT_BUS_REDIS_CONSUMER_CONSECUTIVE_ERRORS_LIMIT", &["host", "consecutive_errors_limit"], Meaning::Same),
    ("EVENT_BUS_REDIS_CONSUMERS_ENABLED", &["host", "consumers_enabled"], Meaning::Same),
    ("EVENTS_SERVICE_NAME", &["host", "service"], Meaning::Same),
    ("SERVICE_VARIANT", &["host", "service"], Meaning::Same),
];

/// What a folder for caches is found by.
pub(super) const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
pub(super) const HOME: &str = "HOME";

/// How an old value is to be read.
#[derive(Clone, Copy)]
enum Meaning {
    Same,
    /// A number of seconds.
    Seconds,
}

/// Lays the old names under the file's tree.
pub(super) fn lay_under(tree: &mut Table, environment: &Environment, problems: &mut Collector) {
    for (name, path, meaning) in OLD_NAMES {
        let Some(text) = environment.get(name).filter(|text| !text.is_empty() && *text != "None") else { continue };
        let place = Place::Environment(name.to_owned());
        let text = match meaning {
            Meaning::Same => text.to_owned(),
            Meaning::Seconds => match seconds(text) {
                Some(wait) => format!("{}ms", wait.as_millis()),
                None => {
                    problems.add(&place, format!("{text:?} is not a number of seconds, such as 60"));
                    continue;
                }
            },
        };
        if let Some(table) = tree.table_mut(path[0], &place)
            && table.get_mut(path[1]).is_none()
        {
            table.set(path[1], Node::variable(name, text));
        }
    }
}

/// Lays `SANDBAR_…__…` over the file's tree.
pub(super) fn lay_over(tree: &mut Table, environment: &Environment, problems: &mut Collector) {
    for (name, text) in &environment.0 {
        let path = name.strip_prefix(PREFIX).filter(|rest| rest.contains(BETWEEN));
        let Some(path) = path.filter(|_| !name.starts_with(SECRET_PREFIX)) else { continue };
        let parts: Vec<String> = path.split(BETWEEN).map(str::to_ascii_lowercase).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Err(message) = set(tree, name, &parts, text) {
            problems.add(&Place::Environment(name.clone()), message);
        }
    }
}

fn set(tree: &mut Table, name: &str, path: &[&str], text: &str) -> Result<(), String> {
    let (first, rest) = path.split_first().unwrap_or((&"", &[]));
    match *first {
        "bus" => leaf(tree, "bus", &keys::BUS, name, rest, text),
        "schemas" => leaf(tree, "schemas", &keys::SCHEMAS, name, rest, text),
        "host" => match rest {
            ["log", rest @ ..] if !rest.is_empty() => {
                let place = Place::Environment(name.to_owned());
                let host = tree.table_mut("host", &place).ok_or_else(|| not_a_table("host"))?;
                leaf(host, "log", &keys::LOG, name, rest, text)
            }
            _ => leaf(tree, "host", &keys::HOST, name, rest, text),
        },
        "handler" => handler(tree, name, rest, text),
        other => Err(match keys::nearest(other, keys::ROOT.keys.iter().copied()) {
            Some(near) => format!("no such table; did you mean {PREFIX}{}{BETWEEN}…?", near.to_uppercase()),
            None => "no such table; known are SANDBAR_BUS__…, SANDBAR_SCHEMAS__…, SANDBAR_HOST__… and \
                     SANDBAR_HANDLER__NAME__…"
                .to_owned(),
        }),
    }
}

fn handler(tree: &mut Table, name: &str, path: &[&str], text: &str) -> Result<(), String> {
    let [wanted, rest @ ..] = path else { return Err("write SANDBAR_HANDLER__NAME__KEY".to_owned()) };
    let Some(Node { value: Value::Array(handlers), .. }) = tree.get_mut("handler") else {
        return Err(
            "the file has no [[handler]]: environment variables change handlers, they do not add any".to_owned()
        );
    };
    let mut known = Vec::new();
    let mut matching = Vec::new();
    for node in handlers {
        let Value::Table(table) = &mut node.value else { continue };
        let Some(found) = table.get_mut("name").and_then(|node| node.as_string().map(variable_part)) else { continue };
        if found == *wanted {
            matching.push(table);
        }
        if !known.contains(&found) {
            known.push(found);
        }
    }
    let [table] = matching.as_mut_slice() else {
        let shown = |part: &str| format!("SANDBAR_HANDLER__{}__…", part.to_uppercase());
        return Err(if matching.len() > 1 {
            format!(
                "{} handlers have this name when `-` and `.` are written as `_`; rename all but one",
                matching.len()
            )
        } else if let Some(near) = keys::nearest(wanted, known.iter().map(String::as_str)) {
            format!("no handler of that name; did you mean {}?", shown(near))
        } else {
            format!(
                "no handler of that name; known are {}",
                known.iter().map(|k| shown(k)).collect::<Vec<_>>().join(", ")
            )
        });
    };
    let place = Place::Environment(name.to_owned());
    match rest {
        ["limits", rest @ ..] if !rest.is_empty() => leaf(table, "limits", &keys::LIMITS, name, rest, text),
        ["breaker", rest @ ..] if !rest.is_empty() => leaf(table, "breaker", &keys::BREAKER, name, rest, text),
        ["grants", "config", key] => {
            let grants = table.table_mut("grants", &place).ok_or_else(|| not_a_table("grants"))?;
            let config = grants.table_mut("config", &place).ok_or_else(|| not_a_table("grants.config"))?;
            // The guest's own names may be in any case; an existing one is overridden whatever its case.
            let existing =
                config.0.iter().find(|(found, _)| variable_part(found) == *key).map(|(found, _)| found.clone());
            config.set(existing.as_deref().unwrap_or(key), Node::variable(name, text.to_owned()));
            Ok(())
        }
        ["grants", rest @ ..] if !rest.is_empty() => leaf(table, "grants", &keys::GRANTS, name, rest, text),
        [key] => assign(table, &keys::HANDLER, name, key, text),
        _ => Err("write SANDBAR_HANDLER__NAME__KEY".to_owned()),
    }
}

fn leaf(
    parent: &mut Table,
    table: &str,
    known: &'static Keys,
    name: &str,
    rest: &[&str],
    text: &str,
) -> Result<(), String> {
    let [key] = rest else { return Err(format!("too many `{BETWEEN}`: {} has no tables inside", known.header)) };
    let place = Place::Environment(name.to_owned());
    let table = parent.table_mut(table, &place).ok_or_else(|| not_a_table(table))?;
    assign(table, known, name, key, text)
}

fn assign(table: &mut Table, known: &'static Keys, name: &str, key: &str, text: &str) -> Result<(), String> {
    if !known.keys.contains(&key) {
        return Err(format!("unknown key `{key}` in {}; {}", known.header, keys::hint(key, known)));
    }
    table.set(key, Node::variable(name, text.to_owned()));
    Ok(())
}

fn not_a_table(key: &str) -> String {
    format!("{key} is not a table in the file")
}

/// A name as an environment variable can hold it, in lower case.
fn variable_part(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

/// Python's setting is a number of seconds; 0 means to block without end, which a host that must renew leases does
/// not do: it is taken as the Python default, one minute.
fn seconds(text: &str) -> Option<Duration> {
    let wait = Duration::try_from_secs_f64(text.trim().parse().ok()?).ok()?;
    Some(if wait.is_zero() { Duration::from_secs(60) } else { wait })
}

// === impl Environment ===

impl Environment {
    /// The variables of this process. Those that are not UTF-8 are read with replacement characters, so that the setting
    /// they are for refuses them.
    #[must_use]
    pub fn of_process() -> Self {
        Self::from_iter(
            std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
        )
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Names only: values can be passwords and secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
