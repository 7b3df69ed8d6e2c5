//! The words that every step of the line shares, and nothing else.
//!
//! A [`Message`] is what a bus stored, a [`Envelope`] is that message with its headers read by a wire profile,
//! an [`Event`] is the envelope with its data decoded. A handler answers with a [`Verdict`] and leaves
//! [`Effects`]; what becomes of the delivery is a [`Settlement`]. This module names no other module of ours.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

mod fields;
pub mod glob;
mod lane;

pub use fields::{Fields, Malformed};
pub use lane::{Lane, SLICES};

/// A topic as the configuration names it, without the bus's prefix.
pub type Topic = Arc<str>;

/// Where a message lies in its topic, in the bus's own notation (`1526919030474-55` on Redis, `42` on SQLite).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub Arc<str>);

/// One message as a bus delivered it: its fields to the byte, and where it was found.
///
/// Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic it was read from.
    pub topic: Topic,
    /// Where it lies in the topic now.
    pub position: Position,
    /// Where it lay when it was first published: differs from `position` once a dead letter was requeued.
    /// Ids of whatever the handler publishes are derived from it, so that a repeat is recognisable.
    pub first: Position,
    /// The fields, in the order they came.
    pub fields: Fields,
}

/// A message ready to be appended to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic, without the bus's prefix.
    pub topic: Topic,
    /// The fields, in the order the wire profile asks for.
    pub fields: Fields,
}

/// What a message says about itself, in CloudEvents' words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Unique id of the event.
    pub id: String,
    /// Event type, e.g. `org.openedx.learning.course.enrollment.created.v1`.
    pub kind: String,
    /// Who produced it.
    pub source: String,
    /// When it was produced, as ISO 8601 text exactly as it stood on the wire.
    pub time: String,
    /// Ordering key, where the wire has one.
    pub key: Option<Bytes>,
    /// All remaining headers, in wire order.
    pub headers: Vec<(String, Bytes)>,
    /// How many handlers this event has passed through by being published again.
    pub hops: u32,
}

/// How the payload of an [`Envelope`] is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One Avro datum without a header; the event type names the schema.
    Avro,
    /// A JSON document.
    Json,
    /// Anything else, by its content type.
    Other(String),
}

/// A message whose headers were read and whose payload was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The headers.
    pub metadata: Metadata,
    /// How `payload` is written.
    pub encoding: Encoding,
    /// The payload to the byte, sharing the message's memory.
    pub payload: Bytes,
}

/// The data of an event as a handler gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A JSON document.
    Json(String),
    /// The bytes as they came, for a handler with `payload = "raw"`.
    Raw(Bytes),
}

/// A decoded event: what a handler is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic it was read from.
    pub topic: Topic,
    /// Where it lies in the topic.
    pub position: Position,
    /// See [`Message::first`].
    pub first: Position,
    /// Its headers.
    pub metadata: Metadata,
    /// `application/avro`, `application/json` or what the message says: how the payload was written on the wire.
    pub content_type: String,
    /// Its data.
    pub payload: Payload,
}

/// What a handler, or the host on its behalf, said about one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handled: acknowledge and commit the effects.
    Done,
    /// Not now: run it again. Traps, time-outs and limits end here too.
    Retry {
        /// Groups failures of one kind; one of [`code`] or the handler's own.
        code: String,
        /// For people.
        reason: String,
        /// The handler's own wish, which overrides the back-off.
        after: Option<Duration>,
    },
    /// Never: a dead letter.
    Reject {
        /// Groups dead letters of one kind.
        code: String,
        /// For people.
        reason: String,
    },
}

