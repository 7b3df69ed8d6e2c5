//! The loop against a bus that answers as it should not.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;

use super::Version;
use super::running::{Running, another};
use super::scripted::{Answer, BOUND, By, Did, Read, Scripted};
use crate::event::{Lane, code};
use crate::pipeline::Stopped;

/// Long enough for hundreds of rounds of a loop that does not pause.
const A_WHILE: Duration = Duration::from_millis(400);

fn new(numbers: impl IntoIterator<Item = usize>) -> Read {
    Read::New(numbers.into_iter().collect())
}

#[tokio::test]
async fn a_settlement_that_fails_for_ever_holds_up_no_other_and_is_given_back_at_the_end() {
    let bus = Scripted::new(&["ok"; 40], (0..40).map(|n| new([n])));
    bus.answer(0, [Answer::WrongType; 1_000]);
    let running = Running::start(&bus, "");
    bus.until("all others are settled", |did| did.len() >= 39 && did.contains(&Did::Acked(39))).await;
    sleep(A_WHILE).await;
    let sent = bus.answered(0);
    assert!((2..=12).contains(&sent), "sent {sent} times: again, and not without a pause");
    let (tally, did) = running.drain().await;
    assert_eq!(tally.acked, 39);
    assert_eq!(did.last(), Some(&Did::Returned(0)));
}

#[tokio::test]
async fn a_settlement_that_the_bus_did_not_take_is_sent_again() {
    let bus = Scripted::new(&["ok", "reject", "retry"], [new(0..3)]);
    (0..3).for_each(|n| bus.answer(n, [Answer::Down; 2]));
    let running = Running::start(&bus, "max_attempts = 1");
    bus.until("all are settled", |did| did.iter().filter(|did| !matches!(did, Did::Answered(_))).count() == 3).await;
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.dead), (1, 2));
}

#[tokio::test]
async fn refused_effects_are_a_retry_and_a_refused_dead_letter_does_not_go_round() {
    let bus = Scripted::new(&["ok", "reject"], [new(0..2)]);
    bus.answer(0, [Answer::Refused]);
    bus.answer(1, [Answer::Refused; 1_000]);
    let running = Running::start(&bus, "");
    bus.until("the refused is retried", |did| did.contains(&Did::Acked(0))).await;
    sleep(A_WHILE).await;
    assert!(bus.answered(1) <= 12, "sent {} times", bus.answered(1));
    bus.answer(1, []);
    let (_, did) = running.drain().await;
    assert!(did.contains(&Did::Retried(0, 1, code::EFFECTS_REFUSED.into())), "{did:?}");
}

#[tokio::test]
async fn a_conflict_runs_again_uncounted_with_a_pause() {
    let bus = Scripted::new(&["ok", "retry"], [new(0..2)]);
    bus.answer(0, [Answer::Conflict; 1_000]);
    bus.answer(1, [Answer::Conflict; 2]);
    let running = Running::start(&bus, "max_attempts = 2");
    bus.until("the other is buried", |did| matches!(did.last(), Some(Did::Buried(..)))).await;
    let runs = bus.answered(0);
    sleep(A_WHILE).await;
    assert!((1..=10).contains(&(bus.answered(0) - runs)), "{} runs", bus.answered(0));
    let (tally, did) = running.drain().await;
    assert_eq!((tally.retried, tally.dead), (1, 1), "{did:?}");
}

#[tokio::test]
async fn retries_are_read_while_too_much_is_held_back() {
    let bus = Scripted::new(&["retry", "ok", "ok", "ok", "ok"], [new(0..4), new(4..5)]);
    let running = Running::start(&bus, "order = \"topic\"\nparked_max = 3\nmax_attempts = 3");
    bus.until("all run", |did| did.contains(&Did::Acked(4))).await;
    let (_, did) = running.drain().await;
    let order: Vec<_> = did.iter().filter(|did| !matches!(did, Did::Retried(..))).collect();
    let buried = Did::Buried(0, "retry".into());
    assert_eq!(order, [&buried, &Did::Acked(1), &Did::Acked(2), &Did::Acked(3), &Did::Acked(4)]);
}

