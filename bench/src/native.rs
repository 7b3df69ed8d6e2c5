//! What a host without a sandbox would cost: the bare loop with the host's own decoder and a native function.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use redis::{Connection, Value};
use sandbar::decode::{Decoder, Settings};
use sandbar::event::{Event, Fields, Message, Position, Topic};
use sandbar::wire::Profile;

use crate::contender::{acknowledge_and_read, entries};
use crate::stream::TOPIC;

/// As in a configuration that does not say otherwise.
const MAX_PAYLOAD: usize = 1 << 20;

/// A loop that decodes.
pub(crate) struct Native {
    decoder: Decoder,
    topic: Topic,
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

    /// Reads, decodes, calls and acknowledges until nothing is left.
    pub(crate) fn drain(&mut self, connection: &mut Connection, group: &str) -> Result<()> {
        let mut done: Vec<Vec<u8>> = Vec::new();
        while let Some(reply) = acknowledge_and_read(connection, group, &done)? {
            done.clear();
            for entry in entries(reply).context("XREADGROUP answered in another shape")? {
                let (id, message) = self.message(entry).context("an entry has another shape")?;
                let envelope = Profile::OpenEdx.read(&message)?;
                handle(&self.decoder.decode(&message, envelope, false)?);
                done.push(id);
            }
        }
        Ok(())
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
fn handle(event: &Event) {
    black_box(event);
}
