//! Which module a handler's calls go to: the newest, from the moment it is there. Calls that were submitted before end on
//! the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::{Consumer, Ticket};
use crate::event::Verdict;
use crate::sandbox::{Handler, Job, Ran};

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
}

/// All versions that a consumer has served.
pub(in crate::pipeline) struct Serving {
    /// Those that are called or have calls under way; the last one is called.
    live: Vec<Live>,
    /// The digest of every one that ever was: what it made may be settled long after it is gone.
    digests: Vec<String>,
    /// A new one comes.
    next: mpsc::UnboundedReceiver<Version>,
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

    fn count(&self, ran: &Ran) {
        let Ran::Called { verdict, .. } = ran else { return };
        self.ended.fetch_add(1, Ordering::Release);
        if !matches!(verdict, Verdict::Done) {
            self.failed.fetch_add(1, Ordering::Release);
        }
    }
}

// === impl Serving ===

impl Serving {
    pub(in crate::pipeline) fn new(first: Version, next: mpsc::UnboundedReceiver<Version>) -> Self {
        let digests = vec![first.handler.module().digest().to_owned()];
        Self { live: vec![Live { number: 0, version: first, out: 0 }], digests, next }
    }

    /// Waits for the next version.
    pub(super) async fn next(&mut self) -> Option<Version> {
        self.next.recv().await
    }

    /// The handler that new calls go to.
    pub(super) fn handler(&self) -> &Arc<Handler> {
        // There is always one: only those before the last are taken away.
        &self.live[self.live.len() - 1].version.handler
    }

    /// Its number.
    pub(super) fn number(&self) -> usize {
        self.digests.len() - 1
    }

    /// The digest of a version that is or was served, by its number.
    pub(super) fn digest(&self, number: usize) -> &str {
        self.digests.get(number).map_or("", String::as_str)
    }

    fn sent(&mut self, count: usize) {
        if let Some(last) = self.live.last_mut() {
            last.out += count;
        }
    }

    /// A job of a version has come back.
    fn back(&mut self, number: usize, ran: &Ran) {
        let last = self.number();
        let Some(place) = self.live.iter().position(|live| live.number == number) else { return };
        let live = &mut self.live[place];
        live.out = live.out.saturating_sub(1);
        live.version.calls.count(ran);
        if live.out == 0 && number != last {
            self.live.remove(place);
        }
    }

    fn replace(&mut self, version: Version) {
        self.digests.push(version.handler.module().digest().to_owned());
        let number = self.number();
        self.handler().retire();
        self.live.retain(|live| live.out > 0);
        self.live.push(Live { number, version, out: 0 });
    }
}

// === impl Consumer ===

impl Consumer {
    /// From here on new calls go to another module. Nothing waits for it: what is with the workers ends where it is.
    pub(super) fn serve(&mut self, version: Version) {
        let handler = &*self.tally.handler;
        let (before, module) = (self.serving.handler().module().digest(), version.handler.module().digest());
        tracing::info!(handler, module, before, "another module is served");
        self.serving.replace(version);
    }

    /// Hands jobs to the workers, for the newest version.
    pub(super) fn call(&mut self, mut jobs: Vec<Job<Ticket>>) {
        let number = self.serving.number();
        jobs.iter_mut().for_each(|job| job.tag.version = number);
        self.serving.sent(jobs.len());
        self.shared.workers.submit(Arc::clone(self.serving.handler()), jobs, self.done.clone());
    }

    /// Notes that a job has come back.
    pub(super) fn came_back(&mut self, ticket: &Ticket, ran: &Ran) {
        self.serving.back(ticket.version, ran);
    }
}
