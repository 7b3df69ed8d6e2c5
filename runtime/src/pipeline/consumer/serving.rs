//! Which module a handler's calls go to: the newest, from the moment it is there. Calls that were submitted before end on
//! the one before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::calling::dice;
use super::{Consumer, Shade, Ticket};
use crate::bus::Origin;
use crate::event::{Effects, Event, Verdict};
use crate::sandbox::{Handler, Job, Ran};
use crate::settle::compare::Sample;

/// One version of a handler.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Version {
    /// The module with what the handler may do.
    pub(in crate::pipeline) handler: Arc<Handler>,
    /// What its calls came to, on this host.
    pub(in crate::pipeline) calls: Arc<Calls>,
}

/// What the calls of one version came to. The consumer alone writes it.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Calls {
    ended: AtomicU64,
    failed: AtomicU64,
    /// Of these, first calls of new events: while there is a trial they fall to either version by chance, so they can be
    /// compared.
    first_ended: AtomicU64,
    first_failed: AtomicU64,
}

/// What a keeper tells its consumer.
#[derive(Debug)]
pub(in crate::pipeline) enum Change {
    /// New calls go to this version. A trial is over.
    Serve(Version),
    /// So many new events go to this version.
    Try(Version, Way, u64),
    /// So many more go to the version on trial.
    More(u64),
    /// What is handled is left here, for another module to do again.
    Shade(Shade),
    /// None goes to the version on trial any more, and nothing is left for another.
    EndTrial,
}

/// How a module runs beside the one that is served: which events it gets, never one that has failed before.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// On trial: so many of a hundred go to it.
    Percent(f64),
    /// On trial: the next so many go to it.
    First(u64),
    /// In the shadow: all that the other has handled go to it too, as far as it keeps up, and what it asks for is dropped.
    Shadow,
}

/// A version on trial.
struct Trial {
    number: usize,
    way: Way,
    /// Events that may still go to it.
    left: u64,
}

/// A version that is or was called: what it made may be settled long after it is gone.
struct Known {
    digest: String,
    calls: Weak<Calls>,
    /// It was never wanted: what fails on it runs again on the version that is.
    on_trial: bool,
}

/// All versions that a consumer has served.
pub(in crate::pipeline) struct Serving {
    /// Those that are called or have calls under way.
    live: Vec<Live>,
    /// The number of the version that is called.
    number: usize,
    trial: Option<Trial>,
    /// Where what is handled is left for a module in the shadow.
    shade: Option<Shade>,
    /// Every one that ever was.
    known: Vec<Known>,
    /// What is to change.
    next: mpsc::UnboundedReceiver<Change>,
}

struct Live {
    /// Its place in `digests`.
    number: usize,
    version: Version,
    /// Jobs that are with the workers.
    out: usize,
}

// === impl Version ===

impl Version {
    pub(in crate::pipeline) fn new(handler: Arc<Handler>) -> Self {
        Self { handler, calls: Arc::default() }
    }
}

// === impl Calls ===

impl Calls {
    /// Calls that ended with a verdict, and how many of them failed. What the host failed at is neither.
    pub(in crate::pipeline) fn read(&self) -> (u64, u64) {
        // In this order: a failure is counted as a call first.
        let failed = self.failed.load(Ordering::Acquire);
        (self.ended.load(Ordering::Acquire), failed)
    }

    /// The same of first calls of new events.
    pub(in crate::pipeline) fn first(&self) -> Sample {
        let failed = self.first_failed.load(Ordering::Acquire);
        Sample { calls: self.first_ended.load(Ordering::Acquire), failed }
    }

    fn count(&self, failed: bool, first: bool) {
        more(&self.ended, true);
        more(&self.failed, failed);
        more(&self.first_ended, first);
        more(&self.first_failed, failed && first);
    }

    /// What counted as done could not be stored.
    fn undone(&self, first: bool) {
        more(&self.failed, true);
        more(&self.first_failed, first);
    }
}

