//! One handler's loop: fetch, decode, dispatch, call, settle.
//!
//! One task owns all state, so nothing is locked. Fetching, settling and renewing run beside each other; calls run on
//! the worker threads. A delivery holds a permit from the read until its settlement is stored; one that waits behind
//! another of its lane gives the permit up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::observe::{Outcome, Tally};
use super::{Shared, Stopped};
use crate::bus::{self, Delivery, DeliveryId, Fetched, Settled, Slice, Subscription};
use crate::config::{HandlerConfig, PayloadForm};
use crate::dispatch::{Lanes, Order};
use crate::event::{Event, Lane, Message, Settlement};
use crate::sandbox::{Finished, Job};

mod admitting;
mod calling;
mod gate;
#[cfg(test)]
mod gated;
mod pace;
#[cfg(test)]
mod running;
#[cfg(test)]
mod scripted;
mod serving;
mod settling;
#[cfg(test)]
mod tests;

pub(super) use gate::Gate;
pub(super) use serving::{Calls, Serving, Version};

use pace::Pace;

/// Events handed to the worker threads together at most: a hand-off costs more than a call, but nobody may wait for the
/// whole of a large read to be decoded.
const BATCH: usize = 32;

/// How soon a job is offered to the workers again after trouble of the host's own.
const AGAIN: Duration = Duration::from_millis(50);

/// How often a lease is renewed while it runs: two renewals may fail before it is over.
const RENEWALS_PER_LEASE: u32 = 3;

/// How soon the bus is told, with a renewal, that a handler's state has changed.
const TOLD_WITHIN: Duration = Duration::from_millis(200);

/// A handler's loop and all its state.
pub(super) struct Consumer {
    settings: HandlerConfig,
    serving: Serving,
    subscription: Arc<dyn Subscription>,
    shared: Arc<Shared>,
    stop: mpsc::Sender<Stopped>,
    busy: Arc<AtomicBool>,
    gate: Gate,
    pace: Pace,
    done: mpsc::UnboundedSender<Vec<Finished<Ticket>>>,
    finished: mpsc::UnboundedReceiver<Vec<Finished<Ticket>>>,

    /// Deliveries that hold a permit.
    in_hand: usize,
    lanes: Lanes<Job<Ticket>>,
    /// Counts up with every slice that comes or goes: lanes know nothing of deliveries of an earlier turn.
    turn: u64,
    /// Which turn of each slice it is.
    turns: HashMap<Slice, u64>,
    /// Left behind by hosts that died: these run one at a time.
    inherited: VecDeque<Job<Ticket>>,
    /// One of them is under way.
    inheriting: bool,
    /// To be offered to the workers again.
    again: Vec<Job<Ticket>>,
    /// To be settled with the next flush.
    unsettled: Vec<Unsettled>,
    /// Settlements that the bus did not take: they wait for a while, and hold up no other.
    stuck: Vec<Unsettled>,
    /// Taken over by others while they waited here or ran.
    lost: HashSet<DeliveryId>,
    /// So much is held back that only retries are read.
    parked: bool,
    draining: bool,
    /// Events that failed in a row.
    failures: u32,
    /// Reads that failed in a row.
    failed_reads: u32,
    tally: Tally,
}

/// What travels with an event through the sandbox.
#[derive(Debug)]
pub(super) struct Ticket {
    delivery: Delivery,
    attempt: u32,
    lane: Option<Lane>,
    turn: u64,
    /// Which version of the handler it was given to, or will be.
    version: usize,
    /// Its start was recorded on the bus, and the next one of its kind waits for it.
    recorded: bool,
    /// What becomes of it tells whether an outage is over.
    probe: bool,
}

impl Ticket {
    /// The slice its lane lies in.
    fn slice(&self) -> Option<Slice> {
        let topic = &self.delivery.message.topic;
        self.lane.map(|lane| Slice { topic: Arc::clone(topic), number: lane.slice() })
    }

    fn is_of(&self, slice: &Slice) -> bool {
        self.delivery.message.topic == slice.topic && self.lane.is_some_and(|lane| lane.slice() == slice.number)
    }
}

/// A ticket whose settlement is decided.
struct Unsettled {
    ticket: Ticket,
    /// Kept for another run in case of a conflict; `None` if there never was an event.
    event: Option<Arc<Event>>,
    settlement: Settlement,
    outcome: Outcome,
}

/// Something under way beside the loop.
type Step<T> = BoxFuture<'static, T>;

/// What the bus said to each settlement of a flush.
type Flushed = Vec<(Meta, Settled)>;

/// An inherited job and whether its start is recorded.
type Begun = (Job<Ticket>, Result<bool, bus::Error>);

