//! A module in the shadow of the one that is served: it is called with what the other has handled, what it asks for is
//! dropped, and where it would have done otherwise is counted.
//!
//! A thread of its own calls it, one event after the other. What does not fit into its queue is counted and left out, so it
//! holds up nothing but the processor. What the other read of its keys it reads too, as the other saw it: by then they may be
//! written already.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::consumer::{Seen, Shade};
use super::super::services::HandlerServices;
use super::differing::difference;
use super::record::Compared;
use super::{Maker, Refusal};
use crate::event::{Effects, Event, KeyList, Versioned};
use crate::sandbox::{Answer, Draft, DraftError, Handler, Module, Prepared, Ran, Sandbox, Services, Unread, Unsent};
use crate::wire::Profile;

/// Differences that are kept to be shown.
pub(super) const EXAMPLES: usize = 5;

/// What is said to a handler that would send some.
const NO_REQUESTS: &str = "a module in the shadow sends no requests";

/// A module in the shadow, on this host. It ends with this.
pub(super) struct Shadow {
    counts: Arc<Mutex<Compared>>,
    dropped: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    _running: JoinSet<()>,
}

/// What the thread works with.
struct Runner {
    sandbox: Arc<Sandbox>,
    handler: Arc<Handler>,
    services: Arc<Dimmed>,
    profile: Profile,
    counts: Arc<Mutex<Compared>>,
    over: Arc<AtomicBool>,
}

/// Serves the module as the other one was served.
struct Dimmed {
    services: HandlerServices,
    before: Mutex<Before>,
}

/// What the other one did to its keys in the call that is done again.
#[derive(Default)]
struct Before {
    reads: HashMap<String, Versioned>,
    writes: Vec<String>,
    listed: Option<u64>,
    /// Something that it saw is not as it was for the other: what comes of the call says nothing.
    moved: bool,
}

// === impl Shadow ===

impl Shadow {
    /// Begins; the consumer gets the other end.
    pub(super) fn begin(maker: &Maker, module: &Module) -> Result<(Self, Shade), Refusal> {
        let services = Arc::new(Dimmed { services: maker.services(module), before: Mutex::default() });
        let same = Arc::clone(&services) as Arc<dyn Services>;
        let mut spec = maker.spec.clone();
        spec.grants.http.refused = Some(NO_REQUESTS.to_owned());
        let handler = maker.sandbox.handler(module, spec, same)?;
        let (shade, events, dropped) = Shade::new();
        let (counts, over) = (Arc::<Mutex<Compared>>::default(), Arc::<AtomicBool>::default());
        let runner = Runner {
            sandbox: Arc::clone(&maker.sandbox),
            handler,
            services,
            profile: maker.signer.profile,
            counts: Arc::clone(&counts),
            over: Arc::clone(&over),
        };
        let mut running = JoinSet::new();
        running.spawn_blocking(move || runner.run(events));
        Ok((Self { counts, dropped, over, _running: running }, shade))
    }

    /// What came of it since the last time this was asked.
    pub(super) fn take(&self) -> Compared {
        let mut taken = std::mem::take(&mut *locked(&self.counts));
        // What could not be told before is there already.
        taken.dropped += self.dropped.swap(0, Ordering::Relaxed);
        taken
    }

    /// What was taken could not be told.
    pub(super) fn put_back(&self, taken: &Compared) {
        let mut counts = locked(&self.counts);
        let later = std::mem::replace(&mut *counts, taken.clone());
        counts.add(&later);
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

// === impl Runner ===

impl Runner {
    fn run(self, mut events: mpsc::Receiver<Seen>) {
        while let Some(seen) = events.blocking_recv() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.one(&seen);
        }
    }

    fn one(&self, seen: &Seen) {
        *locked(&self.services.before) = Before::of(&seen.effects);
        let ran = self.sandbox.call(&self.handler, &seen.event, 1, false);
        let moved = locked(&self.services.before).moved;
        let mut counts = locked(&self.counts);
        let Ran::Called { verdict, effects, .. } = ran else {
            counts.skipped += 1;
            return;
        };
        if moved {
            counts.skipped += 1;
            return;
        }
        counts.compared += 1;
        if let Some(what) = difference(self.profile, (&seen.verdict, &seen.effects), (&verdict, &effects)) {
            counts.differed += 1;
            if counts.examples.len() < EXAMPLES {
                let Event { topic, position, metadata, .. } = &*seen.event;
                counts.examples.push(format!("{topic} {position} ({}): {what}", metadata.kind));
            }
        }
    }
}

// === impl Before ===

impl Before {
    fn of(effects: &Effects) -> Self {
        let mut before = Self::default();
        for read in &effects.reads {
            match &read.key {
                None => before.listed = Some(read.version),
                Some(key) => {
                    let seen = Versioned { value: read.value.clone(), version: read.version };
                    before.reads.insert(key.clone(), seen);
                }
            }
        }
        before.writes = effects.writes.iter().map(|write| write.key.clone()).collect();
        before
    }
}

// === impl Dimmed ===

impl Services for Dimmed {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        self.services.prepare(event, index, draft)
    }

    fn read_key(&self, space: &str, key: &str, deadline: Instant) -> Result<Versioned, Unread> {
        {
            let mut before = locked(&self.before);
            if let Some(seen) = before.reads.get(key) {
                return Ok(seen.clone());
            }
            before.moved |= before.writes.iter().any(|written| written == key);
        }
        self.services.read_key(space, key, deadline)
    }

    fn list_keys(&self, space: &str, prefix: &str, limit: usize, deadline: Instant) -> Result<KeyList, Unread> {
        let found = self.services.list_keys(space, prefix, limit, deadline)?;
        let mut before = locked(&self.before);
        before.moved |= before.listed.is_some_and(|version| version != found.version) || !before.writes.is_empty();
        Ok(found)
    }

    /// The other one was answered by a server: what comes of this call says nothing.
    fn answer(&self, _unsent: Unsent) -> Option<Answer> {
        locked(&self.before).moved = true;
        None
    }
}

fn locked<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_is_told_the_next_time() {
        let (_shade, _events, dropped) = Shade::new();
        let shadow = Shadow { counts: Arc::default(), dropped, over: Arc::default(), _running: JoinSet::new() };
        let seen = |compared, example: &str| {
            let (examples, more) = (vec![example.to_owned()], 2);
            locked(&shadow.counts).add(&Compared { compared, differed: 1, skipped: 1, dropped: 0, examples });
            shadow.dropped.fetch_add(more, Ordering::Relaxed);
        };
        seen(5, "first");
        let taken = shadow.take();
        assert_eq!((taken.compared, taken.dropped), (5, 2));
        seen(7, "second");
        shadow.put_back(&taken);
        let examples = vec!["first".to_owned(), "second".to_owned()];
        assert_eq!(shadow.take(), Compared { compared: 12, differed: 2, skipped: 2, dropped: 4, examples });
        assert_eq!(shadow.take(), Compared::default());
    }
}
