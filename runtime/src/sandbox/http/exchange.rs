//! One request under way. A task of the client's sends it and receives the answer; the guest's thread looks at what has
//! come, and is woken when there is more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};

use super::code::{ErrorCode, Failure};
use super::fields::Fields;
use super::grant::{Reach, Target};
use super::outlet::{Link, Outlet};
use super::unsent::Answer;
use crate::sandbox::limits;

/// The guest's side. The request is given up when the last of it is dropped.
pub(in crate::sandbox) struct Exchange {
    shared: Arc<Shared>,
    /// `None` if nothing is sent.
    task: Option<AbortHandle>,
}

/// What of an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Side {
    Head,
    Body,
    Trailers,
}

/// Status and headers of an answer.
#[derive(Debug)]
pub(in crate::sandbox) struct Head {
    pub(in crate::sandbox) status: u16,
    pub(in crate::sandbox) fields: Fields,
}

/// What a look at the body shows.
#[derive(Debug)]
pub(in crate::sandbox) enum Read {
    Bytes(Bytes),
    /// Nothing yet.
    Nothing,
    End,
    Failed(Failure),
}

/// What is asked, and within which bounds.
pub(super) struct Ask {
    pub(super) target: Target,
    pub(super) reach: Reach,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Comes when the guest has finished it; `None` for none.
    pub(super) body: Option<oneshot::Receiver<Bytes>>,
    pub(super) times: Times,
    pub(super) deadline: Instant,
    pub(super) budget: Arc<Budget>,
    pub(super) waiter: Thread,
}

/// What the guest itself grants an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sandbox) struct Times {
    pub(in crate::sandbox) connect: Option<u64>,
    pub(in crate::sandbox) first_byte: Option<u64>,
    pub(in crate::sandbox) between_bytes: Option<u64>,
}

/// Bytes that the bodies of all answers of a call may have.
pub(super) struct Budget {
    left: AtomicU64,
    most: usize,
}

struct Shared {
    state: Mutex<State>,
    waiter: Thread,
}

#[derive(Default)]
struct State {
    head: Option<Result<Head, Failure>>,
    /// The head has come, whether or not somebody has taken it.
    answered: bool,
    chunks: VecDeque<Bytes>,
    held: usize,
    end: Option<Result<Option<Fields>, Failure>>,
    /// Nobody reads the body any more.
    discarded: bool,
    /// The task, while it waits for room.
    task: Option<Waker>,
}

/// The task's side: what it does not say is said when it is dropped.
struct Reporter(Arc<Shared>);

// === impl Exchange ===

