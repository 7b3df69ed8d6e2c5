//! From the bus to the workers: decode, choose, wait for others.

use super::{Consumer, Ticket, Unsettled};
use crate::bus::{Delivery, Fetched, Origin};
use crate::dispatch::{self, Lane};
use crate::event::{Effects, Message, Settlement, code};
use crate::pipeline::observe::Outcome;
use crate::sandbox::Job;
use crate::settle;

impl Consumer {
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Deliveries(deliveries) => {
                let jobs = deliveries.into_iter().filter_map(|delivery| self.admit(delivery)).collect();
                self.submit(jobs);
            }
            Fetched::Active { retrying } => {
                self.new_turn();
                for message in retrying {
                    if let Some(lane) = self.lane_of(&message) {
                        self.lanes.block(&lane, &message.first);
                    }
                }
            }
            Fetched::StandBy | Fetched::Turnover(_) => self.new_turn(),
        }
    }

    /// Forgets what waits here: it belongs to the turn that is over.
    fn new_turn(&mut self) {
        self.turn += 1;
        drop(self.lanes.clear());
        self.lost.clear();
        self.in_hand -= self.inherited.len();
        self.inherited.clear();
        for job in std::mem::take(&mut self.again) {
            self.given_back(job.tag);
        }
    }

    /// Decodes a delivery and finds its place: at once to the workers (returned), behind others of its lane, behind
    /// others that were inherited, or straight to its settlement.
    fn admit(&mut self, delivery: Delivery) -> Option<Job<Ticket>> {
        self.in_hand += 1;
        let mut ticket =
            Ticket { attempt: delivery.attempts + 1, delivery, lane: None, turn: self.turn, recorded: false };
        let message = &ticket.delivery.message;
        let envelope = match self.shared.profile.read(message) {
            Ok(envelope) => envelope,
            Err(error) => return self.unreadable(ticket, None, code::BAD_HEADERS, error.to_string()),
        };
        if !self.settings.filter.matches(&envelope.metadata.kind) {
            let settlement = Settlement::Ack(Effects::default());
            self.unsettled.push(Unsettled { ticket, event: None, settlement, outcome: Outcome::Skipped });
            return None;
        }
        let event = match self.shared.decoder.decode(message, envelope, self.raw()) {
            Ok(event) => event,
            Err(error) => return self.unreadable(ticket, None, error.code(), error.to_string()),
        };
        ticket.lane = dispatch::lane(self.settings.order, self.settings.key.as_deref(), &event);
        let (lane, first) = (ticket.lane.clone(), event.first.clone());
        let job = Job { event, attempt: ticket.attempt, replayed: false, tag: ticket };
        let job = match lane {
            None => job,
            Some(lane) => {
                let admitted = self.lanes.admit(&lane, &first, job);
                // What is held back gives its permit up.
                self.in_hand -= usize::from(admitted.is_none());
                admitted?
            }
        };
        self.one_at_a_time(job)
    }

    /// An inherited job goes behind the others of its kind: it may be the one that its host died of.
    pub(super) fn one_at_a_time(&mut self, job: Job<Ticket>) -> Option<Job<Ticket>> {
        if job.tag.delivery.origin != Origin::Inherited {
            return Some(job);
        }
        let quarantined = settle::quarantine(&self.attempt(job.attempt), &self.settings.policy);
        match quarantined {
            Some(settlement) => self.decided(job.tag, Some(job.event), settlement),
            None => self.inherited.push_back(job),
        }
        None
    }

    fn lane_of(&self, message: &Message) -> Option<Lane> {
        let envelope = self.shared.profile.read(message).ok()?;
        // What will be skipped when it comes has no lane then, and would never let go of this one.
        if !self.settings.filter.matches(&envelope.metadata.kind) {
            return None;
        }
        let event = self.shared.decoder.decode(message, envelope, self.raw()).ok()?;
        dispatch::lane(self.settings.order, self.settings.key.as_deref(), &event)
    }
}
