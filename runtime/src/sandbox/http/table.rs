//! What a guest holds of HTTP: made when it first asks for something, so that others pay nothing for it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::oneshot;

use super::code::{ErrorCode, Failure, Why};
use super::exchange::{Exchange, Times};
use super::fields::Fields;
use super::sending::Budget;
use crate::sandbox::call::Stop;
use crate::sandbox::{Limits, limits};

/// The first number of a thing here: standard streams have those below.
pub(in crate::sandbox) const FIRST: u32 = 16;

/// The things themselves, and what the call has used up.
pub(in crate::sandbox) struct Table {
    things: Vec<Option<Thing>>,
    free: Vec<usize>,
    pub(super) calls: usize,
    sent_bytes: usize,
    pub(super) budget: Arc<Budget>,
    /// What the last request that came to nothing came to, if there are words for it.
    why: Option<Why>,
}

/// Behind a resource of `wasi:http/types`, or a stream or an error of `wasi:io`.
pub(in crate::sandbox) enum Thing {
    Fields(Fields),
    Request(Box<Request>),
    Options(Times),
    /// An answer that is awaited, until it has been taken.
    Future(Arc<Exchange>),
    Response(Response),
    Incoming(Arc<Exchange>, /** Its stream was taken. */ bool),
    Input(Arc<Exchange>),
    Trailers(Arc<Exchange>, /** They were taken. */ bool),
    Outgoing(Body),
    Output(Body),
    Error(Failure),
}

/// A request as the guest puts it together.
pub(in crate::sandbox) struct Request {
    pub(in crate::sandbox) method: Method,
    /// `None` is as good as `Some(true)`.
    pub(in crate::sandbox) https: Option<bool>,
    pub(in crate::sandbox) authority: Option<String>,
    pub(in crate::sandbox) path_and_query: Option<String>,
    pub(in crate::sandbox) fields: Fields,
    /// Comes when the body is finished; `None` while nobody has asked for it.
    pub(in crate::sandbox) body: Option<oneshot::Receiver<Bytes>>,
}

/// The answer to one.
pub(in crate::sandbox) struct Response {
    pub(in crate::sandbox) status: u16,
    pub(in crate::sandbox) fields: Fields,
    pub(in crate::sandbox) exchange: Option<Arc<Exchange>>,
}

/// The body of a request, shared with the stream that writes it. It is sent when it is finished, so that its length is
/// known and nobody waits for room.
#[derive(Clone)]
pub(in crate::sandbox) struct Body(Arc<Mutex<Writing>>);

struct Writing {
    bytes: Vec<u8>,
    /// Until it is finished.
    done: Option<oneshot::Sender<Bytes>>,
    /// Something was written that there was no room for.
    cut: bool,
    /// The stream was taken.
    taken: bool,
}

// === impl Table ===

impl Table {
    pub(in crate::sandbox) fn new(limits: &Limits) -> Self {
        let budget = Arc::new(Budget::new(limits.http_response_bytes));
        Self { things: Vec::new(), free: Vec::new(), calls: 0, sent_bytes: 0, budget, why: None }
    }

    /// The same instance's next call: what is under way is given up, and there is as much of everything again.
    pub(in crate::sandbox) fn next_call(mut self, limits: &Limits) -> Self {
        self.abort();
        Self { things: self.things, free: self.free, ..Self::new(limits) }
    }

    /// Gives up all that is under way.
    pub(in crate::sandbox) fn abort(&mut self) {
        for thing in self.things.iter().flatten() {
            match thing {
                Thing::Future(exchange)
                | Thing::Incoming(exchange, _)
                | Thing::Input(exchange)
                | Thing::Trailers(exchange, _)
                | Thing::Response(Response { exchange: Some(exchange), .. }) => exchange.abort(),
                _ => {}
            }
        }
    }

