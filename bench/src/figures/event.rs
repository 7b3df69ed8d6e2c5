//! Events of a wished size, as they lie on the wire and as a user writes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use sandbar::decode::{Decoder, Settings};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::event::{self as wire, PAYLOAD};

/// The vector whose headers and data are used.
const VECTOR: &str = "tests/vectors/13_tracking_event_emitted.json";
/// As in a configuration that does not say otherwise.
const MAX_PAYLOAD: usize = 1 << 20;
/// What the other figures use: with its headers about the event that the contenders drain.
pub(crate) const ORDINARY: usize = 1 << 10;

/// One event.
pub(crate) struct Event {
    /// Its type.
    pub(crate) kind: String,
    /// As on Redis.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    /// Its data, in JSON.
    pub(crate) document: Value,
    /// What a producer sends beside the data.
    pub(crate) metadata: Value,
}

/// What a vector says beside what lies on the wire.
#[derive(Deserialize)]
struct Vector {
    event_data_avro_json: Value,
    metadata: Value,
}

// === impl Event ===

impl Event {
    /// An event whose payload has `size` bytes of Avro.
    pub(crate) fn of_size(root: &Path, size: usize) -> Result<Self> {
        let file = root.join(VECTOR);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let vector: Vector = serde_json::from_slice(&text)?;
        let on_the_wire = wire::Event::of_vector(&file)?;
        let settings = Settings { dirs: Vec::new(), builtin: true, max_payload: MAX_PAYLOAD };
        let decoder = Decoder::load(&settings).map_err(|errors| anyhow!("{errors:?}"))?;

        let mut document = vector.event_data_avro_json;
        let log =
            document.get_mut("tracking_log").and_then(Value::as_object_mut).context("a vector without its data")?;
        let payload = fit(log, size, |log| {
            let document = Value::from(Map::from_iter([("tracking_log".to_owned(), Value::from(log.clone()))]));
            Ok(decoder.to_avro(&on_the_wire.kind, &document.to_string())?)
        })?;

        let wire::Event { kind, mut fields } = on_the_wire;
        let data = fields.iter_mut().find(|(name, _)| name == PAYLOAD).context("a vector without a payload")?;
        data.1 = payload;
        Ok(Self { kind, fields, document, metadata: vector.metadata })
    }

    /// Bytes of all fields with their names.
    pub(crate) fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Fills the two texts of a tracking event so that its encoding has `size` bytes, and returns that.
fn fit(
    log: &mut Map<String, Value>,
    size: usize,
    encode: impl Fn(&Map<String, Value>) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    log.insert("context".into(), Value::from(""));
    let mut fill = 0;
    // Its length takes more bytes the longer it is, so one step may fall short by those.
    for _ in 0..3 {
        log.insert("data".into(), Value::from("x".repeat(fill)));
        let payload = encode(log)?;
        if payload.len() == size {
            return Ok(payload);
        }
        fill = (fill + size).checked_sub(payload.len()).with_context(|| format!("no event has {size} bytes only"))?;
    }
    log.insert("data".into(), Value::from("x".repeat(fill)));
    let payload = encode(log)?;
    ensure!(payload.len().abs_diff(size) <= 1, "no event of {size} bytes was found");
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_size_that_was_wished_for() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        for size in [100, ORDINARY, 16 << 10, 64 << 10] {
            let event = Event::of_size(root, size).unwrap();
            let payload = &event.fields.iter().find(|(name, _)| name == PAYLOAD).unwrap().1;
            assert!(payload.len().abs_diff(size) <= 1, "{} instead of {size}", payload.len());
            assert!(event.bytes() > payload.len() + event.kind.len());
        }
        assert!(Event::of_size(root, 10).is_err());
    }
}
