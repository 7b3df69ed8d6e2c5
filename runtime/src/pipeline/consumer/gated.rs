//! The loop with its gate shut: paused, or while the breaker is not closed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::running::Running;
use super::scripted::{Answer, Did, Read, Scripted};
use crate::pipeline::State;

/// Long enough for hundreds of rounds of a loop that goes on.
const A_WHILE: Duration = Duration::from_millis(400);

fn new(numbers: impl IntoIterator<Item = usize>) -> Read {
    Read::New(numbers.into_iter().collect())
}

fn acked(did: &[Did]) -> Vec<usize> {
    did.iter().filter_map(|did| if let Did::Acked(number) = did { Some(*number) } else { None }).collect()
}

async fn until_state(running: &Running, state: State) {
    let end = Instant::now() + super::scripted::BOUND;
    while running.control.status()[0].state != state {
        assert!(Instant::now() < end, "not {state:?}: {:?}", running.control.status());
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn paused_nothing_is_called_whatever_waits() {
    // 0 holds its lane up; 1 waits behind it; 2 falls due; 3 was left behind; 4 is new.
    let bus = Scripted::new(&["ok", "ok", "retry", "ok", "ok"], [new([0, 1, 2])]);
    bus.answer(0, [Answer::Down; 1_000]);
    let running = Running::start(&bus, "order = \"key\"\nkey = \"/key\"\nretry_first = \"150ms\"\nmax_attempts = 2");
    bus.until("2 waits for its retry", |did| did.contains(&Did::Retried(2, 1, "retry".into()))).await;
    // 0 and 3 have the same key, and so have 1 and 4.
    bus.until("1 is done", |did| did.contains(&Did::Acked(1))).await;
    running.control.pause(None).unwrap();
    until_state(&running, State::Paused).await;
    bus.read([new([3]), Read::Inherited(4, 0)]);
    bus.answer(0, []);
    bus.until("what was under way is settled", |did| did.contains(&Did::Acked(0))).await;
    sleep(A_WHILE).await;
    assert_eq!(acked(&bus.did()), [1, 0], "{:?}", bus.did());
    assert!(!bus.did().contains(&Did::Begun(4)), "no attempt is recorded either");
    running.control.resume(None).unwrap();
    bus.until("all run", |did| acked(did).len() == 4 && did.contains(&Did::Buried(2, "retry".into()))).await;
    running.drain().await;
}

#[tokio::test]
async fn a_lane_that_is_released_while_paused_waits() {
    let bus = Scripted::new(&["ok"; 3], [new(0..3)]);
    bus.answer(0, [Answer::Down; 1_000]);
    let running = Running::start(&bus, "order = \"topic\"");
    bus.until("the first has run", |did| !did.is_empty()).await;
    running.control.pause(None).unwrap();
    until_state(&running, State::Paused).await;
    bus.answer(0, []);
    bus.until("it is settled", |did| did.contains(&Did::Acked(0))).await;
    sleep(A_WHILE).await;
    assert_eq!(acked(&bus.did()), [0]);
    running.control.resume(None).unwrap();
    bus.until("the others follow", |did| acked(did) == [0, 1, 2]).await;
    running.drain().await;
}

#[tokio::test]
async fn a_breaker_that_is_open_lets_one_event_at_a_time_through_and_gives_back_at_the_end() {
    let bus = Scripted::new(&["retry"; 64], [new(0..4)]);
    let breaker = "max_attempts = 1\n[handler.breaker]\nfailures = 4\npause_first = \"150ms\"\npause_max = \"300ms\"";
    let running = Running::start(&bus, breaker);
    let failed = |did: &[Did]| did.iter().filter(|did| matches!(did, Did::Retried(..) | Did::Buried(..))).count();
    until_state(&running, State::BreakerOpen).await;
    bus.read([new(4..64)]);
    bus.until("what opened it is settled", |did| failed(did) >= 4).await;
    let (before, since) = (failed(&bus.did()), Instant::now());
    sleep(Duration::from_millis(1_500)).await;
    let (probes, passed) = (failed(&bus.did()) - before, since.elapsed());
    // One after 150 ms, and then one in 240 to 300 ms.
    let most = passed.as_millis() as usize / 200 + 2;
    assert!((1..=most).contains(&probes), "{probes} probes in {passed:?}");
    let (tally, did) = running.drain().await;
    let buried = did.iter().filter(|did| matches!(did, Did::Buried(..))).count();
    assert_eq!(buried, 3, "the fourth opened it, and from then on none is given up: {did:?}");
    assert!(did.iter().all(|did| !matches!(did, Did::Retried(_, attempts, _) if *attempts > 0)), "none is counted");
    assert_eq!(tally.dead, 3);
}

#[tokio::test]
async fn a_probe_that_succeeds_closes_it_and_one_that_is_rejected_says_nothing() {
    let kinds = ["retry", "retry", "reject", "reject", "ok", "ok", "ok"];
    let bus = Scripted::new(&kinds, [new(0..2)]);
    let breaker = "retry_first = \"1m\"\n[handler.breaker]\nfailures = 2\npause_first = \"200ms\"";
    let running = Running::start(&bus, breaker);
    until_state(&running, State::BreakerOpen).await;
    bus.read([new(2..7)]);
    bus.until("all run", |did| acked(did) == [4, 5, 6]).await;
    until_state(&running, State::Running).await;
    let (tally, did) = running.drain().await;
    assert_eq!((tally.dead, tally.retried), (2, 2), "a rejection is a dead letter as ever: {did:?}");
}

#[tokio::test]
async fn effects_that_are_refused_open_it() {
    let bus = Scripted::new(&["ok"; 3], [new(0..2)]);
    (0..2).for_each(|n| bus.answer(n, [Answer::Refused]));
    let breaker = "retry_first = \"1m\"\n[handler.breaker]\nfailures = 2\npause_first = \"5m\"\npause_max = \"5m\"";
    let running = Running::start(&bus, breaker);
    until_state(&running, State::BreakerOpen).await;
    bus.read([new([2])]);
    sleep(A_WHILE).await;
    let (_, did) = running.drain().await;
    assert!(acked(&did).is_empty(), "{did:?}");
}

#[tokio::test]
async fn trouble_of_the_buss_own_opens_nothing() {
    let bus = Scripted::new(&["ok"; 20], (0..20).flat_map(|n| [Read::Fails, new([n])]));
    (0..20).for_each(|n| bus.answer(n, [Answer::Down, Answer::Conflict]));
    let running = Running::start(&bus, "[handler.breaker]\nfailures = 1");
    bus.until("all run", |did| acked(did).len() == 20).await;
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.retried, tally.dead), (20, 0, 0));
}

