//! Where the guest is CALLED: one store per instance, and every way a guest can end is a verdict.
//!
//! - `engine`: what is behind all handlers; [`Sandbox`]. `pool`: how many instances there are places for.
//! - `modules`: a component is verified, compiled and linked; `cache` keeps what was compiled; `wasi` and `contract_v0_1` are what it is linked to; `served`: which imports are.
//! - `handler`: a module with what it may do.
//! - `compile`: in a process of its own, or here; `confine` is what such a process takes from itself.
//! - `isolate`: calls in processes of their own.
//! - `beside`: both kinds of processes, from the host's side; `launch` starts them for a host that is confined; `process` is what all are made with.
//! - `inspect`: what a component is, without compiling it.
//! - `call`: one event through one instance, a fresh one unless `reuse` has kept one.
//! - `host`: what a guest may ask for, and what it has asked for; `grants` says what it was given.
//! - `http`: requests that a guest may send, on threads of their own.
//! - `trust`: which bytes may be loaded at all, by digest or by `signature`.
//! - `secrets`: values a guest may read and nobody may see; `secret`: what only the operator knows.
//! - `workers`: the threads on which calls run; `monitor`: stops those that take too long; `overruns`: what becomes of
//!   handlers whose calls do so again and again.
//! - `limits`: every limit with its reason; `shape`: those on a module, looked at before it is compiled.

mod beside;
mod cache;
mod call;
mod compile;
pub mod confine;
mod contract_v0_1;
mod engine;
mod grants;
mod handler;
mod host;
mod http;
mod inspect;
mod isolate;
mod launch;
pub mod limits;
mod modules;
mod monitor;
mod overruns;
mod pool;
mod process;
mod reuse;
mod scheduling;
mod secret;
mod secrets;
mod served;
mod shape;
mod signature;
mod text;
mod trust;
mod wasi;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::event::{Effects, Event, KeyList, Outgoing, Payload, Verdict, Versioned};

pub use cache::is_bare as is_bare_code_cache;
pub use compile::{COMMAND as COMPILER_COMMAND, serve as serve_compiler};
pub use compile::{CompileLimits, Compiler, Compiling, confine_as_compiler};
pub use engine::{Error, Sandbox, Settings};
pub use grants::{Capability, MissingGrant, missing_grants};
pub use handler::Handler;
pub use http::{Answer, BadRoots, BadUrl, Http, Unsent, UrlGrant, check_roots};
pub use inspect::{Acceptance, Inspection, Producer, Signatures, inspect};
pub use isolate::{COMMAND as ISOLATOR_COMMAND, Isolator, confine_as_worker, serve as serve_isolator};
pub use launch::{COMMAND as LAUNCHER_COMMAND, Launcher, serve as serve_launcher};
pub use modules::{LoadError, Module};
pub use secret::Secret;
pub use secrets::Secrets;
pub use signature::Malformed;
pub use trust::{BadKey, Trust, TrustedKey, Untrusted};
pub use workers::Workers;

/// What one handler may do and how far it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The handler's name, for the guest, the log and the hints in error texts.
    pub name: String,
    /// Its consumer group: with topic and position it seeds ids and random numbers.
    pub group: String,
    /// Calls before a failure becomes a dead letter; the guest is told.
    pub max_attempts: u32,
    /// Events that one instance may serve; 0 and 1 mean a fresh instance for each. See [`Settings::reuse`].
    pub reuse: u32,
    /// Whether each call runs in a process that has this handler's secrets and nothing else. See [`Settings::isolator`].
    pub isolated: bool,
    /// How far a call may go.
    pub limits: Limits,
    /// What it was given.
    pub grants: Grants,
}

/// How far one call may go. `sandbox/limits.rs` has the defaults and the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of a call, with all that the host does on its behalf.
    pub time: Duration,
    /// Bytes of all linear memories and tables of the instance together.
    pub memory: u64,
    /// Calls that may compute at once, on cores of their own. Not a limit of one call: what is more waits its turn.
    pub core_slots: usize,
    /// Handles (streams, pollables, …) that the guest may hold at once.
    pub handles: usize,
    /// Times the guest may call the host, or the engine's helpers.
    pub host_calls: u64,
    /// Bytes that one host call, or the answer of the guest, may hand over.
    pub host_call_bytes: usize,
    /// Events a call may publish.
    pub published_events: usize,
    /// Bytes of all of them.
    pub published_bytes: usize,
    /// Reads, writes and lists of keys.
    pub key_operations: usize,
    /// Bytes of all key writes.
    pub key_bytes: usize,
    /// Requests a call may send.
    pub http_calls: usize,
    /// Bytes of the bodies of all of them.
    pub http_request_bytes: usize,
    /// Bytes of the bodies of all answers.
    pub http_response_bytes: usize,
    /// Bytes of the headers of one request, and of one answer.
    pub http_header_bytes: usize,
    /// Connections that all calls of the handler on this host may have at once.
    pub http_connections: usize,
    /// How long connecting may take, with finding the address and agreeing on TLS.
    pub http_connect: Duration,
    /// Log lines, standard output and error included.
    pub log_lines: u32,
    /// Bytes of all log lines.
    pub log_bytes: usize,
    /// Bytes of the reason of a failure.
    pub reason_bytes: usize,
}

