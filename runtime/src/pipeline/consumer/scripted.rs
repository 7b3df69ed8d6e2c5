//! A subscription that answers as a test tells it to, and remembers what it was asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::bus::{
    self, Delivery, DeliveryId, Fetched, InHand, Origin, Settled, Slice, Subscription, Turnover, Waiting,
};
use crate::event::{Encoding, Envelope, Fields, Lane, Message, Metadata, SLICES, Settlement};
use crate::wire::{Identity, Profile, now_time};

/// No wait of a test is longer.
pub(super) const BOUND: Duration = Duration::from_secs(8);

/// What a read finds.
#[derive(Clone, Debug)]
pub(super) enum Read {
    New(Vec<usize>),
    Inherited(usize, u32),
    /// All slices come, and these events wait for a retry, each in the lane of its key or all in that of the topic.
    Gained(Vec<usize>, By),
    Lost,
    /// Others are to have all slices.
    Wanted,
    Fails,
}

/// What lanes are named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Topic,
    Key,
}

/// What becomes of a settlement; without one it is committed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Lost,
    Conflict,
    Refused,
    Down,
    WrongType,
}

/// What the consumer did, by the number of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Did {
    Acked(usize),
    Retried(usize, u32, String),
    Buried(usize, String),
    Begun(usize),
    Answered(usize),
    Returned(usize),
}

#[derive(Default)]
struct State {
    reads: VecDeque<Read>,
    answers: HashMap<usize, VecDeque<Answer>>,
    begins: VecDeque<Result<bool, ()>>,
    retries: Vec<(usize, u32, SystemTime)>,
    /// The lane that each retry named.
    lanes: BTreeMap<usize, Option<Lane>>,
    lost: Vec<DeliveryId>,
    out: HashMap<usize, DeliveryId>,
    did: Vec<Did>,
    renewals: usize,
    /// The module that each dead letter names.
    modules: BTreeMap<usize, String>,
}

pub(super) struct Scripted {
    kinds: Vec<&'static str>,
    hand: Arc<InHand<(usize, u32)>>,
    state: Mutex<State>,
    changed: Notify,
}

// === impl Scripted ===

