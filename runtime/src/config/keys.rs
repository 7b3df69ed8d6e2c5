//! Every key there is, and the nearest one to a key there is not.

/// The keys of one table.
#[derive(Debug)]
pub(super) struct Keys {
    /// As the file writes it, for messages.
    pub(super) header: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) const ROOT: Keys = Keys { header: "", keys: &["bus", "schemas", "host", "secrets", "handler"] };
pub(super) const BUS: Keys =
    Keys { header: "[bus]", keys: &["url", "topic_prefix", "profile", "durability", "trim", "stream_max_len"] };
pub(super) const SCHEMAS: Keys = Keys { header: "[schemas]", keys: &["dirs", "builtin"] };
pub(super) const HOST: Keys = Keys {
    header: "[host]",
    keys: &[
        "threads",
        "grace",
        "max_payload",
        "consumer_name",
        "service",
        "poll_timeout",
        "consumers_enabled",
        "consecutive_errors_limit",
        "secret",
        "trusted_keys",
        "control",
        "code_cache",
        "http_ca_file",
        "compile_time",
        "compile_memory",
        "hardening",
        "log",
    ],
};
pub(super) const LOG: Keys = Keys { header: "[host.log]", keys: &["level", "format"] };
pub(super) const HANDLER: Keys = Keys {
    header: "[[handler]]",
    keys: &[
        "name",
        "module",
        "sha256",
        "trusted_keys",
        "watch",
        "topics",
        "types",
        "group",
        "enabled",
        "start",
        "order",
        "key",
        "max_attempts",
        "retry_first",
        "retry_max",
        "lease",
        "in_flight",
        "reuse",
        "isolation",
        "payload",
        "parked_max",
        "dead_letters_max",
        "dead_letters_max_age",
        "breaker",
        "limits",
        "grants",
    ],
};
pub(super) const BREAKER: Keys = Keys { header: "[handler.breaker]", keys: &["failures", "pause_first", "pause_max"] };
pub(super) const LIMITS: Keys = Keys {
    header: "[handler.limits]",
    keys: &[
        "time",
        "memory",
        "core_slots",
        "handles",
        "host_calls",
        "host_call_bytes",
        "published_events",
        "published_bytes",
        "key_operations",
        "key_bytes",
        "http_calls",
        "http_request_bytes",
        "http_response_bytes",
        "http_header_bytes",
        "http_connections",
        "http_connect",
        "log_lines",
        "log_bytes",
        "reason_bytes",
        "events_per_second",
    ],
};
pub(super) const GRANTS: Keys =
    Keys { header: "[handler.grants]", keys: &["publish", "keys", "config", "secrets", "http", "clock", "random"] };
pub(super) const HTTP: Keys = Keys { header: "grants.http", keys: &["url", "private"] };
pub(super) const KEYS: Keys = Keys { header: "grants.keys", keys: &["max_bytes"] };
pub(super) const SECRET: Keys = Keys { header: "[secrets]", keys: &["env", "file"] };
pub(super) const PUBLISH: Keys = Keys { header: "grants.publish", keys: &["topic", "types"] };

const TABLES: [&Keys; 9] = [&BUS, &SCHEMAS, &HOST, &LOG, &HANDLER, &BREAKER, &LIMITS, &GRANTS, &PUBLISH];

/// Below this two words are no longer thought to be the same word mistyped.
const ALIKE: f64 = 0.6;

/// What to say after "unknown key": the same key in another table, the nearest key of this one, or all of them.
pub(super) fn hint(unknown: &str, table: &Keys) -> String {
    if let Some(near) = nearest(unknown, table.keys.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    if let Some(other) = TABLES.iter().find(|other| other.keys.contains(&unknown)) {
        return format!("`{unknown}` belongs in {}", other.header);
    }
    format!("known are {}", table.keys.join(", "))
}

/// The candidate that is most like `unknown`, if any is much like it.
pub(super) fn nearest<'a>(unknown: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&unknown, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_sample_and_in_the_reference() {
        let sample = include_str!("../../../docs/sandbar.toml");
        let reference = include_str!("../../../docs/config.md");
        for table in [&BUS, &SCHEMAS, &HOST, &LOG, &HANDLER, &BREAKER, &LIMITS, &GRANTS] {
            for key in table.keys.iter().filter(|key| !["log", "breaker", "limits", "grants"].contains(key)) {
                let set = format!("{key} = ");
                assert!(sample.lines().any(|line| line.starts_with(&set)), "{key} is not in docs/sandbar.toml");
                let named = [format!("| `{key}` |"), format!("| `log.{key}` |")];
                assert!(named.iter().any(|row| reference.contains(row)), "{key} is not in docs/config.md");
            }
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("MAX-ATEMPTS", ["max_attempts", "module"]), Some("max_attempts"));
        assert_eq!(nearest("zzz", ["max_attempts", "module"]), None);
    }
}
