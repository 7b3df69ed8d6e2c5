//! Where a RETRY or a DEAD LETTER is decided: verdict, attempts and policy in, settlement out. Pure.

use std::time::{Duration, SystemTime};

use crate::event::{Cause, Effects, RetryEntry, Settlement, Verdict, code};

mod breaker;
pub mod compare;

pub use breaker::{Admission, Breaker, EventKey, Settings as BreakerSettings};

/// How often and how soon a handler's failures are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Calls before a failure becomes a dead letter; at least 1.
    pub max_attempts: u32,
    /// Wait after the first failure; each further wait is twice the one before.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

/// One call, as far as its settlement depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The handler's name.
    pub handler: &'a str,
    /// SHA-256 of the module that was called, in hex.
    pub module: &'a str,
    /// Calls started for this event, this one included.
    pub number: u32,
    /// When the call ended.
    pub at: SystemTime,
    /// A number in `0.0..1.0`, fresh for each call: spreads retries that failed together.
    pub dice: f64,
}

/// Waits are spread by this much to either side, so that events that failed together do not come back together.
const JITTER: f64 = 0.2;

/// What becomes of a delivery whose handler was called.
#[must_use]
pub fn decide(verdict: Verdict, effects: Effects, attempt: &Attempt<'_>, policy: &Policy) -> Settlement {
    match verdict {
        Verdict::Done => Settlement::Ack(effects),
        Verdict::Reject { code, reason } => Settlement::Dead(cause(code, reason, attempt)),
        Verdict::Retry { code, reason, .. } if attempt.number >= policy.max_attempts => {
            Settlement::Dead(cause(code, reason, attempt))
        }
        Verdict::Retry { code, reason, after } => {
            let wait = after.unwrap_or_else(|| backoff(policy, attempt.number, attempt.dice));
            // A wait that no clock can express is as good as the longest one.
            let due = attempt.at.checked_add(wait).unwrap_or(attempt.at + policy.max);
            Settlement::Retry(RetryEntry { attempts: attempt.number, due, code, reason, lane: None })
        }
    }
}

/// What becomes of a delivery that no handler can be called with: its headers or data cannot be read.
#[must_use]
pub fn unreadable(code: &str, reason: String, attempt: &Attempt<'_>) -> Settlement {
    Settlement::Dead(cause(code.to_owned(), reason, attempt))
}

/// What becomes of a delivery that was inherited from hosts that died with it in hand, if it is one too many.
///
/// Attempts of such a delivery were recorded before each call and never settled, so the host did not survive them.
#[must_use]
pub fn quarantine(attempt: &Attempt<'_>, policy: &Policy) -> Option<Settlement> {
    (attempt.number > policy.max_attempts).then(|| {
        let deaths = attempt.number - 1;
        let reason = format!("the host died or lost this event during each of {deaths} calls");
        Settlement::Dead(cause(code::HOST_DEATH.to_owned(), reason, &Attempt { number: deaths, ..*attempt }))
    })
}

/// The wait after failure `number`: exponential, capped, spread.
fn backoff(policy: &Policy, number: u32, dice: f64) -> Duration {
    // 2^31 of anything is beyond every cap.
    let doublings = number.saturating_sub(1).min(31);
    let wait = policy.first.checked_mul(1 << doublings).unwrap_or(policy.max).min(policy.max);
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * dice.clamp(0.0, 1.0)).min(policy.max)
}