impl Scripted {
    /// One event of each kind: its number is its place, and its document names a key by its last digit.
    pub(super) fn new(kinds: &[&'static str], reads: impl IntoIterator<Item = Read>) -> Arc<Self> {
        let state = State { reads: reads.into_iter().collect(), ..State::default() };
        Arc::new(Self { kinds: kinds.to_vec(), hand: InHand::new(), state: Mutex::new(state), changed: Notify::new() })
    }

    pub(super) fn answer(&self, number: usize, answers: impl IntoIterator<Item = Answer>) {
        self.lock().answers.insert(number, answers.into_iter().collect());
    }

    pub(super) fn begins(&self, begins: impl IntoIterator<Item = Result<bool, ()>>) {
        self.lock().begins.extend(begins);
    }

    pub(super) fn read(&self, reads: impl IntoIterator<Item = Read>) {
        self.lock().reads.extend(reads);
        self.changed.notify_one();
    }

    /// The next renewal says that this is another's.
    pub(super) fn lose(&self, number: usize) {
        let mut state = self.lock();
        let id = state.out[&number];
        self.hand.remove(id);
        state.lost.push(id);
    }

    pub(super) fn did(&self) -> Vec<Did> {
        self.lock().did.clone()
    }

    pub(super) fn renewals(&self) -> usize {
        self.lock().renewals
    }

    /// The lanes that retries named, by the number of the event.
    pub(super) fn lanes(&self) -> Vec<Option<Lane>> {
        self.lock().lanes.values().copied().collect()
    }

    /// The modules that dead letters named, by the number of the event.
    pub(super) fn modules(&self) -> Vec<String> {
        self.lock().modules.values().cloned().collect()
    }

    /// How often a settlement of this event was sent and not taken.
    pub(super) fn answered(&self, number: usize) -> usize {
        self.did().iter().filter(|did| **did == Did::Answered(number)).count()
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn(&[Did]) -> bool) {
        let end = tokio::time::Instant::now() + BOUND;
        while !holds(&self.did()) {
            assert!(tokio::time::Instant::now() < end, "{what}: {:?}", self.did());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn message(&self, number: usize) -> Message {
        let metadata = Metadata {
            id: uuid::Uuid::from_u128(number as u128).to_string(),
            kind: self.kinds[number].into(),
            time: now_time(),
            ..Metadata::default()
        };
        let payload = format!("{{\"key\": {}}}", number % 3).into();
        let identity = Identity { source: "s".into(), host: "h".into(), lib: "1.0.0".into() };
        let fields: Fields =
            Profile::OpenEdx.write(&Envelope { metadata, encoding: Encoding::Json, payload }, &identity);
        let position = number.to_string().as_str().into();
        Message { topic: "in".into(), first: number.to_string().as_str().into(), position, fields }
    }

    fn deliver(&self, state: &mut State, number: usize, attempts: u32, origin: Origin) -> Delivery {
        let receipt = self.hand.take((number, attempts));
        let delivery = Delivery::new(self.message(number), attempts, origin, receipt);
        state.out.insert(number, delivery.id());
        delivery
    }

    /// What is due, dropped or, if wanted, scripted; in that order.
    fn look(&self, all: bool) -> Option<Result<Fetched, bus::Error>> {
        let dropped = self.hand.take_dropped();
        let mut state = self.lock();
        let now = SystemTime::now();
        let mut found = Vec::new();
        for (number, attempts) in dropped {
            state.did.push(Did::Returned(number));
            found.push(self.deliver(&mut state, number, attempts, Origin::Dropped));
        }
        let (due, later) = std::mem::take(&mut state.retries).into_iter().partition(|(_, _, due)| *due <= now);
        state.retries = later;
        let due: Vec<(usize, u32, SystemTime)> = due;
        found.extend(due.into_iter().map(|(n, attempts, _)| self.deliver(&mut state, n, attempts, Origin::Retry)));
        if !found.is_empty() || !all {
            return (!found.is_empty()).then(|| Ok(Fetched::Deliveries(found)));
        }
        Some(match state.reads.pop_front()? {
            Read::New(numbers) => {
                let new = numbers.into_iter().map(|n| self.deliver(&mut state, n, 0, Origin::New)).collect();
                Ok(Fetched::Deliveries(new))
            }
            Read::Inherited(n, attempts) => {
                Ok(Fetched::Deliveries(vec![self.deliver(&mut state, n, attempts, Origin::Inherited)]))
            }
            Read::Gained(retrying, by) => {
                self.hand.with(HashMap::clear);
                let waiting = retrying.into_iter().map(|number| waiting(number, by)).collect();
                Ok(Fetched::Turnover(Turnover { gained: slices(), waiting, ..Turnover::default() }))
            }
            Read::Lost => {
                self.hand.with(HashMap::clear);
                Ok(Fetched::Turnover(Turnover { lost: slices(), ..Turnover::default() }))
            }
            Read::Wanted => Ok(Fetched::Turnover(Turnover { wanted: slices(), ..Turnover::default() })),
            Read::Fails => Err(down()),
        })
    }

    async fn wait(&self, wait: Duration, all: bool) -> Result<Fetched, bus::Error> {
        let end = tokio::time::Instant::now() + wait;
        loop {
            if let Some(found) = self.look(all) {
                return found;
            }
            if tokio::time::Instant::now() >= end {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.hand.returned() => {}
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }

    fn settle_one(&self, delivery: Delivery, settlement: Settlement) -> Settled {
        let mut state = self.lock();
        let delivery = delivery.disarm();
        let Some((number, _)) = self.hand.with(|hand| hand.get(&delivery.id).copied()) else {
            return Settled::Lost;
        };
        let Some(answer) = state.answers.get_mut(&number).and_then(VecDeque::pop_front) else {
            self.hand.remove(delivery.id);
            let did = match settlement {
                Settlement::Ack(_) => Did::Acked(number),
                Settlement::Dead(cause) => {
                    state.modules.insert(number, cause.module);
                    Did::Buried(number, cause.code)
                }
                Settlement::Retry(entry) => {
                    state.retries.push((number, entry.attempts, entry.due));
                    state.lanes.insert(number, entry.lane);
                    Did::Retried(number, entry.attempts, entry.code)
                }
            };
            state.did.push(did);
            return Settled::Committed;
        };
        state.did.push(Did::Answered(number));
        match answer {
            Answer::Lost => {
                self.hand.remove(delivery.id);
                Settled::Lost
            }
            Answer::Conflict => Settled::Conflict(delivery.rearm()),
            Answer::Refused => Settled::Refused(delivery.rearm(), "no".into()),
            Answer::Down => Settled::Failed(delivery.rearm(), settlement, down()),
            Answer::WrongType => {
                let error = bus::Error::Unexpected("a string is in the way".into());
                Settled::Failed(delivery.rearm(), settlement, error)
            }
        }
    }
}

fn slices() -> Vec<Slice> {
    (0..SLICES).map(|number| Slice { topic: "in".into(), number }).collect()
}

fn waiting(number: usize, by: By) -> Waiting {
    let key = if by == By::Key { (number % 3).to_string() } else { String::new() };
    let lane = Lane::of("in", key.as_bytes());
    let slice = Slice { topic: "in".into(), number: lane.slice() };
    Waiting { slice, lane, first: number.to_string().as_str().into() }
}

fn down() -> bus::Error {
    bus::Error::Unavailable { url: "test:".into(), reason: "down".into() }
}

#[async_trait]
impl Subscription for Scripted {
    fn consumer(&self) -> &'static str {
        "scripted"
    }

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Fetched, bus::Error> {
        if max == 0 {
            tokio::time::sleep(wait).await;
            return Ok(Fetched::Deliveries(Vec::new()));
        }
        self.wait(wait, true).await
    }

    async fn fetch_due(&self, _max: usize, wait: Duration) -> Result<Fetched, bus::Error> {
        self.wait(wait, false).await
    }

    async fn settle(&self, batch: Vec<(Delivery, Settlement)>) -> Vec<Settled> {
        batch.into_iter().map(|(delivery, settlement)| self.settle_one(delivery, settlement)).collect()
    }

    async fn begin(&self, delivery: &Delivery) -> Result<bool, bus::Error> {
        let mut state = self.lock();
        let began = state.begins.pop_front().unwrap_or(Ok(true)).map_err(|()| down())?;
        let number = self.hand.with(|hand| {
            hand.get_mut(&delivery.id()).map(|held| {
                held.1 += u32::from(began);
                held.0
            })
        });
        state.did.extend(number.filter(|_| began).map(Did::Begun));
        if !began {
            self.hand.remove(delivery.id());
        }
        Ok(began && number.is_some())
    }

    fn report(&self, _text: String) {}

    async fn renew(&self) -> Result<Vec<DeliveryId>, bus::Error> {
        let mut state = self.lock();
        state.renewals += 1;
        Ok(std::mem::take(&mut state.lost))
    }

    async fn close(&self) -> Result<(), bus::Error> {
        for (number, _) in self.hand.take_dropped() {
            self.lock().did.push(Did::Returned(number));
        }
        let left = self.hand.with(|hand| hand.len());
        assert_eq!(left, 0, "something is neither settled nor given back");
        Ok(())
    }
}
