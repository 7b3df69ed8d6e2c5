//! Runs history through one handler, beside its group: no consumer, no acknowledgement, no retry, no dead letter.
//!
//! Decoding, filter, sandbox and limits are those of a run. Several events are in hand at a time, as many as the handler
//! allows itself in a run; those of one lane one after the other; what became of them is told in the order of history.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::{Error, load};
use crate::bus::{self, Applied, Bus};
use crate::config::{Config, PayloadForm};
use crate::decode::Decoder;
use crate::dispatch::{self, Lanes, Release};
use crate::event::{Effects, Event, Lane, Message, Position, Topic, Verdict, code};
use crate::sandbox::{Finished, Handler, Job, Ran, Workers};

mod report;
mod source;

pub use report::{Became, Ended, Replayed, Report, Request};

use source::{Page, Source};

/// Events handed to the worker threads together at most, as in a run.
const BATCH: usize = 64;
/// How soon a job is offered to the workers again after trouble of the host's own.
const AGAIN: Duration = Duration::from_millis(50);

/// Hears what became of each event.
pub type Tell<'a> = dyn FnMut(&Replayed) -> io::Result<()> + Send + 'a;

/// A replay under way.
struct Replay<'a> {
    request: &'a Request,
    settings: &'a crate::config::HandlerConfig,
    profile: crate::wire::Profile,
    decoder: Arc<Decoder>,
    handler: Arc<Handler>,
    bus: Arc<dyn Bus>,
    workers: Arc<Workers<Ticket>>,
    back: mpsc::UnboundedSender<Vec<Finished<Ticket>>>,
    lanes: Lanes<Job<Ticket>>,
    /// In the order of history; the first has the number `told`.
    window: VecDeque<Slot>,
    told: u64,
    called: u64,
    /// With the workers.
    running: usize,
    again: Vec<Job<Ticket>>,
    applying: FuturesUnordered<BoxFuture<'static, Settled>>,
    stopping: bool,
    report: Report,
}

/// What travels with an event.
#[derive(Debug)]
struct Ticket {
    number: u64,
    lane: Option<Lane>,
}

/// An event that is not told yet.
struct Slot {
    topic: Topic,
    position: Position,
    id: String,
    kind: String,
    became: Option<Became>,
}

/// Effects that were sent to the bus.
struct Settled {
    event: Arc<Event>,
    ticket: Ticket,
    effects: Effects,
    applied: Result<Applied, bus::Error>,
}

/// Replays history for the one handler that `config` has, until it is over or `shutdown` is ready; calls that have
/// started end first. `tell` hears of every event, in the order of history.
///
/// # Errors
///
/// Anything that keeps it from starting. What comes later is in the report.
pub async fn replay(
    config: &Config,
    request: &Request,
    tell: &mut Tell<'_>,
    shutdown: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let bus = bus::open(&config.bus).await?;
    let decoder = Arc::new(Decoder::load(&config.schemas).map_err(Error::Schemas)?);
    let loaded = load(config, &bus, &decoder)?;
    let (Some(settings), Some(prepared)) = (config.handlers.first(), loaded.prepared.into_iter().next()) else {
        return Ok(Report::default());
    };
    let topics = settings.group.topics.iter().filter(|topic| request.topic.as_ref().is_none_or(|only| only == *topic));
    let source = Source::open(&bus, topics, request).await?;
    let (back, finished) = mpsc::unbounded_channel();
    let replay = Replay {
        request,
        settings,
        profile: config.profile,
        decoder,
        handler: prepared.handler,
        bus,
        workers: Arc::new(Workers::start(loaded.sandbox)),
        back,
        lanes: Lanes::default(),
        window: VecDeque::new(),
        told: 0,
        called: 0,
        running: 0,
        again: Vec::new(),
        applying: FuturesUnordered::new(),
        stopping: false,
        report: Report::default(),
    };
    let workers = Arc::clone(&replay.workers);
    let report = replay.run(source, finished, tell, shutdown).await;
    // Joining threads blocks; no call is running any more.
    if let Err(error) = tokio::task::spawn_blocking(move || workers.shutdown()).await {
        tracing::error!(%error, "the worker threads ended abnormally");
    }
    Ok(report)
}

// === impl Replay ===

