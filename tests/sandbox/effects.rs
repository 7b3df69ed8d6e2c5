//! What a guest asks for: granted, bounded, and gone if the call fails.

use std::sync::atomic::Ordering;

use sandbar::event::{Effects, Event, KeyRead, KeyWrite, Verdict};
use sandbar::sandbox::{Grants, Ran, Spec};

use super::support::{call, event, everything, probe, said, shared, spec};

fn granted() -> Spec {
    Spec { grants: everything(), ..spec() }
}

fn publish(arguments: &[(&str, &str)]) -> Event {
    let mut all = vec![("topic", "out"), ("type", "org.x.made")];
    all.retain(|(name, _)| arguments.iter().all(|(other, _)| other != name));
    all.extend(arguments);
    event("publish", &all)
}

fn keys(script: &str, then: &str) -> Event {
    event("keys", &[("do", script), ("then", then)])
}

#[test]
fn publications_come_with_done_in_order() {
    let (handler, _) = probe(granted());
    let (verdict, effects) = call(&handler, &publish(&[("times", "3"), ("then", "ok")]));
    assert_eq!(verdict, Verdict::Done);
    let ids: Vec<_> = effects.publish.iter().map(|message| message.fields.get("id").unwrap()).collect();
    assert_eq!(ids, [b"5-0/0", b"5-0/1", b"5-0/2"]);
    assert!(effects.publish.iter().all(|message| &*message.topic == "out"));
    assert_eq!(said(&handler, &publish(&[("times", "2")])), r#"Ok("5-0/1")"#);
}

#[test]
fn a_failed_call_has_no_effects() {
    let (handler, services) = probe(granted());
    for then in ["panic", "retry", "say"] {
        let (verdict, effects) = call(&handler, &publish(&[("then", then)]));
        assert_ne!(verdict, Verdict::Done);
        assert_eq!(effects, Effects::default());
    }
    let (_, effects) = call(&handler, &keys("get a\nset a 1", "retry"));
    assert_eq!(effects, Effects::default());
    assert!(services.keys.lock().unwrap().is_empty());
}

#[test]
fn publishing_needs_its_grant() {
    let (bare, _) = probe(spec());
    let answer = said(&bare, &publish(&[]));
    assert!(answer.contains("Denied") && answer.contains(r#"[handler.grants] publish = [\"out\"]"#), "{answer}");
    let (handler, _) = probe(granted());
    let answer = said(&handler, &publish(&[("topic", "other")]));
    assert!(answer.contains("Denied") && answer.contains(r#"publish = [\"other\"]"#), "{answer}");
    assert!(said(&handler, &publish(&[("topic", "typed")])).starts_with("Ok"));
    let answer = said(&handler, &publish(&[("topic", "typed"), ("type", "com.x")]));
    assert!(answer.contains("Denied") && answer.contains(r#"types = [\"com.x\"]"#), "{answer}");
    // A refused draft is no publication, and the call goes on.
    let (verdict, effects) = call(&bare, &publish(&[("then", "ok")]));
    assert_eq!((verdict, effects), (Verdict::Done, Effects::default()));
}

#[test]
fn what_cannot_be_encoded_is_said() {
    let (handler, _) = probe(granted());
    assert!(said(&handler, &publish(&[("type", "invalid")])).contains("Invalid(\"no such field\")"));
    assert!(said(&handler, &publish(&[("type", "limit")])).contains("Limit(\"too many hops\")"));
}

#[test]
fn publications_are_limited() {
    let (handler, _) = probe(granted());
    assert!(said(&handler, &publish(&[("times", "100")])).starts_with("Ok"));
    let answer = said(&handler, &publish(&[("times", "101")]));
    assert!(answer.contains("Limit") && answer.contains("100 events"), "{answer}");
    assert_eq!(call(&handler, &publish(&[("times", "150"), ("then", "ok")])).1.publish.len(), 100);
    assert!(said(&handler, &publish(&[("size", "4000000")])).starts_with("Ok"));
    let answer = said(&handler, &publish(&[("size", "2000000"), ("times", "3")]));
    assert!(answer.contains("Limit") && answer.contains("4194304 bytes"), "{answer}");
    assert!(said(&handler, &publish(&[("headers", "64")])).starts_with("Ok"));
    let answer = said(&handler, &publish(&[("headers", "65")]));
    assert!(answer.contains("Limit") && answer.contains("64 headers"), "{answer}");
}

#[test]
fn one_host_call_hands_over_so_much_and_no_more() {
    let (handler, _) = probe(granted());
    let (code, reason) = super::support::retried(call(&handler, &publish(&[("size", "9000000")])).0);
    assert_eq!(code, sandbar::event::code::LIMIT, "{reason}");
    assert!(reason.contains("8388608 bytes in one host call"), "{reason}");
}

#[test]
fn a_call_reads_its_own_writes() {
    let (handler, services) = probe(granted());
    services.keys.lock().unwrap().insert("a".into(), (b"old".to_vec(), 7));
    let script = "get a\nset a new\nget a\nget b\ndelete a\nget a\nset b 1\nget b";
    let seen = said(&handler, &keys(script, ""));
    let old = r#"Ok(Some("old")) Ok(()) Ok(Some("new")) Ok(None) Ok(()) Ok(None) Ok(()) Ok(Some("1"))"#;
    assert_eq!(seen, old);
    let effects = call(&handler, &keys(script, "ok")).1;
    assert_eq!(effects.key_space, "probe");
    let write = |key: &str, value: Option<&'static str>| KeyWrite { key: key.into(), value: value.map(Into::into) };
    assert_eq!(effects.writes, [write("a", Some("new")), write("a", None), write("b", Some("1"))]);
    let read = |key: &str, version, value: Option<&'static str>| KeyRead {
        key: Some(key.into()),
        version,
        value: value.map(Into::into),
    };
    assert_eq!(effects.reads, [read("a", 7, Some("old")), read("b", 0, None)]);
}

#[test]
fn the_first_read_of_a_key_counts() {
    let (handler, services) = probe(granted());
    services.keys.lock().unwrap().insert("a".into(), (b"1".to_vec(), 3));
    call(&handler, &keys("get a\nget a\nget a", "ok"));
    assert_eq!(services.reads.load(std::sync::atomic::Ordering::SeqCst), 1);
    // A key that was only written was not read.
    assert_eq!(call(&handler, &keys("set a 2\nget a", "ok")).1.reads, []);
}

#[test]
fn lists_have_the_call_s_own_writes_in_them() {
    let (handler, services) = probe(granted());
    for (version, key) in (1..).zip(["a", "p/1", "p/2", "p/3", "q"]) {
        services.keys.lock().unwrap().insert(key.into(), (vec![], version));
    }
    let script = "delete p/1\nset p/25 x\nset p/0 x\nset z x\nlist p/ 10\nlist p/ 3\nlist p/ 0\nlist q 5";
    let seen = said(&handler, &keys(script, ""));
    let lists: Vec<_> = seen.split("Ok(").skip(5).collect();
    assert_eq!(lists, [r#"["p/0", "p/2", "p/25", "p/3"]) "#, r#"["p/0", "p/2", "p/25"]) "#, "[]) ", r#"["q"])"#]);
    let effects = call(&handler, &keys(script, "ok")).1;
    assert_eq!(effects.reads, [KeyRead { key: None, version: 5, value: None }]);
    // What the call deleted does not use the limit up.
    assert_eq!(said(&handler, &keys("delete p/1\nlist p/ 1", "")), r#"Ok(()) Ok(["p/2"])"#);
}

#[test]
fn keys_need_their_grant_and_a_valid_name() {
    let (bare, _) = probe(spec());
    for operation in ["get k", "set k v", "delete k", "list k 1"] {
        let answer = said(&bare, &keys(operation, ""));
        assert!(answer.contains("Denied") && answer.contains("[handler.grants] keys = true"), "{answer}");
    }
    let (handler, services) = probe(granted());
    let long = "k".repeat(513);
    for bad in ["", "a\u{1}b", "a\0b", &long] {
        let answer = said(&handler, &keys(&format!("get {bad}\nset {bad} v\ndelete {bad}"), ""));
        assert_eq!(answer.matches("Invalid").count(), 3, "{bad:?}: {answer}");
    }
    assert_eq!(said(&handler, &keys(&format!("get {}", &long[1..]), "")), "Ok(None)");
    *services.broken.lock().unwrap() = Some("connection refused".into());
    let answer = said(&handler, &keys("get k\nlist k 1", ""));
    assert_eq!(answer.matches(r#"Unavailable("connection refused")"#).count(), 2, "{answer}");
}

#[test]
fn keys_are_limited() {
    let (handler, _) = probe(granted());
    assert!(said(&handler, &keys("fill k 1048576", "")).starts_with("Ok"));
    let answer = said(&handler, &keys("fill k 1048577", ""));
    assert!(answer.contains("Limit") && answer.contains("1048576"), "{answer}");
    let answer = said(&handler, &keys(&"fill k 1048000\n".repeat(5), ""));
    assert_eq!((answer.matches("Ok").count(), answer.matches("Limit").count()), (4, 1), "{answer}");
    let effects = call(&handler, &keys(&"set k v\n".repeat(1_001), "ok")).1;
    assert_eq!(effects.writes.len(), 1_000);
}

#[test]
fn a_key_larger_than_all_may_be_is_refused_at_once() {
    let grants = Grants { key_bytes: Some(10), ..everything() };
    let (handler, _) = probe(Spec { grants, ..spec() });
    let answer = said(&handler, &keys("fill ab 9\nfill ab 8", ""));
    assert!(answer.contains("Limit") && answer.contains("11 bytes") && answer.ends_with("Ok(())"), "{answer}");
    assert!(answer.contains("keys = { max_bytes = "), "{answer}");
    let effects = call(&handler, &keys("fill ab 8\nfill ac 8", "ok")).1;
    assert_eq!((effects.writes.len(), effects.key_bytes), (2, Some(10)), "together they are the bus's to count");
}

#[test]
fn config_is_what_the_operator_wrote() {
    let (bare, _) = probe(spec());
    let get = |name: &str| event("config", &[("name", name)]);
    let answer = said(&bare, &get("base"));
    assert!(answer.contains("Denied") && answer.contains("[handler.grants] config ="), "{answer}");
    let (handler, _) = probe(granted());
    assert_eq!(said(&handler, &get("base")), r#"Ok(Some("https://lms"))"#);
    assert_eq!(said(&handler, &get("other")), "Ok(None)");
    let empty = Grants { config: Some(std::collections::BTreeMap::new()), ..Grants::default() };
    let (handler, _) = probe(Spec { grants: empty, ..spec() });
    assert_eq!(said(&handler, &get("base")), "Ok(None)");
}

#[test]
fn a_call_that_fails_for_want_of_the_bus_is_no_attempt() {
    let (handler, services) = probe(Spec { grants: everything(), ..spec() });
    services.down.store(true, Ordering::SeqCst);
    for then in ["retry", ""] {
        let ran = shared().0.call(&handler, &keys("get k", then), 1, false);
        assert!(matches!(&ran, Ran::NotCalled(why) if why == "the bus is down"), "{then}: {ran:?}");
    }
    let ran = shared().0.call(&handler, &keys("get k", "ok"), 1, false);
    assert!(matches!(ran, Ran::Called { verdict: Verdict::Done, .. }), "it can do without: {ran:?}");
}
