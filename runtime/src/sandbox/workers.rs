//! The threads on which guests run: about one per core that does nothing else.
//!
//! What crosses over is a batch of one handler's events, never one event: a hand-over costs more than a call. A call
//! that runs over [`limits::SLOW_CALL`], or waits for the bus, gives its core slot to a spare thread and the rest of
//! its batch back to the queue; so a slow handler stops no other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::engine::Sandbox;
use super::handler::Handler;
use super::monitor::Watch;
use super::{Finished, Job, Ran, limits};

mod queue;
mod seat;

use queue::{Claims, Part, Queues};
use seat::Seat;

/// The host's own worker threads. They end when it is dropped.
pub struct Workers<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

struct Shared<T: Send + 'static> {
    sandbox: Arc<Sandbox>,
    queues: Mutex<Queues<T>>,
    wake: Condvar,
    seats: Mutex<Vec<Weak<Seat<T>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Handlers with queued work; read between calls without the lock.
    queued: AtomicUsize,
    closed: AtomicBool,
}

const CLOSED: &str = "the host is shutting down, or nothing of this handler is to be called now";

// === impl Workers ===

impl<T: Send + 'static> Workers<T> {
    /// Starts one thread for each core the sandbox may use.
    #[must_use]
    pub fn start(sandbox: Arc<Sandbox>) -> Self {
        let slots = sandbox.slots;
        let shared = Shared::new(sandbox);
        let watch: Weak<dyn Watch> = Arc::downgrade(&(Arc::clone(&shared) as Arc<dyn Watch>));
        shared.sandbox.monitor.watch(watch);
        for _ in 0..slots {
            shared.spawn(&mut shared.lock());
        }
        Self { shared }
    }

    /// Queues jobs of one handler. They come back through `done` in chunks, in the order they finish; a chunk waits
    /// for no later job longer than [`limits::CHUNK_AGE`] or so. Jobs whose `done` is closed are dropped.
    ///
    /// After a shutdown they come back at once, not called.
    pub fn submit(&self, handler: Arc<Handler>, jobs: Vec<Job<T>>, done: UnboundedSender<Vec<Finished<T>>>) {
        if jobs.is_empty() {
            return;
        }
        let part = Part { handler, jobs: jobs.into(), done };
        let mut queues = self.shared.lock();
        if queues.closed() {
            drop(queues);
            return part.give_back(CLOSED);
        }
        queues.push(part, Instant::now());
        self.shared.changed(&mut queues);
    }

    /// Gives back all jobs that have not started, waits for those that have (no longer than their time limit), and
    /// ends the threads. Does nothing the second time.
    pub fn shutdown(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let left = self.shared.lock().close();
        self.shared.wake.notify_all();
        left.into_iter().for_each(|part| part.give_back(CLOSED));
        loop {
            let threads = std::mem::take(&mut *locked(&self.shared.threads));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

impl<T: Send + 'static> Drop for Workers<T> {
    fn drop(&mut self) {
        self.shutdown();
    }
}

// === impl Shared ===

impl<T: Send + 'static> Shared<T> {
    fn new(sandbox: Arc<Sandbox>) -> Arc<Self> {
        Arc::new(Self {
            queues: Mutex::new(Queues::new(sandbox.slots)),
            sandbox,
            wake: Condvar::new(),
            seats: Mutex::default(),
            threads: Mutex::default(),
            queued: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queues<T>> {
        locked(&self.queues)
    }

    /// After any change to the queues: wakes or starts a thread if one could do something now.
    fn changed(self: &Arc<Self>, queues: &mut Queues<T>) {
        self.queued.store(queues.queued(), Ordering::Relaxed);
        if !queues.startable() {
            return;
        }
        if queues.idle > 0 {
            self.wake.notify_one();
        } else if queues.threads < limits::THREADS.max(queues.slots()) {
            self.spawn(queues);
        }
    }

    fn spawn(self: &Arc<Self>, queues: &mut Queues<T>) {
        if queues.closed() {
            return;
        }
        let seat = Arc::new(Seat::new(Arc::downgrade(self)));
        {
            let mut seats = locked(&self.seats);
            seats.retain(|seat| seat.strong_count() > 0);
            seats.push(Arc::downgrade(&seat));
        }
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("sandbar-worker".into()).stack_size(limits::THREAD_STACK);
        match builder.spawn(move || shared.work(&seat)) {
            Ok(thread) => {
                queues.threads += 1;
                let mut threads = locked(&self.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => tracing::error!(%error, "start a worker thread"),
        }
    }

    fn work(self: Arc<Self>, seat: &Arc<Seat<T>>) {
        while let Some(part) = self.next() {
            // One reference for the batch: those who share a handler would slow each other down counting.
            let handler = Arc::clone(&part.handler);
            let mut hand = handler.hand();
            seat.sit(part, Instant::now());
            while let Some(job) = seat.begin(self.closed.load(Ordering::Relaxed) || handler.is_shut()) {
                if handler.steps_back() {
                    seat.step_back(&self);
                }
                let about = (job.attempt, job.replayed);
                let waiting = Arc::clone(seat) as Arc<dyn super::host::Waiting>;
                let ran = super::call::run(&self.sandbox, &mut hand, &job.event, about, Some(waiting));
                seat.end(&self, Finished { event: job.event, tag: job.tag, ran }, Instant::now());
            }
            drop(hand);
            seat.stand(&self);
        }
    }

    /// Waits for work; `None` when this thread is not needed any more.
    fn next(self: &Arc<Self>) -> Option<Part<T>> {
        let mut queues = self.lock();
        loop {
            if queues.closed() {
                queues.threads -= 1;
                return None;
            }
            if let Some(part) = queues.take() {
                // What is left may need one more thread than were woken for it.
                self.changed(&mut queues);
                return Some(part);
            }
            queues.idle += 1;
            let (woken, waited) =
                self.wake.wait_timeout(queues, limits::SPARE_IDLE).unwrap_or_else(PoisonError::into_inner);
            queues = woken;
            queues.idle -= 1;
            if waited.timed_out() && queues.threads > queues.slots() && !queues.startable() {
                queues.threads -= 1;
                return None;
            }
        }
    }

    /// Others wait for a slot.
    fn contended(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > 0
    }
}

impl<T: Send + 'static> Watch for Shared<T> {
    fn tick(&self, now: Instant) {
        let seats = locked(&self.seats).clone();
        for seat in seats.iter().filter_map(Weak::upgrade) {
            seat.tick(now);
        }
    }
}

impl Claims for Handler {
    fn core_slots(&self) -> usize {
        self.spec().limits.core_slots
    }

    fn steps_back(&self) -> bool {
        self.overran()
    }
}

fn locked<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Part ===

impl<T> Part<T> {
    /// Sends the jobs back as not called.
    fn give_back(self, why: &str) {
        let not_called = |job: Job<T>| Finished { event: job.event, tag: job.tag, ran: Ran::NotCalled(why.to_owned()) };
        // Whoever dropped the receiver does not want them.
        let _ = self.done.send(self.jobs.into_iter().map(not_called).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::queue::tests::part;
    use super::*;
    use crate::event::{Event, KeyList, Versioned};
    use crate::sandbox::host::Waiting as _;
    use crate::sandbox::{Draft, DraftError, Grants, Limits, Prepared, Services, Settings, Spec};

    /// No guest is called here.
    struct Nothing;

    impl Services for Nothing {
        fn prepare(&self, _: &Event, _: u32, _: Draft) -> Result<Prepared, DraftError> {
            unreachable!()
        }

        fn read_key(&self, _: &str, _: &str, _: Instant) -> Result<Versioned, crate::sandbox::Unread> {
            unreachable!()
        }

        fn list_keys(&self, _: &str, _: &str, _: usize, _: Instant) -> Result<KeyList, crate::sandbox::Unread> {
            unreachable!()
        }
    }

    fn handler(sandbox: &Arc<Sandbox>, name: &str) -> Arc<Handler> {
        let module = sandbox.load(include_bytes!("../../../tests/contract/handler-0.1.0.wasm")).unwrap();
        let (limits, grants) = (Limits::default(), Grants::default());
        let spec =
            Spec { name: name.into(), group: name.into(), max_attempts: 1, reuse: 0, isolated: false, limits, grants };
        sandbox.handler(&module, spec, Arc::new(Nothing)).unwrap()
    }

    /// The first job of a batch of handler `a` ends so long after the batch was taken, while `b` has work or has none.
    /// Answers how many jobs the batch has left.
    fn left_of_a_batch(after: std::time::Duration, others: bool) -> usize {
        let sandbox = Sandbox::new(&Settings { threads: 1, ..Settings::default() }).unwrap();
        let (a, b) = (handler(&sandbox, "a"), handler(&sandbox, "b"));
        let shared = Shared::new(sandbox);
        // As if all threads there may be were at work: none is started.
        shared.lock().threads = limits::THREADS;
        let (work, _listening) = part(&a, 0..16);
        shared.lock().push(work, Instant::now());
        let (seat, begun) = (Seat::new(Arc::downgrade(&shared)), Instant::now());
        seat.sit(shared.next().unwrap(), begun);
        if others {
            let mut queues = shared.lock();
            queues.push(part(&b, 0..1).0, Instant::now());
            shared.changed(&mut queues);
        }
        let job = seat.begin(false).unwrap();
        let ran = Ran::NotCalled(String::new());
        seat.end(&shared, Finished { event: job.event, tag: job.tag, ran }, begun + after);
        let mut left = 0;
        while seat.begin(false).is_some() {
            left += 1;
        }
        left
    }

    #[test]
    fn a_thread_that_ends_its_batch_starts_no_other_for_what_it_will_take_itself() {
        let sandbox = Sandbox::new(&Settings { threads: 1, ..Settings::default() }).unwrap();
        let handler = handler(&sandbox, "a");
        let shared = Shared::new(sandbox);
        // This one is the only one, and at work.
        shared.lock().threads = 1;
        let seat = Seat::new(Arc::downgrade(&shared));
        for part in [part(&handler, 0..16).0, part(&handler, 16..32).0] {
            shared.lock().push(part, Instant::now());
        }
        seat.sit(shared.next().unwrap(), Instant::now());
        while let Some(job) = seat.begin(false) {
            let ran = Ran::NotCalled(String::new());
            seat.end(&shared, Finished { event: job.event, tag: job.tag, ran }, Instant::now());
        }
        seat.stand(&shared);
        assert_eq!(shared.lock().threads, 1);
        assert!(shared.next().is_some(), "there was work for another");
    }

    #[test]
    fn who_overran_keeps_no_slot_and_makes_way_while_others_have_work() {
        let sandbox = Sandbox::new(&Settings { threads: 1, ..Settings::default() }).unwrap();
        let (late, other) = (handler(&sandbox, "late"), handler(&sandbox, "other"));
        let shared = Shared::new(sandbox);
        // As if all threads there may be were at work: none is started.
        shared.lock().threads = limits::THREADS;
        let (work, _listening) = part(&late, 0..3);
        shared.lock().push(work, Instant::now());
        let seat = Seat::new(Arc::downgrade(&shared));
        seat.sit(shared.next().unwrap(), Instant::now());
        assert!(seat.begin(false).is_some());
        assert!(!seat.rests(true));
        shared.lock().push(part(&other, 0..1).0, Instant::now());
        assert!(seat.rests(true));
        seat.goes_on();
        assert!(!seat.rests(false), "one that is slow only has its share");
        assert!(!shared.lock().startable(), "the only slot is taken");
        seat.step_back(&shared);
        assert!(shared.lock().startable(), "it is given up");
    }

    #[test]
    fn a_batch_that_has_had_its_turn_ends_if_others_wait() {
        assert_eq!(left_of_a_batch(limits::TURN, true), 0);
        assert_eq!(left_of_a_batch(limits::TURN, false), 15, "nobody waits");
        assert_eq!(left_of_a_batch(limits::TURN / 2, true), 15, "its turn is not over");
    }
}