#[tokio::test]
async fn nothing_new_is_read_while_too_much_is_held_back() {
    let bus = Scripted::new(&["retry", "ok", "ok", "ok", "ok"], [new(0..4), new(4..5)]);
    let running = Running::start(&bus, "order = \"topic\"\nparked_max = 3\nretry_first = \"1m\"");
    bus.until("the first waits", |did| !did.is_empty()).await;
    sleep(A_WHILE).await;
    let (_, did) = running.drain().await;
    assert!(!did.contains(&Did::Returned(4)), "{did:?}");
    assert!(did.contains(&Did::Returned(3)), "{did:?}");
}

#[tokio::test]
async fn a_retry_whose_type_is_no_longer_wanted_blocks_no_lane() {
    let bus = Scripted::new(&["other", "ok"], [Read::Gained(vec![0], By::Topic), Read::Inherited(0, 0), new([1])]);
    let running = Running::start(&bus, "order = \"topic\"\ntypes = [\"ok\"]");
    bus.until("the next runs", |did| did.contains(&Did::Acked(1))).await;
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.skipped), (1, 1));
}

#[tokio::test]
async fn a_lane_goes_on_when_its_first_is_lost_and_passes_over_what_is_lost_behind_it() {
    let bus = Scripted::new(&["busy", "ok", "ok", "ok"], []);
    bus.answer(0, [Answer::Down, Answer::Down, Answer::Down, Answer::Lost]);
    let running = Running::start(&bus, "order = \"topic\"\nlease = \"1s\"");
    bus.read([new(0..4)]);
    bus.until("the first has run", |did| !did.is_empty()).await;
    bus.lose(1);
    let before = bus.renewals();
    bus.until("it is renewed", |_| bus.renewals() > before).await;
    bus.until("the lane goes on", |did| did.contains(&Did::Acked(3))).await;
    let (tally, did) = running.drain().await;
    assert_eq!((tally.acked, tally.lost), (2, 1), "{did:?}");
}

#[tokio::test]
async fn a_new_turn_forgets_what_waits_and_keeps_the_order_of_what_comes_again() {
    let bus = Scripted::new(&["retry", "ok", "ok"], [new(0..3)]);
    let running = Running::start(&bus, "order = \"topic\"\nmax_attempts = 2");
    bus.answer(0, [Answer::Down; 3]);
    bus.until("the first has run", |did| !did.is_empty()).await;
    bus.read([Read::Lost, Read::Lost, Read::Gained(vec![], By::Topic), new(0..3)]);
    bus.until("all run", |did| did.contains(&Did::Acked(2))).await;
    let (tally, did) = running.drain().await;
    let settled: Vec<_> = did.iter().filter(|did| matches!(did, Did::Acked(_) | Did::Buried(..))).collect();
    assert_eq!(settled, [&Did::Buried(0, "retry".into()), &Did::Acked(1), &Did::Acked(2)], "{did:?}");
    assert_eq!(tally.lost, 1, "what ran in the turn before");
}

#[tokio::test]
async fn what_waits_for_a_retry_when_a_slice_comes_is_not_overtaken() {
    let bus = Scripted::new(&["ok"; 3], [Read::Gained(vec![0], By::Topic), new(1..3)]);
    let running = Running::start(&bus, "order = \"topic\"");
    sleep(A_WHILE).await;
    assert_eq!(bus.did(), [], "0 comes first");
    bus.read([new([0])]);
    bus.until("all run", |did| did.contains(&Did::Acked(2))).await;
    let (_, did) = running.drain().await;
    assert_eq!(did, [Did::Acked(0), Did::Acked(1), Did::Acked(2)]);
}

#[tokio::test]
async fn what_has_not_started_goes_back_when_others_want_its_slice() {
    let bus = Scripted::new(&["retry", "ok", "ok"], [new(0..3)]);
    let running = Running::start(&bus, "order = \"topic\"\nretry_first = \"1m\"");
    bus.until("the first has failed", |did| !did.is_empty()).await;
    bus.read([Read::Wanted]);
    bus.until("the others go back", |did| did.contains(&Did::Returned(1)) && did.contains(&Did::Returned(2))).await;
    sleep(A_WHILE).await;
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.retried), (0, 1), "they come again here, and still wait for the first");
}

