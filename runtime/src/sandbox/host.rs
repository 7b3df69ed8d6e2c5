//! The imports a guest gets, whatever version of the contract it speaks: what a call may do, and what it has asked for.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::call::Stop;
use super::grants::{self, Capability};
use super::handler::Handling;
use super::scheduling::Behind;
use super::{Draft, DraftError, http, limits, wasi};
use crate::event::{Effects, Event, Outgoing, Payload};

mod keys;
mod logs;
mod meter;

pub(super) use logs::{Hears, Level, Stream};
pub(super) use meter::Meter;

/// Everything that belongs to one call: the data of its store. Meter and WASI are the instance's, if that serves another.
pub(super) struct State {
    pub(super) handling: Arc<Handling>,
    pub(super) event: Arc<Event>,
    pub(super) attempt: u32,
    pub(super) replayed: bool,
    pub(super) deadline: Instant,
    /// Once the call is a slow one. It ends with the call, on the call's thread.
    pub(super) behind: Option<Box<Behind>>,
    pub(super) meter: Meter,
    pub(super) logs: logs::Logs,
    pub(super) wasi: wasi::Context,
    /// Made when the guest first asks for something of it.
    pub(super) http: Option<Box<http::Table>>,
    published: Published,
    keys: keys::Keys,
    /// A read failed that may succeed another time, whatever the guest makes of it.
    pub(super) trouble: Option<String>,
    /// How often the guest has left its own code.
    host_calls: u64,
    waiting: Option<Arc<dyn Waiting>>,
}

/// Told when a call starts to wait for something outside, so that its core can be used meanwhile.
pub(super) trait Waiting: Send + Sync {
    fn begins(&self);
    fn ends(&self);
    /// Whether this slow call is to rest, as others need its core; [`Waiting::goes_on`] ends it. One of a handler that overran
    /// rests whenever others have work.
    fn rests(&self, overran: bool) -> bool;
    fn goes_on(&self);

    /// Rests for a moment, if it is to; says how long it was.
    fn rest(&self, overran: bool) -> Duration {
        if !self.rests(overran) {
            return Duration::ZERO;
        }
        let begun = Instant::now();
        // It can be woken for no reason, and then rests less.
        thread::park_timeout(limits::OVERRUN_REST);
        self.goes_on();
        begun.elapsed()
    }
}

/// Why a host call was refused; each contract version turns it into its own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Denied(String),
    Invalid(String),
    Limit(String),
    Unavailable(String),
}

#[derive(Default)]
struct Published {
    messages: Vec<Outgoing>,
    bytes: usize,
}

// === impl State ===

impl State {
    pub(super) fn new(
        handling: Arc<Handling>,
        event: Arc<Event>,
        (attempt, replayed): (u32, bool),
        started: Instant,
        waiting: Option<Arc<dyn Waiting>>,
    ) -> Self {
        let spec = &handling.spec;
        Self {
            deadline: started + spec.limits.time,
            behind: None,
            meter: Meter::new(spec.limits.memory),
            logs: logs::Logs::new(&spec.limits),
            wasi: wasi::Context::new(spec.grants.clock),
            http: None,
            published: Published::default(),
            keys: keys::Keys::default(),
            trouble: None,
            host_calls: 0,
            handling,
            event,
            attempt,
            replayed,
            waiting,
        }
    }

    /// Goes over to the instance's next call: what belongs to the instance stays, everything else is that call's.
    pub(super) fn renew(&mut self, next: Self) {
        let before = std::mem::replace(self, next);
        self.meter = before.meter;
        self.wasi = before.wasi.next_call();
        self.http = before.http.map(|http| Box::new(http.next_call(&self.handling.spec.limits)));
    }

    /// Lets go of what the call was about, while the instance waits for the next.
    pub(super) fn rest(&mut self, nothing: Arc<Event>) {
        self.event = nothing;
        self.waiting = None;
        if let Some(http) = &mut self.http {
            http.abort();
        }
    }

    /// What the call asked for, once it is known to have succeeded.
    pub(super) fn take_effects(&mut self) -> Effects {
        let (writes, reads) = std::mem::take(&mut self.keys).into_parts();
        let key_space =
            if writes.is_empty() && reads.is_empty() { String::new() } else { self.handling.spec.name.clone() };
        let key_bytes = self.handling.spec.grants.key_bytes;
        Effects { publish: std::mem::take(&mut self.published).messages, key_space, writes, reads, key_bytes }
    }

    /// The guest calls the host. What is asked for is bounded by itself, the number and the time of it here.
    pub(super) fn asked(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        if !self.host_calls.is_multiple_of(limits::HOST_CALLS_LOOK) {
            return Ok(());
        }
        if self.host_calls > self.handling.spec.limits.host_calls {
            return Err(Stop::HostCalls.into());
        }
        if Instant::now() >= self.deadline {
            return Err(Stop::Time.into());
        }
        Ok(())
    }

    /// Writes one log line, if the call has lines left.
    pub(super) fn log(&mut self, level: Level, message: &str) {
        self.logs.write(&voice(&self.handling, &self.event), level, message);
    }

