//! Order over hosts that freeze, come, leave and die: whatever happens to them, no lane is handed out or committed out
//! of order, and nothing is lost or committed twice.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandbar::bus::{Bus, Delivery, Fetched, Origin, Settled, Slice, Waiting};
use sandbar::event::{Effects, Settlement};
use tokio::task::JoinSet;

use super::ordered::{LANES, Owner, lane_of};
use super::{BOUND, Fixture, LONG_LEASE, ack, group, number, numbered, numbers, retry, vanish};

/// Far shorter than anybody sets it, so that much happens. On a busy machine leases run out that should not: all the
/// better.
const LEASE: Duration = Duration::from_millis(250);

/// What all hosts did.
#[derive(Default)]
struct Log {
    /// By lane, the numbers in the order in which they were first handed out.
    handed_out: BTreeMap<usize, Vec<usize>>,
    known: HashSet<usize>,
    committed: usize,
}

/// A host that does what the line does: one event of a lane at a time, and none past one that waits for a retry.
struct Host {
    owner: Owner,
    /// By lane, what has been handed out and is not settled.
    lanes: BTreeMap<usize, VecDeque<Delivery>>,
    log: Arc<Mutex<Log>>,
    random: u64,
}

// === impl Host ===

impl Host {
    async fn join(fixture: &dyn Fixture, log: &Arc<Mutex<Log>>, seed: u64) -> Self {
        let owner = Owner::join(&fixture.host().await, LEASE).await;
        Self { owner, lanes: BTreeMap::new(), log: Arc::clone(log), random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// A number below `below`, always the same ones after the same seed.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    async fn work(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            self.fetch().await;
            self.settle_some().await;
        }
        self
    }

    /// Holds what it has and gives no sign of life; then it settles as if nothing had been.
    async fn freeze(mut self) -> Self {
        while self.held() == 0 {
            // Nothing may come at all, if all it could get is in others' hands: then it freezes with nothing.
            self.fetch().await;
            if self.random(20) == 0 {
                break;
            }
        }
        tokio::time::sleep(LEASE * 3).await;
        self.settle_some().await;
        self
    }

    fn held(&self) -> usize {
        self.lanes.values().map(VecDeque::len).sum()
    }

    async fn fetch(&mut self) {
        // At least one: it may be the retry that all it holds waits for.
        let max = 12_usize.saturating_sub(self.held()).max(1);
        let patience = Duration::from_micros(500 + self.random(4_000));
        let deliveries = if self.random(4) == 0 {
            // Now and then it changes its mind half way.
            tokio::time::timeout(patience, self.owner.step(max)).await.unwrap_or_default()
        } else {
            self.owner.step(max).await
        };
        for delivery in deliveries {
            let n = number(&delivery.message);
            let mut log = self.log.lock().unwrap();
            if log.known.insert(n) {
                log.handed_out.entry(n % LANES).or_default().push(n);
            }
            drop(log);
            self.owner.waiting.retain(|waiting| waiting.first != delivery.message.first);
            let lane = self.lanes.entry(n % LANES).or_default();
            let at = lane.iter().position(|held| number(&held.message) > n).unwrap_or(lane.len());
            lane.insert(at, delivery);
        }
        let (slices, wanted) = (&self.owner.slices, &self.owner.wanted);
        for lane in self.lanes.values_mut() {
            lane.retain(|held| {
                let slice = slice_of(held);
                slices.contains(&slice) && !wanted.contains(&slice)
            });
        }
    }

