//! Handlers whose calls are stopped for their time: until they have shown that they can do otherwise, their calls leave the
//! processor to all others.
//!
//! A call that never ends takes a core for as long as it may, and a handler that makes one after the other takes as many
//! as there are. They are not kept from running, as a handler may be slow for honest reasons; but where there is not
//! enough for all, the others come first.

use std::cell::Cell;
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

thread_local! {
    static STEPPED_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Lowers the priority of this thread, once. There is no way back without privileges: the thread has to end after the
/// calls for which it did so, and may start no other, which would be born with the same.
pub(super) fn step_back() {
    if STEPPED_BACK.replace(true) {
        return;
    }
    // Of a process without an id Linux takes the thread that asks. Where it is refused calls run as all others do.
    let lower = |now| rustix::process::setpriority_process(None, now + limits::OVERRUN_NICE);
    if let Err(error) = rustix::process::getpriority_process(None).and_then(lower) {
        tracing::debug!(%error, "a thread's priority cannot be lowered");
    }
}

/// Whether this thread has done so.
pub(super) fn stepped_back() -> bool {
    STEPPED_BACK.get()
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

    #[test]
    fn only_the_thread_that_asks_steps_back() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let twice = || {
            step_back();
            step_back();
            (stepped_back(), rustix::process::getpriority_process(None).unwrap())
        };
        assert_eq!(std::thread::spawn(twice).join().unwrap(), (true, before + limits::OVERRUN_NICE));
        assert!(!stepped_back());
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
