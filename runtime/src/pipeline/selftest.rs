//! A module's own tests: events that lie beside it, run in the sandbox without a bus.
//!
//! A fixture says what a call is given and what has to come of it ([`Fixture`]). `sandbar test` runs them by hand; a swap
//! runs them before it serves a module.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::signing::Signer;
use crate::config::{Config, HandlerConfig, PayloadForm};
use crate::decode::Decoder;
use crate::dispatch::Filter;
use crate::event::{Encoding, Envelope, Event, KeyList, Message, Metadata, Versioned};
use crate::sandbox::{
    self, Answer, Draft, DraftError, Grants, Module, Prepared, PublishGrant, Ran, Sandbox, Secret, Secrets, Services,
    Spec, Unread, Unsent,
};
use crate::wire::{Identity, Profile};

mod answers;
mod fixture;
mod judge;

pub use fixture::{Fixture, Invalid, folder_of, texts};

use answers::{Answers, NO_REQUESTS};
use fixture::Bytes as Given;

/// The group under which a module is tried that no handler of a configuration stands for.
const NOBODY: &str = "test";

/// As what a module is tried: with what schemas, and as which handler.
#[derive(Clone, Debug)]
pub struct Bench {
    profile: Profile,
    identity: Identity,
    max_payload: usize,
    decoder: Arc<Decoder>,
    handler: Option<As>,
}

/// The handler that a module is tried as.
#[derive(Clone, Debug)]
struct As {
    spec: Spec,
    filter: Filter,
    payload: PayloadForm,
}

/// What came of one fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its name: the file's, without `.event.json`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub elapsed: Duration,
}

/// What came of a fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All as expected.
    Passed,
    /// The handler gets no events of this type: nothing was called.
    Skipped,
    /// What was not as expected, each difference in a sentence.
    Failed(Vec<String>),
}

/// Stands in for bus and host: what was published and written is looked at and dropped.
struct StandIn {
    signer: Signer,
    keys: BTreeMap<String, Bytes>,
    answers: Answers,
}

// === impl Bench ===

impl Bench {
    /// Without a configuration: each fixture is granted what it names.
    #[must_use]
    pub fn new(decoder: Arc<Decoder>, max_payload: usize) -> Self {
        let identity = Identity {
            source: "openedx/sandbar/web".to_owned(),
            host: "localhost".to_owned(),
            lib: "0.0.0".to_owned(),
        };
        Self { profile: Profile::OpenEdx, identity, max_payload, decoder, handler: None }
    }

    /// As this handler: its limits and grants, and the events it gets. Values of `config` and of secrets are those that
    /// the fixture gives; a fixture that gives no `config` gets the handler's.
    #[must_use]
    pub fn of(config: &Config, handler: &HandlerConfig, decoder: Arc<Decoder>) -> Self {
        let as_handler = As { spec: handler.spec.clone(), filter: handler.filter.clone(), payload: handler.payload };
        Self {
            profile: config.profile,
            identity: config.identity(),
            max_payload: config.schemas.max_payload,
            decoder,
            handler: Some(as_handler),
        }
    }

    /// Runs every fixture on this thread, one after the other, each with a fresh instance.
    #[must_use]
    pub fn run(&self, sandbox: &Sandbox, module: &Module, fixtures: &[Fixture]) -> Vec<Tried> {
        let tried = |fixture: &Fixture| {
            let begun = Instant::now();
            let outcome = self.one(sandbox, module, fixture);
            Tried { name: fixture.name.clone(), outcome, elapsed: begun.elapsed() }
        };
        fixtures.iter().map(tried).collect()
    }

    fn one(&self, sandbox: &Sandbox, module: &Module, fixture: &Fixture) -> Outcome {
        if let Some(handler) = &self.handler
            && !handler.filter.matches(&fixture.event.kind)
        {
            return Outcome::Skipped;
        }
        let called = Answers::of(fixture).and_then(|answers| {
            let ran = self.call(sandbox, module, fixture, &answers)?;
            Ok((ran, answers))
        });
        let (ran, answers) = match called {
            Ok(called) => called,
            Err(why) => return Outcome::Failed(vec![why]),
        };
        match ran {
            Ran::Called { verdict, effects, .. } => {
                let mut differences = judge::differences(fixture, &verdict, &effects, self.profile, &self.decoder);
                differences.extend(answers.differences(fixture));
                if differences.is_empty() { Outcome::Passed } else { Outcome::Failed(differences) }
            }
            Ran::NotCalled(why) => Outcome::Failed(vec![format!("it was not called: {why}")]),
        }
    }

