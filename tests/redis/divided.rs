//! Groups with order on Redis over time: wakes, fetches that are given up, connections that are cut.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandbar::bus::{Fetched, Settled, Subscription};

use super::order::{idle, lane_at};
use crate::conformance::ordered::{LANES, Owner, ordered};
use crate::conformance::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, number, numbered, numbers, publish, settle,
};
use crate::support::redis::Server;
use crate::support::{BOUND, bounded};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_to_another_wakes_it() {
    const COUNT: usize = 15;
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&server.host().await, LONG_LEASE).await;
    while one.slices.len() != two.slices.len() {
        idle(&mut [&mut one, &mut two], QUIET).await;
    }
    // Of a lane that is the second's, while the first reads and both wait.
    let is_of = |n: &usize| two.slices.iter().any(|slice| slice.number == lane_at(*n).slice());
    let lane = (0..LANES).find(is_of).expect("one of eight lanes");
    let reader = Arc::clone(&one.subscription);
    let mut reads = tokio::task::JoinSet::new();
    reads.spawn(async move { while reader.fetch(8, BOUND).await.is_ok() {} });
    let start = Instant::now();
    for _ in 0..COUNT {
        bus.publish(&[numbered("t", lane)]).await.unwrap();
        let found = bounded("fetch", two.subscription.fetch(8, BOUND)).await.unwrap();
        let Fetched::Deliveries(some) = found else { panic!("{found:?}") };
        for delivery in some {
            commit(&two.subscription, delivery, ack()).await;
        }
    }
    // Without being woken it looks once a second.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    reads.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_that_are_given_up_lose_nothing_and_keep_the_order() {
    const COUNT: usize = 800;
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", COUNT).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut done = Vec::new();
    let end = Instant::now() + BOUND;
    for round in 0_u64.. {
        assert!(Instant::now() < end, "{} of {COUNT} came", done.len());
        if done.len() == COUNT {
            break;
        }
        one.subscription.renew().await.unwrap();
        let patience = Duration::from_micros(100 * (1 + round % 40));
        let fetched = tokio::time::timeout(patience, one.subscription.fetch(7, QUIET)).await;
        if let Ok(Ok(Fetched::Deliveries(some))) = fetched {
            done.extend(numbers(&some));
            for delivery in some {
                commit(&one.subscription, delivery, ack()).await;
            }
        }
    }
    for lane in 0..LANES {
        let of_lane: Vec<usize> = done.iter().copied().filter(|n| n % LANES == lane).collect();
        assert_eq!(of_lane, (lane..COUNT).step_by(LANES).collect::<Vec<_>>());
    }
}

/// Fetches leave what they took in line when they are given up. Trimmed meanwhile, it goes to the retry store, and what
/// comes after it must not pass it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_trimmed_while_in_line_keeps_its_place_after_an_outage() {
    const COUNT: usize = 4_000;
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", COUNT).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut connection = server.connection().await;
    let (mut done, mut rescued) = (Vec::new(), 0);
    let end = Instant::now() + BOUND;
    for round in 0_u64.. {
        let status = bus.status(&"t".into(), "g").await.unwrap();
        if (status.lag, status.pending, status.retrying) == (Some(0), 0, 0) {
            break;
        }
        assert!(Instant::now() < end, "{} of {COUNT} came, {status:?}", done.len());
        let patience = Duration::from_micros(100 * (1 + round % 20));
        let fetched = tokio::time::timeout(patience, one.subscription.fetch(7, QUIET)).await;
        if let Ok(Ok(Fetched::Deliveries(some))) = fetched {
            done.extend(numbers(&some));
            for delivery in some {
                commit(&one.subscription, delivery, ack()).await;
            }
        }
        if round % 2 == 0 {
            // All that the group has read but the last, and then the connection.
            let read = "local group = redis.call('XINFO', 'GROUPS', KEYS[1])[1]
                return redis.call('XTRIM', KEYS[1], 'MINID', group[8])";
            let _: u64 = redis::cmd("EVAL").arg(&[read, "1", "dev-t"]).query_async(&mut connection).await.unwrap();
            let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
            let _: u64 = redis::cmd("CLIENT").arg(&kill).query_async(&mut connection).await.unwrap();
        }
        rescued = rescued.max(status.retrying);
        let _ = one.subscription.renew().await;
    }
    assert!(rescued > 0, "nothing was ever in line");
    for lane in 0..LANES {
        // What was on its way to the line is lost with the topic.
        let of_lane: Vec<usize> = done.iter().copied().filter(|n| n % LANES == lane).collect();
        assert!(of_lane.is_sorted(), "{of_lane:?}");
    }
}

