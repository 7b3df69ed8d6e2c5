//! Whose turn it is: round robin between handlers, no handler more than its share.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::sandbox::modules::Handler;
use crate::sandbox::{Finished, Job, limits};

/// Jobs of one handler that go back through one channel. `H` is the handler; turns are the same whatever it is.
pub(super) struct Part<T, H = Handler> {
    pub(super) handler: Arc<H>,
    pub(super) jobs: VecDeque<Job<T>>,
    pub(super) done: UnboundedSender<Vec<Finished<T>>>,
}

/// Names a handler while it has work: the address of what it shares.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id(usize);

/// All queued work and who holds what.
pub(super) struct Queues<T, H = Handler> {
    lines: HashMap<Id, Line<T, H>>,
    /// Handlers with queued work, the next first.
    turns: VecDeque<Id>,
    slots: usize,
    /// Slots in use.
    busy: usize,
    /// Threads inside a batch, with slot or without.
    engaged: usize,
    closed: bool,
    pub(super) threads: usize,
    pub(super) idle: usize,
}

/// One handler with queued or running work. It keeps the handler alive, and so its [`Id`] unique.
struct Line<T, H> {
    #[expect(dead_code, reason = "held, not read: no other handler can have its address meanwhile")]
    handler: Arc<H>,
    parts: VecDeque<Part<T, H>>,
    slots: usize,
    threads: usize,
    overdue: usize,
}

// === impl Id ===

impl Id {
    pub(super) fn of<H>(handler: &Arc<H>) -> Self {
        Self(Arc::as_ptr(handler).addr())
    }
}

// === impl Queues ===

