//! Where a message is DECODED: the event's type names a schema, and Avro becomes JSON and back.
//!
//! How Avro's types look in JSON, in both directions: a union of null and one other type is the value or `null`; any
//! other union is `{"type": value}` with the branch's full name, as in Avro's own JSON encoding; `bytes` and `fixed`
//! are base64 with padding; floats are the shortest text that reads back as the same value, and `"NaN"`, `"Infinity"`
//! and `"-Infinity"` where JSON has no number; the entries of a map come in wire order. Logical types are what they
//! lie in: dates and times are numbers, decimals and durations are base64.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::de::IgnoredAny;

use crate::event::{Encoding, Envelope, Event, Message, Payload, code};

mod avro;
mod defaults;
mod encode;
mod plan;
mod schemas;
mod text;

#[cfg(test)]
mod tests;

pub use schemas::SchemaError;

use plan::Plan;
use schemas::Known;

/// Default of [`Settings::max_payload`]: 1 MiB. Open edX asks for events under 64 KB (OEP-41); what is much larger is a
/// mistake or an attack, and each event in flight is held in memory.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// How deep data may be nested, in arrays, objects and tagged unions. Twice this is what JSON readers commonly take
/// (serde_json stops at 128), and the stack of every language in a guest copes with it.
pub const MAX_DEPTH: usize = 64;

/// How many values one datum may hold: one for each byte of the default payload. Nearly every value takes a byte or
/// more, so this stops only data whose values take none, of which twenty bytes could claim 2^63.
pub const MAX_NODES: usize = 1 << 20;

/// What is said to data with more.
const TOO_MANY: &str = "more values than one event may have (1048576)";
const _: () = assert!(MAX_NODES == 1_048_576, "TOO_MANY says so");

/// How many times longer than `max_payload` the JSON may be. JSON repeats the names of fields and escapes a control
/// character with six; the shipped schemas' data grow by half.
pub const MAX_GROWTH: usize = 8;

/// Where schemas are and how large data may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directories of `.avsc` files. A type found here comes before a built-in one.
    pub dirs: Vec<PathBuf>,
    /// Whether the schemas that ship with Sandbar are known too.
    pub builtin: bool,
    /// Most bytes of a payload, in either direction.
    pub max_payload: usize,
}

/// Knows the schemas and turns payloads into the data of events and back. Never changes: share it by `Arc`.
#[derive(Debug)]
pub struct Decoder {
    plans: HashMap<String, Known>,
    max_payload: usize,
}

/// Data that cannot be decoded or encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The type has no schema.
    #[error("no schema is known for type {kind:?}{}; put its .avsc file into a directory of schemas.dirs", hint(.nearest))]
    NoSchema {
        /// The event's type.
        kind: String,
        /// A known type that looks like it.
        nearest: Option<String>,
    },
    /// The content type is neither Avro nor JSON.
    #[error("nothing is known about content type {0:?}; a handler with payload = \"raw\" gets the bytes as they are")]
    UnknownEncoding(String),
    /// The bytes are no datum of the type's schema.
    #[error("the payload is no datum of {kind}: {reason}")]
    Undecodable {
        /// The event's type.
        kind: String,
        /// Why and where.
        reason: String,
    },
    /// A payload that should be JSON is not.
    #[error("the payload is no JSON document: {0}")]
    NotJson(String),
    /// The document does not fit the type's schema.
    #[error("the data does not fit the schema of {kind}: at {}: {reason}", place(.pointer))]
    Unencodable {
        /// The event's type.
        kind: String,
        /// JSON pointer to the value; empty for the whole document.
        pointer: String,
        /// What was expected there.
        reason: String,
    },
    /// The payload is over the limit.
    #[error("the payload has {}{size} bytes, the limit is {limit}; max_payload sets it", if *.at_least { "more than " } else { "" })]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// True if `size` is where counting stopped.
        at_least: bool,
        /// The limit.
        limit: usize,
    },
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { dirs: Vec::new(), builtin: true, max_payload: MAX_PAYLOAD }
    }
}

// === impl Decoder ===

impl Decoder {
    /// Reads all schemas and compiles those in directories; a built-in one is compiled when it is first needed.
    ///
    /// # Errors
    ///
    /// All that is wrong at once, each with its file: a directory that cannot be read or holds no schema, a file that
    /// is no schema or is named after another type, a type in two files.
    pub fn load(settings: &Settings) -> Result<Self, Vec<SchemaError>> {
        Ok(Self { plans: schemas::load(&settings.dirs, settings.builtin)?, max_payload: settings.max_payload })
    }

    /// Knows the one schema of which this is the text, whatever it is called.
    ///
    /// # Errors
    ///
    /// If it is no schema, or not one of an event's data.
    pub fn of_schema(text: &str, max_payload: usize) -> Result<Self, String> {
        let (kind, plan) = schemas::compile_text(text)?;
        Ok(Self { plans: HashMap::from([(kind, plan.into())]), max_payload })
    }