/// What several consumers have done, in order.
pub(super) type Done = Arc<Mutex<Vec<usize>>>;

/// Takes, notes and acknowledges one by one until it is told to stop, freezing now and then.
pub(super) async fn run(subscription: Arc<dyn Subscription>, done: Done, count: usize, freezes: bool) {
    let mut renewed = Instant::now();
    let mut fetches = 0;
    while done.lock().unwrap().iter().collect::<HashSet<_>>().len() < count {
        if renewed.elapsed() > SHORT_LEASE / 4 && subscription.renew().await.is_ok() {
            renewed = Instant::now();
        }
        let fetched = bounded("fetch", subscription.fetch(5, Duration::from_millis(20))).await;
        let deliveries = match fetched {
            Ok(Fetched::Deliveries(deliveries)) => deliveries,
            Ok(Fetched::Turnover(_)) => continue,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        fetches += 1;
        if freezes && fetches % 40 == 0 && !deliveries.is_empty() {
            tokio::time::sleep(SHORT_LEASE * 3).await;
        }
        for delivery in deliveries {
            let n = number(&delivery.message);
            let mut next = Some((delivery, ack()));
            while let Some((delivery, settlement)) = next.take() {
                match settle(&subscription, delivery, settlement).await {
                    Settled::Committed => done.lock().unwrap().push(n),
                    Settled::Lost => {}
                    Settled::Failed(delivery, settlement, _) => next = Some((delivery, settlement)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    drop(subscription.close().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_keep_their_order_while_connections_are_cut_and_hosts_freeze() {
    const COUNT: usize = 3_000;
    let server = Arc::new(Server::start(&[]).await);
    let done = Done::default();
    let mut hosts = tokio::task::JoinSet::new();
    for n in 0..3 {
        let subscription = server.host().await.subscribe(&ordered(SHORT_LEASE)).await.unwrap();
        hosts.spawn(run(subscription, Arc::clone(&done), COUNT, n > 0));
    }
    let mut connection = server.connection().await;
    bounded("handling all", async {
        let mut published = 0;
        let mut rounds = 0;
        while hosts.len() == 3 {
            rounds += 1;
            if published < COUNT {
                let mut append = redis::pipe();
                for n in published..published + 50 {
                    append.cmd("XADD").arg("dev-t").arg("*").arg("n").arg(n).ignore();
                }
                append.query_async::<()>(&mut connection).await.unwrap();
                published += 50;
            }
            if rounds % 4 == 0 && rounds < 120 {
                let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
                let _: u64 = redis::cmd("CLIENT").arg(&kill).query_async(&mut connection).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(ended) = hosts.try_join_next() {
                ended.unwrap();
            }
        }
    })
    .await;
    assert_in_order(&done, COUNT);
}

/// All are done, and each the first time after those of its lane before it.
pub(super) fn assert_in_order(done: &Done, count: usize) {
    let done = done.lock().unwrap().clone();
    let mut seen = BTreeSet::new();
    let mut last: HashMap<usize, usize> = HashMap::new();
    for n in done.into_iter().filter(|n| seen.insert(*n)) {
        let before = last.insert(n % LANES, n);
        assert_eq!(before.map_or(n % LANES, |before| before + LANES), n, "{n} came after {before:?}");
    }
    assert_eq!(seen.len(), count);
}
