//! Calls in a process of their own: what comes of them is the same, and what goes wrong in one stays there.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use sandbar::event::{Event, Verdict, code};
use sandbar::sandbox::{Error, Handler, Isolator, Limits, Module, Ran, Sandbox, Secret, Services, Settings, Spec};

use super::support::{self, Remembering, TOKEN, bounded, called, event, everything, logged, retried, spec};
use crate::support::BOUND;
use crate::support::beside::{child_of, children, is_over, signal};
use crate::support::process::processor;

mod reach;

/// What makes a handler isolated.
pub(crate) const PROCESS: &str = "isolation = \"process\"";

/// A sandbox with a process of its own that makes others, so that nobody else's are among its children.
struct Apart {
    sandbox: Arc<Sandbox>,
    isolator: Isolator,
    probe: Module,
}

// === impl Apart ===

impl Apart {
    fn new() -> Self {
        let isolator = support::isolator();
        let settings = Settings {
            threads: 2,
            secret: Some(Secret::new(b"of the tests")),
            reuse: true,
            isolator: Some(isolator.clone()),
            ..Settings::default()
        };
        let sandbox = Sandbox::new(&settings).unwrap();
        let probe = sandbox.load(&support::guest("probe")).unwrap();
        Self { sandbox, isolator, probe }
    }

    fn handler(&self, spec: Spec) -> (Arc<Handler>, Arc<Remembering>) {
        let services = Arc::new(Remembering::default());
        let spec = Spec { isolated: true, ..spec };
        let given = Arc::clone(&services) as Arc<dyn Services>;
        (self.sandbox.handler(&self.probe, spec, given).unwrap(), services)
    }

    fn call(&self, handler: &Handler, event: &Event) -> Verdict {
        called(self.sandbox.call(handler, event, 1, false)).0
    }

    fn said(&self, handler: &Handler, event: &Event) -> String {
        match self.call(handler, event) {
            Verdict::Reject { code, reason } if code == "said" => reason,
            other => panic!("{other:?}"),
        }
    }

    fn workers(&self) -> Vec<u32> {
        children(self.isolator.id().unwrap())
    }
}

fn granted() -> Spec {
    Spec { grants: everything(), ..spec() }
}

/// Everything that a guest can ask for, one event after the other.
fn questions() -> Vec<Event> {
    let keys = |script: &str, then: &str| event("keys", &[("do", script), ("then", then)]);
    let publish = |arguments: &[(&str, &str)]| {
        event("publish", &[&[("topic", "out"), ("type", "org.x.made")], arguments].concat())
    };
    let message = "ten lines, and then some\u{1b}[1m";
    let long = "x".repeat(5_000);
    vec![
        event("ok", &[]),
        event("event", &[("a", "1"), ("b", "\u{1b}ä")]),
        event("retry", &[("code", "Later!"), ("message", "not\nnow"), ("after", "1500")]),
        event("reject", &[("code", "%%"), ("message", &long)]),
        event("panic", &[("message", "ouch")]),
        event("exit", &[("code", "3")]),
        event("recurse", &[]),
        event("hold", &[("mebibytes", "100")]),
        publish(&[("then", "ok"), ("times", "3"), ("size", "70000")]),
        publish(&[("times", "101")]),
        publish(&[("size", "9000000")]),
        event("publish", &[("topic", "nowhere")]),
        event("publish", &[("topic", "typed"), ("type", "com.x")]),
        event("publish", &[("topic", "out"), ("type", "invalid")]),
        event("publish", &[("topic", "out"), ("type", "limit")]),
        event("publish", &[("topic", "out"), ("type", "panic")]),
        keys("get a\nset a new\nget a\nget b\ndelete a\nget a\nset b 1\nget b\nlist  10", "ok"),
        keys("get a\nget \nlist k 3\ndelete k1\ndelete k3\nlist k 3\nset k0 1\nlist k 3", ""),
        keys("fill big 2000000\nset ok 1", "ok"),
        keys("set a 1", "retry"),
        event("config", &[("name", "base")]),
        event("config", &[("name", "absent")]),
        event("secret", &[("name", "TOKEN"), ("way", "is"), ("value", TOKEN)]),
        event("secret", &[("name", "TOKEN"), ("way", "log")]),
        event("secret", &[("name", "TOKEN"), ("way", "print")]),
        event("secret", &[("name", "TOKEN"), ("way", "abort")]),
        event("secret", &[("name", "TOKEN"), ("way", "reject")]),
        event("secret", &[("name", "OTHER"), ("way", "log")]),
        event("log", &[("message", message), ("times", "10")]),
        event("log", &[("message", message), ("times", "150")]),
        event("log", &[("message", &long), ("times", "30")]),
        event("print", &[("out", "one\ntwo"), ("err", "three")]),
        event("world", &[]),
        event("files", &[]),
        event("read-stdin", &[]),
        event("random", &[]),
        event("wait", &[]),
        event("unknown", &[]),
    ]
}