/// What remains here of a ticket while its delivery is with the bus.
struct Meta {
    id: DeliveryId,
    attempt: u32,
    lane: Option<Lane>,
    turn: u64,
    version: usize,
    recorded: bool,
    probe: bool,
    message: Message,
    event: Option<Arc<Event>>,
    outcome: Outcome,
}

// === impl Consumer ===

impl Consumer {
    pub(super) fn new(
        settings: &HandlerConfig,
        serving: Serving,
        subscription: Arc<dyn Subscription>,
        shared: Arc<Shared>,
        gate: Gate,
        stop: mpsc::Sender<Stopped>,
    ) -> Self {
        let (done, finished) = mpsc::unbounded_channel();
        Self {
            settings: settings.clone(),
            serving,
            subscription,
            shared,
            stop,
            busy: Arc::new(AtomicBool::new(true)),
            gate,
            pace: Pace::new(settings.events_per_second),
            done,
            finished,
            in_hand: 0,
            lanes: Lanes::default(),
            turn: 0,
            turns: HashMap::new(),
            inherited: VecDeque::new(),
            inheriting: false,
            again: Vec::new(),
            unsettled: Vec::new(),
            stuck: Vec::new(),
            lost: HashSet::new(),
            parked: false,
            draining: false,
            failures: 0,
            failed_reads: 0,
            tally: Tally { handler: settings.spec.name.clone(), ..Tally::default() },
        }
    }