impl Exchange {
    /// Begins it.
    pub(super) fn start(outlet: &Arc<Outlet>, ask: Ask) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), waiter: ask.waiter.clone() });
        let reporter = Reporter(Arc::clone(&shared));
        let task = outlet.runtime.spawn(run(Arc::clone(outlet), ask, reporter)).abort_handle();
        Self { shared, task: Some(task) }
    }

    /// One that is over: its answer did not come from a server. It counts as one that did.
    pub(super) fn answered(answer: Answer, budget: &Budget) -> Self {
        let mut state = State { answered: true, ..State::default() };
        state.head = Some(Ok(Head { status: answer.status, fields: Fields::received(answer.headers) }));
        state.end = Some(budget.take(answer.body.len()).map(|()| None));
        if matches!(state.end, Some(Ok(_))) && !answer.body.is_empty() {
            (state.held, state.chunks) = (answer.body.len(), VecDeque::from([answer.body]));
        }
        Self { shared: Arc::new(Shared { state: Mutex::new(state), waiter: std::thread::current() }), task: None }
    }

    /// Whether looking shows something.
    pub(in crate::sandbox) fn ready(&self, side: Side) -> bool {
        let state = self.shared.lock();
        match side {
            Side::Head => state.answered,
            Side::Body => !state.chunks.is_empty() || state.end.is_some(),
            Side::Trailers => state.end.is_some(),
        }
    }

    /// Takes the answer's head, if it has come.
    pub(in crate::sandbox) fn head(&self) -> Option<Result<Head, Failure>> {
        self.shared.lock().head.take()
    }

    /// Takes as much of the body as has come, `most` bytes of it at most.
    pub(in crate::sandbox) fn read(&self, most: usize) -> Read {
        if most == 0 {
            return Read::Bytes(Bytes::new());
        }
        let mut state = self.shared.lock();
        let Some(mut chunk) = state.chunks.pop_front() else {
            return match &state.end {
                None => Read::Nothing,
                Some(Ok(_)) => Read::End,
                Some(Err(failure)) => Read::Failed(failure.clone()),
            };
        };
        if chunk.len() < most && !state.chunks.is_empty() {
            // Servers send in small pieces; guests would pay a call for each.
            let mut joined = BytesMut::from(chunk);
            while let Some(next) = state.chunks.pop_front() {
                joined.extend_from_slice(&next);
                if joined.len() >= most {
                    break;
                }
            }
            chunk = joined.freeze();
        }
        if chunk.len() > most {
            state.chunks.push_front(chunk.split_off(most));
        }
        state.held -= chunk.len();
        if let Some(task) = state.task.take() {
            task.wake();
        }
        Read::Bytes(chunk)
    }

    /// What there is and what is to come of the body goes nowhere: only its end is waited for.
    pub(in crate::sandbox) fn discard(&self) {
        let mut state = self.shared.lock();
        state.discarded = true;
        (state.chunks, state.held) = (VecDeque::new(), 0);
        if let Some(task) = state.task.take() {
            task.wake();
        }
    }

    /// How the body ended, if it has.
    pub(in crate::sandbox) fn trailers(&self) -> Option<Result<Option<Fields>, Failure>> {
        self.shared.lock().end.clone()
    }

    /// Gives it up: whoever still looks sees that it came to nothing.
    pub(in crate::sandbox) fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reporter ===

impl Reporter {
    fn head(&self, head: Head) {
        let mut state = self.0.lock();
        (state.head, state.answered) = (Some(Ok(head)), true);
        drop(state);
        self.0.waiter.unpark();
    }

    /// Adds to the body, once there is room.
    async fn push(&self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.held < limits::HTTP_BUFFER {
                return Poll::Ready(());
            }
            state.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let mut state = self.0.lock();
        if state.discarded {
            return;
        }
        state.held += chunk.len();
        state.chunks.push_back(chunk);
        drop(state);
        self.0.waiter.unpark();
    }

    /// The first end counts.
    fn end(&self, end: Result<Option<Fields>, Failure>) {
        let mut state = self.0.lock();
        if let (false, Err(failure)) = (state.answered, &end) {
            (state.head, state.answered) = (Some(Err(failure.clone())), true);
        }
        state.end.get_or_insert(end);
        drop(state);
        self.0.waiter.unpark();
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end(Err(Failure::plain(ErrorCode::ConnectionTerminated)));
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self { left: AtomicU64::new(most as u64), most }
    }

    fn take(&self, bytes: usize) -> Result<(), Failure> {
        let less = |left: u64| left.checked_sub(bytes as u64);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Ok(());
        }
        let most = self.most;
        let more = limits::more_bytes("http_response_bytes", most);
        let text = format!("the bodies of all answers to a call may have {most} bytes; {more}");
        Err(Failure::limit(ErrorCode::HttpResponseBodySize(Some(most as u64)), text))
    }
}

async fn run(outlet: Arc<Outlet>, mut ask: Ask, reporter: Reporter) {
    let (begun, deadline) = (Instant::now(), ask.deadline.into());
    let answered = timeout_at(deadline, perform(&outlet, &mut ask, &reporter)).await;
    let end = answered.unwrap_or_else(|_| Err(Failure::plain(ErrorCode::HttpResponseTimeout)));
    // Neither path nor headers: secrets travel in both.
    let (handler, origin, took) = (&outlet.handler, ask.target.origin(), begun.elapsed());
    match &end {
        Ok(_) => tracing::debug!(handler, origin, method = %ask.method, ?took, "a request was answered"),
        Err(failure) => {
            tracing::debug!(handler, origin, method = %ask.method, ?took, code = ?failure.code, "a request failed");
        }
    }
    reporter.end(end);
}

