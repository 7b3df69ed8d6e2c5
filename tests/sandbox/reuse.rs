//! `reuse`: an instance serves several events, and yet nothing of one reaches the next but what the guest keeps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sandbar::event::{Effects, Event, Verdict, code};
use sandbar::sandbox::{Handler, Job, Limits, Module, Ran, Sandbox, Secret, Services, Settings, Spec, Workers};
use tokio::sync::mpsc;

use super::support::{Remembering, bounded, called, event, everything, guest, logged, retried, spec};

fn sandbox() -> &'static (Arc<Sandbox>, Module) {
    static SHARED: OnceLock<(Arc<Sandbox>, Module)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let secret = Some(Secret::new(b"of the tests"));
        let sandbox = Sandbox::new(&Settings { threads: 2, secret, reuse: true, ..Settings::default() }).unwrap();
        let module = sandbox.load(&guest("probe")).unwrap();
        (sandbox, module)
    })
}

fn reusing(spec: Spec) -> (Arc<Handler>, Arc<Remembering>) {
    let (sandbox, module) = sandbox();
    let services = Arc::new(Remembering::default());
    (sandbox.handler(module, spec, Arc::clone(&services) as Arc<dyn Services>).unwrap(), services)
}

fn call(handler: &Handler, event: &Event) -> (Verdict, Effects) {
    called(sandbox().0.call(handler, event, 1, false))
}

fn said(handler: &Handler, event: &Event) -> String {
    match call(handler, event).0 {
        Verdict::Reject { code, reason } if code == "said" => reason,
        other => panic!("{other:?}"),
    }
}

/// How many events the instance had served that is called next.
fn served(handler: &Handler) -> u32 {
    said(handler, &event("static", &[])).parse().unwrap()
}

#[test]
fn an_instance_serves_so_many_events_and_no_more() {
    let (handler, _) = reusing(Spec { reuse: 3, ..spec() });
    let counts: Vec<u32> = (0..8).map(|_| served(&handler)).collect();
    assert_eq!(counts, [0, 1, 2, 0, 1, 2, 0, 1]);
    for reuse in [0, 1] {
        let (handler, _) = reusing(Spec { reuse, ..spec() });
        assert_eq!([served(&handler), served(&handler)], [0, 0], "reuse = {reuse}");
    }
}

#[test]
fn an_instance_stays_after_an_answer_and_goes_when_there_was_none() {
    let limits = Limits { time: Duration::from_secs(2), memory: 64 << 20, ..Limits::default() };
    let (handler, _) = reusing(Spec { reuse: 1_000, limits, grants: everything(), ..spec() });
    let publish = [("topic", "out"), ("type", "panic")];
    for (kind, arguments, stays) in [
        ("ok", &[][..], true),
        ("retry", &[("message", "later")], true),
        ("reject", &[("code", "never")], true),
        ("panic", &[("message", "no")], false),
        ("exit", &[("code", "0")], false),
        ("recurse", &[], false),
        ("hold", &[("mebibytes", "100")], false),
        ("spin", &[], false),
        ("publish", &publish, false),
    ] {
        // The count starts anew with a fresh instance, whatever was there.
        call(&handler, &event("panic", &[]));
        assert_eq!([served(&handler), served(&handler)], [0, 1], "{kind}");
        let (handler_of_call, event) = (Arc::clone(&handler), event(kind, arguments));
        let verdict = bounded(move || call(&handler_of_call, &event).0);
        let code = match &verdict {
            Verdict::Done => "done",
            Verdict::Retry { code, .. } | Verdict::Reject { code, .. } => code,
        };
        let expected = match kind {
            "ok" => "done",
            "retry" => code::RETRY,
            "reject" => "never",
            "hold" => code::MEMORY_LIMIT,
            "spin" => code::TIME_LIMIT,
            _ => code::TRAP,
        };
        assert_eq!(code, expected, "{kind}: {verdict:?}");
        assert_eq!(served(&handler), if stays { 2 } else { 0 }, "{kind}");
    }
}

#[test]
fn an_event_that_has_failed_before_gets_a_fresh_instance() {
    let (handler, _) = reusing(Spec { reuse: 100, ..spec() });
    assert_eq!([served(&handler), served(&handler)], [0, 1]);
    let second = called(sandbox().0.call(&handler, &event("static", &[]), 2, false)).0;
    assert!(matches!(&second, Verdict::Reject { reason, .. } if reason == "0"), "{second:?}");
}

#[test]
fn an_instance_that_has_taken_half_of_its_memory_goes() {
    let (handler, _) = reusing(Spec { reuse: 100, ..spec() });
    served(&handler);
    // Freed in the guest, but a memory never shrinks.
    call(&handler, &event("hold", &[("mebibytes", "20")]));
    assert_eq!(served(&handler), 1);
    call(&handler, &event("hold", &[("mebibytes", "40")]));
    assert_eq!(served(&handler), 0);
}