    /// Keeps a thing; answers its number.
    pub(in crate::sandbox) fn add(&mut self, thing: Thing) -> wasmtime::Result<u32> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.things.len() >= limits::HTTP_HANDLES => {
                let most = limits::HTTP_HANDLES;
                let text =
                    format!("the handler held more than {most} handles of HTTP at once, whichever handler it is");
                return Err(Stop::Limit(text).into());
            }
            None => {
                self.things.push(None);
                self.things.len() - 1
            }
        };
        self.things[place] = Some(thing);
        Ok(u32::try_from(place).unwrap_or(u32::MAX).saturating_add(FIRST))
    }

    pub(in crate::sandbox) fn get(&mut self, rep: u32) -> wasmtime::Result<&mut Thing> {
        place(rep).and_then(|place| self.things.get_mut(place)?.as_mut()).ok_or_else(gone)
    }

    /// Takes a thing out for good.
    pub(in crate::sandbox) fn take(&mut self, rep: u32) -> Option<Thing> {
        let place = place(rep)?;
        let thing = self.things.get_mut(place)?.take()?;
        self.free.push(place);
        Some(thing)
    }

    /// Whether so many bytes more may be sent in bodies. `Err` if they may not.
    pub(in crate::sandbox) fn send(&mut self, bytes: usize, most: usize) -> Result<(), Failure> {
        let sum = self.sent_bytes.saturating_add(bytes);
        if sum > most {
            let more = limits::more_bytes("http_request_bytes", most);
            let text = format!("the bodies of all requests of a call may have {most} bytes; {more}");
            return Err(Failure::limit(ErrorCode::HttpRequestBodySize(Some(most as u64)), text));
        }
        self.sent_bytes = sum;
        Ok(())
    }

    /// Bytes that may still be sent.
    pub(in crate::sandbox) fn room(&self, most: usize) -> usize {
        most.saturating_sub(self.sent_bytes)
    }

    /// Remembers why a request came to nothing; answers what the guest is told.
    pub(in crate::sandbox) fn failed(&mut self, failure: Failure) -> ErrorCode {
        if failure.why.is_some() {
            self.why = failure.why;
        }
        failure.code
    }

    /// A request went well: what came before it is not why the call fails, if it does.
    pub(in crate::sandbox) fn went_well(&mut self) {
        self.why = None;
    }

    /// What to say of requests if the call has failed.
    pub(in crate::sandbox) fn why(&self) -> Option<&Why> {
        self.why.as_ref()
    }
}

fn place(rep: u32) -> Option<usize> {
    usize::try_from(rep.checked_sub(FIRST)?).ok()
}

/// The engine checks the type of each handle, so this is a bug of ours.
pub(in crate::sandbox) fn gone() -> wasmtime::Error {
    wasmtime::Error::msg("a handle of HTTP has nothing behind it")
}

// === impl Request ===

impl Request {
    pub(in crate::sandbox) fn new(fields: Fields) -> Self {
        let fields = fields.view();
        Self { method: Method::GET, https: None, authority: None, path_and_query: None, fields, body: None }
    }

    /// Its headers, to look at.
    pub(in crate::sandbox) fn headers(&self) -> Fields {
        self.fields.clone()
    }
}

// === impl Body ===

impl Body {
    /// One that goes to whoever holds the other end.
    pub(in crate::sandbox) fn new() -> (Self, oneshot::Receiver<Bytes>) {
        let (done, finished) = oneshot::channel();
        let writing = Writing { bytes: Vec::new(), done: Some(done), cut: false, taken: false };
        (Self(Arc::new(Mutex::new(writing))), finished)
    }

    /// Takes its stream, the first time.
    pub(in crate::sandbox) fn take_stream(&self) -> Option<Self> {
        let taken = std::mem::replace(&mut self.lock().taken, true);
        (!taken).then(|| self.clone())
    }

    /// Writes; false if it is finished already.
    pub(in crate::sandbox) fn write(&self, bytes: &[u8]) -> bool {
        let mut writing = self.lock();
        if writing.done.is_none() {
            return false;
        }
        writing.bytes.extend_from_slice(bytes);
        true
    }

    /// What is written is not all that there was.
    pub(in crate::sandbox) fn cut(&self) {
        self.lock().cut = true;
    }

    /// Sends it on its way. `Err` if a part of it is missing.
    pub(in crate::sandbox) fn finish(&self) -> Result<(), ()> {
        let mut writing = self.lock();
        let (bytes, done) = (std::mem::take(&mut writing.bytes), writing.done.take());
        if writing.cut {
            return Err(());
        }
        if let Some(done) = done {
            // A request that is gone does not need it.
            drop(done.send(bytes.into()));
        }
        Ok(())
    }

    /// Whoever drops it before it is finished has not finished the request.
    pub(in crate::sandbox) fn give_up(&self) {
        let mut writing = self.lock();
        writing.bytes = Vec::new();
        writing.done = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
