//! The events that all steps work on: some of the tests' vectors, as the Python packages put them on the wire.

use std::fs;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbar::event::{Fields, Message};
use serde::Deserialize;
use serde_json::value::RawValue;

/// An enrollment: nested records, optional values.
pub const ENROLLMENT: &str = "11_course_enrollment_changed_created_by.json";
/// A notification: a map of lists.
pub const NOTICES: &str = "29_course_notification_requested_map_of_list.json";
/// A tracking event: one long string.
pub const TRACKING: &str = "13_tracking_event_emitted.json";

/// One event, in words and on the wire.
#[derive(Debug, Deserialize)]
pub struct Vector {
    /// Its type.
    #[serde(rename = "event_type")]
    pub kind: String,
    /// Its topic.
    pub topic: String,
    /// Its data as JSON.
    #[serde(rename = "event_data_avro_json")]
    pub data: Box<RawValue>,
    redis: Entry,
}

#[derive(Debug, Deserialize)]
struct Entry {
    entry_id: String,
    fields: Vec<Field>,
}

#[derive(Debug, Deserialize)]
struct Field {
    name: String,
    value_b64: String,
}

// === impl Vector ===

impl Vector {
    /// Reads the vector in this file.
    ///
    /// # Errors
    ///
    /// It is not there, or no vector.
    pub fn read(file: &str) -> Result<Self> {
        let path = crate::root().join("tests/vectors").join(file);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no vector", path.display()))
    }

    /// The fields of the stream's entry, to the byte.
    ///
    /// # Errors
    ///
    /// The file is damaged.
    pub fn fields(&self) -> Result<Fields> {
        let mut pairs = Vec::new();
        for field in &self.redis.fields {
            pairs.push((&field.name, STANDARD.decode(&field.value_b64)?));
        }
        Ok(Fields::from_pairs(pairs))
    }

    /// The entry as a bus delivers it.
    ///
    /// # Errors
    ///
    /// The file is damaged.
    pub fn message(&self) -> Result<Message> {
        let id = self.redis.entry_id.as_str();
        Ok(Message { topic: self.topic.as_str().into(), position: id.into(), first: id.into(), fields: self.fields()? })
    }
}