async fn perform(outlet: &Arc<Outlet>, ask: &mut Ask, reporter: &Reporter) -> Result<Option<Fields>, Failure> {
    let body = match ask.body.take() {
        None => Bytes::new(),
        Some(coming) => coming.await.map_err(|_| {
            Failure::plain(ErrorCode::InternalError(Some(
                "the request's body was dropped before it was finished".into(),
            )))
        })?,
    };
    if let Some(promised) = ask.headers.remove(header::CONTENT_LENGTH)
        && promised.to_str().ok().and_then(|length| length.parse().ok()) != Some(body.len())
    {
        return Err(Failure::plain(ErrorCode::HttpRequestBodySize(Some(body.len() as u64))));
    }
    let (mut link, response) = sent(outlet, ask, &body).await?;
    let (parts, mut incoming) = response.into_parts();
    reporter.head(Head { status: parts.status.as_u16(), fields: Fields::received(parts.headers) });
    let mut trailers = None;
    let between = ask.times.between_bytes.map(Duration::from_nanos);
    while let Some(frame) =
        within(between, ErrorCode::ConnectionReadTimeout, link.drive.until(incoming.frame())).await?
    {
        let frame = frame.map_err(|error| Failure::speaking(&error, outlet.header_bytes))?;
        match frame.into_data() {
            Ok(data) => {
                ask.budget.take(data.len())?;
                reporter.push(data).await;
            }
            Err(other) => trailers = other.into_trailers().ok().map(Fields::received),
        }
    }
    drop(incoming);
    outlet.keep(link);
    Ok(trailers)
}

/// Sends the request and waits for the head of the answer. A server may close a connection just as it is used again: what it
/// did not answer there is sent on a new one. Every request may be: it only reads, or it has a key (RFC 9110, 9.2.2).
async fn sent(
    outlet: &Arc<Outlet>,
    ask: &Ask,
    body: &Bytes,
) -> Result<(Link, hyper::Response<hyper::body::Incoming>), Failure> {
    let connect = ask.times.connect.map(Duration::from_nanos);
    let link = outlet.link(&ask.target, ask.reach, connect).await?;
    let used = link.used;
    match sent_on(link, outlet, ask, body).await {
        Err(failure) if used && failure.is_unanswered() => {}
        other => return other,
    }
    let link = outlet.new_link(&ask.target, ask.reach, connect).await?;
    sent_on(link, outlet, ask, body).await
}

async fn sent_on(
    mut link: Link,
    outlet: &Outlet,
    ask: &Ask,
    body: &Bytes,
) -> Result<(Link, hyper::Response<hyper::body::Incoming>), Failure> {
    let first = ask.times.first_byte.map(Duration::from_nanos);
    let Link { sender, drive, .. } = &mut link;
    let request = request(ask, body)?;
    let answer = drive.until(async {
        sender.ready().await?;
        sender.send_request(request).await
    });
    match within(first, ErrorCode::HttpResponseTimeout, answer).await? {
        Ok(response) => Ok((link, response)),
        Err(error) => Err(Failure::speaking(&error, outlet.header_bytes)),
    }
}

fn request(ask: &Ask, body: &Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let invalid = || Failure::plain(ErrorCode::HttpRequestUriInvalid);
    let uri: Uri = ask.target.path_and_query.parse().map_err(|_| invalid())?;
    let host = HeaderValue::from_str(&ask.target.authority()).map_err(|_| invalid())?;
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = ask.headers.clone();
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// What a future gives, if it does within the time that the guest grants it.
async fn within<F: Future>(most: Option<Duration>, code: ErrorCode, future: F) -> Result<F::Output, Failure> {
    match most {
        None => Ok(future.await),
        Some(most) => timeout(most, future).await.map_err(|_| Failure::plain(code)),
    }
}
