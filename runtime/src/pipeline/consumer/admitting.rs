//! From the bus to the workers: decode, choose, wait for others.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{BATCH, Consumer, Ticket, Unsettled};
use crate::bus::{Delivery, Fetched, Origin, Slice, Turnover, Waiting};
use crate::dispatch::{self, Order};
use crate::event::{Effects, Settlement, Topic, code};
use crate::pipeline::observe::Outcome;
use crate::sandbox::Job;
use crate::settle;

impl Consumer {
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Deliveries(deliveries) => {
                self.pace.took(deliveries.len());
                // The workers begin with the first while the rest is decoded.
                let mut deliveries = deliveries.into_iter();
                while deliveries.len() > 0 {
                    let mut jobs = Vec::with_capacity(deliveries.len().min(BATCH));
                    jobs.extend(deliveries.by_ref().take(BATCH).filter_map(|delivery| self.admit(delivery)));
                    self.submit(jobs);
                }
            }
            Fetched::Turnover(turnover) => self.turn_over(turnover),
        }
    }

    /// Slices come and go. What is known of one that comes is what the bus tells: nothing of an earlier turn of it counts.
    fn turn_over(&mut self, turnover: Turnover) {
        for slice in turnover.lost.iter().chain(&turnover.gained) {
            self.turn += 1;
            self.turns.insert(slice.clone(), self.turn);
            drop(self.lanes.forget(&slice.topic, slice.number));
            self.give_back_waiting(slice);
        }
        for Waiting { slice, lane, first } in &turnover.waiting {
            self.lanes.block(&slice.topic, *lane, first);
        }
        for slice in &turnover.wanted {
            drop(self.lanes.give_up(&slice.topic, slice.number));
            self.give_back_waiting(slice);
        }
    }

    /// Gives back what of a slice waits here for its call.
    fn give_back_waiting(&mut self, slice: &Slice) {
        let of_slice = |job: &Job<Ticket>| job.tag.is_of(slice);
        let inherited = self.inherited.drain(..).partition::<VecDeque<_>, _>(of_slice);
        let again = self.again.drain(..).partition::<Vec<_>, _>(of_slice);
        (self.inherited, self.again) = (inherited.1, again.1);
        for job in inherited.0.into_iter().chain(again.0) {
            self.given_back(job.tag);
        }
    }

    /// Decodes a delivery and finds its place: at once to the workers (returned), behind others of its lane, behind
    /// others that were inherited, or straight to its settlement.
    fn admit(&mut self, delivery: Delivery) -> Option<Job<Ticket>> {
        self.in_hand += 1;
        let (attempt, version) = (delivery.attempts + 1, self.serving.number());
        let mut ticket = Ticket { attempt, delivery, lane: None, turn: 0, version, recorded: false, probe: false };
        let message = &ticket.delivery.message;
        let envelope = match self.shared.profile.read(message) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.find_lane(&mut ticket);
                return self.unreadable(ticket, None, code::BAD_HEADERS, error.to_string());
            }
        };
        if !self.settings.filter.matches(&envelope.metadata.kind) {
            self.find_lane(&mut ticket);
            let settlement = Settlement::Ack(Effects::default());
            self.unsettled.push(Unsettled { ticket, event: None, settlement, outcome: Outcome::Skipped });
            return None;
        }
        let event = match self.shared.decoder.decode(message, envelope, self.raw()) {
            Ok(event) => event,
            Err(error) => {
                let (code, reason) = (error.code(), error.to_string());
                self.find_lane(&mut ticket);
                return self.unreadable(ticket, None, code, reason);
            }
        };
        ticket.lane = dispatch::lane(self.settings.order, self.settings.key.as_deref(), &event);
        self.note_turn(&mut ticket);
        let (lane, topic, first) = (ticket.lane, Topic::clone(&event.topic), event.first.clone());
        let job = Job { event: Arc::new(event), attempt: ticket.attempt, replayed: false, tag: ticket };
        let job = match lane {
            None => job,
            Some(lane) => {
                let admitted = self.lanes.admit(&topic, lane, &first, job);
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
        let quarantined = settle::quarantine(&self.attempt(job.attempt, job.tag.version), &self.settings.policy);
        match quarantined {
            Some(settlement) => self.decided(job.tag, Some(job.event), settlement),
            None => self.inherited.push_back(job),
        }
        None
    }

    /// What will not be called has no key, but a lane may wait for it: the types that are wanted, or the schemas, were
    /// others when it was sent to the retry store.
    fn find_lane(&self, ticket: &mut Ticket) {
        let message = &ticket.delivery.message;
        if self.settings.order != Order::None && ticket.delivery.origin != Origin::New {
            ticket.lane = self.lanes.waits_for(&message.topic, &message.first);
            self.note_turn(ticket);
        }
    }

    fn note_turn(&self, ticket: &mut Ticket) {
        ticket.turn = ticket.slice().map_or(0, |slice| self.turn_of(&slice));
    }

    /// Which turn of a slice it is: it goes up whenever the slice comes or goes.
    pub(super) fn turn_of(&self, slice: &Slice) -> u64 {
        self.turns.get(slice).copied().unwrap_or(0)
    }
}