    /// True while anything is in hand.
    pub(super) fn gauge(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.busy)
    }

    /// Runs until `drain` turns true and everything in hand is settled or given back.
    pub(super) async fn run(mut self, mut drain: watch::Receiver<bool>) -> Tally {
        let renewal = self.settings.group.lease / RENEWALS_PER_LEASE;
        // The first one soon: it tells the bus what runs here.
        let mut renew_at = Box::pin(sleep(renewal.min(TOLD_WITHIN)));
        let mut paused = self.gate.paused.clone();
        let mut fetch: Option<Step<Result<Fetched, bus::Error>>> = None;
        let mut asked = 0;
        let mut flush: Option<Step<Flushed>> = None;
        let mut renew: Option<Step<Result<Vec<DeliveryId>, bus::Error>>> = None;
        let mut begin: Option<Step<Begun>> = None;
        let mut rest: Option<Step<()>> = None;
        let mut resend: Option<Step<()>> = None;
        let mut pause_over: Option<Step<()>> = None;
        let mut refill: Option<Step<()>> = None;
        let mut look = self.look_at_cap(true);
        let mut looking = Backoff::new("count dead letters");
        // One for each kind of request: that the bus takes one says nothing of the others.
        let (mut reading, mut settling) = (Backoff::new("read"), Backoff::new("settle"));
        let (mut beginning, mut renewing) = (Backoff::new("record an attempt"), Backoff::new("renew"));

        loop {
            let (parked, turned, room) = (self.park(), self.turn_gate(), self.wanted());
            let wanted = self.pace.allows(room, Instant::now());
            refill = refill.filter(|_| wanted == 0).or_else(|| self.refill(room, wanted));
            if parked || turned || asked < wanted.min(1) {
                // What is read changes. A read may be given up at any time.
                fetch = None;
                pause_over = None;
            }
            if pause_over.is_none() {
                pause_over = self.pause_over();
            }
            if look.is_none() {
                look = self.look_at_cap(false);
            }
            if self.show() {
                let soon = Instant::now() + TOLD_WITHIN;
                if renew_at.deadline() > soon {
                    renew_at.as_mut().reset(soon);
                }
            }
            if fetch.is_none() && !self.draining {
                fetch = self.fetch(wanted, &reading);
                asked = wanted;
            }
            if flush.is_none() && !self.unsettled.is_empty() {
                flush = Some(self.flush());
            }
            if resend.is_none() && !self.stuck.is_empty() {
                resend = Some(Box::pin(sleep(settling.pause())));
            }
            if begin.is_none() && !self.inheriting && self.can_call() {
                begin = self.begin(&beginning);
            }
            if rest.is_none() && !self.again.is_empty() && self.can_call() {
                rest = Some(Box::pin(sleep(AGAIN)));
            }
            self.busy.store(self.is_busy(), Ordering::Release);
            if self.draining && !self.is_busy() && flush.is_none() && begin.is_none() {
                break;
            }

            tokio::select! {
                fetched = ready(&mut fetch) => match fetched {
                    Ok(fetched) => {
                        reading.over(&self.tally.handler);
                        self.failed_reads = 0;
                        self.fetched(fetched);
                    }
                    Err(error) => {
                        reading.more(&self.tally.handler, &error);
                        self.failed_reads += 1;
                        self.stop_after(self.failed_reads);
                    }
                },
                settled = ready(&mut flush) => self.flushed(settled, &mut settling),
                () = ready(&mut resend) => self.unsettled.append(&mut self.stuck),
                (job, begun) = ready(&mut begin) => self.begun(job, begun, &mut beginning),
                Some(batch) = self.finished.recv() => {
                    for finished in batch {
                        self.called(finished);
                    }
                }
                renewed = ready(&mut renew) => match renewed {
                    Ok(lost) => { renewing.over(&self.tally.handler); self.lost.extend(lost); }
                    Err(error) => renewing.more(&self.tally.handler, &error),
                },
                () = renew_at.as_mut(), if renew.is_none() => {
                    renew_at.as_mut().reset(Instant::now() + renewal);
                    if look.is_none() {
                        look = self.look_at_cap(true);
                    }
                    let subscription = Arc::clone(&self.subscription);
                    subscription.report(self.report());
                    renew = Some(Box::pin(async move { subscription.renew().await }));
                }
                () = ready(&mut rest) => self.offer_again(),
                () = ready(&mut pause_over) => {}
                () = ready(&mut refill) => {}
                Some(version) = self.serving.next() => self.serve(version),
                found = ready(&mut look) => self.looked_at_cap(found, &mut looking),
                // Without anybody to resume it, it stays as it is.
                Ok(()) = paused.changed() => {}
                changed = drain.changed(), if !self.draining => {
                    // A host that is gone without a word drains too.
                    if changed.is_err() || *drain.borrow() {
                        fetch = None;
                        self.drain();
                    }
                }
            }
        }
        self.leave().await
    }

    /// Leaves the group and returns what was done.
    pub(super) async fn leave(self) -> Tally {
        if let Err(error) = self.subscription.close().await {
            tracing::warn!(handler = self.tally.handler, %error, "the consumer could not leave its group");
        }
        self.tally
    }

    fn raw(&self) -> bool {
        self.settings.payload == PayloadForm::Raw
    }

    fn is_busy(&self) -> bool {
        self.in_hand > 0 || self.lanes.held_back() > 0
    }

    /// How many deliveries there is room for. None until a quarter of the permits is free: under load the batches stay
    /// large, and without load nothing is ever waited for.
    fn wanted(&self) -> usize {
        let free = self.settings.in_flight.saturating_sub(self.in_hand);
        if free < self.settings.in_flight.div_ceil(4) { 0 } else { free }
    }

    /// The next read, unless enough is in hand. A group with order is read for the other hosts too, even without room
    /// here.
    fn fetch(&mut self, wanted: usize, trouble: &Backoff) -> Option<Step<Result<Fetched, bus::Error>>> {
        if self.gate.flow != gate::Flow::All {
            return self.fetch_little(trouble);
        }
        if wanted == 0 && self.settings.order == Order::None {
            return None;
        }
        let (subscription, wait, pause) = (Arc::clone(&self.subscription), self.shared.poll, trouble.pause());
        let parked = self.parked;
        Some(Box::pin(async move {
            rest_for(pause).await;
            if parked { subscription.fetch_due(wanted, wait).await } else { subscription.fetch(wanted, wait).await }
        }))
    }

    /// Notices that too much is held back, or no longer; true if that has changed. Retries are still read then: they
    /// are what the others wait for.
    fn park(&mut self) -> bool {
        let (held_back, most) = (self.lanes.held_back(), self.settings.parked_max);
        let parked = if self.parked { held_back > most - most.div_ceil(4) } else { held_back >= most };
        if parked && !self.parked {
            tracing::warn!(
                handler = self.tally.handler,
                held_back,
                "parked_max is reached: only retries are read until events that wait behind others have run"
            );
        }
        std::mem::replace(&mut self.parked, parked) != parked
    }

    /// Gives back whatever waits here; calls that have started go on.
    fn drain(&mut self) {
        self.draining = true;
        // What the workers have and have not started comes back.
        self.serving.handler().shut(true);
        drop(self.lanes.clear());
        let waiting: Vec<_> = self.inherited.drain(..).chain(self.again.drain(..)).collect();
        for job in waiting {
            self.not_called(job.tag);
        }
    }
}

/// Sleeps, but not for nothing: a timer costs up to a millisecond.
async fn rest_for(pause: Duration) {
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

/// Waits for a future that may not be there, and takes it away when it is ready.
async fn ready<T>(future: &mut Option<Step<T>>) -> T {
    match future {
        Some(pending) => {
            let value = pending.await;
            *future = None;
            value
        }
        None => std::future::pending().await,
    }
}
