//! From a decided settlement to the bus, and what follows from its answer.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Consumer, Flushed, Meta, Step, Ticket, Unsettled};
use crate::bus::{self, Delivery, DeliveryId, Settled, Slice};
use crate::dispatch::Release;
use crate::event::{Effects, Event, Lane, Message, RetryEntry, Settlement, Topic, Verdict, code};
use crate::pipeline::Stopped;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::observe::{Outcome, Record};
use crate::sandbox::Job;
use crate::settle;

impl Consumer {
    pub(super) fn unreadable(
        &mut self,
        ticket: Ticket,
        event: Option<Arc<Event>>,
        code: &str,
        reason: String,
    ) -> Option<Job<Ticket>> {
        // No call was started for it.
        let settlement = settle::unreadable(code, reason, &self.attempt(ticket.delivery.attempts, ticket.version));
        self.decided(ticket, event, settlement);
        None
    }

    pub(super) fn decided(&mut self, ticket: Ticket, event: Option<Arc<Event>>, settlement: Settlement) {
        self.unsettled.push(decided(ticket, event, settlement));
    }

    /// Sends everything that has gathered. One flush at a time: what comes meanwhile makes the next one larger.
    pub(super) fn flush(&mut self) -> Step<Flushed> {
        let mut metas = Vec::with_capacity(self.unsettled.len());
        let mut batch = Vec::with_capacity(self.unsettled.len());
        for Unsettled { ticket, event, settlement, outcome } in self.unsettled.drain(..) {
            metas.push(Meta {
                id: ticket.delivery.id(),
                attempt: ticket.attempt,
                lane: ticket.lane,
                turn: ticket.turn,
                version: ticket.version,
                recorded: ticket.recorded,
                probe: ticket.probe,
                message: ticket.delivery.message.clone(),
                event,
                outcome,
            });
            batch.push((ticket.delivery, settlement));
        }
        let subscription = Arc::clone(&self.subscription);
        Box::pin(async move {
            let mut settled = subscription.settle(batch).await;
            // No answer means that the receipt is gone with it.
            settled.resize_with(metas.len(), || Settled::Lost);
            metas.into_iter().zip(settled).collect()
        })
    }

    /// The bus has answered a flush. It is well again only when it has taken everything.
    pub(super) fn flushed(&mut self, flushed: Flushed, trouble: &mut Backoff) {
        let mut failed = None;
        for (meta, settled) in flushed {
            failed = self.settled(meta, settled).or(failed);
        }
        match failed {
            Some(error) => trouble.more(&self.tally.handler, &error),
            None if self.stuck.is_empty() => trouble.over(&self.tally.handler),
            None => {}
        }
    }

    /// What follows from one answer. Returns the error if the settlement has to be sent again.
    fn settled(&mut self, meta: Meta, settled: Settled) -> Option<bus::Error> {
        match settled {
            Settled::Committed => self.ended(meta),
            Settled::Lost => self.ended(Meta { outcome: Outcome::Lost, ..meta }),
            Settled::Conflict(delivery) => {
                let (mut ticket, event, _) = meta.with(delivery);
                self.void_probe(&mut ticket);
                // Only a call reads keys, so there is an event.
                match event {
                    Some(event) if !self.draining => {
                        self.again.push(Job { event, attempt: ticket.attempt, replayed: false, tag: ticket });
                    }
                    _ => self.not_called(ticket),
                }
            }
            Settled::Refused(delivery, reason) => {
                let (mut ticket, event, outcome) = meta.with(delivery);
                let refusal = reason.clone();
                let verdict = Verdict::Retry { code: code::EFFECTS_REFUSED.to_owned(), reason, after: None };
                let had_effects = matches!(outcome, Outcome::Acked { .. });
                if had_effects {
                    self.call_failed(&mut ticket);
                }
                let settlement = self.decide(verdict, Effects::default(), &ticket);
                let decided = decided(ticket, event, settlement);
                if had_effects {
                    self.unsettled.push(decided);
                } else {
                    // The bus refuses the retry or the dead letter itself: sent at once it would go round for ever.
                    self.stuck.push(decided);
                    return Some(bus::Error::Unexpected(refusal));
                }
            }
            // Nobody will mend the bus before this host is gone. What is given back is not lost.
            Settled::Failed(delivery, _, error) if self.draining && !error.is_transient() => {
                tracing::error!(handler = self.tally.handler, %error, "given back: its settlement is refused");
                let (ticket, ..) = meta.with(delivery);
                self.given_back(ticket);
            }
            Settled::Failed(delivery, settlement, error) => {
                let (ticket, event, outcome) = meta.with(delivery);
                self.stuck.push(Unsettled { ticket, event, settlement, outcome });
                return Some(error);
            }
        }
        None
    }

    /// A delivery has left this consumer's hands.
    fn ended(&mut self, meta: Meta) {
        self.in_hand -= 1;
        self.forget(meta.id);
        self.inheriting &= !meta.recorded;
        self.tally.count(&meta.outcome);
        self.count_settled(matches!(meta.outcome, Outcome::Dead { .. }));
        match meta.outcome {
            Outcome::Acked { .. } => self.call_succeeded(meta.probe),
            _ if meta.probe => self.gate.breaker.probe_is_void(),
            _ => {}
        }
        self.tell(&meta);
        match &meta.outcome {
            outcome if outcome.is_failure() => self.failed(),
            Outcome::Acked { .. } => self.failures = 0,
            _ => {}
        }
        let how = if matches!(meta.outcome, Outcome::Retrying { .. }) { Release::Retrying } else { Release::Gone };
        if meta.outcome == Outcome::Lost
            && let Some(lane) = meta.lane
        {
            // The slice may be another's already: what waits goes back, and comes again in order if it is not.
            drop(self.lanes.give_up(&meta.message.topic, lane.slice()));
        }
        self.release(meta.lane, meta.turn, &meta.message, how);
    }

