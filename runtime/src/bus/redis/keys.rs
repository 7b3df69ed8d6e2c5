//! The names of our keys. All keys made for a topic carry the topic's stream as hash tag, so that they lie in its slot.

use super::super::stream_name;
use super::slots::tag;
use crate::event::Topic;

/// The consumer under whose name the reader of a group with order reads, whoever that is.
pub(super) const READER: &str = "sandbar-reader";
/// The consumer under whose name a slice's entries are pending, before its number.
const SLICE: &str = "sandbar-slice-";

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
    /// Hash: what our consumers tell of themselves, by name. Of a group's first topic only.
    pub(super) reports: String,
    /// Hash: which module the handler is to run, and the modules. Of a group's first topic only.
    pub(super) ledger: String,
    /// String with a lease: who reads for a group with order.
    pub(super) reader: String,
    /// Hash: who has which slice, and what is to become of it.
    pub(super) slices: String,
    /// Sorted set: consumers that slices are divided among, to the time until which each is reckoned with.
    pub(super) alive: String,
    /// Hash: the last entry placed in each slice.
    pub(super) placed: String,
    /// Stream, a short one: something has changed for consumers other than the reader.
    pub(super) wake: String,
    /// String: written so that there is something to wait for.
    pub(super) touch: String,
}

// === impl Keys ===

impl Keys {
    pub(super) fn new(prefix: Option<&str>, topic: &Topic, group: &str) -> Self {
        let stream = stream_name(prefix, topic);
        let key = |kind: &str| match tag(stream.as_bytes()) {
            None => format!("{{{stream}}}.{kind}.{group}"),
            // A prefix such as `{dev}` puts all topics into one slot, and what belongs to them too.
            Some(tag) => format!("{{{}}}.{kind}.{group}.{stream}", String::from_utf8_lossy(tag)),
        };
        Self {
            topic: topic.clone(),
            retry: key("retry"),
            due: key("due"),
            dead: key("dlq"),
            attempts: key("attempts"),
            mark: key("mark"),
            hosts: key("hosts"),
            lost: key("lost"),
            reports: key("reports"),
            ledger: key("modules"),
            reader: key("reader"),
            slices: key("slices"),
            alive: key("alive"),
            placed: key("placed"),
            wake: key("wake"),
            touch: key("touch"),
            stream,
        }
    }

    /// The sorted set of one slice's retries, in a group with order. Scripts make the name themselves.
    pub(super) fn due_of(&self, slice: u16) -> String {
        format!("{}.{slice}", self.due)
    }
}

/// The name under which the entries of a slice are pending.
pub(super) fn slice_name(slice: u16) -> String {
    format!("{SLICE}{slice}")
}

/// True of names that stand for nobody in particular.
pub(super) fn is_virtual(consumer: &str) -> bool {
    consumer == READER || consumer.strip_prefix(SLICE).is_some_and(|number| number.parse::<u16>().is_ok())
}

/// String with a lease: whose turn it is to trim a stream, of all that read it or publish to it.
pub(super) fn trim(stream: &str) -> String {
    match tag(stream.as_bytes()) {
        None => format!("{{{stream}}}.trim"),
        Some(tag) => format!("{{{}}}.trim.{stream}", String::from_utf8_lossy(tag)),
    }
}

/// The hash that holds a key space.
pub(super) fn space(prefix: Option<&str>, space: &str) -> String {
    stream_name(prefix, &format!("sandbar.keys.{space}"))
}

/// The hash that holds a key space, in the slot of a stream.
pub(super) fn space_beside(stream: &str, space: &str) -> String {
    format!("{{{stream}}}.keys.{space}")
}

/// The field of a key in its space. The count of writes to the space lies under `seq`, which has no such mark.
pub(super) fn field(key: &str) -> String {
    format!("={key}")
}

#[cfg(test)]
mod tests {
    use super::super::slots::slot;
    use super::*;

    #[test]
    fn what_belongs_to_a_topic_lies_in_its_slot() {
        for prefix in [None, Some("dev"), Some("{dev}")] {
            let keys = Keys::new(prefix, &"course-enrollment".into(), "g.1");
            let all = [&keys.retry, &keys.due, &keys.dead, &keys.attempts, &keys.mark, &keys.hosts, &keys.lost];
            let order = [&keys.reader, &keys.slices, &keys.alive, &keys.placed, &keys.wake, &keys.due_of(63)];
            let others = [&keys.reports, &keys.ledger, &keys.touch, &trim(&keys.stream)];
            for key in all.into_iter().chain(order).chain(others) {
                assert_eq!(slot(key.as_bytes()), slot(keys.stream.as_bytes()), "{key}");
            }
        }
        let keys = Keys::new(Some("{dev}"), &"t".into(), "g");
        assert_eq!((keys.stream.as_str(), keys.retry.as_str()), ("{dev}-t", "{dev}.retry.g.{dev}-t"));
        assert_eq!(slot(keys.stream.as_bytes()), slot(space(Some("{dev}"), "s").as_bytes()));
    }
}
