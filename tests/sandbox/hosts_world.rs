//! With the grants `clock` and `random` a guest sees the host's time and numbers, and whatever waits ends with its call.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandbar::event::{Event, Verdict, code};
use sandbar::sandbox::{Grants, Limits, Spec};

use super::support::{bounded, call, event, probe, retried, said, spec};

fn clock() -> Spec {
    Spec { grants: Grants { clock: true, ..Grants::default() }, ..spec() }
}

fn first(kind: &str) -> Event {
    Event { first: "1-0".into(), ..event(kind, &[]) }
}

#[test]
fn a_granted_clock_is_the_hosts() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let world = said(&probe(clock()).0, &event("world", &[]));
    let wall = world.split_once("wall Ok(").and_then(|(_, rest)| rest.split(')').next()).unwrap();
    let wall: u64 = wall.parse().unwrap();
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((before..=after).contains(&wall), "{before} {wall} {after}");
}

#[test]
fn a_granted_sleep_lasts() {
    let (handler, _) = probe(clock());
    let started = Instant::now();
    let passed: u64 = said(&handler, &event("sleep", &[("ms", "120")])).parse().unwrap();
    assert!(passed >= 120 && started.elapsed() >= Duration::from_millis(120), "{passed} {:?}", started.elapsed());
    assert_eq!(call(&handler, &event("wait", &[])).0, Verdict::Done);
}

#[test]
fn a_sleep_ends_with_its_call() {
    let limits = Limits { time: Duration::from_millis(150), ..Limits::default() };
    let (handler, _) = probe(Spec { limits, ..clock() });
    let started = Instant::now();
    let (code, reason) = bounded(move || retried(call(&handler, &event("sleep", &[("ms", "3600000")])).0));
    assert_eq!(code, code::TIME_LIMIT, "{reason}");
    assert!(started.elapsed() >= Duration::from_millis(150), "it had so long");
}

#[test]
fn granted_random_numbers_are_the_systems() {
    let random = Spec { grants: Grants { random: true, ..Grants::default() }, ..spec() };
    let drawn = |spec: Spec| said(&probe(spec).0, &first("random"));
    assert_ne!(drawn(random.clone()), drawn(random));
    assert_eq!(drawn(clock()), drawn(spec()), "time alone changes nothing of them");
}
