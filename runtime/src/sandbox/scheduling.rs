//! Threads that let others go first, and one that goes before: how the kernel is asked to schedule them.
//!
//! The engine stops a call that rests at a tick, and a thread that computes until then holds up whoever shares its core: the
//! kernel looks whether somebody else's turn has come when it wakes him, and otherwise every few milliseconds. A thread behind
//! the others takes no core from one that has it, and whoever wakes takes the core from it at once. Its share of the processor
//! is no smaller for that, so nobody waits for long for what such a thread holds when it is put aside; a lower priority would
//! cost just that (tried: with `SCHED_IDLE` others waited ten times longer).

use std::time::Duration;

/// How long the kernel lets it run when nobody else wants to: the longest that it takes. Among those who want to, the kernel
/// prefers whoever asked for less.
const LONG: Duration = Duration::from_millis(100);

/// What a thread asks for that does little and is not to wait for it: the shortest that the kernel grants.
const SHORT: Duration = Duration::from_micros(100);

/// This thread is behind the others as long as this lives. A kernel that cannot (before Linux 6.12 there are no slices of one's
/// own) schedules it as any.
pub(super) struct Behind {
    before: libc::sched_attr,
}

// === impl Behind ===

impl Behind {
    /// `None` if the kernel refuses.
    pub(super) fn others() -> Option<Self> {
        let before = Self { before: attributes()? };
        let mut attributes = before.before;
        attributes.sched_policy = libc::SCHED_BATCH.unsigned_abs();
        attributes.sched_runtime = nanos(LONG);
        set(&attributes).then_some(before)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // None of its own.
        self.before.sched_runtime = 0;
        set(&self.before);
    }
}

/// Lets this thread go before others, which ask for more at once: for one that wakes often and does little, as stopping
/// calls in time. Nothing changes where the kernel knows no slices of one's own.
pub(super) fn go_before_others() {
    if let Some(mut attributes) = attributes() {
        attributes.sched_runtime = nanos(SHORT);
        set(&attributes);
    }
}

fn nanos(slice: Duration) -> u64 {
    u64::try_from(slice.as_nanos()).unwrap_or(0)
}

fn attributes() -> Option<libc::sched_attr> {
    // SAFETY: numbers, for which zeros are good.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes);
    // SAFETY: the pointer is to a live value of this size; 0 is this thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    (got == 0).then_some(attributes)
}

fn set(attributes: &libc::sched_attr) -> bool {
    // SAFETY: the pointer is to a live value, which says its size; 0 is this thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) == 0 }
}

/// Nanoseconds of this thread's slices, where the kernel knows them.
#[cfg(test)]
pub(super) fn slice() -> Option<u64> {
    Some(attributes()?.sched_runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_behind_the_others_and_then_as_before() {
        let policy = || attributes().unwrap().sched_policy.cast_signed();
        assert_eq!(policy(), libc::SCHED_OTHER);
        let behind = Behind::others().unwrap();
        assert_eq!(policy(), libc::SCHED_BATCH);
        drop(behind);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
