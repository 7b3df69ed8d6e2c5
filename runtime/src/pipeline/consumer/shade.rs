//! Where a consumer leaves what its handler has done, for a module in its shadow to do again. Nothing waits for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::event::{Effects, Event, Verdict};

/// Events that may wait for the module in the shadow.
const QUEUE: usize = 256;

/// What became of an event's first call.
#[derive(Debug)]
pub(in crate::pipeline) struct Seen {
    pub(in crate::pipeline) event: Arc<Event>,
    pub(in crate::pipeline) verdict: Verdict,
    pub(in crate::pipeline) effects: Effects,
}

/// The consumer's end of the queue.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Shade {
    queue: mpsc::Sender<Seen>,
    dropped: Arc<AtomicU64>,
}

// === impl Shade ===

impl Shade {
    /// Both ends, and how many events found no room.
    pub(in crate::pipeline) fn new() -> (Self, mpsc::Receiver<Seen>, Arc<AtomicU64>) {
        let ((queue, events), dropped) = (mpsc::channel(QUEUE), Arc::<AtomicU64>::default());
        (Self { queue, dropped: Arc::clone(&dropped) }, events, dropped)
    }

    /// Leaves one there if there is room.
    pub(super) fn leave(&self, event: &Arc<Event>, verdict: &Verdict, effects: &Effects) {
        match self.queue.try_reserve() {
            Ok(room) => {
                room.send(Seen { event: Arc::clone(event), verdict: verdict.clone(), effects: effects.clone() });
            }
            Err(_) => _ = self.dropped.fetch_add(1, Ordering::Relaxed),
        }
    }
}