fn cause(code: String, reason: String, attempt: &Attempt<'_>) -> Cause {
    Cause {
        code,
        reason,
        attempts: attempt.number,
        handler: attempt.handler.to_owned(),
        module: attempt.module.to_owned(),
        at: attempt.at,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::from_unix_millis;

    fn attempt(number: u32) -> Attempt<'static> {
        Attempt { handler: "h", module: "m", number, at: from_unix_millis(1_000_000), dice: 0.5 }
    }

    fn policy() -> Policy {
        Policy { max_attempts: 5, first: Duration::from_secs(1), max: Duration::from_secs(300) }
    }

    fn retry(after: Option<Duration>) -> Verdict {
        Verdict::Retry { code: "c".into(), reason: "r".into(), after }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u64> = (1..12).map(|number| backoff(&policy(), number, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn the_handlers_own_wish_overrides_the_backoff() {
        let wish = Duration::from_secs(3600);
        let Settlement::Retry(entry) = decide(retry(Some(wish)), Effects::default(), &attempt(1), &policy()) else {
            panic!("not a retry");
        };
        assert_eq!(entry.due, attempt(1).at + wish);
        assert_eq!(entry.attempts, 1);
    }

    #[test]
    fn the_last_attempt_becomes_a_dead_letter_even_if_the_handler_names_a_wait() {
        let after = Some(Duration::from_secs(1));
        assert!(matches!(decide(retry(after), Effects::default(), &attempt(4), &policy()), Settlement::Retry(_)));
        let Settlement::Dead(cause) = decide(retry(after), Effects::default(), &attempt(5), &policy()) else {
            panic!("not dead");
        };
        assert_eq!((cause.code.as_str(), cause.attempts), ("c", 5));
    }

    #[test]
    fn only_an_inherited_delivery_that_used_up_its_attempts_is_quarantined() {
        assert_eq!(quarantine(&attempt(5), &policy()), None);
        let Some(Settlement::Dead(cause)) = quarantine(&attempt(6), &policy()) else { panic!("not dead") };
        assert_eq!((cause.code.as_str(), cause.attempts), (code::HOST_DEATH, 5));
    }

    proptest! {
        /// The life of one event on a clock of its own: whatever its calls and hosts do, it ends, and no more calls are
        /// counted than the policy allows. A host that dies during a call that was not recorded costs one call more.
        #[test]
        fn every_life_ends_within_its_attempts(
            max_attempts in 1_u32..8,
            fates in proptest::collection::vec((0_u8..10, any::<bool>()), 40),
        ) {
            let policy = Policy { max_attempts, ..policy() };
            let (mut now, mut attempts, mut inherited, mut calls) = (from_unix_millis(1_000), 0, false, 0);
            let mut fates = fates.into_iter().cycle();
            loop {
                let (fate, dies) = fates.next().unwrap();
                let number = attempts + 1;
                let this = Attempt { number, at: now, ..attempt(number) };
                if inherited && let Some(end) = quarantine(&this, &policy) {
                    prop_assert!(matches!(end, Settlement::Dead(cause) if cause.attempts == max_attempts));
                    break;
                }
                prop_assert!(number <= max_attempts, "attempt {} of {}", number, max_attempts);
                calls += 1;
                if dies {
                    // The start of an inherited one is on record.
                    attempts += u32::from(inherited);
                    inherited = true;
                    continue;
                }
                let verdict = match fate {
                    0 => Verdict::Done,
                    1 => Verdict::Reject { code: "c".into(), reason: "r".into() },
                    _ => retry((fate == 2).then_some(Duration::from_secs(9))),
                };
                match decide(verdict, Effects::default(), &this, &policy) {
                    Settlement::Retry(entry) => {
                        prop_assert!(entry.due > now && entry.due <= now + policy.max);
                        (now, attempts, inherited) = (entry.due, entry.attempts, false);
                    }
                    Settlement::Dead(cause) => {
                        prop_assert!(cause.attempts == max_attempts || cause.code == "c");
                        break;
                    }
                    Settlement::Ack(_) => break,
                }
            }
            prop_assert!(calls <= 2 * max_attempts, "{} calls", calls);
        }

        #[test]
        fn no_wait_overflows_or_exceeds_its_bounds(
            number in 0_u32.., first in 0_u64..u64::MAX / 1000, max in 0_u64..1 << 40, dice in 0.0..1.0_f64,
        ) {
            let policy = Policy {
                max_attempts: u32::MAX,
                first: Duration::from_millis(first),
                max: Duration::from_millis(max),
            };
            let wait = backoff(&policy, number, dice);
            prop_assert!(wait <= policy.max);
            prop_assert!(wait >= policy.first.min(policy.max).mul_f64(1.0 - JITTER - 1e-9));
            let settlement = decide(retry(Some(Duration::MAX)), Effects::default(), &attempt(number), &policy);
            prop_assert!(matches!(settlement, Settlement::Retry(_)) || number == u32::MAX);
        }
    }
}