/// Codes that the host itself gives to failures and dead letters. A handler's own codes are free text.
pub mod code {
    /// The handler asked for a retry.
    pub const RETRY: &str = "retry";
    /// The guest trapped: a panic, `unreachable`, a memory fault, stack overflow.
    pub const TRAP: &str = "trap";
    /// The call ran longer than `limits.time`.
    pub const TIME_LIMIT: &str = "time-limit";
    /// The call asked for more than `limits.memory`.
    pub const MEMORY_LIMIT: &str = "memory-limit";
    /// The call exceeded one of the other limits; the reason says which.
    pub const LIMIT: &str = "limit";
    /// The headers cannot be read by the wire profile.
    pub const BAD_HEADERS: &str = "bad-headers";
    /// No schema is known for the event's type.
    pub const NO_SCHEMA: &str = "no-schema";
    /// The payload does not decode with its schema.
    pub const UNDECODABLE: &str = "undecodable";
    /// The payload is larger than `max_payload`.
    pub const TOO_LARGE: &str = "too-large";
    /// The event passed through more handlers than the hop limit allows.
    pub const HOP_LIMIT: &str = "hop-limit";
    /// The bus refused the effects of a successful call.
    pub const EFFECTS_REFUSED: &str = "effects-refused";
    /// The host died during this event again and again.
    pub const HOST_DEATH: &str = "host-death";
}

/// What a handler asked the host to do during one call. Applied with the acknowledgement or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Messages to publish, encoded already.
    pub publish: Vec<Outgoing>,
    /// Where key operations of this call lie; empty when there are none. One space per handler.
    pub key_space: String,
    /// Keys to write, in order.
    pub writes: Vec<KeyWrite>,
    /// The versions of all keys that were read: if one has moved at commit, nothing is committed.
    pub reads: Vec<KeyRead>,
    /// Bytes that all keys of the space may hold, names and values. Writes that add to more are refused with everything
    /// else; nothing is counted without a limit.
    pub key_bytes: Option<u64>,
}

/// One write to a handler's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key, within the handler's own space.
    pub key: String,
    /// `None` deletes it.
    pub value: Option<Bytes>,
}

/// What a call saw of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRead {
    /// The key; `None` when the call listed keys, which reads the whole space.
    pub key: Option<String>,
    /// The version it saw: 0 for a key that was absent. For a list, the version of the space.
    pub version: u64,
    /// The value it saw, for whoever wants to run the call again beside this one. A bus goes by the version.
    pub value: Option<Bytes>,
}

/// A key's value and the version of its last write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned {
    /// The value; `None` if the key is absent.
    pub value: Option<Bytes>,
    /// Grows with every write to the space, never reused; 0 if the key is absent.
    pub version: u64,
}

/// The keys of a space that start with a prefix, and the version of the space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyList {
    /// Sorted by their bytes.
    pub keys: Vec<String>,
    /// The version of the space when it was listed.
    pub version: u64,
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Acknowledge it and commit its effects, in one transaction.
    Ack(Effects),
    /// Move it to the retry store, in one transaction with the acknowledgement.
    Retry(RetryEntry),
    /// Store it as a dead letter, in one transaction with the acknowledgement.
    Dead(Cause),
}

/// What the retry store keeps of an event besides its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryEntry {
    /// Calls started so far.
    pub attempts: u32,
    /// When it is to run again.
    pub due: SystemTime,
    /// Code of the last failure.
    pub code: String,
    /// Reason of the last failure.
    pub reason: String,
    /// The lane that waits for it, in a group with order.
    pub lane: Option<Lane>,
}

/// Why an event became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Dead letters are grouped by it.
    pub code: String,
    /// For people.
    pub reason: String,
    /// Calls started before it was given up.
    pub attempts: u32,
    /// The handler that gave it up.
    pub handler: String,
    /// SHA-256 of the module that handled it, in hex; empty if no module saw it.
    pub module: String,
    /// When it was given up.
    pub at: SystemTime,
}

/// Milliseconds since the Unix epoch; the form in which buses keep times.
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The inverse of [`unix_millis`].
#[must_use]
pub fn from_unix_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

// === impl Position ===

impl Position {
    /// The position in the bus's own notation.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Position {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Position {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Encoding ===

impl Encoding {
    /// The content type it stands for.
    #[must_use]
    pub fn content_type(&self) -> &str {
        match self {
            Self::Avro => "application/avro",
            Self::Json => "application/json",
            Self::Other(name) => name,
        }
    }
}

// === impl Effects ===

impl Effects {
    /// True if there is nothing to commit or check: the delivery can simply be acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.writes.is_empty() && self.reads.is_empty()
    }
}