    fn call(&self, sandbox: &Sandbox, module: &Module, fixture: &Fixture, answers: &Answers) -> Result<Ran, String> {
        let event = self.event(fixture)?;
        let keys = fixture.keys.iter().flatten().map(|(name, value)| Ok((name.clone(), value.bytes()?)));
        let keys = keys.collect::<Result<_, String>>()?;
        let spec = self.spec(fixture);
        let signer = Signer {
            group: spec.group.clone(),
            module: Bytes::copy_from_slice(module.digest().as_bytes()),
            profile: self.profile,
            identity: self.identity.clone(),
            max_payload: self.max_payload,
            decoder: Arc::clone(&self.decoder),
        };
        let handler = sandbox.handler(module, spec, Arc::new(StandIn { signer, keys, answers: answers.clone() }));
        let handler = handler.map_err(|error| error.to_string())?;
        Ok(sandbox.call(&handler, &event, fixture.attempt, false))
    }

    /// The event as a bus would have brought it: written by the profile and read again.
    fn event(&self, fixture: &Fixture) -> Result<Event, String> {
        let given = &fixture.event;
        let (encoding, payload) = match (given.json(), &given.base64) {
            (Some(_), Some(_)) | (None, None) => {
                return Err("the event has either `data` or `base64`".to_owned());
            }
            (Some(data), None) => match given.encoding()? {
                Encoding::Avro => {
                    let datum = self.decoder.to_avro(&given.kind, data).map_err(|error| error.to_string())?;
                    (Encoding::Avro, datum.into())
                }
                other => (other, Bytes::copy_from_slice(data.as_bytes())),
            },
            (None, Some(base64)) => (given.encoding()?, Given::Base64 { base64: base64.clone() }.bytes()?),
        };
        let headers = given.headers.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone().into_bytes())));
        let metadata = Metadata {
            id: given.id.clone().unwrap_or_default(),
            kind: given.kind.clone(),
            source: given.source.clone().unwrap_or_default(),
            time: given.time.clone().unwrap_or_default(),
            key: given.key.clone().map(|key| Bytes::from(key.into_bytes())),
            headers: headers.collect(),
            hops: 0,
        };
        let fields = self.profile.write(&Envelope { metadata, encoding, payload }, &self.identity);
        let message = Message { topic: given.topic.as_str().into(), position: "1".into(), first: "1".into(), fields };
        let envelope = self.profile.read(&message).map_err(|error| error.to_string())?;
        let raw = self.handler.as_ref().map_or(fixture.payload, |handler| handler.payload) == PayloadForm::Raw;
        self.decoder.decode(&message, envelope, raw).map_err(|error| error.to_string())
    }

    fn spec(&self, fixture: &Fixture) -> Spec {
        let secret = |(name, value): (&String, &String)| (name.clone(), Secret::new(value.as_bytes()));
        let mut spec = match &self.handler {
            Some(handler) => handler.spec.clone(),
            None => {
                let expect = &fixture.expect;
                let topics = expect.published.iter().map(|published| &published.topic);
                let grant = |topic: &String| PublishGrant { topic: topic.clone(), types: Vec::new() };
                let grants = Grants {
                    publish: topics.map(grant).collect(),
                    keys: fixture.keys.is_some() || !expect.keys.is_empty(),
                    secrets: Secrets::known(fixture.secrets.iter().map(secret)),
                    http: answers::grants(fixture),
                    ..Grants::default()
                };
                let limits = sandbox::Limits::default();
                let name = NOBODY.to_owned();
                Spec { name: name.clone(), group: name, max_attempts: 5, reuse: 0, isolated: false, limits, grants }
            }
        };
        spec.reuse = 0;
        spec.grants.http.refused = Some(NO_REQUESTS.to_owned());
        let granted = |name: &str| fixture.secrets.get_key_value(name).map(secret);
        spec.grants.secrets = Secrets::known(spec.grants.secrets.names().filter_map(granted));
        if self.handler.is_none() || (fixture.config.is_some() && spec.grants.config.is_some()) {
            spec.grants.config.clone_from(&fixture.config);
        }
        spec
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether something was not as expected.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

// === impl StandIn ===

impl Services for StandIn {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        self.signer.prepare(event, index, draft)
    }

    fn read_key(&self, _space: &str, key: &str, _deadline: Instant) -> Result<Versioned, Unread> {
        let found = self.keys.get(key);
        Ok(found.map_or_else(Versioned::default, |value| Versioned { value: Some(value.clone()), version: 1 }))
    }

    fn list_keys(&self, _space: &str, prefix: &str, limit: usize, _deadline: Instant) -> Result<KeyList, Unread> {
        let found = self.keys.keys().filter(|key| key.starts_with(prefix)).take(limit);
        Ok(KeyList { keys: found.cloned().collect(), version: 1 })
    }

    fn answer(&self, unsent: Unsent) -> Option<Answer> {
        self.answers.take(unsent)
    }
}
