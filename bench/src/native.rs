//! What a host without a sandbox would cost: the bare loop with the host's own decoder and a native function.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use redis::Value;
use sandbar::decode::{Decoder, Settings};
use sandbar::event::{Event, Fields, Message, Position, Topic};
use sandbar::wire::Profile;

use crate::bare::{self, AtTheEnd};
use crate::running::Running;
use crate::stream::{Stream, TOPIC};

/// The computation of the guest `busy`, built for this machine.
#[path = "../../tests/guests/busy/src/work.rs"]
mod work;

/// As in a configuration that does not say otherwise.
const MAX_PAYLOAD: usize = 1 << 20;

/// Decodes entries.
pub(crate) struct Native {
    decoder: Decoder,
    topic: Topic,
}

/// Reads, decodes, calls and acknowledges until nothing is left. With `busy` the function computes.
pub(crate) fn start(root: &Path, stream: &Stream<'_>, groups: &[String], busy: bool) -> Result<Running> {
    let native = Native::load(root)?;
    let handle: fn(&Event) = if busy { compute } else { ignore };
    bare::run(stream, groups, AtTheEnd::Stop, move |_, entry| {
        let (id, message) = native.message(entry).context("an entry has another shape")?;
        handle(&native.decode(&message)?);
        Ok(id)
    })
}

// === impl Native ===

impl Native {
    /// Reads the schemas.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let dirs = vec![root.join("schemas/openedx")];
        let settings = Settings { dirs, builtin: true, max_payload: MAX_PAYLOAD };
        let decoder = Decoder::load(&settings).map_err(|errors| anyhow!("{errors:?}"))?;
        Ok(Self { decoder, topic: TOPIC.into() })
    }

    fn decode(&self, message: &Message) -> Result<Event> {
        Ok(self.decoder.decode(message, Profile::OpenEdx.read(message)?, false)?)
    }

    fn message(&self, entry: Value) -> Option<(Vec<u8>, Message)> {
        let [Value::BulkString(id), fields] = <[Value; 2]>::try_from(entry.into_sequence().ok()?).ok()? else {
            return None;
        };
        let fields = fields.into_sequence().ok()?;
        let pairs = fields.chunks_exact(2).map(|pair| match pair {
            [Value::BulkString(name), Value::BulkString(value)] => Some((name.as_slice(), value.as_slice())),
            _ => None,
        });
        let fields = Fields::from_pairs(pairs.collect::<Option<Vec<_>>>()?);
        let position = Position::from(String::from_utf8(id.clone()).ok()?);
        Some((id, Message { topic: self.topic.clone(), first: position.clone(), position, fields }))
    }
}

/// What the guest of the no-op handler does.
#[inline(never)]
fn ignore(event: &Event) {
    black_box(event);
}

/// What the guest `busy` does.
#[inline(never)]
fn compute(event: &Event) {
    black_box(work::compute(event.metadata.id.len() as u64));
}

#[cfg(test)]
mod tests {
    use sandbar::event::Payload;

    use super::*;

    impl Native {
        /// The data that these fields decode to, as text.
        pub(crate) fn decode_fields(&self, fields: &[(String, Vec<u8>)]) -> Result<String> {
            let pairs = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
            let position = Position::from("1-1".to_owned());
            let fields = Fields::from_pairs(pairs.collect::<Vec<_>>());
            let message = Message { topic: self.topic.clone(), first: position.clone(), position, fields };
            match self.decode(&message)?.payload {
                Payload::Json(text) => Ok(text),
                Payload::Raw(_) => anyhow::bail!("it was not decoded"),
            }
        }
    }
}
