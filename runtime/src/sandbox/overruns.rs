//! Handlers whose calls are stopped for their time: until they have shown that they can do otherwise, their calls leave the
//! processor to all others.
//!
//! A call that never ends takes a core for as long as it may, and a handler that makes one after the other takes as many
//! as there are. They are not kept from running, as a handler may be slow for honest reasons; but while others have work they
//! rest most of the time, where the engine looks at the clock. (A lower priority of their threads would do so too, and keep
//! others waiting for whatever such a thread holds when it is put aside.)

use std::sync::atomic::{AtomicU32, Ordering};

use super::limits;

/// What a handler's calls have run up.
#[derive(Default)]
pub(super) struct Overruns(AtomicU32);

// === impl Overruns ===

impl Overruns {
    /// A call was stopped for its time.
    pub(super) fn add(&self) {
        self.0.store(limits::OVERRUN_CALLS, Ordering::Relaxed);
    }

    /// A call ended by itself.
    pub(super) fn pay(&self) {
        // Most calls only look: writing what all threads read would cost every one of them.
        if self.any() {
            let less = |left: u32| left.checked_sub(1);
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_overrun_is_paid_by_many_calls_that_end() {
        let overruns = Overruns::default();
        overruns.pay();
        assert!(!overruns.any());
        overruns.add();
        overruns.add();
        (1..limits::OVERRUN_CALLS).for_each(|_| overruns.pay());
        assert!(overruns.any());
        overruns.pay();
        assert!(!overruns.any());
    }
}
