//! From the consumer to the workers and back.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{BATCH, Begun, Consumer, Step, Ticket, rest_for};
use crate::bus;
use crate::event::{Effects, Settlement, Verdict};
use crate::pipeline::backoff::Backoff;
use crate::sandbox::{Finished, Job, Ran};
use crate::settle::Attempt;

impl Consumer {
    /// To the workers, whatever the gate says: see [`Consumer::submit`].
    pub(super) fn hand_over(&mut self, mut jobs: Vec<Job<Ticket>>) {
        self.gate.calling += jobs.len();
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(BATCH));
            let batch = std::mem::replace(&mut jobs, rest);
            self.call(batch);
        }
    }

    pub(super) fn begin(&mut self, trouble: &Backoff) -> Option<Step<Begun>> {
        let job = self.inherited.pop_front()?;
        self.inheriting = true;
        let (subscription, pause) = (Arc::clone(&self.subscription), trouble.pause());
        Some(Box::pin(async move {
            rest_for(pause).await;
            let begun = subscription.begin(&job.tag.delivery).await;
            (job, begun)
        }))
    }

    pub(super) fn begun(&mut self, mut job: Job<Ticket>, begun: Result<bool, bus::Error>, trouble: &mut Backoff) {
        job.tag.recorded = true;
        match begun {
            Ok(began) => {
                trouble.over(&self.tally.handler);
                match began {
                    true if self.draining => self.not_called(job.tag),
                    true => self.submit(vec![job]),
                    false => self.given_back(job.tag),
                }
            }
            // Whether it is recorded is unknown.
            Err(_) if self.draining => self.given_back(job.tag),
            Err(error) => {
                trouble.more(&self.tally.handler, &error);
                job.tag.recorded = false;
                self.inheriting = false;
                self.inherited.push_front(job);
            }
        }
    }

    /// Offers the workers what they could not take before.
    pub(super) fn offer_again(&mut self) {
        let (lost, jobs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.again).into_iter().partition(|job| self.lost.contains(&job.tag.delivery.id()));
        lost.into_iter().for_each(|job| self.given_back(job.tag));
        self.submit(jobs);
    }

    /// A job comes back from the workers.
    pub(super) fn called(&mut self, finished: Finished<Ticket>) {
        let Finished { event, tag: mut ticket, ran } = finished;
        self.gate.calling -= 1;
        self.came_back(&ticket, &ran);
        match &ran {
            Ran::NotCalled(_) | Ran::Called { verdict: Verdict::Reject { .. }, .. } => self.void_probe(&mut ticket),
            Ran::Called { verdict: Verdict::Retry { .. }, .. } => self.call_failed(&mut ticket),
            // It has succeeded when its effects are stored.
            Ran::Called { verdict: Verdict::Done, .. } => {}
        }
        match ran {
            Ran::NotCalled(_) if self.draining => self.not_called(ticket),
            Ran::NotCalled(reason) => {
                tracing::debug!(handler = self.tally.handler, reason, "the call did not start; it is offered again");
                self.again.push(Job { event, attempt: ticket.attempt, replayed: false, tag: ticket });
            }
            Ran::Called { verdict, effects, .. } => {
                let settlement = self.decide(verdict, effects, &ticket);
                self.decided(ticket, Some(event), settlement);
            }
        }
    }

    /// What becomes of a delivery whose handler was called.
    pub(super) fn decide(&self, verdict: Verdict, effects: Effects, ticket: &Ticket) -> Settlement {
        let (attempt, now) = (self.attempt(ticket.attempt, ticket.version), Instant::now());
        self.gate.breaker.decide(verdict, effects, &attempt, &self.settings.policy, now)
    }

    pub(super) fn attempt(&self, number: u32, version: usize) -> Attempt<'_> {
        let module = self.serving.digest(version);
        Attempt { handler: &self.tally.handler, module, number, at: SystemTime::now(), dice: dice() }
    }
}

/// A number in `0.0..1.0`. Not from the clock: events that fail together are settled within microseconds of each other,
/// and it is those that are to be spread.
pub(super) fn dice() -> f64 {
    // Every hasher that the standard library makes has other keys.
    let random = RandomState::new().build_hasher().finish();
    // What a double can hold of it.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_together_is_spread() {
        let mut tenths = [0_u32; 10];
        for _ in 0..200 {
            let dice = dice();
            assert!((0.0..1.0).contains(&dice), "{dice}");
            tenths[(dice * 10.0) as usize] += 1;
        }
        // Of 200 draws each tenth gets 20; that one gets none happens once in 140 million runs.
        assert!(tenths.iter().all(|count| *count > 0), "{tenths:?}");
    }
}
