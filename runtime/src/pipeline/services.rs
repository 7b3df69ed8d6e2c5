//! What a guest's calls ask of the other steps: encode and sign a draft, read a key.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::bus::{self, Bus};
use crate::config::{Config, HandlerConfig};
use crate::decode::Decoder;
use crate::event::{Encoding, Envelope, Event, KeyList, Metadata, Outgoing, Payload, Versioned};
use crate::sandbox::{Draft, DraftError, Prepared, Services};
use crate::wire::{Identity, Profile, now_time};

/// How many handlers an event may pass through by being published again: a handler that publishes to its own topic, or
/// two that publish to each other's, end here.
const MAX_HOPS: u32 = 16;

/// The namespace of ids that are derived from the event being handled. Random, and never to be changed: a repeat must
/// publish the same id after an upgrade too.
const IDS: Uuid = Uuid::from_u128(0x5a0d_ba12_9c1e_4f6e_8d5b_1f3a_77c2_60e4);

pub(super) struct HandlerServices {
    group: String,
    profile: Profile,
    identity: Identity,
    max_payload: usize,
    decoder: Arc<Decoder>,
    bus: Arc<dyn Bus>,
    runtime: Handle,
}

// === impl HandlerServices ===

impl HandlerServices {
    pub(super) fn new(config: &Config, handler: &HandlerConfig, bus: Arc<dyn Bus>, decoder: Arc<Decoder>) -> Self {
        Self {
            group: handler.group.name.clone(),
            profile: config.profile,
            identity: config.identity(),
            max_payload: config.schemas.max_payload,
            decoder,
            bus,
            runtime: Handle::current(),
        }
    }

    /// UUIDv5 of group, topic, first position and index: a repeat of the same event publishes under the same ids.
    fn derived_id(&self, event: &Event, index: u32) -> Uuid {
        let name = format!("{}\0{}\0{}\0{index}", self.group, event.topic, event.first);
        Uuid::new_v5(&IDS, name.as_bytes())
    }

    fn encode(&self, kind: &str, payload: Payload) -> Result<(Encoding, bytes::Bytes), DraftError> {
        let known = self.decoder.has(kind);
        match payload {
            Payload::Json(document) if known => {
                let datum = self
                    .decoder
                    .to_avro(kind, &document)
                    .map_err(|error| DraftError::Invalid(format!("{kind}: {error}")))?;
                Ok((Encoding::Avro, datum.into()))
            }
            Payload::Json(document) => {
                serde_json::from_str::<serde::de::IgnoredAny>(&document)
                    .map_err(|error| DraftError::Invalid(format!("{kind}: the payload is no JSON: {error}")))?;
                Ok((Encoding::Json, document.into()))
            }
            Payload::Raw(bytes) if known => Ok((Encoding::Avro, bytes)),
            Payload::Raw(bytes) => Ok((Encoding::Other("application/octet-stream".to_owned()), bytes)),
        }
    }

    fn wait<T>(&self, deadline: Instant, read: impl Future<Output = Result<T, bus::Error>>) -> Result<T, String> {
        let bounded = async { tokio::time::timeout_at(deadline.into(), read).await };
        match self.runtime.block_on(bounded) {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the bus did not answer within the time that is left of this call".to_owned()),
        }
    }
}

impl Services for HandlerServices {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let hops = event.metadata.hops + 1;
        if hops > MAX_HOPS {
            return Err(DraftError::Limit(format!(
                "this event has passed through {MAX_HOPS} handlers: do handlers publish to each other's topics?"
            )));
        }
        if draft.kind.is_empty() {
            return Err(DraftError::Invalid("an event without a type is read by nobody: give it one".to_owned()));
        }
        if let Some((name, _)) = draft.headers.iter().find(|(name, _)| self.profile.is_reserved(name)) {
            return Err(DraftError::Invalid(format!("header {name:?} belongs to the wire; choose another name")));
        }
        let (encoding, payload) = self.encode(&draft.kind, draft.payload)?;
        if payload.len() > self.max_payload {
            return Err(DraftError::Limit(format!(
                "the payload has {} bytes, host.max_payload is {}",
                payload.len(),
                self.max_payload
            )));
        }
        let id = self.derived_id(event, index).to_string();
        let metadata = Metadata {
            id: id.clone(),
            kind: draft.kind,
            source: String::new(),
            time: now_time(),
            key: draft.key,
            headers: draft.headers,
            hops,
        };
        let fields = self.profile.write(&Envelope { metadata, encoding, payload }, &self.identity);
        Ok(Prepared { id, outgoing: Outgoing { topic: draft.topic.into(), fields } })
    }

    fn read_key(&self, space: &str, key: &str, deadline: Instant) -> Result<Versioned, String> {
        self.wait(deadline, self.bus.read_key(space, key))
    }

    fn list_keys(&self, space: &str, prefix: &str, limit: usize, deadline: Instant) -> Result<KeyList, String> {
        self.wait(deadline, self.bus.list_keys(space, prefix, limit))
    }
}
