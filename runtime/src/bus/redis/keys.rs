//! The names of our keys. All keys made for a topic carry the topic's stream as hash tag, so that they lie in its slot.

use super::super::stream_name;
use crate::event::Topic;

/// The keys of one group on one topic.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// The topic, without prefix.
    pub(super) topic: Topic,
    /// The stream itself.
    pub(super) stream: String,
    /// Hash: what waits for a retry, and under `<id>:owner` the token of whoever has it in hand.
    pub(super) retry: String,
    /// Sorted set: id to due time, or to the end of the lease of what is in hand.
    pub(super) due: String,
    /// Stream of dead letters.
    pub(super) dead: String,
    /// Hash: calls started for deliveries that were inherited.
    pub(super) attempts: String,
    /// String: where the group starts should it have to be made again.
    pub(super) mark: String,
    /// Sorted set: our consumers, to the time of their last sign of life.
    pub(super) hosts: String,
    /// Counter: messages that were trimmed before the group had handled them.
    pub(super) lost: String,
    /// String with a lease: the active consumer of an exclusive group.
    pub(super) reader: String,
    /// String: written so that there is something to wait for.
    pub(super) touch: String,
}

// === impl Keys ===

impl Keys {
    pub(super) fn new(prefix: Option<&str>, topic: &Topic, group: &str) -> Self {
        let stream = stream_name(prefix, topic);
        let key = |kind: &str| format!("{{{stream}}}.{kind}.{group}");
        Self {
            topic: topic.clone(),
            retry: key("retry"),
            due: key("due"),
            dead: key("dlq"),
            attempts: key("attempts"),
            mark: key("mark"),
            hosts: key("hosts"),
            lost: key("lost"),
            reader: key("reader"),
            touch: key("touch"),
            stream,
        }
    }
}

/// String with a lease: whose turn it is to trim a stream, of all that read it or publish to it.
pub(super) fn trim(stream: &str) -> String {
    format!("{{{stream}}}.trim")
}

/// The hash that holds a key space.
pub(super) fn space(prefix: Option<&str>, space: &str) -> String {
    stream_name(prefix, &format!("sandbar.keys.{space}"))
}

/// The field of a key in its space. The count of writes to the space lies under `seq`, which has no such mark.
pub(super) fn field(key: &str) -> String {
    format!("={key}")
}