#[tokio::test]
async fn a_retry_names_the_lane_that_waits_for_it() {
    let bus = Scripted::new(&["retry", "retry"], [new(0..2)]);
    let running = Running::start(&bus, "order = \"key\"\nkey = \"/key\"\nretry_first = \"1m\"");
    bus.until("both wait", |did| did.len() == 2).await;
    let lanes = [b"0", b"1"].map(|key| Some(Lane::of("in", key)));
    assert_eq!(bus.lanes(), lanes);
    running.drain().await;
}

#[tokio::test]
async fn the_inherited_run_one_at_a_time_once_they_are_recorded() {
    let reads = (0..4).map(|n| Read::Inherited(n, u32::from(n == 3) * 5));
    let bus = Scripted::new(&["ok"; 4], reads);
    bus.begins([Err(()), Err(()), Ok(true), Ok(false)]);
    let running = Running::start(&bus, "max_attempts = 5");
    bus.until("all are settled", |did| did.contains(&Did::Acked(2)) && did.len() >= 5).await;
    let (_, did) = running.drain().await;
    let ours: Vec<_> = did.iter().filter(|did| !matches!(did, Did::Buried(..))).collect();
    assert_eq!(ours, [&Did::Begun(0), &Did::Acked(0), &Did::Begun(2), &Did::Acked(2)], "1 is another's");
    assert!(did.contains(&Did::Buried(3, code::HOST_DEATH.into())));
}

#[tokio::test]
async fn an_attempt_that_was_recorded_and_not_started_is_taken_back() {
    let bus = Scripted::new(&["ok"; 2], []);
    let running = Running::start(&bus, "");
    running.shared.workers.shutdown();
    bus.read([Read::Inherited(0, 2), new([1])]);
    bus.until("it is recorded", |did| did.contains(&Did::Begun(0))).await;
    sleep(A_WHILE).await;
    assert_eq!(bus.did(), [Did::Begun(0)], "what cannot be called stays in hand");
    let (tally, did) = running.drain().await;
    assert!(did.contains(&Did::Retried(0, 2, String::new())) && did.contains(&Did::Returned(1)), "{did:?}");
    assert_eq!((tally.retried, tally.acked), (0, 0));
}

#[tokio::test]
async fn failures_count_only_in_a_row() {
    let reads = (0..6).flat_map(|n| [Read::Fails, new([n])]);
    let bus = Scripted::new(&["other"; 6], reads);
    let limit = "consecutive_errors_limit = 3\n---types = [\"ok\"]";
    let mut running = Running::start(&bus, limit);
    bus.until("all are skipped", |did| did.contains(&Did::Acked(5))).await;
    assert!(running.stopped.try_recv().is_err(), "each failure was over");
    bus.read([Read::Fails, Read::Fails, Read::Fails]);
    let stopped = tokio::time::timeout(BOUND, running.stopped.recv()).await.unwrap();
    assert_eq!(stopped, Some(Stopped::ConsecutiveErrors { handler: "probe".into(), count: 3 }));
    running.drain().await;
}

#[tokio::test]
async fn leases_are_renewed_while_calls_run_and_settlements_wait() {
    let bus = Scripted::new(&["ok"], [new([0])]);
    bus.answer(0, [Answer::Down; 1_000]);
    let running = Running::start(&bus, "lease = \"1s\"");
    sleep(Duration::from_millis(1_500)).await;
    assert!(bus.renewals() >= 3, "{} renewals in 1.5 leases", bus.renewals());
    bus.answer(0, []);
    running.drain().await;
}

#[tokio::test]
async fn another_version_gets_the_next_call_and_a_dead_letter_names_the_one_that_failed() {
    let bus = Scripted::new(&["reject", "ok", "reject"], [new([0])]);
    // Its settlement is stuck while the next version comes.
    bus.answer(0, [Answer::Down; 3]);
    let running = Running::start(&bus, "");
    bus.until("the first has run", |did| did.contains(&Did::Answered(0))).await;
    let (old, other) = (running.first.clone(), another(&running.first.handler));
    assert!(running.serve.send(other.clone()).is_ok());
    // Both at once could be taken in either order.
    sleep(Duration::from_millis(20)).await;
    bus.read([new([1, 2])]);
    bus.until("all are settled", |did| did.iter().filter(|did| !matches!(did, Did::Answered(_))).count() == 3).await;
    let digest = |version: &Version| version.handler.module().digest().to_owned();
    assert_ne!(digest(&old), digest(&other));
    assert_eq!(bus.modules(), [digest(&old), digest(&other)]);
    assert_eq!((old.calls.read(), other.calls.read()), ((1, 1), (2, 1)));
    running.drain().await;
}

