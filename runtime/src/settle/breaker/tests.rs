//! The breaker on a virtual clock.

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);

fn settings(failures: u32) -> Settings {
    Settings { failures, pause_first: FIRST, pause_max: MAX }
}

fn key(n: u32) -> EventKey {
    ("t".into(), n.to_string().into())
}

fn open(failures: u32, now: Instant) -> Breaker {
    let mut breaker = Breaker::new(Some(settings(failures)));
    for n in 0..failures {
        breaker.failure(key(n), false, now, 0.5);
    }
    assert!(!breaker.is_closed());
    breaker
}

fn retry() -> Verdict {
    Verdict::Retry { code: "c".into(), reason: "r".into(), after: None }
}

#[test]
fn one_event_that_fails_for_ever_is_no_outage() {
    let now = Instant::now();
    let mut breaker = Breaker::new(Some(settings(3)));
    for _ in 0..100 {
        assert_eq!(breaker.failure(key(1), false, now, 0.5), None);
    }
    assert_eq!(breaker.failure(key(2), false, now, 0.5), None);
    assert_eq!(breaker.failure(key(3), false, now, 0.5), Some(FIRST));
    assert_eq!(breaker.admits(now), Admission::Nothing(now + FIRST));
}

#[test]
fn without_settings_it_never_opens() {
    let mut breaker = Breaker::new(None);
    for n in 0..10_000 {
        assert_eq!(breaker.failure(key(n), false, Instant::now(), 0.5), None);
    }
    assert_eq!(breaker.admits(Instant::now()), Admission::All);
}

#[test]
fn pauses_double_with_every_failed_probe_up_to_the_cap() {
    let mut now = Instant::now();
    let mut breaker = open(2, now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let Admission::Nothing(until) = breaker.admits(now) else { panic!("not open") };
        pauses.push((until - now).as_secs());
        now = until;
        assert_eq!(breaker.admits(now), Admission::Probe);
        breaker.probe();
        assert_eq!(breaker.admits(now), Admission::Probing);
        assert!(breaker.failure(key(9), true, now, 0.5).is_some());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn while_it_is_not_closed_the_last_attempt_is_kept() {
    let (now, at) = (Instant::now(), SystemTime::UNIX_EPOCH + MAX);
    let policy = Policy { max_attempts: 3, first: FIRST, max: MAX };
    let attempt = |number| Attempt { handler: "h", module: "m", number, at, dice: 0.5 };
    let breaker = open(2, now);
    let Settlement::Retry(entry) = breaker.decide(retry(), Effects::default(), &attempt(3), &policy, now) else {
        panic!("given up during an outage");
    };
    assert_eq!((entry.attempts, entry.due), (2, at + FIRST), "its last attempt is still to come, after the pause");
    let Settlement::Retry(entry) = breaker.decide(retry(), Effects::default(), &attempt(1), &policy, now) else {
        panic!("given up at once");
    };
    assert_eq!(entry.attempts, 1, "an attempt that is not the last counts");
    let reject = Verdict::Reject { code: "c".into(), reason: "r".into() };
    let rejected = breaker.decide(reject, Effects::default(), &attempt(1), &policy, now);
    assert!(matches!(rejected, Settlement::Dead(_)), "the handler's own verdict stands");
    let closed = Breaker::new(Some(settings(2)));
    let given_up = closed.decide(retry(), Effects::default(), &attempt(3), &policy, now);
    assert!(matches!(given_up, Settlement::Dead(_)), "without an outage it is poison");
}

/// What happens next to a host with some calls under way.
#[derive(Clone, Debug)]
enum Step {
    Start(u32),
    /// The oldest call under way ends.
    End(End),
    Pass(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    Void,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![1 => Just(End::Success), 6 => Just(End::Failure), 1 => Just(End::Void)];
    let step = prop_oneof![
        4 => (0_u32..12).prop_map(Step::Start),
        4 => end.prop_map(Step::End),
        1 => (0_u64..90_000).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..400)
}

proptest! {
    /// Against a model that is told the same: never two probes at once, open exactly at the threshold, pauses grow and
    /// are capped, a probe that succeeds always closes, and time alone always leads to a probe.
    #[test]
    fn it_keeps_its_word_whatever_happens(failures in 1_u32..6, steps in steps(), dice in 0.0..1.0_f64) {
        let mut breaker = Breaker::new(Some(settings(failures)));
        let mut now = Instant::now();
        let mut calls: Vec<(u32, bool)> = Vec::new();
        let (mut row, mut last_pause) = (HashSet::new(), Duration::ZERO);
        for step in steps {
            let admission = breaker.admits(now);
            prop_assert!(calls.iter().filter(|(_, probe)| *probe).count() <= 1, "two probes at once");
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Start(event) => match admission {
                    Admission::All => calls.push((event, false)),
                    Admission::Probe => {
                        breaker.probe();
                        prop_assert_eq!(breaker.admits(now), Admission::Probing);
                        calls.push((event, true));
                    }
                    Admission::Probing => prop_assert!(calls.iter().any(|(_, probe)| *probe), "waits for nobody"),
                    Admission::Nothing(until) => prop_assert!(until > now && until - now <= MAX),
                },
                Step::End(_) if calls.is_empty() => {}
                Step::End(end) => {
                    let (event, probe) = calls.remove(0);
                    let was_closed = breaker.is_closed();
                    match end {
                        End::Success => {
                            prop_assert_eq!(breaker.success(probe), probe);
                            prop_assert_eq!(breaker.is_closed(), was_closed || probe);
                            if was_closed || probe {
                                row.clear();
                            }
                        }
                        End::Void if probe => breaker.probe_is_void(),
                        End::Void => prop_assert_eq!(breaker.is_closed(), was_closed),
                        End::Failure => {
                            let opened = breaker.failure(key(event), probe, now, dice);
                            if was_closed {
                                row.insert(event);
                                let enough = row.len() as u32 >= failures;
                                prop_assert_eq!(opened.is_some(), enough, "{} in a row", row.len());
                                last_pause = Duration::ZERO;
                            } else {
                                prop_assert_eq!(opened.is_some(), probe, "only the probe counts");
                            }
                            if let Some(pause) = opened {
                                row.clear();
                                prop_assert!(pause <= MAX);
                                prop_assert!(pause > last_pause || pause >= MAX.mul_f64(1.0 - JITTER), "{pause:?} after {last_pause:?}");
                                prop_assert_eq!(breaker.admits(now), Admission::Nothing(now + pause));
                                last_pause = pause;
                            }
                        }
                    }
                }
            }
        }
        // Never stuck: without a probe under way, the longest pause is enough for one.
        if !calls.iter().any(|(_, probe)| *probe) {
            prop_assert!(matches!(breaker.admits(now + MAX), Admission::All | Admission::Probe));
        }
    }
}
