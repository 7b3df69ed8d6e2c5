//! The test vectors: events as the Python packages put them on the wire, with what they mean (`vectors/README.md`).

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbar::event::{Fields, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many there are: a test that says "every vector" must not pass over an empty folder.
pub(crate) const COUNT: usize = 15;

/// One event on the wire and in words.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    #[serde(rename = "event_type")]
    pub(crate) kind: String,
    pub(crate) topic: String,
    pub(crate) event_key_field: String,
    pub(crate) metadata: Metadata,
    /// The datum in JSON.
    #[serde(rename = "event_data_avro_json")]
    pub(crate) data: Value,
    /// What a Django receiver gets: the library replaces some falsy values by defaults.
    #[serde(rename = "python_consumer_event_data")]
    pub(crate) data_in_python: Value,
    redis: Entry,
}

/// The headers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Metadata {
    pub(crate) id: String,
    pub(crate) minorversion: u64,
    pub(crate) source: String,
    pub(crate) sourcehost: String,
    pub(crate) time: String,
    pub(crate) sourcelib: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Entry {
    entry_id: String,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, Deserialize)]
struct Field {
    name: String,
    value_b64: String,
}

/// All of them, in the order of their files.
pub(crate) fn vectors() -> Vec<Vector> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert_eq!(files.len(), COUNT);
    files.iter().map(|file| load(file)).collect()
}

/// The one in this file.
pub(crate) fn vector(file: &str) -> Vector {
    load(&folder().join(file))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn load(file: &Path) -> Vector {
    let text = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

// === impl Vector ===

impl Vector {
    /// The fields of the stream's entry, to the byte and in order.
    pub(crate) fn fields(&self) -> Fields {
        Fields::from_pairs(self.redis.fields.iter().map(|field| (&field.name, field.value())))
    }

    /// The entry as it is read.
    pub(crate) fn message(&self) -> Message {
        let id = self.redis.entry_id.as_str();
        Message { topic: self.topic.as_str().into(), position: id.into(), first: id.into(), fields: self.fields() }
    }

    /// The payload.
    pub(crate) fn datum(&self) -> Vec<u8> {
        self.redis.fields.iter().find(|field| field.name == "event_data").unwrap().value()
    }

    /// `sourcelib` as it is written on the wire.
    pub(crate) fn lib(&self) -> String {
        let parts: Vec<String> = self.metadata.sourcelib.iter().map(u64::to_string).collect();
        parts.join(".")
    }
}

// === impl Field ===

impl Field {
    fn value(&self) -> Vec<u8> {
        STANDARD.decode(&self.value_b64).unwrap()
    }
}
