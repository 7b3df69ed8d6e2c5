//! Every way a call can end is a verdict, and the host lives on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::{Payload, Verdict, code};
use sandbar::sandbox::{Limits, Ran, Services, Spec};

use super::support::{
    Remembering, bounded, call, called, event, everything, logged, probe, retried, said, sandbox, shared, spec,
};

fn limited(limits: Limits) -> Spec {
    Spec { limits, ..spec() }
}

fn quick() -> Spec {
    limited(Limits { time: Duration::from_millis(50), ..Limits::default() })
}

#[test]
fn done_is_done() {
    let (handler, _) = probe(spec());
    let (verdict, effects) = call(&handler, &event("ok", &[]));
    assert_eq!(verdict, Verdict::Done);
    assert!(effects.is_empty());
    assert_eq!(effects.key_space, "");
}

#[test]
fn the_guest_sees_the_whole_event() {
    let (handler, _) = probe(spec());
    let mut event = event("event", &[("h", "1"), ("h", "2")]);
    event.metadata.key = Some(b"k".as_slice().into());
    let text = |replayed| match called(shared().0.call(&handler, &event, 3, replayed)).0 {
        Verdict::Reject { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let seen = text(true);
    for part in [
        r#"kind: "event", source: "tests", time: "2024-05-06T07:08:09+00:00", topic: "in", key: Some([107])"#,
        r#"content-type: "application/json", payload: Payload::Json("{}"), headers: [("h", [49]), ("h", [50])]"#,
        r#"handler: "probe", position: "5-1", attempt: 3, max-attempts: 5, deadline-ms: 20000, replayed: true"#,
        "attributes: []",
        &format!("id: {:?}", event.metadata.id),
    ] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
    assert!(text(false).contains("replayed: false"));
    let mut raw = event.clone();
    raw.payload = Payload::Raw(b"\x01\x02".as_slice().into());
    assert!(said(&handler, &raw).contains("Payload::Raw([1, 2])"));
}

#[test]
fn a_retry_keeps_its_reason_code_and_time() {
    let (handler, _) = probe(spec());
    let verdict = call(&handler, &event("retry", &[("message", "busy\u{1b}[1m\nnow"), ("after", "2500")])).0;
    let after = Some(Duration::from_millis(2_500));
    assert_eq!(verdict, Verdict::Retry { code: code::RETRY.into(), reason: "busy now".into(), after });
    let coded = |code: &str| retried(call(&handler, &event("retry", &[("code", code)])).0).0;
    assert_eq!(coded("lms-down"), "lms-down");
    assert_eq!(coded("LMS down!\n"), "lmsdown");
    assert_eq!(coded("\n!"), code::RETRY);
    let long = "x".repeat(5_000);
    let reason = retried(call(&handler, &event("retry", &[("message", &long)])).0).1;
    assert!(reason.len() <= 2_048 && reason.ends_with('…'), "{}", reason.len());
    assert_eq!(coded(&long).len(), 64);
}

#[test]
fn a_rejection_is_for_good() {
    let (handler, _) = probe(spec());
    let verdict = call(&handler, &event("reject", &[("code", "unknown-course"), ("message", "no\tsuch")])).0;
    assert_eq!(verdict, Verdict::Reject { code: "unknown-course".into(), reason: "no such".into() });
    let verdict = call(&handler, &event("reject", &[("code", "¡¿")])).0;
    assert_eq!(verdict, Verdict::Reject { code: "rejected".into(), reason: String::new() });
}

#[test]
fn a_panic_is_a_trap_with_its_message() {
    let (handler, _) = probe(spec());
    let (code, reason) = retried(call(&handler, &event("panic", &[("message", "no \u{1b}[31mcourse")])).0);
    assert_eq!(code, code::TRAP);
    assert!(reason.contains("unreachable") && reason.contains("no course"), "{reason}");
    assert!(!reason.contains('\u{1b}'));
}

/// The SDK reports a panic as one line, which is the reason too; Rust's own report has three.
#[test]
fn a_panic_of_a_handler_made_with_the_sdk_is_one_line() {
    let sandbox = &shared().0;
    let module = sandbox.load(&super::support::guest("notify-flaky")).unwrap();
    let handler = sandbox.handler(&module, spec(), Arc::new(Remembering::default())).unwrap();
    let mut event = event("notification", &[]);
    let data = r#"{"notification_data":{"user_ids":[1],"notification_type":"post","content_url":"https://x/9"}}"#;
    event.payload = Payload::Json(data.into());
    let mut reason = String::new();
    let lines = logged(|| reason = retried(called(sandbox.call(&handler, &event, 1, false)).0).1);
    assert!(reason.starts_with("panicked at ") && reason.contains("src/lib.rs:"), "{reason}");
    assert!(reason.ends_with(": a template for post is broken"), "{reason}");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains(&reason), "{lines:?}");
    for noise in ["RUST_BACKTRACE", "thread '"] {
        assert!(!reason.contains(noise) && !lines[0].contains(noise), "{reason} {lines:?}");
    }
}

#[test]
fn leaving_the_process_is_a_trap() {
    let (handler, _) = probe(spec());
    for status in ["0", "3"] {
        let (code, reason) = retried(call(&handler, &event("exit", &[("code", status)])).0);
        assert_eq!(code, code::TRAP);
        assert!(reason.contains("exit("), "{reason}");
    }
}

#[test]
fn a_runaway_recursion_is_a_trap() {
    let (handler, _) = probe(spec());
    let (code, reason) = retried(call(&handler, &event("recurse", &[])).0);
    assert_eq!(code, code::TRAP);
    assert!(reason.contains("stack") || reason.contains("out of bounds"), "{reason}");
}

#[test]
fn a_call_that_runs_too_long_is_stopped() {
    let (handler, _) = probe(quick());
    let started = Instant::now();
    let (code, reason) = retried(bounded(move || call(&handler, &event("spin", &[])).0));
    let took = started.elapsed();
    assert_eq!(code, code::TIME_LIMIT);
    assert!(reason.contains("50ms") && reason.contains(r#"[handler.limits] time = "100ms""#), "{reason}");
    assert!(took >= Duration::from_millis(50) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_key_read_waits_no_longer_than_the_call_may() {
    let (handler, services) = probe(Spec { grants: everything(), ..quick() });
    *services.delay.lock().unwrap() = Duration::from_secs(60);
    let started = Instant::now();
    match call(&handler, &event("keys", &[("do", "get k")])).0 {
        Verdict::Reject { reason, .. } => assert!(reason.contains("Unavailable"), "{reason}"),
        // The guest hears of it with no time left to say so.
        verdict => assert_eq!(retried(verdict).0, code::TIME_LIMIT),
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn memory_is_limited() {
    let (handler, _) = probe(limited(Limits { memory: 16 << 20, ..spec().limits }));
    assert_eq!(call(&handler, &event("hold", &[("mebibytes", "8")])).0, Verdict::Done);
    let (code, reason) = retried(call(&handler, &event("hold", &[("mebibytes", "20")])).0);
    assert_eq!(code, code::MEMORY_LIMIT);
    assert!(reason.contains("16MiB") && reason.contains(r#"[handler.limits] memory = "32MiB""#), "{reason}");
}

#[test]
fn a_bug_in_the_host_ends_one_call() {
    let (handler, _) = probe(Spec { grants: everything(), ..spec() });
    let bug = event("publish", &[("topic", "out"), ("type", "panic"), ("then", "ok")]);
    let lines = logged(|| {
        let (code, reason) = retried(call(&handler, &bug).0);
        assert_eq!(code, code::TRAP);
        assert!(reason.contains("a bug in the host"), "{reason}");
    });
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains("a bug in the host")), "{lines:?}");
    assert_eq!(call(&handler, &event("ok", &[])).0, Verdict::Done);
}

#[test]
fn nothing_is_left_from_one_event_to_the_next() {
    let (handler, _) = probe(spec());
    for _ in 0..20 {
        assert_eq!(said(&handler, &event("static", &[])), "0");
        call(&handler, &event("hold", &[("mebibytes", "3")]));
        call(&handler, &event("panic", &[]));
    }
}

#[test]
fn a_thousand_failures_take_nothing_from_the_pool() {
    let (handler, _) = probe(spec());
    let (hasty, _) = probe(limited(Limits { time: Duration::from_millis(1), ..Limits::default() }));
    let failing = Arc::clone(&handler);
    let fail = move |round| match round % 10 {
        0 => call(&hasty, &event("spin", &[])).0,
        1 => call(&failing, &event("exit", &[])).0,
        _ => call(&failing, &event("panic", &[])).0,
    };
    let codes: Vec<_> = bounded(move || (0..1_000).map(|round| retried(fail(round)).0).collect());
    for (round, code) in codes.iter().enumerate() {
        assert_eq!(code, if round % 10 == 0 { code::TIME_LIMIT } else { code::TRAP });
    }
    assert_eq!(call(&handler, &event("ok", &[])).0, Verdict::Done);
}

#[test]
fn a_full_pool_is_no_attempt() {
    let sandbox = sandbox(1);
    let services = Arc::new(Remembering::default());
    *services.delay.lock().unwrap() = Duration::from_secs(20);
    let spec = Spec { grants: everything(), ..spec() };
    let bytes = super::support::guest("probe");
    let module = sandbox.load(&bytes).unwrap();
    let handler = sandbox.handler(&module, spec, Arc::clone(&services) as Arc<dyn Services>).unwrap();
    let places = 64 + 16;
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..places)
            .map(|_| {
                scope.spawn(|| sandbox.call(&handler, &event("keys", &[("do", "get k"), ("then", "ok")]), 1, false))
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(15);
        while services.reads.load(std::sync::atomic::Ordering::SeqCst) < places {
            assert!(Instant::now() < end, "all places are taken");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        match sandbox.call(&handler, &event("ok", &[]), 1, false) {
            Ran::NotCalled(why) => assert!(why.contains("limit"), "{why}"),
            Ran::Called { verdict, .. } => panic!("{verdict:?}"),
        }
        *services.delay.lock().unwrap() = Duration::ZERO;
        for thread in waiting {
            thread.thread().unpark();
            assert_eq!(called(thread.join().unwrap()).0, Verdict::Done);
        }
    });
    assert_eq!(called(sandbox.call(&handler, &event("ok", &[]), 1, false)).0, Verdict::Done);
}