impl<T, H> Queues<T, H> {
    pub(super) fn new(slots: usize) -> Self {
        let (lines, turns) = (HashMap::new(), VecDeque::new());
        Self { lines, turns, slots, busy: 0, engaged: 0, closed: false, threads: 0, idle: 0 }
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Handlers with queued work.
    pub(super) fn queued(&self) -> usize {
        self.turns.len()
    }

    /// Queues new work behind what the handler has already.
    pub(super) fn push(&mut self, part: Part<T, H>) {
        let id = Id::of(&part.handler);
        self.line(&part.handler).parts.push_back(part);
        if !self.turns.contains(&id) {
            self.turns.push_back(id);
        }
    }

    /// Puts the rest of a batch before all other work of its handler. The handler's turn comes next, or last if the
    /// batch was stopped to let others have theirs.
    pub(super) fn put_back(&mut self, part: Part<T, H>, next: bool) {
        if part.jobs.is_empty() {
            return;
        }
        let id = Id::of(&part.handler);
        self.line(&part.handler).parts.push_front(part);
        if !self.turns.contains(&id) {
            if next { self.turns.push_front(id) } else { self.turns.push_back(id) }
        }
    }

    /// Takes the next batch, with a slot to run it.
    pub(super) fn take(&mut self) -> Option<Part<T, H>> {
        let place = self.place()?;
        let id = self.turns.remove(place)?;
        let share = self.slots;
        let line = self.lines.get_mut(&id)?;
        let mut part = line.parts.pop_front()?;
        let most = part.jobs.len().div_ceil(share).clamp(limits::BATCH_LEAST, limits::BATCH);
        if part.jobs.len() > most {
            let jobs = part.jobs.split_off(most);
            line.parts.push_front(Part { handler: Arc::clone(&part.handler), jobs, done: part.done.clone() });
        }
        line.slots += 1;
        line.threads += 1;
        self.busy += 1;
        self.engaged += 1;
        if !line.parts.is_empty() {
            self.turns.push_back(id);
        }
        Some(part)
    }

    /// Whether [`Queues::take`] would give something.
    pub(super) fn startable(&self) -> bool {
        self.place().is_some()
    }

    /// A batch runs on without its slot.
    pub(super) fn release(&mut self, id: Id) {
        self.busy -= 1;
        if let Some(line) = self.lines.get_mut(&id) {
            line.slots -= 1;
        }
    }

    /// A call keeps a core busy without a slot, or has stopped doing so.
    pub(super) fn set_overdue(&mut self, id: Id, overdue: bool) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.overdue = if overdue { line.overdue + 1 } else { line.overdue - 1 };
        }
    }

    /// A thread has left its batch.
    pub(super) fn leave(&mut self, id: Id) {
        self.engaged -= 1;
        if let Some(line) = self.lines.get_mut(&id) {
            line.threads -= 1;
            if line.threads == 0 && line.parts.is_empty() {
                self.lines.remove(&id);
            }
        }
    }

    /// Takes nothing more, and hands out what has not started.
    pub(super) fn close(&mut self) -> Vec<Part<T, H>> {
        self.closed = true;
        self.turns.clear();
        self.lines.values_mut().flat_map(|line| std::mem::take(&mut line.parts)).collect()
    }

    fn line(&mut self, handler: &Arc<H>) -> &mut Line<T, H> {
        self.lines.entry(Id::of(handler)).or_insert_with(|| Line {
            handler: Arc::clone(handler),
            parts: VecDeque::new(),
            slots: 0,
            threads: 0,
            overdue: 0,
        })
    }

    /// The first turn that may be taken now.
    fn place(&self) -> Option<usize> {
        if self.busy >= self.slots {
            return None;
        }
        self.turns.iter().position(|id| self.lines.get(id).is_some_and(|line| self.may_start(line)))
    }

    fn may_start(&self, line: &Line<T, H>) -> bool {
        let others = self.turns.len() > 1;
        let share = if others { (self.slots / 2).max(1) } else { self.slots };
        // A handler that keeps cores busy beyond its slots gets no further ones before those are free.
        let cores = line.overdue < self.slots;
        // Each handler may have half of the threads that the others leave, so that some are always left.
        let free = limits::THREADS.saturating_sub(self.engaged - line.threads);
        let threads = line.threads < (free / 2).max(self.slots);
        line.slots < share && cores && threads
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::event::{Event, Metadata, Payload};

    type Name = &'static str;

    fn part(handler: &Arc<Name>, tags: std::ops::Range<u32>) -> Part<u32, Name> {
        let event = || Event {
            topic: "t".into(),
            position: "1".into(),
            first: "1".into(),
            metadata: Metadata::default(),
            content_type: String::new(),
            payload: Payload::Json(String::new()),
        };
        let jobs = tags.map(|tag| Job { event: event(), attempt: 1, replayed: false, tag }).collect();
        Part { handler: Arc::clone(handler), jobs, done: unbounded_channel().0 }
    }

    /// Whose the next batch is, with its first and last tag.
    fn next(queues: &mut Queues<u32, Name>) -> Option<(Name, u32, u32)> {
        let part = queues.take()?;
        Some((*part.handler, part.jobs.front()?.tag, part.jobs.back()?.tag))
    }

    /// As a worker does with a batch that is over.
    fn end(queues: &mut Queues<u32, Name>, handler: &Arc<Name>) {
        queues.release(Id::of(handler));
        queues.leave(Id::of(handler));
    }

    #[test]
    fn a_handler_alone_may_have_every_slot() {
        let (mut queues, a) = (Queues::new(4), Arc::new("a"));
        queues.push(part(&a, 0..64));
        for first in [0, 16, 32, 48] {
            assert_eq!(next(&mut queues), Some(("a", first, first + 15)));
        }
        assert_eq!(queues.queued(), 0);
    }

    #[test]
    fn while_others_wait_no_handler_takes_more_than_half_the_slots() {
        let (mut queues, a, b) = (Queues::new(4), Arc::new("a"), Arc::new("b"));
        queues.push(part(&a, 0..1_000));
        for _ in 0..3 {
            assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
        }
        // It is a's turn, but a has more than its half.
        queues.push(part(&b, 0..16));
        assert_eq!(next(&mut queues), Some(("b", 0, 15)));
        assert_eq!(next(&mut queues), None, "all slots are in use");

        queues.push(part(&b, 16..32));
        end(&mut queues, &a);
        assert_eq!(next(&mut queues), Some(("b", 16, 31)), "a still has two, its half");
        queues.push(part(&b, 32..48));
        end(&mut queues, &a);
        assert_eq!(next(&mut queues).map(|next| next.0), Some("a"), "a has one, b its half");
    }

    #[test]
    fn of_one_slot_half_is_one() {
        let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
        queues.push(part(&a, 0..16));
        queues.push(part(&b, 0..16));
        assert_eq!(next(&mut queues), Some(("a", 0, 15)));
        assert!(!queues.startable());
        end(&mut queues, &a);
        assert_eq!(next(&mut queues), Some(("b", 0, 15)));
    }

    #[test]
    fn handlers_take_turns_batch_by_batch() {
        let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
        queues.push(part(&a, 0..600));
        queues.push(part(&b, 0..600));
        let mut order = Vec::new();
        while let Some((name, first, last)) = next(&mut queues) {
            order.push((name, first, last));
            end(&mut queues, if name == "a" { &a } else { &b });
        }
        assert_eq!(
            order,
            [("a", 0, 255), ("b", 0, 255), ("a", 256, 511), ("b", 256, 511), ("a", 512, 599), ("b", 512, 599)]
        );
    }

    #[test]
    fn what_a_batch_gives_back_comes_before_all_other_work_of_its_handler() {
        for next_turn in [true, false] {
            let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
            queues.push(part(&a, 0..32));
            let mut begun = queues.take().unwrap();
            queues.push(part(&b, 0..16));
            let rest = begun.jobs.split_off(4);
            queues.release(Id::of(&a));
            queues.put_back(Part { jobs: rest, ..begun }, next_turn);
            queues.leave(Id::of(&a));
            queues.push(part(&a, 32..40));

            let mut order = Vec::new();
            while let Some((name, first, _)) = next(&mut queues) {
                order.push((name, first));
                end(&mut queues, if name == "a" { &a } else { &b });
            }
            let expected = match next_turn {
                true => [("a", 4), ("b", 0), ("a", 32)],
                false => [("b", 0), ("a", 4), ("a", 32)],
            };
            assert_eq!(order, expected, "its turn is next: {next_turn}");
        }
    }

    #[test]
    fn calls_that_keep_cores_busy_without_a_slot_count_as_slots() {
        let (mut queues, a, b) = (Queues::new(2), Arc::new("a"), Arc::new("b"));
        queues.push(part(&a, 0..100));
        for _ in 0..2 {
            assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
            queues.set_overdue(Id::of(&a), true);
            queues.release(Id::of(&a));
        }
        assert_eq!(next(&mut queues), None, "two cores are busy with it");
        queues.push(part(&b, 0..1));
        assert_eq!(next(&mut queues), Some(("b", 0, 0)), "others are let in all the same");
        queues.set_overdue(Id::of(&a), false);
        assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
    }

    #[test]
    fn handlers_whose_calls_wait_leave_threads_to_others() {
        let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
        let wait = |queues: &mut Queues<u32, Name>, handler: &Arc<Name>| {
            let mut threads = 0;
            queues.push(part(handler, 0..10_000));
            while queues.take().is_some() {
                queues.release(Id::of(handler));
                threads += 1;
            }
            threads
        };
        assert_eq!(wait(&mut queues, &a), limits::THREADS / 2);
        assert_eq!(wait(&mut queues, &b), limits::THREADS / 4);
    }

    #[test]
    fn a_closed_queue_hands_everything_out_and_takes_nothing() {
        let (mut queues, a, b) = (Queues::new(2), Arc::new("a"), Arc::new("b"));
        queues.push(part(&a, 0..20));
        queues.push(part(&b, 0..3));
        assert_eq!(next(&mut queues), Some(("a", 0, 15)));
        let mut left: Vec<_> = queues.close().iter().map(|part| (*part.handler, part.jobs.len())).collect();
        left.sort_unstable();
        assert_eq!(left, [("a", 4), ("b", 3)]);
        assert!(queues.closed() && !queues.startable());
    }
}