#[test]
fn effects_are_each_calls_own() {
    let (handler, services) = reusing(Spec { reuse: 100, grants: everything(), ..spec() });
    assert_eq!(served(&handler), 0);
    let publish = |then| event("publish", &[("topic", "out"), ("type", "t"), ("times", "3"), ("then", then)]);
    assert_eq!(call(&handler, &publish("ok")).1.publish.len(), 3);
    call(&handler, &publish("retry"));
    // The index, and so the id, starts anew with each call; so do the limits.
    assert_eq!(said(&handler, &publish("say")), r#"Ok("5-0/2")"#);
    for _ in 0..3 {
        let (_, effects) = call(&handler, &event("publish", &[("topic", "out"), ("times", "90"), ("then", "ok")]));
        assert_eq!(effects.publish.len(), 90);
    }
    assert!(call(&handler, &event("ok", &[])).1.is_empty());

    let keys = |lines| event("keys", &[("do", lines), ("then", "ok")]);
    let (_, effects) = call(&handler, &keys("set a 1\nget b"));
    assert_eq!((effects.writes.len(), effects.reads.len()), (1, 1));
    // A call that failed leaves nothing either.
    call(&handler, &event("keys", &[("do", "set a 2\nget b\nlist x 5"), ("then", "retry")]));
    let (_, effects) = call(&handler, &keys("set c 1"));
    assert_eq!((effects.writes.len(), effects.reads.len()), (1, 0));
    // What earlier calls wrote was not committed, and what they read is read again.
    let reads = services.reads.load(Ordering::SeqCst);
    assert_eq!(said(&handler, &event("keys", &[("do", "get a\nget b")])), "Ok(None) Ok(None)");
    assert_eq!(services.reads.load(Ordering::SeqCst), reads + 2);
    assert_eq!(served(&handler), 1, "it was one instance all the while");
}

#[test]
fn what_is_logged_is_each_calls_own() {
    let (handler, _) = reusing(Spec { reuse: 100, ..spec() });
    assert_eq!(served(&handler), 0);
    let chatter = event("log", &[("message", "chatter"), ("times", "200")]);
    for round in 0..3 {
        let lines = logged(|| drop(call(&handler, &chatter)));
        assert_eq!(lines.len(), 101, "round {round}: the lines a call may write, and one that says it was more");
        assert!(lines.iter().all(|line| line.contains(&chatter.metadata.id)));
    }
    let (first, second) = (event("print", &[("err", "a bad word\n")]), event("exit", &[]));
    let lines = logged(|| drop(call(&handler, &first)));
    assert!(lines.len() == 1 && lines[0].contains(&first.metadata.id), "{lines:?}");
    assert_eq!(served(&handler), 1, "it was one instance all the while");
    let mut reason = String::new();
    let lines = logged(|| reason = retried(call(&handler, &second).0).1);
    assert!(lines.is_empty() && !reason.contains("bad word"), "{reason} {lines:?}");
}

#[test]
fn time_is_each_calls_own() {
    let limits = Limits { time: Duration::from_secs(2), ..Limits::default() };
    let (handler, services) = reusing(Spec { reuse: 100, limits, grants: everything(), ..spec() });
    *services.delay.lock().unwrap() = Duration::from_millis(600);
    for round in 0..5 {
        assert_eq!(said(&handler, &event("keys", &[("do", "get a")])), "Ok(None)", "round {round}");
    }
    let spinning = Arc::clone(&handler);
    let (code, _) = retried(bounded(move || call(&spinning, &event("spin", &[])).0));
    assert_eq!(code, code::TIME_LIMIT);
}

#[test]
fn the_clock_on_the_wall_is_each_events_own() {
    let (handler, _) = reusing(Spec { reuse: 100, ..spec() });
    let at = |time: &str| {
        let mut event = event("world", &[]);
        event.metadata.time = time.into();
        said(&handler, &event)
    };
    assert_eq!(served(&handler), 0);
    let first = at("2024-05-06T07:08:09+00:00");
    assert!(first.contains("wall Ok(1714979289)"), "{first}");
    let second = at("1970-01-01T00:01:40Z");
    assert!(second.contains("wall Ok(100)"), "{second}");
    assert_eq!(served(&handler), 1, "it was one instance");
    assert_eq!(said(&handler, &event("sleep", &[("ms", "1500")])), "1500");
}

/// The same events in the same order run the same way in one instance as in another.
#[test]
fn an_instance_runs_the_same_way_again() {
    let run = || {
        let (handler, _) = reusing(Spec { reuse: 100, ..spec() });
        (0..3).map(|_| said(&handler, &event("world", &[]))).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn on_worker_threads_too_an_instance_serves_so_many_and_no_more() {
    const EVENTS: u32 = 2_000;
    let (handler, _) = reusing(Spec { reuse: 10, ..spec() });
    let workers = Workers::start(Arc::clone(&sandbox().0));
    let (done, mut chunks) = mpsc::unbounded_channel();
    let jobs = |tags: std::ops::Range<u32>| {
        tags.map(|tag| Job { event: event("static", &[]).into(), attempt: 1, replayed: false, tag }).collect::<Vec<_>>()
    };
    for start in (0..EVENTS).step_by(100) {
        workers.submit(Arc::clone(&handler), jobs(start..start + 100), done.clone());
    }
    drop(done);
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    while let Some(chunk) = chunks.blocking_recv() {
        for finished in chunk {
            match finished.ran {
                Ran::Called { verdict: Verdict::Reject { reason, .. }, .. } => {
                    *counts.entry(reason.parse().unwrap()).or_default() += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(counts.values().sum::<u32>(), EVENTS);
    assert_eq!(counts.keys().max(), Some(&9), "{counts:?}");
    // Each instance begins at 0; a few are dropped before their tenth event, when two threads lay down more than fit.
    assert!((EVENTS / 10..EVENTS / 5).contains(&counts[&0]), "{counts:?}");
}
