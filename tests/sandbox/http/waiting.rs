//! Waiting for servers: ended by the call's time, with no core held meanwhile.

use std::time::Instant;

use sandbar::event::code;
use sandbar::sandbox::{Finished, Job, Ran, Workers};
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::support::BOUND;

#[test]
fn a_server_that_does_not_answer_is_waited_for_as_long_as_the_call_may_last() {
    let web = Web::start();
    let handler = handler_with(all_of(&web), Limits { time: Duration::from_millis(300), ..limits() });
    for path in ["/silent", "/drip"] {
        let begun = Instant::now();
        let (code, reason) = retried(&handler, &fetches(&[&format!("GET {}", web.url(path))], &[]));
        assert_eq!(code, code::TIME_LIMIT, "{path}: {reason}");
        assert!(reason.contains("[handler.limits] time"), "{reason}");
        assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn the_guests_own_patience_ends_it_sooner() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    for (path, option, expected) in [
        ("/silent", "first-byte-ms", "HttpResponseTimeout"),
        ("/slow/30000", "first-byte-ms", "HttpResponseTimeout"),
        ("/cut-later", "connect-ms", "200"),
    ] {
        let event = fetches(&[&format!("GET {}", web.url(path))], &[(option, "200")]);
        let begun = Instant::now();
        assert!(said(&handler, &event).contains(expected), "{path}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_timer_beside_a_request_takes_its_time_although_the_clock_is_virtual() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let race = |path: &str, timer: &str| {
        let begun = Instant::now();
        let lines = format!("GET {}", web.url(path));
        let said = said(&handler, &event("race", &[("do", &lines), ("timer-ms", timer)]));
        (said, begun.elapsed())
    };
    let (said, took) = race("/silent", "300");
    assert!(said.starts_with("[1] after 300") && took >= Duration::from_millis(300), "{said} {took:?}");
    let (said, took) = race("/slow/100", "60000");
    assert!(said.starts_with("[0] after ") && took < Duration::from_secs(30), "{said} {took:?}");
}

#[test]
fn what_a_call_leaves_open_ends_with_it() {
    let web = Web::start();
    // It is not the end of its time that ends it.
    let handler = handler_with(all_of(&web), Limits { time: Duration::from_secs(600), ..limits() });
    let silent = format!("GET {}", web.url("/silent"));
    for _ in 0..10 {
        assert_eq!(said(&handler, &event("forget", &[("do", &silent)])), "forgotten");
    }
    let limited = handler_with(all_of(&web), Limits { time: Duration::from_millis(100), ..limits() });
    retried(&limited, &fetches(&[&silent], &[]));
    retried(&limited, &fetches(&[&format!("GET {}", web.url("/drip"))], &[]));
    // The handlers are there still, and nothing is under way.
    let end = Instant::now() + BOUND;
    while web.open() > 0 {
        assert!(Instant::now() < end, "{} are open", web.open());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    drop((handler, limited));
}

#[test]
fn an_instance_that_serves_several_events_finds_nothing_under_way() {
    let web = Web::start();
    let sandbox = Sandbox::new(&Settings { threads: 1, reuse: true, ..Settings::default() }).unwrap();
    let module = sandbox.load(&guest("fetch")).unwrap();
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let grants = Grants { http: all_of(&web), ..Grants::default() };
    let spec = Spec { limits: Limits { http_calls: 1, ..limits() }, grants, reuse: 10, ..spec() };
    let handler = sandbox.handler(&module, spec, services).unwrap();
    let workers = Workers::start(sandbox);
    let keep = event("keep", &[("do", &format!("GET {}", web.url("/silent")))]);
    let fetch = fetches(&[&format!("GET {}", web.url("/a"))], &[]);
    // One after the other, so that each finds the instance of the one before.
    let reasons = [keep, event("kept", &[]), fetch].map(|event| {
        let (done, mut back) = unbounded_channel();
        let job = Job { event: Arc::new(event), attempt: 1, replayed: false, tag: () };
        workers.submit(Arc::clone(&handler), vec![job], done);
        let end = Instant::now() + BOUND;
        loop {
            assert!(Instant::now() < end, "it has not ended");
            match back.try_recv().as_deref() {
                Ok([Finished { ran: Ran::Called { verdict: Verdict::Reject { reason, .. }, .. }, .. }]) => {
                    break reason.clone();
                }
                Ok(other) => break format!("{other:?}"),
                Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    });
    assert!(reasons[0].contains("Done"), "{reasons:?}");
    assert_eq!(reasons[1], "Some(Ok(Err(ErrorCode::ConnectionTerminated)))");
    assert_eq!(reasons[2], "200 5 hello", "each call has its own number of requests");
}

#[test]
fn while_servers_do_not_answer_the_neighbour_is_served() {
    let web = Web::start();
    let (sandbox, module) = trusting(None);
    let waits = handler_in(&sandbox, &module, all_of(&web), Limits { time: Duration::from_secs(8), ..limits() });
    let neighbour = handler_in(&sandbox, &module, Http::default(), limits());
    let workers = Workers::start(Arc::clone(&sandbox));
    let (done, _back) = unbounded_channel();
    let silent = Arc::new(fetches(&[&format!("GET {}", web.url("/silent"))], &[]));
    let job = |event: &Arc<Event>| Job { event: Arc::clone(event), attempt: 1, replayed: false, tag: () };
    workers.submit(waits, (0..200).map(|_| job(&silent)).collect(), done);
    let end = Instant::now() + BOUND;
    while web.open() < 8 {
        assert!(Instant::now() < end, "{} are under way", web.open());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // Two cores, and far more than two calls that wait.
    let (told, mut heard) = unbounded_channel();
    let quick = Arc::new(event("hold", &[("times", "1")]));
    let begun = Instant::now();
    workers.submit(neighbour, (0..100).map(|_| job(&quick)).collect(), told);
    let (mut served, end) = (0, begun + Duration::from_secs(6));
    while served < 100 {
        assert!(Instant::now() < end, "only {served} are served while others wait");
        match heard.try_recv() {
            Ok(chunk) => served += chunk.len(),
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
}
