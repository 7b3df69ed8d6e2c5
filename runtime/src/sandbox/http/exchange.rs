//! One request under way. A task of the client's sends it and receives the answer (`sending`); the guest's thread looks at
//! what has come, and is woken when there is more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::Thread;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use tokio::task::AbortHandle;

use super::code::{ErrorCode, Failure};
use super::fields::Fields;
use super::outlet::Outlet;
use super::sending::{Ask, Budget, run};
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

/// What the guest itself grants an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sandbox) struct Times {
    pub(in crate::sandbox) connect: Option<u64>,
    pub(in crate::sandbox) first_byte: Option<u64>,
    pub(in crate::sandbox) between_bytes: Option<u64>,
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
pub(super) struct Reporter(Arc<Shared>);

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
    pub(super) fn head(&self, head: Head) {
        let mut state = self.0.lock();
        (state.head, state.answered) = (Some(Ok(head)), true);
        drop(state);
        self.0.waiter.unpark();
    }

    /// Adds to the body, once there is room.
    pub(super) async fn push(&self, chunk: Bytes) {
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
    pub(super) fn end(&self, end: Result<Option<Fields>, Failure>) {
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