#[tokio::test]
async fn what_waits_for_a_worker_comes_back_when_it_opens() {
    let bus = Scripted::new(&["spin"; 64], [new(0..64)]);
    let settings =
        "[handler.limits]\ntime = \"300ms\"\n[handler.breaker]\nfailures = 2\npause_first = \"5m\"\npause_max = \"5m\"";
    let running = Running::start(&bus, settings);
    until_state(&running, State::BreakerOpen).await;
    sleep(Duration::from_secs(2)).await;
    let (_, did) = running.drain().await;
    let called = did.iter().filter(|did| matches!(did, Did::Retried(..))).count();
    let returned = did.iter().filter(|did| matches!(did, Did::Returned(_))).count();
    assert!((2..32).contains(&called), "{called} were called");
    assert_eq!(called + returned, 64, "{did:?}");
}

#[tokio::test]
async fn the_probe_waits_for_calls_that_were_under_way() {
    let bus = Scripted::new(&["spin", "retry", "retry", "ok"], [new(0..3)]);
    let settings = "retry_first = \"1m\"\n[handler.limits]\ntime = \"1s\"\n[handler.breaker]\nfailures = 2\npause_first = \"50ms\"";
    let running = Running::start(&bus, settings);
    until_state(&running, State::BreakerOpen).await;
    bus.read([new([3])]);
    bus.until("the probe runs", |did| did.contains(&Did::Acked(3))).await;
    let (_, did) = running.drain().await;
    let slow = did.iter().position(|did| matches!(did, Did::Retried(0, ..)));
    let probe = did.iter().position(|did| *did == Did::Acked(3));
    assert!(slow < probe && slow.is_some(), "one call, and no other: {did:?}");
}

#[tokio::test]
async fn the_bus_is_told_of_a_new_state_long_before_the_next_renewal() {
    let bus = Scripted::new(&[], []);
    let running = Running::start(&bus, "lease = \"10m\"");
    let renewed = async |count: usize| {
        bus.until("it is told", |_| bus.renewals() >= count).await;
    };
    renewed(1).await;
    sleep(A_WHILE).await;
    assert_eq!(bus.renewals(), 1, "while nothing changes the next one is minutes away");
    running.control.pause(None).unwrap();
    renewed(2).await;
    running.control.resume(None).unwrap();
    renewed(3).await;
    running.drain().await;
}

#[tokio::test]
async fn what_is_released_while_the_probe_runs_waits_for_its_end() {
    // 3 waits behind 0, which has run and whose settlement is stuck; 1 opens the breaker; 2 is the probe.
    let bus = Scripted::new(&["ok", "retry", "spin", "ok"], [new([0, 1, 3])]);
    bus.answer(0, [Answer::Down; 1_000]);
    let settings = "order = \"key\"\nkey = \"/key\"\nretry_first = \"1m\"\n[handler.limits]\ntime = \"4s\"\n\
                    [handler.breaker]\nfailures = 1\npause_first = \"100ms\"";
    let running = Running::start(&bus, settings);
    until_state(&running, State::BreakerOpen).await;
    bus.read([new([2])]);
    until_state(&running, State::BreakerHalfOpen).await;
    sleep(A_WHILE).await;
    bus.answer(0, []);
    bus.until("its settlement is taken", |did| did.contains(&Did::Acked(0))).await;
    bus.until("its follower runs", |did| did.contains(&Did::Acked(3))).await;
    let (_, did) = running.drain().await;
    let probe = did.iter().position(|did| matches!(did, Did::Retried(2, ..)));
    let follower = did.iter().position(|did| *did == Did::Acked(3));
    assert!(probe.is_some() && probe < follower, "{did:?}");
}