    /// Settles the first of each lane.
    async fn settle_some(&mut self) {
        for lane in 0..LANES {
            let Some(delivery) = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) else { continue };
            let lane_number = lane_of(&delivery.message);
            if self.owner.waiting.iter().any(|waiting| waiting.lane == lane_number) {
                self.lanes.entry(lane).or_default().push_front(delivery);
                continue;
            }
            if delivery.origin == Origin::Inherited && !self.owner.subscription.begin(&delivery).await.unwrap() {
                continue;
            }
            let (n, slice, first) = (number(&delivery.message), slice_of(&delivery), delivery.message.first.clone());
            let fails = delivery.attempts < 2 && self.random(5) == 0;
            let settlement = if fails {
                let pause = Duration::from_millis(self.random(60));
                let Settlement::Retry(mut entry) = retry(delivery.attempts + 1, pause) else { unreachable!() };
                entry.lane = Some(lane_number);
                Settlement::Retry(entry)
            } else {
                Settlement::Ack(Effects { publish: vec![numbered("out", n)], ..Effects::default() })
            };
            match super::settle(&self.owner.subscription, delivery, settlement).await {
                Settled::Committed if fails => {
                    self.owner.waiting.push(Waiting { slice, lane: lane_number, first });
                }
                Settled::Committed => self.log.lock().unwrap().committed += 1,
                Settled::Lost => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn slice_of(delivery: &Delivery) -> Slice {
    let topic = delivery.message.topic.clone();
    Slice { topic, number: lane_of(&delivery.message).slice() }
}

/// Three hosts, and now and then a fourth, of which one is frozen in each round.
pub(crate) async fn frozen_hosts_break_no_order(fixture: &dyn Fixture, rounds: usize) {
    let (bus, log) = (fixture.host().await, Arc::<Mutex<Log>>::default());
    let mut hosts = VecDeque::new();
    for seed in 0..3 {
        hosts.push_back(Host::join(fixture, &log, seed).await);
    }
    let mut published = 0;
    for round in 0..rounds {
        let until = Instant::now() + LEASE * 3;
        let mut tasks = JoinSet::new();
        let frozen = hosts.pop_front().unwrap();
        tasks.spawn(frozen.freeze());
        for host in hosts.drain(..) {
            tasks.spawn(host.work(until));
        }
        if round % 5 == 2 {
            hosts.push_back(Host::join(fixture, &log, 1_000 + round as u64).await);
        }
        while Instant::now() < until {
            publish_some(&bus, &mut published).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The frozen one comes last, so that another is frozen in the next round.
        while let Some(host) = tasks.join_next().await {
            hosts.push_back(host.unwrap());
        }
        if round % 5 == 4 {
            let leaving = hosts.pop_front().unwrap();
            let held = leaving.lanes.into_values().flatten().collect();
            if round % 2 == 0 {
                leaving.owner.subscription.close().await.unwrap();
                drop::<Vec<Delivery>>(held);
            } else {
                vanish(leaving.owner.subscription, held);
            }
        }
    }
    finish(hosts, &log, published).await;
    let committed = read_out(&bus, published).await;
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying), (Some(0), 0, 0));
    let log = log.lock().unwrap();
    for lane in 0..LANES {
        let all: Vec<usize> = (lane..published).step_by(LANES).collect();
        assert_eq!(log.handed_out[&lane], all, "handed out of lane {lane}");
        let committed: Vec<usize> = committed.iter().copied().filter(|n| n % LANES == lane).collect();
        assert_eq!(committed, all, "committed of lane {lane}");
    }
}

async fn publish_some(bus: &Arc<dyn Bus>, published: &mut usize) {
    let some: Vec<_> = (*published..*published + 5).map(|n| numbered("t", n)).collect();
    *published += some.len();
    bus.publish(&some).await.unwrap();
}

/// Lets all hosts work until everything is done.
async fn finish(hosts: VecDeque<Host>, log: &Arc<Mutex<Log>>, published: usize) {
    let (end, mut hosts) = (Instant::now() + BOUND, hosts);
    while log.lock().unwrap().committed < published {
        assert!(Instant::now() < end, "{} of {published} were committed", log.lock().unwrap().committed);
        let mut tasks = JoinSet::new();
        for host in hosts.drain(..) {
            tasks.spawn(host.work(Instant::now() + LEASE));
        }
        while let Some(host) = tasks.join_next().await {
            hosts.push_back(host.unwrap());
        }
    }
}

/// What was committed, in the order in which it was.
async fn read_out(bus: &Arc<dyn Bus>, count: usize) -> Vec<usize> {
    let reader = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    let mut all = Vec::new();
    while let Fetched::Deliveries(some) = reader.fetch(500, Duration::from_millis(200)).await.unwrap() {
        if some.is_empty() {
            break;
        }
        all.extend(numbers(&some));
        reader.settle(some.into_iter().map(|delivery| (delivery, ack())).collect()).await;
    }
    assert_eq!(all.len(), count, "each effect once");
    all
}
