//! Whose turn it is: round robin between handlers, no handler more than its share.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use crate::sandbox::handler::Handler;
use crate::sandbox::{Finished, Job, limits};

/// What a handler asks for beside its turn.
pub(super) trait Claims {
    /// Cores it may keep busy at once, at most.
    fn core_slots(&self) -> usize;

    /// Whether it is to leave the processor to others.
    fn steps_back(&self) -> bool;
}

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
    lately: Lately,
    pub(super) threads: usize,
    pub(super) idle: usize,
}

/// Who came with work last, and who before that: two are enough to know of another one.
#[derive(Default)]
struct Lately([Option<(Id, Instant)>; 2]);

/// One handler with queued or running work. It keeps the handler alive, and so its [`Id`] unique.
struct Line<T, H> {
    handler: Arc<H>,
    parts: VecDeque<Part<T, H>>,
    slots: usize,
    threads: usize,
    overdue: usize,
    /// Of those that are overdue.
    resting: usize,
}

// === impl Id ===

impl Id {
    pub(super) fn of<H>(handler: &Arc<H>) -> Self {
        Self(Arc::as_ptr(handler).addr())
    }
}

// === impl Lately ===

impl Lately {
    fn came(&mut self, id: Id, now: Instant) {
        let [last, before] = &mut self.0;
        if last.is_some_and(|(last, _)| last != id) {
            *before = *last;
        }
        *last = Some((id, now));
    }

    /// Whether another one came within [`limits::OTHERS_LATELY`].
    fn has_others(&self, id: Id, now: Instant) -> bool {
        let other = self.0.iter().flatten().find(|(other, _)| *other != id);
        other.is_some_and(|(_, came)| now.saturating_duration_since(*came) < limits::OTHERS_LATELY)
    }
}

// === impl Queues ===

impl<T, H: Claims> Queues<T, H> {
    pub(super) fn new(slots: usize) -> Self {
        let (lines, turns) = (HashMap::new(), VecDeque::new());
        let lately = Lately::default();
        Self { lines, turns, slots, busy: 0, engaged: 0, closed: false, lately, threads: 0, idle: 0 }
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

    /// Whether any other handler has queued or running work, or had some a moment ago and so is about to have more.
    pub(super) fn has_others(&self, id: Id, now: Instant) -> bool {
        self.lately.has_others(id, now) || self.lines.keys().any(|other| *other != id)
    }

    /// Queues new work behind what the handler has already.
    pub(super) fn push(&mut self, part: Part<T, H>, now: Instant) {
        let id = Id::of(&part.handler);
        self.lately.came(id, now);
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

    /// Whether a slow call is to rest until [`Queues::goes_on`]. While others have work, a handler's slow calls leave them the
    /// cores that they want, half of them at most; those of one that overran leave them all.
    pub(super) fn rests(&mut self, id: Id, overran: bool, now: Instant) -> bool {
        if !self.has_others(id, now) {
            return false;
        }
        let others = self.lines.iter().filter(|(other, _)| **other != id).map(|(_, line)| line);
        let wanted: usize = others.map(|line| line.slots + usize::from(!line.parts.is_empty())).sum();
        let most = self.slots.saturating_sub(wanted.max(1)).max(self.slots.div_ceil(2));
        let Some(line) = self.lines.get_mut(&id) else { return false };
        let rests = overran || line.overdue - line.resting > most;
        line.resting += usize::from(rests);
        rests
    }

    pub(super) fn goes_on(&mut self, id: Id) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.resting -= 1;
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
            resting: 0,
        })
    }

    /// The first turn that may be taken now.
    fn place(&self) -> Option<usize> {
        if self.busy >= self.slots {
            return None;
        }
        // No slots are kept free for those who step back, or have as many cores beyond their slots as they may: two that
        // could take one are two that share.
        let waits = |line: &&Line<T, H>| !line.handler.steps_back() && line.overdue < self.slots;
        let contended = self.turns.iter().filter_map(|id| self.lines.get(id)).filter(waits).take(2).count() == 2;
        self.turns.iter().position(|id| self.lines.get(id).is_some_and(|line| self.may_start(line, contended)))
    }

    fn may_start(&self, line: &Line<T, H>, contended: bool) -> bool {
        let share = if contended { (self.slots / 2).max(1) } else { self.slots };
        // A handler that keeps cores busy beyond its slots gets no further ones before those are free. One that steps back
        // has one core: with every further one, others would more often find none free.
        let (share, most) = if line.handler.steps_back() { (1, 1) } else { (share, self.slots) };
        let cores = line.overdue < most && line.slots + line.overdue < line.handler.core_slots();
        // Each handler may have half of the threads that the others leave, so that some are always left.
        let free = limits::THREADS.saturating_sub(self.engaged - line.threads);
        let threads = line.threads < (free / 2).max(self.slots);
        line.slots < share && cores && threads
    }
}

#[cfg(test)]
pub(super) mod tests;
