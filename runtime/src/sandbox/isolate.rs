//! A handler's calls in a process of their own: `isolation = "process"`.
//!
//! Who breaks out of a sandbox is in the process that it runs in. In the host's there are the bus's credentials and the secrets
//! of all handlers; in a worker's there is one handler's module, its grants with their secrets, and the event in hand, and nothing
//! can be reached from there but the host's answers. The host does not believe its workers: it keeps the books of each call itself,
//! by the methods that serve guests in its own process, so that whoever takes a worker over can do what that handler may.
//!
//! - here: the host's side of a call, and the worker that it goes to.
//! - `server`: the process that makes workers, started before the host confines itself.
//! - `worker`: an ordinary sandbox with one place, whose imports ask the host.
//! - `wire`: what crosses.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::wire::{Frame, Link, Values, garbled, kind};
use super::host::{Level, Refused, State, Waiting};
use super::modules::Handling;
use super::{Module, Ran, Secret, Spec, call, limits, text};
use crate::event::{Event, Verdict, code};

mod server;
mod wire;
mod worker;

pub use server::{COMMAND, Isolator, serve};

/// What a worker may take beyond the time of a call, to say that it is over.
const SLACK: Duration = Duration::from_secs(1);

/// How long a worker may take until it can be called.
const START: Duration = Duration::from_secs(30);

/// Bytes of a frame beyond what the limits of a call let it say: lengths, and texts that have limits of their own.
const FRAME: usize = 1 << 20;

/// Where the calls of one handler run.
pub(super) struct Apart {
    isolator: Isolator,
    /// What a worker is started with.
    start: Arc<Vec<u8>>,
    idle: Mutex<Vec<Worker>>,
}

/// A process that is ready for a call.
struct Worker {
    isolator: Isolator,
    id: u64,
    link: Link,
}

/// Why a call has no verdict of its worker's.
enum Lost {
    /// It has ended, or there is no sense in what it says.
    Gone(io::Error),
    /// It says nothing.
    Late,
    /// The worker did not call the guest: trouble of its own.
    NotCalled(String),
}

// === impl Apart ===

impl Apart {
    /// Nothing is started yet.
    pub(super) fn new(isolator: Isolator, module: &Module, spec: &Spec, secret: &Secret) -> Result<Self, String> {
        let start = worker::start(module, spec, secret)?;
        Ok(Self { isolator, start: Arc::new(start), idle: Mutex::default() })
    }

    /// Calls the handler with one event, in a process that does nothing else meanwhile.
    pub(super) fn run(
        &self,
        handling: &Arc<Handling>,
        event: &Arc<Event>,
        about: (u32, bool),
        waiting: Option<Arc<dyn Waiting>>,
    ) -> Ran {
        let mut worker = match self.take(&handling.spec) {
            Ok(worker) => worker,
            Err(error) => return Ran::NotCalled(format!("there is no process for the handler's calls: {error}")),
        };
        let started = Instant::now();
        let mut state = State::new(Arc::clone(handling), Arc::clone(event), about, started, waiting);
        let verdict = match worker.call(&mut state) {
            Ok(verdict) => {
                self.lock().push(worker);
                verdict
            }
            Err(Lost::NotCalled(why)) => {
                self.lock().push(worker);
                return Ran::NotCalled(why);
            }
            Err(Lost::Late) => call::too_long(&handling.spec.limits),
            Err(Lost::Gone(error)) => {
                let ended = worker.end();
                let reason = format!("the process of the handler's calls was lost in this one: {error}{ended}");
                call::retry(code::TRAP, &text::line(&reason, limits::REASON_BYTES))
            }
        };
        call::close(&mut state, handling, Ok(verdict), started)
    }

    fn take(&self, spec: &Spec) -> io::Result<Worker> {
        let idle = self.lock().pop();
        match idle {
            Some(worker) => Ok(worker),
            None => Worker::start(&self.isolator, &self.start, spec),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Worker ===

impl Worker {
    fn start(isolator: &Isolator, start: &[u8], spec: &Spec) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(START))?;
        ours.set_read_timeout(Some(START))?;
        let id = isolator.make(&theirs)?;
        drop(theirs);
        let most = spec.limits.published_bytes.max(spec.limits.key_bytes).saturating_mul(2).saturating_add(FRAME);
        let mut worker = Self { isolator: isolator.clone(), id, link: Link::new(ours, most) };
        worker.link.send_whole(start)?;
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

    /// One call, with all that its guest asks for.
    fn call(&mut self, state: &mut State) -> Result<Verdict, Lost> {
        let until = state.deadline + SLACK;
        let call = Frame::new(kind::CALL).number(state.attempt.into()).flag(state.replayed).event(&state.event);
        self.link.send(call)?;
        loop {
            let (kind, content) = self.link.hear()?;
            // Each of its frames may be in time and all of them too many.
            if Instant::now() >= until {
                return Err(Lost::Late);
            }
            let mut values = Values::of(&content);
            let answer = match kind {
                kind::PUBLISH => {
                    let draft = values.draft()?;
                    state.publish(draft).map(|id| Frame::new(kind::ANSWER).text(&id))
                }
                kind::GET => {
                    let value = state.key_get(&values.text()?);
                    let frame = |value: Option<Vec<u8>>| {
                        Frame::new(kind::ANSWER).maybe(value, |frame, value| frame.bytes(&value))
                    };
                    value.map(frame)
                }
                kind::LIST => {
                    let (prefix, limit) = (values.text()?, values.small()?);
                    let keys = state.key_list(&prefix, limit);
                    keys.map(|keys| Frame::new(kind::ANSWER).each(keys.iter(), |frame, key| frame.text(key)))
                }
                kind::LOG => {
                    let level = level(values.number()?).ok_or_else(garbled)?;
                    state.log(level, &values.text()?);
                    values.end()?;
                    continue;
                }
                kind::DONE => return done(state, values),
                kind::NOT_CALLED => return Err(Lost::NotCalled(values.text()?)),
                _ => return Err(garbled().into()),
            };
            values.end()?;
            self.link.send(answer.unwrap_or_else(refusal))?;
        }
    }

    /// Ends it, and says how it ended.
    fn end(self) -> String {
        self.isolator.end(self.id).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when nobody holds the other end, and is ended if it does not.
        drop(self.link.stream().shutdown(Shutdown::Both));
        drop(self.isolator.end(self.id));
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

/// What the worker says at the end, as far as the handler may say it.
fn done(state: &mut State, mut values: Values<'_>) -> Result<Verdict, Lost> {
    let (verdict, writes) = (values.verdict()?, values.writes()?);
    values.end()?;
    let spec = &state.handling.spec;
    let line = |said: &str, most| spec.grants.secrets.line(said, most);
    let verdict = match verdict {
        Verdict::Done => Verdict::Done,
        Verdict::Retry { code, reason, after } => {
            let (code, reason) = (line(&code, limits::CODE_BYTES), line(&reason, limits::REASON_BYTES));
            Verdict::Retry { code, reason, after }
        }
        Verdict::Reject { code, reason } => {
            let (code, reason) = (line(&code, limits::CODE_BYTES), line(&reason, limits::REASON_BYTES));
            Verdict::Reject { code, reason }
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

/// The levels of a log line, as they cross.
const LEVELS: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

fn level(number: u64) -> Option<Level> {
    usize::try_from(number).ok().and_then(|number| LEVELS.get(number)).copied()
}