    /// The types whose schema is known, in no order.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.plans.keys().map(String::as_str)
    }

    /// Whether the schema of a type is known.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.plans.contains_key(kind)
    }

    /// Decodes the payload of a message whose headers were read. With `raw` the handler gets the bytes as they came.
    ///
    /// # Errors
    ///
    /// If the payload is too large, and without `raw` if there is no schema or the payload is not what it says.
    pub fn decode(&self, message: &Message, envelope: Envelope, raw: bool) -> Result<Event, Error> {
        let Envelope { metadata, encoding, payload } = envelope;
        self.check_size(payload.len(), self.max_payload)?;
        let data = match &encoding {
            _ if raw => Payload::Raw(payload),
            Encoding::Avro => Payload::Json(self.transcode(self.plan(&metadata.kind)?, &metadata.kind, &payload)?),
            Encoding::Json => Payload::Json(check_json(&payload)?.to_owned()),
            Encoding::Other(name) => return Err(Error::UnknownEncoding(text::cut(name))),
        };
        Ok(Event {
            topic: message.topic.clone(),
            position: message.position.clone(),
            first: message.first.clone(),
            metadata,
            content_type: encoding.content_type().to_owned(),
            payload: data,
        })
    }

    /// One Avro datum of type `kind` as JSON. Bytes after the datum are ignored.
    ///
    /// # Errors
    ///
    /// If there is no schema, the datum is too large, or it is no datum of that schema.
    pub fn to_json(&self, kind: &str, datum: &[u8]) -> Result<String, Error> {
        self.check_size(datum.len(), self.max_payload)?;
        let plan = self.plan(kind).map_err(|error| self.with_nearest(error))?;
        self.transcode(plan, kind, datum)
    }

    /// The data of an event of type `kind` as one Avro datum: what the Python producer would write, to the byte.
    ///
    /// Fields may come in any order; one that the schema has a default for may be left out.
    ///
    /// # Errors
    ///
    /// If there is no schema, the document does not fit it (the error says where), or the datum would be too large.
    pub fn to_avro(&self, kind: &str, json: &str) -> Result<Vec<u8>, Error> {
        let plan = self.plan(kind).map_err(|error| self.with_nearest(error))?;
        self.check_size(json.len(), self.max_json())?;
        encode::to_avro(plan, json, self.max_payload).map_err(|refusal| match refusal {
            encode::Refusal::Mismatch { pointer, what } => {
                Error::Unencodable { kind: kind.to_owned(), pointer, reason: what }
            }
            encode::Refusal::TooLarge => {
                Error::TooLarge { size: self.max_payload, at_least: true, limit: self.max_payload }
            }
        })
    }

    fn transcode(&self, plan: &Plan, kind: &str, datum: &[u8]) -> Result<String, Error> {
        avro::to_json(plan, datum, self.max_json())
            .map_err(|fault| Error::Undecodable { kind: kind.to_owned(), reason: fault.to_string() })
    }

    fn plan(&self, kind: &str) -> Result<&Plan, Error> {
        let plan = self.plans.get(kind).and_then(Known::plan);
        plan.ok_or_else(|| Error::NoSchema { kind: text::cut(kind), nearest: None })
    }

    /// For people who typed the type; an event with an unknown type need not pay for the search.
    fn with_nearest(&self, error: Error) -> Error {
        match error {
            Error::NoSchema { kind, .. } => {
                let nearest = nearest(&kind, self.kinds()).map(str::to_owned);
                Error::NoSchema { kind, nearest }
            }
            error => error,
        }
    }

    fn check_size(&self, size: usize, limit: usize) -> Result<(), Error> {
        if size > limit { Err(Error::TooLarge { size, at_least: false, limit }) } else { Ok(()) }
    }

    fn max_json(&self) -> usize {
        self.max_payload.saturating_mul(MAX_GROWTH)
    }
}

// === impl Error ===

impl Error {
    /// The code of the dead letter.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSchema { .. } | Self::UnknownEncoding(_) => code::NO_SCHEMA,
            Self::Undecodable { .. } | Self::NotJson(_) | Self::Unencodable { .. } => code::UNDECODABLE,
            Self::TooLarge { .. } => code::TOO_LARGE,
        }
    }
}

/// Checks that bytes are one JSON document that a guest can read.
fn check_json(payload: &[u8]) -> Result<&str, Error> {
    let json = str::from_utf8(payload).map_err(|error| Error::NotJson(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(json).map_err(|error| Error::NotJson(error.to_string()))?;
    if text::depth(json) > MAX_DEPTH {
        return Err(Error::NotJson(format!("it is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(json)
}

/// The known name most like `wanted`, if one is like it at all.
fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this a suggestion misleads more than it helps: two random names of one project reach 0.7.
    const ALIKE: f64 = 0.85;
    known
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the top" } else { pointer }
}