    /// A delivery goes back although its call has not started. If its start was recorded, that is undone: the next host
    /// gets it as a retry that is due, with the attempts it had.
    pub(super) fn not_called(&mut self, ticket: Ticket) {
        if !ticket.recorded {
            return self.given_back(ticket);
        }
        let entry = RetryEntry {
            attempts: ticket.delivery.attempts,
            due: SystemTime::now(),
            code: String::new(),
            reason: "given back before its call".to_owned(),
            lane: ticket.lane,
        };
        let (settlement, outcome) = (Settlement::Retry(entry), Outcome::GivenBack);
        self.unsettled.push(Unsettled { ticket, event: None, settlement, outcome });
    }

    /// A delivery goes back to the bus unsettled: its receipt is dropped here.
    pub(super) fn given_back(&mut self, mut ticket: Ticket) {
        self.void_probe(&mut ticket);
        self.in_hand -= 1;
        self.inheriting &= !ticket.recorded;
        self.forget(ticket.delivery.id());
        self.release(ticket.lane, ticket.turn, &ticket.delivery.message, Release::Gone);
    }

    fn forget(&mut self, id: DeliveryId) {
        self.lost.remove(&id);
        if !self.is_busy() {
            // A renewal may name what was settled while it was under way.
            self.lost.clear();
        }
    }

    /// Lets the next of the lane run.
    fn release(&mut self, lane: Option<Lane>, turn: u64, message: &Message, how: Release) {
        let Some(lane) = lane else { return };
        if turn != self.turn_of(&Slice { topic: Topic::clone(&message.topic), number: lane.slice() }) {
            return;
        }
        let mut released = (message.first.clone(), how);
        while let Some(job) = self.lanes.release(&message.topic, lane, &released.0, released.1) {
            if self.draining || self.lost.remove(&job.tag.delivery.id()) {
                released = (job.event.first.clone(), Release::Gone);
                continue;
            }
            self.in_hand += 1;
            if let Some(job) = self.one_at_a_time(job) {
                self.submit(vec![job]);
            }
            return;
        }
    }

    fn failed(&mut self) {
        self.failures += 1;
        self.stop_after(self.failures);
    }

    /// So many failures in a row: enough?
    pub(super) fn stop_after(&mut self, count: u32) {
        if self.shared.consecutive_errors_limit.is_some_and(|limit| limit > 0 && count >= limit) {
            let reason = Stopped::ConsecutiveErrors { handler: self.tally.handler.clone(), count };
            // A full channel means that the host is stopping already.
            drop(self.stop.try_send(reason));
        }
    }

    fn tell(&self, meta: &Meta) {
        let (id, kind) = meta.event.as_ref().map_or(("", ""), |event| (&*event.metadata.id, &*event.metadata.kind));
        let (handler, position, attempt) = (&*self.tally.handler, &meta.message.position, meta.attempt);
        match &meta.outcome {
            Outcome::Retrying { code, reason, .. } => {
                tracing::warn!(handler, id, %position, attempt, code, reason, "the event will be tried again");
            }
            Outcome::Dead { code, reason } => {
                tracing::error!(handler, id, %position, attempt, code, reason, "the event is a dead letter");
            }
            Outcome::Lost => {
                tracing::info!(handler, id, %position, attempt, "the event was taken over by another consumer");
            }
            Outcome::Acked { .. } | Outcome::Skipped | Outcome::GivenBack => {}
        }
        self.shared.observer.settled(&Record {
            handler,
            topic: &meta.message.topic,
            position,
            id,
            kind,
            attempt,
            outcome: &meta.outcome,
        });
    }
}

/// A settlement with what it will be told as.
fn decided(ticket: Ticket, event: Option<Arc<Event>>, mut settlement: Settlement) -> Unsettled {
    if let Settlement::Retry(entry) = &mut settlement {
        entry.lane = ticket.lane;
    }
    let outcome = match &settlement {
        Settlement::Ack(effects) => Outcome::Acked { published: effects.publish.len(), written: effects.writes.len() },
        Settlement::Retry(entry) => {
            Outcome::Retrying { code: entry.code.clone(), reason: entry.reason.clone(), due: entry.due }
        }
        Settlement::Dead(cause) => Outcome::Dead { code: cause.code.clone(), reason: cause.reason.clone() },
    };
    Unsettled { ticket, event, settlement, outcome }
}

// === impl Meta ===

impl Meta {
    /// The ticket again, from a delivery that the bus gave back.
    fn with(self, delivery: Delivery) -> (Ticket, Option<Arc<Event>>, Outcome) {
        let Self { attempt, lane, turn, version, recorded, probe, event, outcome, .. } = self;
        (Ticket { delivery, attempt, lane, turn, version, recorded, probe }, event, outcome)
    }
}