impl Replay<'_> {
    async fn run(
        mut self,
        mut source: Source,
        mut finished: mpsc::UnboundedReceiver<Vec<Finished<Ticket>>>,
        tell: &mut Tell<'_>,
        shutdown: impl Future<Output = ()>,
    ) -> Report {
        tokio::pin!(shutdown);
        let mut reading: Option<BoxFuture<'static, Page>> = None;
        loop {
            // Either makes room for the other.
            while self.fill(&mut source) | self.tell(tell) {}
            if self.stopping && self.running == 0 && self.applying.is_empty() {
                break;
            }
            if !self.stopping && self.window.is_empty() && source.is_over() {
                break;
            }
            if reading.is_none() && !self.stopping && source.is_empty() && !source.is_over() {
                reading = Some(source.read(&self.bus));
            }
            tokio::select! {
                page = ready(&mut reading) => {
                    if let Err(error) = source.took(page) {
                        self.stop(Ended::Bus(error));
                    }
                }
                Some(batch) = finished.recv(), if self.running > 0 => {
                    for finished in batch {
                        self.called(finished);
                    }
                }
                Some(settled) = self.applying.next(), if !self.applying.is_empty() => self.applied(settled),
                () = tokio::time::sleep(AGAIN), if !self.again.is_empty() => {
                    let jobs = std::mem::take(&mut self.again);
                    self.submit(jobs);
                }
                () = &mut shutdown, if !self.stopping => self.stop(Ended::Asked),
            }
        }
        if source.is_empty() && matches!(self.report.ended, Some(Ended::Asked)) {
            // Where it stopped is in the next page. If the bus does not tell any more, it stays untold.
            drop(source.took(source.read(&self.bus).await));
        }
        self.tell_rest(&source, tell);
        self.report
    }

    /// Takes in as much as there is room for; true if that was something.
    fn fill(&mut self, source: &mut Source) -> bool {
        let (mut jobs, mut took) = (Vec::new(), false);
        while !self.stopping && self.window.len() < self.settings.in_flight {
            let Some(message) = source.peek() else { break };
            if self.request.limit.is_some_and(|limit| self.called >= limit) {
                // What is in hand ends first; then there is nothing left to wait for.
                if self.window.is_empty() {
                    self.stop(Ended::Limit);
                }
                break;
            }
            let message = message.clone();
            source.pop();
            took = true;
            jobs.extend(self.admit(&message));
        }
        self.submit(jobs);
        took
    }

    /// Decodes an event and finds its place: to the workers (returned), behind others of its lane, or told at once.
    fn admit(&mut self, message: &Message) -> Option<Job<Ticket>> {
        let mut slot = Slot {
            topic: message.topic.clone(),
            position: message.position.clone(),
            id: String::new(),
            kind: String::new(),
            became: None,
        };
        let envelope = match self.profile.read(message) {
            Ok(envelope) => envelope,
            Err(error) => return self.unreadable(slot, code::BAD_HEADERS, error.to_string()),
        };
        let kind = &envelope.metadata.kind;
        if !self.settings.filter.matches(kind) || !self.request.types.matches(kind) {
            self.report.skipped += 1;
            return None;
        }
        (slot.id, slot.kind) = (envelope.metadata.id.clone(), kind.clone());
        let event = match self.decoder.decode(message, envelope, self.settings.payload == PayloadForm::Raw) {
            Ok(event) => event,
            Err(error) => return self.unreadable(slot, error.code(), error.to_string()),
        };
        self.called += 1;
        let lane = dispatch::lane(self.settings.order, self.settings.key.as_deref(), &event);
        let ticket = Ticket { number: self.told + self.window.len() as u64, lane };
        self.window.push_back(slot);
        let (topic, first) = (Topic::clone(&event.topic), event.first.clone());
        let job = job(Arc::new(event), ticket);
        match lane {
            None => Some(job),
            Some(lane) => self.lanes.admit(&topic, lane, &first, job),
        }
    }

    fn unreadable(&mut self, slot: Slot, code: &str, reason: String) -> Option<Job<Ticket>> {
        self.called += 1;
        let became = Some(Became::Failed { code: code.to_owned(), reason });
        self.window.push_back(Slot { became, ..slot });
        None
    }

    fn submit(&mut self, jobs: Vec<Job<Ticket>>) {
        self.running += jobs.len();
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            let batch = jobs.by_ref().take(BATCH).collect();
            self.workers.submit(Arc::clone(&self.handler), batch, self.back.clone());
        }
    }

    /// A job comes back from the workers.
    fn called(&mut self, finished: Finished<Ticket>) {
        let Finished { event, tag: ticket, ran } = finished;
        self.running -= 1;
        match ran {
            Ran::NotCalled(_) if self.stopping => {}
            Ran::NotCalled(_) => self.again.push(job(event, ticket)),
            Ran::Called { verdict: Verdict::Done, effects, .. } => {
                if self.request.effects && !effects.is_empty() {
                    self.apply(event, ticket, effects);
                } else {
                    self.became(&event, ticket, Became::Done(effects));
                }
            }
            Ran::Called { verdict: Verdict::Retry { code, reason, .. } | Verdict::Reject { code, reason }, .. } => {
                self.became(&event, ticket, Became::Failed { code, reason });
            }
        }
    }

    fn apply(&mut self, event: Arc<Event>, ticket: Ticket, effects: Effects) {
        let bus = Arc::clone(&self.bus);
        self.applying.push(Box::pin(async move {
            let applied = bus.apply(&effects).await;
            Settled { event, ticket, effects, applied }
        }));
    }

    fn applied(&mut self, settled: Settled) {
        let Settled { event, ticket, effects, applied } = settled;
        match applied {
            Ok(Applied::Committed) => self.became(&event, ticket, Became::Done(effects)),
            // As in a run: a key has moved meanwhile, so the call saw what is no longer so.
            Ok(Applied::Conflict) if self.stopping => {}
            Ok(Applied::Conflict) => self.submit(vec![job(event, ticket)]),
            Ok(Applied::Refused(reason)) => {
                let code = code::EFFECTS_REFUSED.to_owned();
                self.became(&event, ticket, Became::Failed { code, reason });
            }
            Err(error) => {
                let reason = format!("whether its effects are stored is unknown: {error}");
                self.became(&event, ticket, Became::Failed { code: "bus".to_owned(), reason });
                self.stop(Ended::Bus(error));
            }
        }
    }

    fn became(&mut self, event: &Event, ticket: Ticket, became: Became) {
        // What was told has left the window, and nothing is told before it is known.
        let place = usize::try_from(ticket.number - self.told).unwrap_or(usize::MAX);
        if let Some(slot) = self.window.get_mut(place) {
            slot.became = Some(became);
        }
        let next = ticket.lane.and_then(|lane| self.lanes.release(&event.topic, lane, &event.first, Release::Gone));
        if let Some(job) = next.filter(|_| !self.stopping) {
            self.submit(vec![job]);
        }
    }

    /// Starts no further call. Those that have started end.
    fn stop(&mut self, ended: Ended) {
        self.report.ended.get_or_insert(ended);
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.lanes.clear();
        self.again.clear();
        let workers = Arc::clone(&self.workers);
        // Whoever waits for the calls waits for the threads too.
        drop(tokio::task::spawn_blocking(move || workers.shutdown()));
    }

    /// Tells what is known, up to the first that is not; true if that was something.
    fn tell(&mut self, tell: &mut Tell<'_>) -> bool {
        let before = self.told;
        while self.window.front().is_some_and(|slot| slot.became.is_some()) {
            let Some(slot) = self.window.pop_front() else { break };
            self.told += 1;
            self.tell_one(slot, tell);
        }
        self.told > before
    }

    /// At the end: what is known of events behind one that was not run.
    fn tell_rest(&mut self, source: &Source, tell: &mut Tell<'_>) {
        let open = self.window.iter().find(|slot| slot.became.is_none());
        let open = open.map(|slot| (slot.topic.clone(), slot.position.clone()));
        self.report.next = open.or_else(|| source.peek().map(|next| (next.topic.clone(), next.position.clone())));
        for slot in std::mem::take(&mut self.window) {
            self.tell_one(slot, tell);
        }
    }

    fn tell_one(&mut self, slot: Slot, tell: &mut Tell<'_>) {
        let Slot { topic, position, id, kind, became: Some(became) } = slot else { return };
        match &became {
            Became::Done(effects) => {
                self.report.done += 1;
                self.report.published += effects.publish.len() as u64;
                self.report.written += effects.writes.len() as u64;
            }
            Became::Failed { .. } => self.report.failed += 1,
        }
        // Once the reader is gone the rest is counted all the same.
        if matches!(self.report.ended, Some(Ended::Output(_))) {
            return;
        }
        if let Err(error) = tell(&Replayed { topic, position, id, kind, became }) {
            self.stop(Ended::Output(error));
        }
    }
}

/// Waits for a future that may not be there, and takes it away when it is ready.
async fn ready<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(pending) => {
            let value = pending.await;
            *future = None;
            value
        }
        None => std::future::pending().await,
    }
}

fn job(event: Arc<Event>, tag: Ticket) -> Job<Ticket> {
    Job { event, attempt: 1, replayed: true, tag }
}
