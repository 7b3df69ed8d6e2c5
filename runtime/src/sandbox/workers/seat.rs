//! One worker thread's place: the batch it works on, shared with the monitor, which must not wait for a slow call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::queue::{Claims, Id, Part, Queues};
use super::{Shared, locked};
use crate::sandbox::handler::Handler;
use crate::sandbox::host::Waiting;
use crate::sandbox::{Finished, Job, Ran, limits};

/// Locked before the queues, never after them.
pub(super) struct Seat<T: Send + 'static> {
    shared: Weak<Shared<T>>,
    batch: Mutex<Option<Batch<T>>>,
}

struct Batch<T, H = Handler> {
    handler: Arc<H>,
    todo: VecDeque<Job<T>>,
    finished: Vec<Finished<T>>,
    /// When the first of `finished` ended.
    oldest: Option<Instant>,
    done: UnboundedSender<Vec<Finished<T>>>,
    /// Since when it holds its slot; `None` once that was given up.
    slot: Option<Instant>,
    /// Since when a guest computes; `None` between calls and while one waits.
    computing: Option<Instant>,
    overdue: bool,
}

// === impl Seat ===

impl<T: Send + 'static> Seat<T> {
    pub(super) fn new(shared: Weak<Shared<T>>) -> Self {
        Self { shared, batch: Mutex::new(None) }
    }

    /// Takes a batch, with a slot.
    pub(super) fn sit(&self, part: Part<T>, now: Instant) {
        *self.lock() = Some(Batch::new(part, now));
    }

    /// The next job to call the guest with.
    pub(super) fn begin(&self, closed: bool) -> Option<Job<T>> {
        let mut seat = self.lock();
        let batch = seat.as_mut()?;
        if closed {
            let left = std::mem::take(&mut batch.todo);
            batch.finished.extend(left.into_iter().map(|job| Finished {
                event: job.event,
                tag: job.tag,
                ran: Ran::NotCalled(super::CLOSED.to_owned()),
            }));
        }
        if batch.done.is_closed() {
            batch.todo.clear();
        }
        let job = batch.todo.pop_front()?;
        batch.computing = Some(Instant::now());
        Some(job)
    }

    /// Keeps what came of a job until its chunk is sent. A batch that has had its turn goes to the end of the line, if
    /// there is one.
    pub(super) fn end(&self, shared: &Arc<Shared<T>>, finished: Finished<T>, now: Instant) {
        let mut seat = self.lock();
        let Some(batch) = seat.as_mut() else { return };
        batch.computing = None;
        if std::mem::take(&mut batch.overdue) {
            let mut queues = shared.lock();
            queues.set_overdue(Id::of(&batch.handler), false);
            shared.changed(&mut queues);
        }
        batch.finished.push(finished);
        batch.oldest.get_or_insert(now);
        batch.send_old(now);
        if batch.had_turn(now) && shared.contended() {
            let mut queues = shared.lock();
            batch.give_up(&mut queues, false);
            shared.changed(&mut queues);
        }
    }

    /// The batch is over. Nobody is woken for the slot that is free now: the caller looks for work itself.
    pub(super) fn stand(&self, shared: &Arc<Shared<T>>) {
        let Some(mut batch) = self.lock().take() else { return };
        batch.send();
        let mut queues = shared.lock();
        batch.give_up(&mut queues, true);
        queues.leave(Id::of(&batch.handler));
    }

    /// The monitor looks in: nothing finished waits for a slow call, and no slow call keeps its slot.
    pub(super) fn tick(&self, now: Instant) {
        let mut seat = self.lock();
        let Some(batch) = seat.as_mut() else { return };
        batch.send_old(now);
        let slow = batch.computing.is_some_and(|since| now.saturating_duration_since(since) >= limits::SLOW_CALL);
        if slow && let Some(shared) = self.shared.upgrade() {
            batch.go_on_without(&shared, true);
        }
    }

    /// The call that begins is one of a handler that steps back: it keeps no slot from others, not even until it is slow.
    pub(super) fn step_back(&self, shared: &Arc<Shared<T>>) {
        if let Some(batch) = self.lock().as_mut() {
            batch.go_on_without(shared, false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Batch<T>>> {
        locked(&self.batch)
    }
}

impl<T: Send + 'static> Waiting for Seat<T> {
    fn begins(&self) {
        let mut seat = self.lock();
        let Some(batch) = seat.as_mut() else { return };
        batch.computing = None;
        if let Some(shared) = self.shared.upgrade() {
            let mut queues = shared.lock();
            batch.give_up(&mut queues, true);
            shared.changed(&mut queues);
        }
    }

    fn rests(&self, overran: bool) -> bool {
        let seat = self.lock();
        let (Some(batch), Some(shared)) = (seat.as_ref(), self.shared.upgrade()) else { return false };
        let mut queues = shared.lock();
        queues.rests(Id::of(&batch.handler), overran, Instant::now())
    }

    fn goes_on(&self) {
        let seat = self.lock();
        if let (Some(batch), Some(shared)) = (seat.as_ref(), self.shared.upgrade()) {
            shared.lock().goes_on(Id::of(&batch.handler));
        }
    }

    fn ends(&self) {
        if let Some(batch) = self.lock().as_mut() {
            batch.computing = Some(Instant::now());
        }
    }
}

// === impl Batch ===

impl<T: Send + 'static> Batch<T> {
    /// Its call goes on without a slot.
    fn go_on_without(&mut self, shared: &Arc<Shared<T>>, next: bool) {
        if self.overdue {
            return;
        }
        self.overdue = true;
        let mut queues = shared.lock();
        queues.set_overdue(Id::of(&self.handler), true);
        self.give_up(&mut queues, next);
        shared.changed(&mut queues);
    }
}