#[test]
fn every_question_has_the_same_answer() {
    let apart = Apart::new();
    for spec in [granted(), spec()] {
        for question in questions() {
            let ask = |isolated: bool| {
                let services = Arc::new(Remembering::default());
                for (version, key) in (1..).zip(["a", "k1", "k2", "k3", "k4", "k5"]) {
                    services.keys.lock().unwrap().insert(key.into(), (b"old".to_vec(), version));
                }
                let spec = Spec { isolated, ..spec.clone() };
                let handler = apart.sandbox.handler(&apart.probe, spec, services).unwrap();
                let mut ended = None;
                let mut log = logged(|| ended = Some(called(apart.sandbox.call(&handler, &question, 1, false))));
                // A bug of the host's is told with the thread that it is in.
                log.retain(|line| !line.contains("a host function panicked"));
                (ended.unwrap(), log)
            };
            assert_eq!(ask(true), ask(false), "{}: {:?}", question.metadata.kind, question.metadata.headers);
        }
    }
}

#[test]
fn limits_are_those_of_a_call_here() {
    let apart = Apart::new();
    let limits = Limits { time: Duration::from_millis(200), ..Limits::default() };
    let (handler, _) = apart.handler(Spec { limits, ..spec() });
    let begun = Instant::now();
    let (code, reason) = retried(apart.call(&handler, &event("spin", &[])));
    assert_eq!(code, code::TIME_LIMIT);
    assert!(reason.contains("longer than 200ms") && reason.contains("time = \"400ms\""), "{reason}");
    assert!(begun.elapsed() < BOUND);
    assert_eq!(apart.workers().len(), 1, "its worker is there for the next call");
    drop(handler);
    let (handler, _) = apart.handler(spec());
    let worker = child_of(apart.isolator.id().unwrap());
    let (code, reason) = retried(apart.call(&handler, &event("hold", &[("mebibytes", "100")])));
    assert_eq!(code, code::MEMORY_LIMIT, "{reason}");
    assert_eq!((apart.call(&handler, &event("ok", &[])), apart.workers()), (Verdict::Done, vec![worker]));
}

#[test]
fn instances_are_kept_within_a_worker_and_what_a_handler_wrote_is_its_own() {
    let apart = Apart::new();
    let (handler, _) = apart.handler(Spec { reuse: 3, ..spec() });
    let seen: Vec<_> = (0..7).map(|_| apart.said(&handler, &event("static", &[]))).collect();
    assert_eq!(seen, ["0", "1", "2", "0", "1", "2", "0"]);
    let (fresh, _) = apart.handler(spec());
    assert!((0..3).all(|_| apart.said(&fresh, &event("static", &[])) == "0"));
}

#[test]
fn a_bus_in_trouble_is_no_attempt() {
    let apart = Apart::new();
    let (handler, services) = apart.handler(granted());
    services.down.store(true, Ordering::SeqCst);
    let ran = apart.sandbox.call(&handler, &event("depends", &[]), 1, false);
    assert!(matches!(&ran, Ran::NotCalled(why) if why.contains("the bus is down")), "{ran:?}");
    services.down.store(false, Ordering::SeqCst);
    assert_eq!(apart.call(&handler, &event("depends", &[])), Verdict::Done);
}

#[test]
fn a_worker_that_is_killed_in_a_call_is_an_attempt_and_the_next_call_is_made() {
    let apart = Apart::new();
    let (handler, _) = apart.handler(spec());
    let worker = child_of(apart.isolator.id().unwrap());
    let calling = {
        let (sandbox, handler) = (Arc::clone(&apart.sandbox), Arc::clone(&handler));
        thread::spawn(move || called(sandbox.call(&handler, &event("spin", &[]), 1, false)))
    };
    computes(worker);
    signal(worker, "KILL");
    let (verdict, effects) = calling.join().unwrap();
    let (code, reason) = retried(verdict);
    assert_eq!((code.as_str(), effects.is_empty()), (code::TRAP, true));
    assert!(reason.contains("the process of this call was ended by signal 9"), "{reason}");
    assert_eq!(apart.call(&handler, &event("ok", &[])), Verdict::Done);
    assert_ne!(child_of(apart.isolator.id().unwrap()), worker);
}

/// Waits until a process has used some time of a processor.
fn computes(process: u32) {
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    let (begun, first) = (Instant::now(), used());
    while used() < first + 3 {
        assert!(begun.elapsed() < BOUND, "{process} does nothing");
        thread::yield_now();
    }
}

#[test]
fn a_worker_that_ended_while_it_waited_is_nobodys_attempt() {
    let apart = Apart::new();
    let (handler, _) = apart.handler(spec());
    for _ in 0..3 {
        let worker = child_of(apart.isolator.id().unwrap());
        signal(worker, "KILL");
        is_over(worker);
        assert_eq!(apart.call(&handler, &event("ok", &[])), Verdict::Done);
    }
}

