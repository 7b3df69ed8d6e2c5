//! A handler's calls in a process of their own: `isolation = "process"`.
//!
//! Who breaks out of a sandbox is in the process that it runs in. In the host's there are the bus's credentials and the secrets
//! of all handlers; in a worker's there is one handler's module, its grants with their secrets, and the event in hand, and nothing
//! can be reached from there but the host's answers. The host does not believe its workers: it keeps the books of each call itself,
//! by the methods that serve guests in its own process, so that whoever takes a worker over can do what that handler may.
//!
//! - here: the host's side of a call, and the worker that it goes to.
//! - `server`: the process that makes workers.
//! - `worker`: an ordinary sandbox with one place, whose imports ask the host.
//! - `wire`: what crosses.

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::wire::{Frame, Link, Values, garbled, kind, level_of};
use super::contract_v0_1::REJECTED;
use super::handler::Handling;
use super::host::{Refused, State, Waiting};
use super::{Ran, Spec, call, confine, limits, text};
use crate::event::{Event, Verdict, code};

mod cell;
mod server;
mod wire;
mod worker;

pub use server::{COMMAND, Isolator, serve};

/// Confines this process as one in which calls run, for good: to see what is left to it.
///
/// # Errors
///
/// If the kernel refuses one of the measures.
pub fn confine_as_worker() -> Result<(), confine::Error> {
    cell::serve()?;
    cell::work()
}

/// What a worker may take beyond the time of a call, to say that it is over.
const SLACK: Duration = Duration::from_secs(1);

/// How long a worker may take until it can be called.
const START: Duration = Duration::from_secs(30);

/// Bytes of a frame beyond what the limits of a call let it say: lengths, and texts that have limits of their own.
const FRAME: usize = 1 << 20;

/// Where the calls of one handler run.
pub(super) struct Apart {
    isolator: Isolator,
    /// So many are kept: more are called at once only while calls wait, and are needed again when that is over.
    most: usize,
    idle: Mutex<Vec<Worker>>,
    closed: AtomicBool,
}

/// A process that is ready for a call.
struct Worker {
    isolator: Isolator,
    /// `None` once it has ended.
    id: Option<u64>,
    link: Link,
}

/// Why a call has no verdict of its worker's.
#[derive(Debug)]
enum Lost {
    /// It was gone before it had all of the call.
    Unheard,
    /// It has ended, or there is no sense in what it says.
    Gone(io::Error),
    /// It says nothing.
    Late,
    /// The worker did not call the guest: trouble of its own.
    NotCalled(String),
}

// === impl Apart ===

