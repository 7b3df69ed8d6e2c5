//! Makes a message of what a handler asks to publish: encoded, signed by the host, with an id that a repeat has too.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::config::{Config, HandlerConfig};
use crate::decode::Decoder;
use crate::event::{Encoding, Envelope, Event, Metadata, Outgoing, Payload};
use crate::sandbox::{Draft, DraftError, Prepared};
use crate::wire::{self, Identity, Profile, now_time};

/// How many handlers an event may pass through by being published again: a handler that publishes to its own topic, or
/// two that publish to each other's, end here.
const MAX_HOPS: u32 = 16;

/// The namespace of ids that are derived from the event being handled. Random, and never to be changed: a repeat must
/// publish the same id after an upgrade too.
const IDS: Uuid = Uuid::from_u128(0x5a0d_ba12_9c1e_4f6e_8d5b_1f3a_77c2_60e4);

/// Signs what one version of a handler publishes.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub(super) group: String,
    /// SHA-256 of the module, in hex.
    pub(super) module: Bytes,
    pub(super) profile: Profile,
    pub(super) identity: Identity,
    pub(super) max_payload: usize,
    pub(super) decoder: Arc<Decoder>,
}

// === impl Signer ===

impl Signer {
    /// For a handler, and for no module yet.
    pub(super) fn new(config: &Config, handler: &HandlerConfig, decoder: Arc<Decoder>) -> Self {
        Self {
            group: handler.group.name.clone(),
            module: Bytes::new(),
            profile: config.profile,
            identity: config.identity(),
            max_payload: config.schemas.max_payload,
            decoder,
        }
    }

    /// See [`crate::sandbox::Services::prepare`].
    pub(super) fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
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
        let mut headers = draft.headers;
        headers.push((wire::MODULE.to_owned(), self.module.clone()));
        let metadata = Metadata {
            id: id.clone(),
            kind: draft.kind,
            source: String::new(),
            time: now_time(),
            key: draft.key,
            headers,
            hops,
        };
        let fields = self.profile.write(&Envelope { metadata, encoding, payload }, &self.identity);
        Ok(Prepared { id, outgoing: Outgoing { topic: draft.topic.into(), fields } })
    }

    /// UUIDv5 of group, topic, first position and index: a repeat of the same event publishes under the same ids.
    fn derived_id(&self, event: &Event, index: u32) -> Uuid {
        let name = format!("{}\0{}\0{}\0{index}", self.group, event.topic, event.first);
        Uuid::new_v5(&IDS, name.as_bytes())
    }

    fn encode(&self, kind: &str, payload: Payload) -> Result<(Encoding, Bytes), DraftError> {
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
}
