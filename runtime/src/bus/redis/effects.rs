//! Effects as `commit.lua` takes them, with a delivery or without.

use redis::{Cmd, ServerError};

use super::super::stream_name;
use super::Shared;
use super::record::PLAIN_FIELDS_MAX;
use super::settle::push_fields;
use super::{errors, keys};
use crate::event::{Effects, Topic};

/// Where effects go.
pub(super) struct Placed {
    /// The hash of the key space; `None` if no key is touched.
    space: Option<String>,
    /// Each stream once.
    streams: Vec<String>,
    /// For each message where its stream stands among the script's keys; `None` if it does not go there.
    targets: Vec<Option<usize>>,
}

/// Keys that stand before the streams, counted as Lua does: the delivery's four and the key space.
const FIRST_STREAM: usize = 6;

/// Why these effects cannot be stored whatever the bus holds.
pub(super) fn unfit(effects: &Effects) -> Option<String> {
    effects.publish.iter().find_map(|message| {
        if message.fields.len() > PLAIN_FIELDS_MAX {
            let count = message.fields.len();
            let topic = &message.topic;
            return Some(format!(
                "a message to {topic} has {count} fields, and at most {PLAIN_FIELDS_MAX} can be published"
            ));
        }
        message
            .fields
            .is_empty()
            .then(|| format!("a message to {} has no field, which Redis does not store", message.topic))
    })
}

/// The one refusal that the script cannot foresee.
pub(super) fn refusal(error: &ServerError) -> Option<String> {
    errors::words(error)
        .contains("last possible ID")
        .then(|| "a topic has used up its ids: somebody appended with the highest there is".to_owned())
}

/// Appends what was read, for a script to compare.
pub(super) fn push_reads(command: &mut Cmd, effects: &Effects) {
    command.arg(effects.reads.len());
    for read in &effects.reads {
        match &read.key {
            Some(key) => command.arg("key").arg(keys::field(key)),
            None => command.arg("space").arg(""),
        };
        command.arg(read.version);
    }
}

// === impl Placed ===

impl Placed {
    /// Leaves out what goes to topics that are not here: on a cluster a script reaches one slot.
    pub(super) fn of(shared: &Shared, effects: &Effects, is_here: impl Fn(&Topic) -> bool) -> Self {
        let space = (!effects.key_space.is_empty()).then(|| shared.space(&effects.key_space));
        let mut streams: Vec<String> = Vec::new();
        let mut targets = Vec::with_capacity(effects.publish.len());
        for message in &effects.publish {
            if !is_here(&message.topic) {
                targets.push(None);
                continue;
            }
            let stream = stream_name(shared.prefix.as_deref(), &message.topic);
            let at = streams.iter().position(|known| *known == stream).unwrap_or_else(|| {
                streams.push(stream);
                streams.len() - 1
            });
            targets.push(Some(at + FIRST_STREAM));
        }
        Self { space, streams, targets }
    }

    /// The streams that are appended to.
    pub(super) fn streams(&self) -> &[String] {
        &self.streams
    }

    /// One of the keys.
    pub(super) fn any(&self) -> &str {
        self.space.as_deref().or(self.streams.first().map(String::as_str)).unwrap_or_default()
    }

    /// The script's keys after the delivery's. Where no key space is touched any key of the same slot stands for it.
    pub(super) fn keys<'a>(&'a self, stand_in: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::once(self.space.as_deref().unwrap_or(stand_in)).chain(self.streams.iter().map(String::as_str))
    }

    /// The script's arguments after the delivery's.
    pub(super) fn push(&self, commit: &mut Cmd, max_len: Option<u64>, effects: &Effects) {
        commit.arg(max_len.unwrap_or(0)).arg(self.targets.iter().flatten().count());
        for (message, target) in effects.publish.iter().zip(&self.targets) {
            let Some(target) = target else { continue };
            commit.arg(*target).arg(2 * message.fields.len());
            push_fields(commit, &message.fields);
        }
        push_reads(commit, effects);
        match effects.key_bytes {
            Some(most) => commit.arg(most),
            None => commit.arg("any"),
        };
        commit.arg(effects.writes.len());
        for write in &effects.writes {
            match &write.value {
                Some(value) => commit.arg("set").arg(keys::field(&write.key)).arg(&value[..]),
                None => commit.arg("del").arg(keys::field(&write.key)).arg(""),
            };
        }
    }
}