/// The capabilities the operator gave to one handler. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics it may publish to, each with type globs if the grant names types.
    pub publish: Vec<PublishGrant>,
    /// Whether it has keys of its own.
    pub keys: bool,
    /// Bytes that all its keys may hold on the bus, names and values; `None` for any number.
    pub key_bytes: Option<u64>,
    /// Values it may read.
    pub config: Option<BTreeMap<String, String>>,
    /// Secrets it may read.
    pub secrets: Secrets,
    /// URLs it may send requests to.
    pub http: Http,
    /// Whether clocks show the host's time, and sleeps last. Without, time is the event's and moves by sleeping.
    pub clock: bool,
    /// Whether random numbers are the system's. Without, they are derived from the delivery.
    pub random: bool,
}

/// One entry of `grants.publish`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishGrant {
    /// The topic, without prefix.
    pub topic: String,
    /// Globs of the types it may publish there; empty for all.
    pub types: Vec<String>,
}

/// What a call asks of the rest of the host. The pipeline implements it, so that this step knows no other.
pub trait Services: Send + Sync {
    /// Encodes and signs a draft for the `index`th publication of the call that handles `event`.
    ///
    /// # Errors
    ///
    /// What is wrong with the draft, for the guest to read.
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError>;

    /// Reads a key, waiting until `deadline` at most. The error is for the guest to read.
    fn read_key(&self, space: &str, key: &str, deadline: Instant) -> Result<Versioned, Unread>;

    /// Lists keys, waiting until `deadline` at most. The error is for the guest to read.
    fn list_keys(&self, space: &str, prefix: &str, limit: usize, deadline: Instant) -> Result<KeyList, Unread>;

    /// Answers a request that is not sent ([`Http::refused`]), in the place of its server. `None`: it is refused.
    fn answer(&self, _unsent: Unsent) -> Option<Answer> {
        None
    }
}

/// Why keys could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// For the guest to read.
    pub reason: String,
    /// It is the bus's trouble and may pass by itself. A call that fails after this says nothing of its handler or its
    /// event: it is no attempt.
    pub passing: bool,
}

/// What a guest asked to publish. Topic and type are granted already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The topic, without prefix.
    pub topic: String,
    /// Event type.
    pub kind: String,
    /// Ordering key.
    pub key: Option<Bytes>,
    /// The data.
    pub payload: Payload,
    /// More headers, not checked yet.
    pub headers: Vec<(String, Bytes)>,
}

/// A draft that can be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The id the published event will have.
    pub id: String,
    /// The message.
    pub outgoing: Outgoing,
}

/// Why a draft cannot be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftError {
    /// It cannot be encoded, or names a reserved header.
    Invalid(String),
    /// It exceeds a limit (payload size, hops).
    Limit(String),
}

/// One event on its way through the sandbox, with whatever the caller wants back with the outcome.
#[derive(Debug)]
pub struct Job<T> {
    /// The event.
    pub event: Arc<Event>,
    /// 1 for the first call.
    pub attempt: u32,
    /// See the contract's `delivery.replayed`.
    pub replayed: bool,
    /// Travels along.
    pub tag: T,
}

/// A job that came back.
#[derive(Debug)]
pub struct Finished<T> {
    /// The event, for a later look at its metadata.
    pub event: Arc<Event>,
    /// What the caller sent along.
    pub tag: T,
    /// How it ended.
    pub ran: Ran,
}

/// How a job ended.
#[derive(Debug)]
pub enum Ran {
    /// The guest was called and this came of it. Effects are empty unless the verdict is `Done`.
    Called {
        /// What it said, or what was said on its behalf.
        verdict: Verdict,
        /// What it asked for.
        effects: Effects,
        /// How long the call took, with making and dropping the instance.
        elapsed: Duration,
    },
    /// The guest was never called: trouble of the host's own (pool full, shutting down). No attempt.
    NotCalled(String),
}