#[tokio::test]
async fn versions_that_come_while_calls_wait_lose_none_and_the_gate_shuts_all_of_them() {
    let bus = Scripted::new(&["ok"; 400], [new(0..200)]);
    let running = Running::start(&bus, "in_flight = 400");
    let mut newest = running.first.clone();
    for n in 0..10 {
        newest = another(&newest.handler);
        assert!(running.serve.send(newest.clone()).is_ok());
        if n % 3 == 1 {
            running.control.pause(None).unwrap();
            sleep(Duration::from_millis(5)).await;
            running.control.resume(None).unwrap();
        }
    }
    bus.read([new(200..400)]);
    bus.until("all are handled", |did| did.len() >= 400).await;
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.retried, tally.dead), (400, 0, 0));
    assert!(newest.calls.read().0 >= 200, "what came last went to the last");
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![Just(Answer::Lost), Just(Answer::Conflict), Just(Answer::Refused), Just(Answer::Down),];
    proptest::collection::vec(answer, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the bus answers and whenever the drain comes: the loop ends, no count underflows, and everything in
    /// hand is settled, lost or given back (the scripted bus looks when it is left).
    #[test]
    fn nothing_stays_in_hand(
        kinds in proptest::collection::vec(0_usize..5, 1..24),
        scripts in proptest::collection::vec(answers(), 24),
        ways in proptest::collection::vec(0_u8..8, 24),
        begins in proptest::collection::vec(prop_oneof![Just(Ok(true)), Just(Ok(false)), Just(Err(()))], 6),
        order in 0_usize..3,
        in_flight in 1_usize..6,
        drain_after in 0_u64..120,
        breaker in 0_usize..3,
        pauses in proptest::collection::vec(0_u64..30, 0..5),
    ) {
        let kinds: Vec<&str> = kinds.into_iter().map(|kind| ["ok", "retry", "reject", "other", ""][kind]).collect();
        let mut reads = Vec::new();
        for (n, way) in (0..kinds.len()).zip(ways) {
            match way {
                0 => reads.push(Read::Inherited(n, 0)),
                1 => reads.push(Read::Inherited(n, 9)),
                2 => reads.extend([Read::Fails, new([n])]),
                3 if order > 0 => reads.extend([[Read::Lost, Read::Wanted][n % 2].clone(), Read::Gained((0..n).collect(), if order == 1 { By::Topic } else { By::Key }), new([n])]),
                _ => match reads.last_mut() {
                    Some(Read::New(some)) if way > 5 => some.push(n),
                    _ => reads.push(new([n])),
                },
            }
        }
        let bus = Scripted::new(&kinds, reads);
        (0..kinds.len()).zip(scripts).for_each(|(n, script)| bus.answer(n, script));
        bus.begins(begins);
        let order = ["", "order = \"topic\"", "order = \"key\"\nkey = \"/key\""][order];
        let breaker = ["breaker = false", "[handler.breaker]\nfailures = 1\npause_first = \"5ms\"\npause_max = \"20ms\"",
            "[handler.breaker]\nfailures = 3\npause_first = \"1ms\""][breaker];
        let settings = format!("{order}\nin_flight = {in_flight}\nparked_max = 4\nmax_attempts = 2\ntypes = [\"ok\", \"re*\"]\n{breaker}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let running = Running::start(&bus, &settings);
            for (n, pause) in pauses.into_iter().enumerate() {
                sleep(Duration::from_millis(pause)).await;
                if n % 2 == 0 { running.control.pause(None).unwrap() } else { running.control.resume(None).unwrap() }
            }
            sleep(Duration::from_millis(drain_after)).await;
            running.drain().await;
        });
    }
}