impl<T, H: Claims> Batch<T, H> {
    fn new(part: Part<T, H>, now: Instant) -> Self {
        Self {
            finished: Vec::with_capacity(part.jobs.len()),
            handler: part.handler,
            todo: part.jobs,
            oldest: None,
            done: part.done,
            slot: Some(now),
            computing: None,
            overdue: false,
        }
    }

    /// Whether it has held its slot so long that others come first.
    fn had_turn(&self, now: Instant) -> bool {
        self.slot.is_some_and(|since| now.saturating_duration_since(since) >= limits::TURN)
    }

    /// Gives the slot up, if it is still held, and the jobs that have not started.
    fn give_up(&mut self, queues: &mut Queues<T, H>, next: bool) {
        if self.slot.take().is_none() {
            return;
        }
        queues.release(Id::of(&self.handler));
        let jobs = std::mem::take(&mut self.todo);
        if queues.closed() {
            // The queues hand out nothing any more: what is left ends here.
            self.todo = jobs;
            return;
        }
        queues.put_back(Part { handler: Arc::clone(&self.handler), jobs, done: self.done.clone() }, next);
    }

    fn send_old(&mut self, now: Instant) {
        if self.oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) >= limits::CHUNK_AGE) {
            self.send();
        }
    }

    fn send(&mut self) {
        self.oldest = None;
        if !self.finished.is_empty() {
            let _ = self.done.send(std::mem::take(&mut self.finished));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::queue::tests::{event, part};
    use super::*;

    #[test]
    fn a_turn_ends_after_its_time_and_the_rest_goes_behind_those_who_wait() {
        let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
        let (work, _chunks) = part(&a, 0..16);
        let begun = Instant::now();
        queues.push(work, begun);
        let mut batch = Batch::new(queues.take().unwrap(), begun);
        let (other, _other_chunks) = part(&b, 100..101);
        queues.push(other, begun);
        assert_eq!(batch.todo.pop_front().unwrap().tag, 0);
        assert!(!batch.had_turn(begun));
        assert!(!batch.had_turn(begun + limits::TURN - Duration::from_nanos(1)));
        assert!(batch.had_turn(begun + limits::TURN));

        batch.give_up(&mut queues, false);
        assert!(batch.todo.is_empty(), "what has not started is given back");
        assert!(!batch.had_turn(begun + limits::TURN * 2), "its slot is given up already");
        batch.give_up(&mut queues, false);
        let (first, second) = (queues.take().unwrap(), queues.take());
        assert_eq!((*first.handler, first.jobs[0].tag), ("b", 100));
        assert!(second.is_none(), "giving up twice frees one slot");
        queues.release(Id::of(&b));
        let rest = queues.take().unwrap();
        assert_eq!((*rest.handler, rest.jobs[0].tag, rest.jobs.len()), ("a", 1, 15));
    }

    #[test]
    fn a_finished_job_waits_no_longer_than_its_chunk_may() {
        let a = Arc::new("a");
        let (work, mut chunks) = part(&a, 0..2);
        let begun = Instant::now();
        let mut batch = Batch::new(work, begun);
        batch.finished.push(Finished { event: Arc::new(event()), tag: 0, ran: Ran::NotCalled(String::new()) });
        batch.oldest = Some(begun);
        batch.send_old(begun + limits::CHUNK_AGE - Duration::from_nanos(1));
        assert!(chunks.try_recv().is_err());
        batch.send_old(begun + limits::CHUNK_AGE);
        assert_eq!(chunks.try_recv().unwrap()[0].tag, 0);
        batch.send_old(begun + limits::CHUNK_AGE * 9);
        assert!(chunks.try_recv().is_err(), "nothing is sent twice");
    }

    #[test]
    fn what_is_left_of_a_batch_stays_with_it_once_the_queue_is_closed() {
        let (mut queues, a) = (Queues::new(1), Arc::new("a"));
        queues.push(part(&a, 0..16).0, Instant::now());
        let mut batch = Batch::new(queues.take().unwrap(), Instant::now());
        assert!(queues.close().is_empty());
        batch.give_up(&mut queues, true);
        assert_eq!(batch.todo.len(), 16);
    }
}
