//! What may flow through a handler now: everything, one event as a probe, or nothing.
//!
//! Three things shut the gate: an operator's pause, the cap on dead letters, the breaker. [`Consumer::submit`] is the
//! one place through which events go to the workers, so nothing that waits anywhere here gets past it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::{Consumer, Step, rest_for};
use crate::bus::{self, Fetched};
use crate::dispatch::Order;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::cap::{Cap, LOOK, LOOK_AGAIN};
use crate::pipeline::control::{State, Steering};
use crate::sandbox::Job;
use crate::settle::{Admission, Breaker};

/// How often a consumer whose gate is shut looks after its membership of the group.
const NAP: Duration = Duration::from_secs(1);

/// What may flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    All,
    /// One event, to see what becomes of it.
    One,
    /// Nothing; at that moment it may be another answer though nothing happens.
    Nothing(Option<Instant>),
}

/// What shuts the gate of one handler.
pub(in crate::pipeline) struct Gate {
    pub(super) breaker: Breaker,
    pub(super) steering: Arc<Steering>,
    pub(super) paused: watch::Receiver<bool>,
    cap: Option<Arc<Cap>>,
    /// Whether the cap is reached; `None` before the first look.
    capped: Option<bool>,
    /// A dead letter of this host's was stored since the last look.
    buried: bool,
    looked: Option<Instant>,
    /// What the last round of the loop went by.
    pub(super) flow: Flow,
    /// The read that was under way when the gate was shut has been ended.
    napping: bool,
    /// Jobs that are with the workers.
    pub(super) calling: usize,
    /// Events settled since the last report.
    pub(super) settled: u64,
}

// === impl Gate ===

impl Gate {
    pub(in crate::pipeline) fn new(breaker: Breaker, steering: Arc<Steering>, cap: Option<Arc<Cap>>) -> Self {
        let (paused, capped) = (steering.paused(), cap.is_none().then_some(false));
        let flow = Flow::Nothing(None);
        Self {
            breaker,
            steering,
            paused,
            cap,
            capped,
            buried: false,
            looked: None,
            flow,
            napping: false,
            calling: 0,
            settled: 0,
        }
    }

    fn flow_at(&mut self, now: Instant) -> Flow {
        if *self.paused.borrow() || self.capped != Some(false) {
            return Flow::Nothing(None);
        }
        match self.breaker.admits(now.into_std()) {
            Admission::All => Flow::All,
            // What was under way when it opened ends first: then there is one call and no other.
            Admission::Probe if self.calling == 0 => Flow::One,
            Admission::Probe | Admission::Probing => Flow::Nothing(None),
            Admission::Nothing(until) => Flow::Nothing(Some(until.into())),
        }
    }

    fn state(&self, parked: bool) -> State {
        if *self.paused.borrow() {
            State::Paused
        } else if self.capped == Some(true) {
            State::DeadLetters
        } else if self.breaker.is_half_open() {
            State::BreakerHalfOpen
        } else if !self.breaker.is_closed() {
            State::BreakerOpen
        } else if parked {
            State::Parked
        } else {
            State::Running
        }
    }
}

// === impl Consumer ===

impl Consumer {
    /// Looks what may flow; true if that has changed.
    pub(super) fn turn_gate(&mut self) -> bool {
        let flow = self.gate.flow_at(Instant::now());
        let before = std::mem::replace(&mut self.gate.flow, flow);
        if flow == Flow::Nothing(None) && self.settings.order != Order::None && self.gate.breaker.is_closed() {
            self.give_back_all();
        }
        if std::mem::discriminant(&before) == std::mem::discriminant(&flow) {
            return false;
        }
        self.serving.handler().shut(matches!(flow, Flow::Nothing(_)));
        self.gate.napping = false;
        true
    }

    /// Nobody knows how long this will last, and the keys of a slice wait for whoever has it: with nothing in hand and
    /// no read, its slices go to other hosts within a lease.
    fn give_back_all(&mut self) {
        drop(self.lanes.give_up_all());
        for job in self.inherited.drain(..).chain(self.again.drain(..)).collect::<Vec<_>>() {
            self.given_back(job.tag);
        }
    }

    /// Shows what this loop does; true if its state has changed.
    pub(super) fn show(&mut self) -> bool {
        let (state, settled) = (self.gate.state(self.parked), std::mem::take(&mut self.gate.settled));
        self.gate.steering.show(state, self.in_hand, self.lanes.held_back(), settled)
    }

    /// What the bus is told with a renewal.
    pub(super) fn report(&self) -> String {
        // A report is plain data: there is nothing that could not be written.
        serde_json::to_string(&self.gate.steering.report()).unwrap_or_default()
    }

    /// Ready when the breaker's pause is over.
    pub(super) fn pause_over(&self) -> Option<Step<()>> {
        match self.gate.flow {
            Flow::Nothing(Some(until)) => Some(Box::pin(tokio::time::sleep_until(until))),
            _ => None,
        }
    }

