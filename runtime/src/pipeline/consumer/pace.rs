//! How many events a handler is given in a second: what is too much is not read, so it waits on the bus, or goes to
//! another host of the group. No call comes of it and no attempt.

use std::time::Duration;

use tokio::time::Instant;

use super::{Consumer, Step};

/// A bucket that fills up with time. It holds what comes in a second, so that a pause is made up for.
pub(super) struct Pace {
    /// Events in a second; `None` for as many as there are.
    rate: Option<f64>,
    level: f64,
    filled: Instant,
}

/// How long the bucket is left to fill once it is empty: reading each event by itself would cost the bus more than the
/// wait costs the handler.
const SIP: f64 = 0.02;

// === impl Pace ===

impl Pace {
    pub(super) fn new(rate: Option<u32>) -> Self {
        let rate = rate.map(f64::from);
        Self { rate, level: rate.unwrap_or_default(), filled: Instant::now() }
    }

    /// How many of `wanted` may be read now; none until that is worth it.
    pub(super) fn allows(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(rate) = self.rate else { return wanted };
        self.level = (self.level + rate * now.saturating_duration_since(self.filled).as_secs_f64()).min(rate);
        self.filled = now;
        if self.level < sip(rate) {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1 and at most a u32")]
        let whole = self.level as usize;
        wanted.min(whole)
    }

    /// So many were read.
    pub(super) fn took(&mut self, count: usize) {
        if self.rate.is_some() {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 are read at once")]
            let count = count as f64;
            self.level -= count;
        }
    }

    /// When there is something to take again.
    fn ready_in(&self) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        // A little later: rounded down it would come too early, again and again.
        Duration::from_secs_f64(((sip(rate) - self.level).max(0.0) / rate) + 0.000_1)
    }
}

fn sip(rate: f64) -> f64 {
    (rate * SIP).max(1.0)
}

// === impl Consumer ===

impl Consumer {
    /// Ready when more may be read, if that is what is waited for.
    pub(super) fn refill(&self, room: usize, wanted: usize) -> Option<Step<()>> {
        let waits = wanted == 0 && room > 0 && !self.draining;
        waits.then(|| -> Step<()> { Box::pin(tokio::time::sleep(self.pace.ready_in())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_holds_a_second_and_fills_with_time() {
        let (mut pace, begun) = (Pace::new(Some(100)), Instant::now());
        assert_eq!(pace.allows(1_000, begun), 100);
        assert_eq!(pace.allows(30, begun), 30);
        pace.took(100);
        assert_eq!(pace.allows(1_000, begun), 0);
        let soon = begun + Duration::from_millis(15);
        assert_eq!(pace.allows(1_000, soon), 0, "one by one would be dear");
        let wait = pace.ready_in();
        assert!(wait > Duration::from_millis(4) && wait < Duration::from_millis(7), "{wait:?}");
        assert_eq!(pace.allows(1_000, soon + wait), 2);
        assert_eq!(pace.allows(1_000, soon + Duration::from_secs(60)), 100);
    }

    #[test]
    fn more_than_was_asked_for_is_waited_for_later() {
        let (mut pace, begun) = (Pace::new(Some(1)), Instant::now());
        assert_eq!(pace.allows(9, begun), 1);
        pace.took(4);
        assert_eq!(pace.allows(9, begun + Duration::from_millis(3_900)), 0);
        assert_eq!(pace.allows(9, begun + Duration::from_millis(4_001)), 1);
        assert_eq!(Pace::new(None).allows(9, begun), 9);
    }
}
