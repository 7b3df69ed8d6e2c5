//! The events that lie in the streams, as on the wire of Open edX.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The field with the Avro datum.
pub(crate) const PAYLOAD: &str = "event_data";

/// One entry, field by field.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
}

/// The part of a test vector that lies on the wire.
#[derive(Deserialize)]
struct Vector {
    event_type: String,
    redis: Wire,
}

#[derive(Deserialize)]
struct Wire {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value_b64: String,
}

// === impl Event ===

impl Event {
    /// What a test vector holds.
    pub(crate) fn of_vector(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let vector: Vector = serde_json::from_slice(&text)?;
        let mut fields = Vec::new();
        for field in vector.redis.fields {
            fields.push((field.name, STANDARD.decode(field.value_b64)?));
        }
        Ok(Self { kind: vector.event_type, fields })
    }

    /// The same event, a tracking event, with a payload of `bytes` bytes.
    pub(crate) fn with_payload(mut self, bytes: usize) -> Result<Self> {
        let payload = self.fields.iter_mut().find(|(name, _)| name == PAYLOAD).context("an event without a payload")?;
        payload.1 = tracking_log(bytes)?;
        Ok(self)
    }

    /// Names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// The Avro datum of a tracking event, `bytes` long: four strings, of which the third is JSON as long as needed.
fn tracking_log(bytes: usize) -> Result<Vec<u8>> {
    let with = |fill: usize| {
        let mut datum = Vec::with_capacity(bytes);
        for text in
            ["edx.video.played", "2026-03-14T15:09:26.535897+00:00", &format!(r#"{{"x":"{:x<fill$}"}}"#, ""), "{}"]
        {
            // Avro's zigzag of a length: twice it, in groups of seven bits.
            let mut length = 2 * text.len();
            while length >= 0x80 {
                datum.push((length % 0x80) as u8 | 0x80);
                length /= 0x80;
            }
            datum.push(length as u8);
            datum.extend_from_slice(text.as_bytes());
        }
        datum
    };
    // The length prefix grows with the text, so the first guess may be a few bytes too long.
    let mut fill = bytes.saturating_sub(with(0).len());
    while with(fill).len() > bytes && fill > 0 {
        fill -= 1;
    }
    let datum = with(fill);
    ensure!(datum.len() == bytes, "a tracking event cannot have {bytes} bytes");
    Ok(datum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_that_was_asked_for_and_can_be_decoded() {
        let root = crate::root();
        let event = Event::of_vector(&root.join("tests/vectors/13_tracking_event_emitted.json")).unwrap();
        assert_eq!(event.bytes(), 1157);
        let native = crate::native::Native::load(root).unwrap();
        for bytes in [100, 16 << 10] {
            let event = event.clone().with_payload(bytes).unwrap();
            let payload = event.fields.iter().find(|(name, _)| name == PAYLOAD).unwrap();
            assert_eq!(payload.1.len(), bytes);
            let data = native.decode_fields(&event.fields).unwrap();
            assert!(data.contains(r#"{\"x\":\"xxx"#) && data.contains("edx.video.played"), "{data}");
        }
        assert!(event.with_payload(10).is_err());
    }
}
