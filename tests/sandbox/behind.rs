//! Slow calls go behind others: how the kernel schedules the thread of one.

use std::path::PathBuf;
use std::time::Duration;

use sandbar::event::Verdict;
use sandbar::sandbox::{Limits, Spec};

use super::compiling::{OTHER, policy};
use super::support::{bounded, call, event, probe, spec};

const BATCH: u32 = 3;

/// Where the kernel tells of this thread.
fn this_thread() -> PathBuf {
    PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self").unwrap())
}

#[test]
fn the_thread_of_a_slow_call_is_behind_others_until_the_call_ends() {
    let limits = Limits { time: Duration::from_secs(2), ..Limits::default() };
    let (handler, _) = probe(Spec { limits, ..spec() });
    let (to_main, from_caller) = std::sync::mpsc::channel();
    let caller = std::thread::spawn(move || {
        let thread = this_thread();
        assert_eq!(policy(&thread), Some(OTHER), "before");
        to_main.send(thread.clone()).unwrap();
        let verdict = call(&handler, &event("spin", &[])).0;
        assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
        assert_eq!(policy(&thread), Some(OTHER), "afterwards");
        // Whoever has seen enough is gone.
        drop(to_main.send(thread));
    });
    let behind = bounded(move || {
        let thread = from_caller.recv().unwrap();
        let mut behind = false;
        while !behind && from_caller.try_recv().is_err() {
            behind = policy(&thread) == Some(BATCH);
            std::thread::yield_now();
        }
        behind
    });
    caller.join().unwrap();
    assert!(behind);
}