impl Apart {
    /// For a handler of which so many calls compute at once. Nothing is started yet.
    pub(super) fn new(isolator: Isolator, most: usize) -> Self {
        Self { isolator, most, idle: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// Starts the first worker: what keeps it from starting is known before there is an event.
    pub(super) fn open(&self, handling: &Handling) -> Result<(), String> {
        let worker = Worker::start(&self.isolator, handling).map_err(|error| error.to_string())?;
        self.lay_down(worker);
        Ok(())
    }

    /// Ends the workers that wait, and those that are called at the end of their calls.
    pub(super) fn close(&self) {
        // Before the lock is taken: whoever lays one down after it sees this.
        self.closed.store(true, Ordering::Relaxed);
        let idle = std::mem::take(&mut *self.lock());
        drop(idle);
    }

    /// Calls the handler with one event, in a process that does nothing else meanwhile.
    pub(super) fn run(
        &self,
        handling: &Arc<Handling>,
        event: &Arc<Event>,
        about: (u32, bool),
        waiting: Option<Arc<dyn Waiting>>,
    ) -> Ran {
        // Each that waits may have ended meanwhile; the one after them is new.
        for _ in 0..=self.most {
            let mut worker = match self.take(handling) {
                Ok(worker) => worker,
                Err(error) => return Ran::NotCalled(format!("there is no process for the handler's calls: {error}")),
            };
            let started = Instant::now();
            let mut state =
                State::new(Arc::clone(handling), Arc::clone(event), about, started, waiting.as_ref().map(Arc::clone));
            let called = catch_unwind(AssertUnwindSafe(|| call(&mut worker.link, &mut state)));
            let verdict = match called {
                // What it was told last is unknown: it goes.
                Err(panic) => call::panicked(&state, panic.as_ref()),
                Ok(Ok(verdict)) => {
                    self.lay_down(worker);
                    verdict
                }
                // It ended while it waited, or before it had all of the call: that is nobody's attempt.
                Ok(Err(Lost::Unheard)) => continue,
                Ok(Err(Lost::NotCalled(why))) => {
                    self.lay_down(worker);
                    return Ran::NotCalled(why);
                }
                Ok(Err(Lost::Late)) => call::too_long(&handling.spec.limits),
                Ok(Err(Lost::Gone(error))) => {
                    let reason = format!("the process of this call {}", worker.end(&error));
                    call::retry(code::TRAP, &reason)
                }
            };
            state.finish_logs();
            return call::close(&mut state, Ok(verdict), started);
        }
        Ran::NotCalled("the processes of the handler's calls end before they are called".to_owned())
    }

    fn take(&self, handling: &Handling) -> io::Result<Worker> {
        let idle = self.lock().pop();
        match idle {
            Some(worker) => Ok(worker),
            None => Worker::start(&self.isolator, handling),
        }
    }

    fn lay_down(&self, worker: Worker) {
        // Ending one takes a while: not under the lock.
        let one_too_many = {
            let mut idle = self.lock();
            if self.closed.load(Ordering::Relaxed) || idle.len() >= self.most {
                Some(worker)
            } else {
                idle.push(worker);
                None
            }
        };
        drop(one_too_many);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Worker ===

impl Worker {
    fn start(isolator: &Isolator, handling: &Handling) -> io::Result<Self> {
        let spec = &handling.spec;
        let start = worker::start(handling).map_err(io::Error::other)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(START))?;
        ours.set_read_timeout(Some(START))?;
        let id = isolator.make(&theirs)?;
        drop(theirs);
        let mut worker = Self { isolator: isolator.clone(), id: Some(id), link: Link::new(ours, most(spec)) };
        worker.link.send_whole(&start)?;
        match worker.link.hear()? {
            (kind::READY, _) => {}
            (kind::UNABLE, why) => return Err(io::Error::other(Values::of(&why).text()?)),
            _ => return Err(garbled()),
        }
        let patience = spec.limits.time.saturating_add(SLACK);
        worker.link.stream().set_read_timeout(Some(patience))?;
        worker.link.stream().set_write_timeout(Some(patience))?;
        Ok(worker)
    }

    /// Ends it, and says how that came about.
    fn end(mut self, error: &io::Error) -> String {
        let status = self.id.take().and_then(|id| self.isolator.end(id));
        if error.kind() == io::ErrorKind::InvalidData {
            return format!("was ended: {error}");
        }
        match status {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended by itself, with {}", code.unwrap_or_default()),
            },
            None => format!("was lost: {error}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.isolator.end(id);
        }
    }
}

/// The most bytes that a frame of a worker may have.
fn most(spec: &Spec) -> usize {
    spec.limits.published_bytes.max(spec.limits.key_bytes).saturating_mul(2).saturating_add(FRAME)
}

/// One call at the other end of the link, with all that its guest asks for.
fn call(link: &mut Link, state: &mut State) -> Result<Verdict, Lost> {
    let overran = state.handling.overruns.any();
    let call = Frame::new(kind::CALL).number(state.attempt.into()).flag(state.replayed).flag(overran);
    link.send(call.event(&state.event)).map_err(|error| match Lost::from(error) {
        Lost::Gone(_) => Lost::Unheard,
        late => late,
    })?;
    let (mut rests, mut is_heard) = (most_rests(&state.handling.spec), false);
    loop {
        let (kind, content) = link.hear().map_err(|error| match error.kind() {
            // It has ended with some of the call unread.
            io::ErrorKind::ConnectionReset if !is_heard => Lost::Unheard,
            _ => Lost::from(error),
        })?;
        is_heard = true;
        // Each of its frames may be in time and all of them too many.
        if Instant::now() >= state.deadline + SLACK {
            return Err(Lost::Late);
        }
        let mut values = Values::of(&content);
        match kind {
            kind::DONE => return done(state, values),
            kind::NOT_CALLED => return Err(Lost::NotCalled(text::line(&values.text()?, limits::REASON_BYTES))),
            kind::REST => rests = rests.checked_sub(1).ok_or_else(garbled)?,
            _ => {}
        }
        let answer = answer(kind, &mut values, state)?;
        values.end()?;
        if let Some(answer) = answer {
            link.send(answer.unwrap_or_else(refusal))?;
        }
    }
}

/// What a question is answered with, if it is one.
fn answer(kind: u8, values: &mut Values<'_>, state: &mut State) -> io::Result<Option<Result<Frame, Refused>>> {
    let answer = Frame::new(kind::ANSWER);
    Ok(Some(match kind {
        kind::PUBLISH => {
            let draft = values.draft()?;
            state.publish(draft).map(|id| answer.text(&id))
        }
        kind::GET => {
            let value = state.key_get(&values.text()?);
            value.map(|value| answer.maybe(value, |frame, value| frame.bytes(&value)))
        }
        kind::LIST => {
            let (prefix, limit) = (values.text()?, values.small()?);
            let keys = state.key_list_apart(&prefix, limit);
            keys.map(|keys| answer.each(keys.iter(), |frame, key| frame.text(key)))
        }
        kind::REST => {
            let rested = state.make_way();
            Ok(answer.number(u64::try_from(rested.as_nanos()).unwrap_or(u64::MAX)))
        }
        kind::LOG => {
            let level = level_of(values.number()?).ok_or_else(garbled)?;
            state.log(level, &values.text()?);
            return Ok(None);
        }
        kind::DROPPED => {
            state.logs.dropped(values.number()?);
            return Ok(None);
        }
        _ => return Err(garbled()),
    }))
}

/// How often a call asks whether others come first: at each tick of its time. Who asks more often only wants to stay.
fn most_rests(spec: &Spec) -> u128 {
    spec.limits.time.as_nanos() / limits::TICK.as_nanos() * 2 + 100
}

/// What the worker says at the end, as far as the handler may say it.
fn done(state: &mut State, mut values: Values<'_>) -> Result<Verdict, Lost> {
    let (verdict, writes) = (values.verdict()?, values.writes()?);
    values.end()?;
    let secrets = &state.handling.spec.grants.secrets;
    let code = |said: &str, otherwise: &str| {
        let code = text::code(&secrets.hide(said, limits::REASON_BYTES), limits::CODE_BYTES);
        code.unwrap_or_else(|| otherwise.to_owned())
    };
    let reason = |said: &str| secrets.line(said, limits::REASON_BYTES);
    let verdict = match verdict {
        Verdict::Done => Verdict::Done,
        Verdict::Retry { code: own, reason: said, after } => {
            Verdict::Retry { code: code(&own, code::RETRY), reason: reason(&said), after }
        }
        Verdict::Reject { code: own, reason: said } => {
            Verdict::Reject { code: code(&own, REJECTED), reason: reason(&said) }
        }
    };
    for (key, value) in writes {
        // The worker has looked at each of them: one that may not be is none of its guest's.
        state.key_write(key, value).map_err(|_| garbled())?;
    }
    Ok(verdict)
}

fn refusal(refused: Refused) -> Frame {
    match refused {
        Refused::Limit(why) => Frame::new(kind::LIMIT).text(&why),
        Refused::Denied(why) | Refused::Invalid(why) | Refused::Unavailable(why) => {
            Frame::new(kind::REFUSED).text(&why)
        }
    }
}

// === impl Lost ===

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Gone(error),
        }
    }
}

#[cfg(test)]
mod tests;