/// Only one thread writes, so nothing has to be locked for it.
fn more(count: &AtomicU64, one: bool) {
    if one {
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

// === impl Serving ===

impl Serving {
    pub(in crate::pipeline) fn new(first: Version, next: mpsc::UnboundedReceiver<Change>) -> Self {
        let mut serving = Self { live: Vec::new(), number: 0, trial: None, shade: None, known: Vec::new(), next };
        serving.add(first, false);
        serving
    }

    /// Waits for the next change.
    pub(super) async fn next(&mut self) -> Option<Change> {
        self.next.recv().await
    }

    /// The handler that new calls go to.
    pub(in crate::pipeline) fn handler(&self) -> &Arc<Handler> {
        // There is always one: only those that are not called are taken away.
        self.live
            .iter()
            .find(|live| live.number == self.number)
            .map_or(&self.live[0].version.handler, |live| &live.version.handler)
    }

    /// Its number.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// The digest of a version that is or was served, by its number.
    pub(super) fn digest(&self, number: usize) -> &str {
        self.known.get(number).map_or("", |known| &known.digest)
    }

    /// Which version a job is to go to.
    fn choose(&mut self, job: &Job<Ticket>) -> usize {
        let Some(trial) = &mut self.trial else { return self.number };
        let wanted = trial.left > 0
            && job.tag.is_first()
            && match trial.way {
                Way::Percent(percent) => dice() * 100.0 < percent,
                Way::First(_) | Way::Shadow => true,
            };
        if !wanted {
            return self.number;
        }
        trial.left -= 1;
        trial.number
    }

    fn sent(&mut self, number: usize, count: usize) -> Option<Arc<Handler>> {
        let live = self.live.iter_mut().find(|live| live.number == number)?;
        live.out += count;
        Some(Arc::clone(&live.version.handler))
    }

    /// A job has come back; true if it failed on trial.
    fn back(&mut self, ticket: &Ticket, ran: &Ran) -> bool {
        let number = ticket.version;
        let failed = match ran {
            Ran::Called { verdict, .. } => Some(!matches!(verdict, Verdict::Done)),
            Ran::NotCalled(_) => None,
        };
        if let Some(live) = self.live.iter_mut().find(|live| live.number == number) {
            live.out = live.out.saturating_sub(1);
            if let Some(failed) = failed {
                live.version.calls.count(failed, ticket.is_first());
            }
            if live.out == 0 {
                self.sweep();
            }
        }
        // What was not called goes somewhere once more.
        if let Some(trial) = self.trial.as_mut().filter(|trial| trial.number == number && failed.is_none()) {
            trial.left += 1;
        }
        failed == Some(true) && self.known.get(number).is_some_and(|known| known.on_trial)
    }

    fn replace(&mut self, version: Version) {
        self.end_trial();
        self.handler().retire();
        self.number = self.add(version, false);
        self.sweep();
    }

    fn begin_trial(&mut self, version: Version, way: Way, left: u64) {
        self.end_trial();
        let number = self.add(version, true);
        self.trial = Some(Trial { number, way, left });
    }

    fn end_trial(&mut self) {
        self.shade = None;
        let Some(trial) = self.trial.take() else { return };
        if let Some(live) = self.live.iter().find(|live| live.number == trial.number) {
            live.version.handler.retire();
        }
        self.sweep();
    }

    fn add(&mut self, version: Version, on_trial: bool) -> usize {
        let (digest, calls) = (version.handler.module().digest().to_owned(), Arc::downgrade(&version.calls));
        let number = self.known.len();
        self.known.push(Known { digest, calls, on_trial });
        self.live.push(Live { number, version, out: 0 });
        number
    }

    /// Lets go of what nobody calls any more.
    fn sweep(&mut self) {
        let (called, on_trial) = (self.number, self.trial.as_ref().map(|trial| trial.number));
        self.live.retain(|live| live.out > 0 || live.number == called || Some(live.number) == on_trial);
    }
}

// === impl Ticket ===

impl Ticket {
    /// This is the first call of a new event, and tells nothing of an outage.
    fn is_first(&self) -> bool {
        self.attempt == 1 && !self.tried && !self.probe && self.delivery.origin == Origin::New
    }
}

// === impl Consumer ===

impl Consumer {
    /// New calls go elsewhere from here on. Nothing waits for it: what is with the workers ends where it is.
    pub(super) fn change(&mut self, change: Change) {
        let (handler, before) = (&*self.tally.handler, self.serving.handler().module().digest());
        match change {
            Change::Serve(version) => {
                let module = version.handler.module().digest();
                tracing::info!(handler, module, before, "another module is served");
                self.serving.replace(version);
            }
            Change::Try(version, way, left) => {
                let module = version.handler.module().digest();
                tracing::info!(handler, module, before, ?way, "another module is on trial");
                self.serving.begin_trial(version, way, left);
            }
            Change::More(count) => self.serving.trial.iter_mut().for_each(|trial| trial.left += count),
            Change::Shade(shade) => {
                self.serving.end_trial();
                self.serving.shade = Some(shade);
            }
            Change::EndTrial => self.serving.end_trial(),
        }
    }

    /// Hands jobs to the workers, each for the version that it goes to.
    pub(super) fn call(&mut self, mut jobs: Vec<Job<Ticket>>) {
        let number = self.serving.number();
        if self.serving.trial.is_some() {
            let (tried, others) = jobs.into_iter().partition::<Vec<_>, _>(|job| self.serving.choose(job) != number);
            if let Some(trial) = self.serving.trial.as_ref().map(|trial| trial.number) {
                self.call_version(trial, tried);
            }
            jobs = others;
        }
        self.call_version(number, jobs);
    }

    fn call_version(&mut self, number: usize, mut jobs: Vec<Job<Ticket>>) {
        jobs.iter_mut().for_each(|job| job.tag.version = number);
        // A version that is called is there.
        let Some(handler) = self.serving.sent(number, jobs.len()) else { return };
        self.shared.workers.submit(handler, jobs, self.done.clone());
    }

    /// Notes that a job has come back; true if it failed on trial.
    pub(super) fn came_back(&mut self, ticket: &Ticket, ran: &Ran) -> bool {
        self.serving.back(ticket, ran)
    }

    /// Leaves what came of a call for the module in the shadow, if there is one.
    pub(super) fn shade(&self, event: &Arc<Event>, ticket: &Ticket, verdict: &Verdict, effects: &Effects) {
        if let Some(shade) = self.serving.shade.as_ref().filter(|_| ticket.is_first()) {
            shade.leave(event, verdict, effects);
        }
    }

    /// Notes that the effects of a call were refused; true if it was on trial.
    pub(super) fn refused(&self, ticket: &Ticket) -> bool {
        let Some(known) = self.serving.known.get(ticket.version) else { return false };
        if let Some(calls) = known.calls.upgrade() {
            calls.undone(ticket.is_first());
        }
        known.on_trial
    }
}
