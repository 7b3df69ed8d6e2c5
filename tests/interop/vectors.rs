//! The test vectors: events as the Python packages put them on the wire, with what they mean.

use std::fs;
use std::path::Path;

use sandbar::event::Fields;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event on the wire and in words.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vector {
    pub(crate) event_type: String,
    pub(crate) topic: String,
    pub(crate) event_key_field: String,
    pub(crate) metadata: Metadata,
    /// The datum in JSON.
    #[serde(rename = "event_data_avro_json")]
    pub(crate) data: Value,
    /// What a Django receiver gets: the library replaces some falsy values by defaults.
    #[serde(rename = "python_consumer_event_data")]
    pub(crate) data_in_python: Value,
    redis: Wire,
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
struct Wire {
    fields: Vec<Field>,
}

#[derive(Clone, Debug, Deserialize)]
struct Field {
    name: String,
    value_b64: String,
}

/// All of them, in the order of their files.
pub(crate) fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files.iter().map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap()).collect()
}

// === impl Vector ===

impl Vector {
    /// The fields of the stream's entry, to the byte and in order.
    pub(crate) fn fields(&self) -> Fields {
        use base64::Engine;
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        Fields::from_pairs(self.redis.fields.iter().map(|field| (&field.name, decode(&field.value_b64))))
    }
}
