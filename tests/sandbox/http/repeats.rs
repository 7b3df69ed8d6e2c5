//! A request is sent at least once: whoever gets it can tell a repeat.

use super::*;

fn keys(web: &Web) -> Vec<String> {
    web.asked().iter().map(|asked| asked.header("idempotency-key").to_owned()).collect()
}

#[test]
fn a_repeat_of_an_event_has_the_same_keys_and_another_event_has_others() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let line = format!("POST {}", web.url("/a"));
    let event = fetches(&[&line, &line], &[("then", "retry")]);
    for attempt in [1, 2] {
        let (verdict, _) = called(shared().0.call(&handler, &event, attempt, attempt > 1));
        assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
    }
    // The same bytes, requeued at the end of the stream.
    let requeued = Event { position: "9-9".into(), ..event.clone() };
    assert_eq!(called(shared().0.call(&handler, &requeued, 1, false)).0, verdict(&handler, &event));
    let other = Event { first: "5-1".into(), ..event };
    verdict(&handler, &other);
    let keys = keys(&web);
    assert_eq!(keys.len(), 10);
    assert_ne!(keys[0], keys[1], "each request has its own");
    for repeat in [2, 4, 6] {
        assert_eq!(keys[..2], keys[repeat..repeat + 2]);
    }
    assert!(!keys[..8].contains(&keys[8]) && !keys[..8].contains(&keys[9]));
}

#[test]
fn a_key_of_the_guests_own_stays() {
    let web = Web::start();
    let handler = handler(all_of(&web));
    let headers = "Idempotency-Key: mine\nUser-Agent: me/1";
    said(&handler, &fetches(&[&format!("POST {}", web.url("/a"))], &[("headers", headers)]));
    said(&handler, &fetches(&[&format!("GET {}", web.url("/a"))], &[]));
    let asked = web.asked();
    assert_eq!((asked[0].header("idempotency-key"), asked[0].header("user-agent")), ("mine", "me/1"));
    assert!(asked[1].all("idempotency-key").is_empty(), "what only reads needs none");
}