    /// Gives jobs to the workers as far as the gate lets them through; the others wait.
    pub(super) fn submit(&mut self, mut jobs: Vec<Job<super::Ticket>>) {
        match self.gate.flow {
            Flow::All => self.hand_over(jobs),
            // One flow lets one event through: it is nothing until that has told something.
            Flow::One if !jobs.is_empty() => {
                self.again.extend(jobs.split_off(1));
                self.gate.breaker.probe();
                jobs.iter_mut().for_each(|job| job.tag.probe = true);
                self.hand_over(jobs);
                self.gate.flow = Flow::Nothing(None);
            }
            Flow::One => {}
            Flow::Nothing(_) => self.again.append(&mut jobs),
        }
    }

    /// Whether what waits here can be offered to the workers.
    pub(super) fn can_call(&self) -> bool {
        !matches!(self.gate.flow, Flow::Nothing(_))
    }

    /// The read while not everything may flow. Nothing: a read under way is ended, and the membership kept up, unless
    /// there is order, where slices are not kept from others by who does not serve them. One: one event, unless one
    /// waits here.
    pub(super) fn fetch_little(&mut self, trouble: &Backoff) -> Option<Step<Result<Fetched, bus::Error>>> {
        let (subscription, wait, parked) = (Arc::clone(&self.subscription), self.shared.poll, self.parked);
        let pause = trouble.pause();
        if self.gate.flow == Flow::One {
            // An inherited one whose settlement is stuck must not keep the probe from all others.
            let waits = !self.again.is_empty() || (!self.inherited.is_empty() && !self.inheriting);
            if waits || self.in_hand >= self.settings.in_flight {
                return None;
            }
            return Some(Box::pin(async move {
                rest_for(pause).await;
                if parked { subscription.fetch_due(1, wait).await } else { subscription.fetch(1, wait).await }
            }));
        }
        if self.settings.order != Order::None {
            return None;
        }
        let nap = if std::mem::replace(&mut self.gate.napping, true) { NAP } else { Duration::ZERO };
        Some(Box::pin(async move {
            rest_for(pause.max(nap)).await;
            subscription.fetch(0, Duration::ZERO).await
        }))
    }

    /// A call has ended with a verdict, or its effects were refused: what that says about the outage.
    pub(super) fn call_failed(&mut self, ticket: &mut super::Ticket) {
        let message = &ticket.delivery.message;
        let event = (message.topic.clone(), message.first.clone());
        let probe = std::mem::take(&mut ticket.probe);
        let now = Instant::now().into_std();
        if let Some(pause) = self.gate.breaker.failure(event, probe, now, super::calling::dice()) {
            let handler = &*self.tally.handler;
            if probe {
                tracing::warn!(handler, ?pause, "the probe failed: nothing is called until the pause is over");
            } else {
                tracing::error!(
                    handler,
                    ?pause,
                    "too many events failed in a row, as if what the handler depends on were gone: nothing is called \
                     until the pause is over, and nothing that fails becomes a dead letter"
                );
            }
            // At once: the next round of the loop may be a moment away.
            self.serving.handler().shut(true);
        }
    }

    pub(super) fn call_succeeded(&mut self, probe: bool) {
        if self.gate.breaker.success(probe) {
            tracing::info!(handler = self.tally.handler, "the probe succeeded: events flow again");
        }
    }

    /// The event goes on its way without having told anything.
    pub(super) fn void_probe(&mut self, ticket: &mut super::Ticket) {
        if std::mem::take(&mut ticket.probe) {
            self.gate.breaker.probe_is_void();
        }
    }

    /// A look at the dead letters, if one is due: at the start, with every renewal (`tick`), after dead letters of this
    /// host's, and more often while the cap is reached.
    pub(super) fn look_at_cap(&mut self, tick: bool) -> Option<Step<Result<Option<String>, bus::Error>>> {
        let cap = Arc::clone(self.gate.cap.as_ref()?);
        let again = self.gate.capped != Some(false);
        if !(tick || again || self.gate.buried) {
            return None;
        }
        self.gate.buried = false;
        let rest = match (self.gate.looked, self.gate.capped) {
            (None, _) => Duration::ZERO,
            (Some(_), Some(true)) => LOOK_AGAIN.min(self.settings.group.lease / super::RENEWALS_PER_LEASE),
            (Some(_), _) => LOOK,
        };
        Some(Box::pin(async move {
            rest_for(rest).await;
            cap.reached().await
        }))
    }

    pub(super) fn looked_at_cap(&mut self, found: Result<Option<String>, bus::Error>, trouble: &mut Backoff) {
        self.gate.looked = Some(Instant::now());
        let handler = &*self.tally.handler;
        match found {
            Err(error) => trouble.more(handler, &error),
            Ok(reached) => {
                trouble.over(handler);
                let before = self.gate.capped.replace(reached.is_some());
                match (before, reached) {
                    (Some(true), None) => tracing::info!(handler, "the dead letters are below their cap: it goes on"),
                    (Some(true), Some(_)) | (_, None) => {}
                    (_, Some(why)) => tracing::error!(
                        handler,
                        why,
                        "the dead letters have reached their cap: the handler pauses until some are gone; see `sandbar dlq \
                         list`, then requeue or purge"
                    ),
                }
            }
        }
    }

    pub(super) fn count_settled(&mut self, dead: bool) {
        self.gate.settled += 1;
        self.gate.buried |= dead;
    }
}
