//! The guest's step: an instance is made, called with an event, and dropped.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandbar::event::{Encoding, Envelope, Event, KeyList, Metadata, Outgoing, Payload, Verdict, Versioned};
use sandbar::sandbox::{
    Draft, DraftError, Grants, Handler, Limits, Prepared, PublishGrant, Ran, Sandbox, Services, Settings, Spec, Unread,
};
use sandbar::wire::{Identity, Profile};

use crate::Step;
use crate::events::{ENROLLMENT, TRACKING};
use crate::words::decoded;

/// So many places of 4 GiB of address space each fit under valgrind.
const PLACES: usize = 8;

/// Above what a call takes under valgrind on a busy machine: none is to be stopped.
const TIME: Duration = Duration::from_secs(60);

struct Call {
    sandbox: Arc<Sandbox>,
    handler: Arc<Handler>,
    event: Event,
    publishes: usize,
}

/// Signs what a handler publishes, as the host does, and keeps nothing.
struct Signing {
    identity: Identity,
}

/// The handler that does nothing, and a tracking event.
///
/// # Errors
///
/// The guest cannot be loaded.
pub fn noop() -> Result<Box<dyn Step>> {
    Ok(Box::new(Call::new("noop", Grants::default(), decoded(TRACKING)?, 0)?))
}

/// The handler that parses JSON and publishes, and an enrollment.
///
/// # Errors
///
/// The guest cannot be loaded.
pub fn xapi() -> Result<Box<dyn Step>> {
    let grants = Grants {
        publish: vec![PublishGrant { topic: "xapi-statements".into(), types: vec!["xapi.*".into()] }],
        config: Some([("base".to_owned(), "https://lms.example.org/".to_owned())].into()),
        ..Grants::default()
    };
    Ok(Box::new(Call::new("xapi", grants, decoded(ENROLLMENT)?, 1)?))
}

/// The bytes of a guest. They are kept with the sources, so that counts do not move with the guests' compiler.
///
/// # Errors
///
/// It is not there.
pub fn component(name: &str) -> Result<Vec<u8>> {
    let path = crate::root().join("bench/guests").join(format!("{name}.wasm"));
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

// === impl Call ===

impl Call {
    fn new(guest: &str, grants: Grants, event: Event, publishes: usize) -> Result<Self> {
        let sandbox = Sandbox::tight(&Settings { threads: 1, ..Settings::default() }, PLACES)?;
        let module = sandbox.load(&component(guest)?)?;
        let spec = Spec {
            name: guest.into(),
            group: guest.into(),
            max_attempts: 5,
            reuse: 0,
            isolated: false,
            limits: Limits { time: TIME, ..Limits::default() },
            grants,
        };
        let identity = Identity { source: "openedx/lms/web".into(), host: "lms-1".into(), lib: "11.2.0".into() };
        let handler = sandbox.handler(&module, spec, Arc::new(Signing { identity }))?;
        Ok(Self { sandbox, handler, event, publishes })
    }
}

impl Step for Call {
    fn run(&mut self) -> Result<()> {
        match self.sandbox.call(&self.handler, black_box(&self.event), 1, false) {
            Ran::Called { verdict: Verdict::Done, effects, .. } => {
                ensure!(effects.publish.len() == self.publishes, "{} events published", effects.publish.len());
                black_box(effects);
                Ok(())
            }
            other => bail!("the call ended otherwise: {other:?}"),
        }
    }
}

// === impl Signing ===

impl Services for Signing {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let Payload::Json(document) = draft.payload else { return Err(DraftError::Invalid("bytes".into())) };
        let id = format!("{}/{index}", event.metadata.id);
        let time = event.metadata.time.clone();
        let (kind, key, headers) = (draft.kind, draft.key, draft.headers);
        let metadata = Metadata { id: id.clone(), kind, source: String::new(), time, key, headers, hops: 1 };
        let envelope = Envelope { metadata, encoding: Encoding::Json, payload: document.into() };
        let fields = Profile::OpenEdx.write(&envelope, &self.identity);
        Ok(Prepared { id, outgoing: Outgoing { topic: draft.topic.into(), fields } })
    }

    fn read_key(&self, _: &str, _: &str, _: Instant) -> Result<Versioned, Unread> {
        Ok(Versioned::default())
    }

    fn list_keys(&self, _: &str, _: &str, _: usize, _: Instant) -> Result<KeyList, Unread> {
        Ok(KeyList { keys: Vec::new(), version: 0 })
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// A guest that is exchanged brings other counts: its making is written down with its digest.
    #[test]
    fn the_guests_are_those_whose_making_is_written_down() {
        let written = fs::read_to_string(crate::root().join("bench/guests/README.md")).unwrap();
        let mut files = 0;
        for entry in fs::read_dir(crate::root().join("bench/guests")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                let digest = format!("{:x}", Sha256::digest(fs::read(&path).unwrap()));
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(written.contains(&format!("`{name}` | `{digest}`")), "{name} is {digest}, says its file");
                files += 1;
            }
        }
        assert_eq!(files, 2);
    }
}