#[test]
fn a_worker_that_says_nothing_is_ended_after_the_time_of_its_call() {
    let apart = Apart::new();
    let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
    let (handler, _) = apart.handler(Spec { limits, ..spec() });
    let worker = child_of(apart.isolator.id().unwrap());
    signal(worker, "STOP");
    let (sandbox, same) = (Arc::clone(&apart.sandbox), Arc::clone(&handler));
    let verdict = bounded(move || called(sandbox.call(&same, &event("ok", &[]), 1, false)).0);
    let (code, reason) = retried(verdict);
    assert_eq!(code, code::TIME_LIMIT, "{reason}");
    is_over(worker);
    assert_eq!(apart.call(&handler, &event("ok", &[])), Verdict::Done);
}

#[test]
fn workers_end_with_their_handler_and_leave_nothing_behind() {
    let apart = Apart::new();
    let (handler, _) = apart.handler(spec());
    let (other, _) = apart.handler(spec());
    assert_eq!(apart.workers().len(), 2);
    // One that waits ends when another takes its handler's place, one that is made for calls after it ends with its call.
    handler.retire();
    assert_eq!(apart.workers().len(), 1);
    assert_eq!(apart.call(&handler, &event("ok", &[])), Verdict::Done);
    assert_eq!(apart.workers().len(), 1);
    drop((handler, other));
    assert!(apart.workers().is_empty(), "none is left, and none that has ended and nobody asked for");
}

#[test]
fn one_that_ends_is_asked_how_at_once() {
    let apart = Apart::new();
    let (_handler, _) = apart.handler(spec());
    signal(child_of(apart.isolator.id().unwrap()), "KILL");
    let begun = Instant::now();
    while !apart.workers().is_empty() {
        assert!(begun.elapsed() < BOUND, "the system still keeps it");
        thread::yield_now();
    }
}

#[test]
fn as_many_calls_are_made_at_once_as_are_begun_and_no_more_processes_kept_than_cores() {
    let apart = Apart::new();
    let (handler, services) = apart.handler(granted());
    *services.delay.lock().unwrap() = BOUND;
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (sandbox, handler) = (Arc::clone(&apart.sandbox), Arc::clone(&handler));
            thread::spawn(move || called(sandbox.call(&handler, &event("depends", &[]), 1, false)).0)
        })
        .collect();
    let begun = Instant::now();
    while services.reads.load(Ordering::SeqCst) < 4 {
        assert!(begun.elapsed() < BOUND, "they wait for each other");
        thread::yield_now();
    }
    assert_eq!(apart.workers().len(), 4);
    *services.delay.lock().unwrap() = Duration::ZERO;
    assert!(calls.into_iter().all(|call| call.join().unwrap() == Verdict::Done));
    assert_eq!(apart.workers().len(), 2, "the sandbox has two cores");
}

#[test]
fn the_process_that_makes_them_is_replaced_when_it_is_lost() {
    let apart = Apart::new();
    let (handler, _) = apart.handler(spec());
    for _ in 0..2 {
        let (isolator, worker) = (apart.isolator.id().unwrap(), apart.workers()[0]);
        signal(isolator, "KILL");
        // It takes its workers with it.
        is_over(worker);
        assert_eq!(apart.call(&handler, &event("ok", &[])), Verdict::Done);
        assert_ne!(apart.isolator.id().unwrap(), isolator);
    }
    assert_eq!(apart.workers().len(), 1);
}

#[test]
fn a_call_whose_process_is_lost_with_the_one_that_made_it_is_tried_again() {
    let apart = Apart::new();
    let limits = Limits { time: BOUND, ..Limits::default() };
    let (handler, _) = apart.handler(Spec { limits, ..spec() });
    let (isolator, worker) = (apart.isolator.id().unwrap(), apart.workers()[0]);
    let verdict = thread::scope(|scope| {
        let call = scope.spawn(|| apart.call(&handler, &event("spin", &[])));
        let begun = Instant::now();
        while processor(worker) < Duration::from_millis(50) {
            assert!(begun.elapsed() < BOUND, "it is not called");
            thread::yield_now();
        }
        signal(isolator, "KILL");
        call.join().unwrap()
    });
    assert!(
        matches!(&verdict, Verdict::Retry { code, reason, .. } if code == code::TRAP && reason.contains("was lost")),
        "{verdict:?}"
    );
    assert_eq!(apart.isolator.id(), Some(isolator), "nobody is started to be asked for its end");
}

#[test]
fn a_sandbox_without_one_refuses_handlers_that_are_isolated() {
    let sandbox = support::sandbox(1);
    let module = sandbox.load(&support::guest("noop")).unwrap();
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let error = sandbox.handler(&module, Spec { isolated: true, ..spec() }, services).unwrap_err();
    assert!(matches!(&error, Error::Isolation { name, .. } if name == "probe"), "{error}");
    assert!(error.to_string().contains("isolation = \"process\""), "{error}");
}