    /// Takes what the guest wrote to its standard output or error.
    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        self.logs.print(&voice(&self.handling, &self.event), stream, bytes);
    }

    /// Logs what is still open once the call is over.
    pub(super) fn finish_logs(&mut self) {
        self.logs.finish(&voice(&self.handling, &self.event));
    }

    /// Checks and encodes a draft; answers the id it will have.
    pub(super) fn publish(&mut self, draft: Draft) -> Result<String, Refused> {
        let spec = &self.handling.spec;
        if spec.grants.publish.is_empty() && draft.topic.is_empty() {
            return Err(Refused::Denied(Capability::Publish.denied(&spec.name)));
        }
        spec.grants.may_publish(&spec.name, &draft.topic, &draft.kind).map_err(Refused::Denied)?;
        let count = self.published.messages.len();
        let most = spec.limits.published_events;
        if count >= most {
            let more = limits::more_bytes("published_events", most);
            return Err(Refused::Limit(format!("a call may publish {most} events; {more}")));
        }
        if draft.headers.len() > limits::DRAFT_HEADERS {
            let (most, has) = (limits::DRAFT_HEADERS, draft.headers.len());
            return Err(Refused::Limit(format!("a draft may have {most} headers, this one has {has}")));
        }
        let bytes = self.published.bytes.saturating_add(draft_bytes(&draft));
        let most = spec.limits.published_bytes;
        if bytes > most {
            let more = limits::more_bytes("published_bytes", most);
            return Err(Refused::Limit(format!("the drafts of a call may have {most} bytes in all; {more}")));
        }
        let index = u32::try_from(count).unwrap_or(u32::MAX);
        let prepared = self.handling.services.prepare(&self.event, index, draft).map_err(|error| match error {
            DraftError::Invalid(why) => Refused::Invalid(why),
            DraftError::Limit(why) => Refused::Limit(why),
        })?;
        self.published.bytes = bytes;
        self.published.messages.push(prepared.outgoing);
        Ok(prepared.id)
    }

    /// The value the operator wrote under a name.
    pub(super) fn config(&self, name: &str) -> Result<Option<String>, Refused> {
        let spec = &self.handling.spec;
        match &spec.grants.config {
            Some(values) => Ok(values.get(name).cloned()),
            None => Err(Refused::Denied(Capability::Config.denied(&spec.name))),
        }
    }

    /// The value of a secret. One that is not granted is denied whether or not there is one of that name.
    pub(super) fn secret(&self, name: &str) -> Result<String, Refused> {
        let spec = &self.handling.spec;
        let value = spec.grants.secrets.get(name).map(str::to_owned);
        value.ok_or_else(|| Refused::Denied(grants::no_secret(&spec.name, name)))
    }

    /// What the guest is told of its time.
    pub(super) fn deadline_ms(&self) -> u32 {
        millis(self.handling.spec.limits.time)
    }

    /// Waits as long as the guest has to for one of these; not longer than the call may last.
    pub(super) fn sleep_until_ready(&mut self, pollables: &[u32]) -> wasmtime::Result<()> {
        let wait = self.wasi.wait(pollables);
        if wait.is_zero() {
            return Ok(());
        }
        let now = Instant::now();
        let until = now.checked_add(wait).filter(|until| *until < self.deadline);
        let answered = self.park(until.unwrap_or(self.deadline), || self.wasi.answered(pollables));
        self.wasi.passed(now.elapsed().min(wait));
        match until {
            _ if answered => Ok(()),
            Some(_) => Ok(()),
            None => Err(Stop::Time.into()),
        }
    }

    /// Waits until something has come of a request; not longer than the call may.
    pub(super) fn wait_for(&mut self, exchange: &http::Exchange, side: http::Side) -> wasmtime::Result<()> {
        if exchange.ready(side) {
            return Ok(());
        }
        let now = Instant::now();
        let answered = self.park(self.deadline, || exchange.ready(side));
        self.wasi.passed(now.elapsed());
        if answered { Ok(()) } else { Err(Stop::Time.into()) }
    }

    /// Waits, with this call's core given up, until it is `done` or `end` has come; says which. Whoever makes it done wakes
    /// this thread.
    fn park(&self, end: Instant, done: impl Fn() -> bool) -> bool {
        self.outside(|| {
            // It can be woken for no reason.
            loop {
                if done() {
                    return true;
                }
                match end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                    Some(left) => thread::park_timeout(left),
                    None => return false,
                }
            }
        })
    }

    /// The call is a slow one, or may be: from now on its thread is behind the others.
    pub(super) fn let_others_first(&mut self) {
        if self.behind.is_none() {
            self.behind = Behind::others().map(Box::new);
        }
    }

    /// Rests if others need this core. The call's time stands still meanwhile: a handler that is only slow would otherwise
    /// never come to an end again. Returns how long it stood still.
    pub(super) fn make_way(&mut self) -> Duration {
        let overran = self.handling.overruns.any();
        let rested = self.waiting.as_deref().map_or(Duration::ZERO, |waiting| waiting.rest(overran));
        self.deadline += rested;
        rested
    }

    /// Runs `wait` with this call's core given up meanwhile.
    fn outside<R>(&self, wait: impl FnOnce() -> R) -> R {
        // The end is told even if `wait` panics, or the monitor would count the call as waiting for ever.
        struct Ends<'a>(&'a dyn Waiting);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.ends();
            }
        }
        let _ends = self.waiting.as_deref().map(|waiting| {
            waiting.begins();
            Ends(waiting)
        });
        wait()
    }
}

/// Whose words the log shows.
fn voice<'a>(handling: &'a Handling, event: &'a Event) -> logs::Voice<'a> {
    let spec = &handling.spec;
    let (handler, secrets, heard) = (&spec.name, &spec.grants.secrets, handling.heard.as_deref());
    logs::Voice { handler, event: &event.metadata.id, secrets, heard }
}

fn draft_bytes(draft: &Draft) -> usize {
    let payload = match &draft.payload {
        Payload::Json(text) => text.len(),
        Payload::Raw(bytes) => bytes.len(),
    };
    let headers: usize = draft.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    payload + headers + draft.topic.len() + draft.kind.len() + draft.key.as_ref().map_or(0, bytes::Bytes::len)
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
