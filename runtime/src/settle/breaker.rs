//! Where an OUTAGE of what a handler depends on is noticed, and its end. A state machine without a clock of its own.
//!
//! Closed, everything is called. After so many failures in a row, each of another event, it opens: nothing is called
//! until a pause is over. Then it is half open: one event at a time is called, the probe. A probe that succeeds closes
//! it; one that fails opens it again, for twice as long.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Attempt, JITTER, Policy, decide};
use crate::event::{Effects, Position, RetryEntry, Settlement, Topic, Verdict};

/// When a handler is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Events that must fail in a row; at least 1.
    pub failures: u32,
    /// The first pause; each further one is twice the one before.
    pub pause_first: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
}

/// Names an event, however often it is called.
pub type EventKey = (Topic, Position);

/// One handler's breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Option<Settings>,
    state: State,
}

/// What may be called now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    All,
    /// One event, and nothing else until its call has ended.
    Probe,
    /// Nothing more: the probe is under way.
    Probing,
    /// Nothing until then.
    Nothing(Instant),
}

#[derive(Debug)]
enum State {
    Closed {
        /// What has failed since the last success.
        row: HashSet<EventKey>,
    },
    Open {
        until: Instant,
        /// Probes that failed since it was closed.
        probes: u32,
    },
    HalfOpen {
        probes: u32,
        probing: bool,
    },
}

// === impl Breaker ===

impl Breaker {
    /// A closed breaker; without settings it never opens.
    #[must_use]
    pub fn new(settings: Option<Settings>) -> Self {
        Self { settings, state: State::closed() }
    }

    /// What may be called at this moment. A pause that is over ends here.
    pub fn admits(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::All,
            State::Open { until, .. } if now < until => Admission::Nothing(until),
            State::Open { probes, .. } => {
                self.state = State::HalfOpen { probes, probing: false };
                Admission::Probe
            }
            State::HalfOpen { probing: false, .. } => Admission::Probe,
            State::HalfOpen { probing: true, .. } => Admission::Probing,
        }
    }

    /// Whether it is closed: a failure means what the policy says.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Whether it waits for a probe to tell that the outage is over.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        matches!(self.state, State::HalfOpen { .. })
    }

    /// The call that was admitted as the probe begins. Its end must be told with `probe = true`, by exactly one of
    /// [`Breaker::success`], [`Breaker::failure`] and [`Breaker::probe_is_void`].
    pub fn probe(&mut self) {
        if let State::HalfOpen { probing, .. } = &mut self.state {
            *probing = true;
        }
    }

    /// The probe has told nothing: the call did not start, the event was rejected or is another host's. The next one
    /// may try.
    pub fn probe_is_void(&mut self) {
        if let State::HalfOpen { probing, .. } = &mut self.state {
            *probing = false;
        }
    }

    /// A call succeeded. Returns true if that closed the breaker.
    ///
    /// While it is not closed only the probe counts: calls that were under way when it opened say nothing of now.
    pub fn success(&mut self, probe: bool) -> bool {
        match &mut self.state {
            State::Closed { row } => row.clear(),
            State::HalfOpen { .. } if probe => {
                self.state = State::closed();
                return true;
            }
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
        false
    }

    /// A call ended as one to be tried again. Returns how long nothing is called, if that opened the breaker. `dice` is
    /// a number in `0.0..1.0`: hosts that saw the same outage do not probe together.
    pub fn failure(&mut self, event: EventKey, probe: bool, now: Instant, dice: f64) -> Option<Duration> {
        let settings = self.settings?;
        let probes = match &mut self.state {
            State::Closed { row } => {
                row.insert(event);
                if (row.len() as u64) < u64::from(settings.failures) {
                    return None;
                }
                0
            }
            State::HalfOpen { probes, .. } if probe => probes.saturating_add(1),
            State::Open { .. } | State::HalfOpen { .. } => return None,
        };
        let pause = settings.pause(probes, dice);
        self.state = State::Open { until: now + pause, probes };
        Some(pause)
    }

    /// What becomes of a delivery whose handler was called: [`decide`], but while the breaker is not closed no call
    /// that is to be tried again is one too many.
    ///
    /// It failed because of what the handler depends on, not because of itself, and what is healthy must not be given
    /// up for that. So its last attempt is kept: it is due after the pause, and becomes a dead letter only if it fails
    /// once more when others succeed.
    #[must_use]
    pub fn decide(
        &self,
        verdict: Verdict,
        effects: Effects,
        attempt: &Attempt<'_>,
        policy: &Policy,
        now: Instant,
    ) -> Settlement {
        match verdict {
            Verdict::Retry { code, reason, after } if !self.is_closed() && attempt.number >= policy.max_attempts => {
                let wait = self.pause_left(now).max(after.unwrap_or_default());
                let due = attempt.at.checked_add(wait).unwrap_or(attempt.at + policy.max);
                Settlement::Retry(RetryEntry {
                    attempts: policy.max_attempts.saturating_sub(1),
                    due,
                    code,
                    reason,
                    lane: None,
                })
            }
            verdict => decide(verdict, effects, attempt, policy),
        }
    }

    fn pause_left(&self, now: Instant) -> Duration {
        match (&self.state, &self.settings) {
            (State::Open { until, .. }, _) => until.saturating_duration_since(now),
            (State::HalfOpen { probes, .. }, Some(settings)) => settings.nominal(*probes),
            _ => Duration::ZERO,
        }
    }
}

// === impl State ===

impl State {
    fn closed() -> Self {
        Self::Closed { row: HashSet::new() }
    }
}

// === impl Settings ===

impl Settings {
    /// The pause after so many failed probes, before it is spread.
    fn nominal(&self, probes: u32) -> Duration {
        // 2^31 of anything is beyond every cap.
        self.pause_first.checked_mul(1 << probes.min(31)).unwrap_or(self.pause_max).min(self.pause_max)
    }

    fn pause(&self, probes: u32, dice: f64) -> Duration {
        let spread = 1.0 - JITTER + 2.0 * JITTER * dice.clamp(0.0, 1.0);
        self.nominal(probes).mul_f64(spread).min(self.pause_max)
    }
}

#[cfg(test)]
mod tests;
