//! Groups with order on the embedded bus: what only a file can show.

use std::collections::BTreeSet;
use std::sync::Mutex;

use sandbar::bus::{Fetched, Group, LaneOf};
use sandbar::event::{Lane, SLICES};

use super::*;
use crate::conformance::ordered::{LANES, Owner, lane_of, ordered};
use crate::conformance::{number, ordered_nemesis, retry};
use crate::support::BOUND;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_hosts_break_no_order() {
    ordered_nemesis::frozen_hosts_break_no_order(&File::new(), 50).await;
}

/// A file as hosts of format 1 left it: three messages, of which a dead host has the first in hand and the second waits
/// for a retry.
fn file_of_format_1() -> File {
    let file = File::new();
    let db = file.connect();
    db.execute_batch(include_str!("format_1.sql")).unwrap();
    let fields = |n: usize| numbered("t", n).fields.pack();
    db.execute_batch(
        "INSERT INTO topic VALUES (1, 'dev-t', 3, 7);
         INSERT INTO reader (id, topic, name, cursor, holder) VALUES (1, 1, 'g', 2, 1);
         INSERT INTO consumer VALUES (1, 'dead', 7);
         INSERT INTO member VALUES (1, 1);
         INSERT INTO pending (reader, seq, consumer, token) VALUES (1, 1, 1, 1);",
    )
    .unwrap();
    for n in 0..3 {
        db.execute("INSERT INTO message VALUES (1, ?1, 7, ?2)", rusqlite::params![n + 1, &fields(n)[..]]).unwrap();
    }
    db.execute(
        "INSERT INTO retry (reader, seq, first, fields, attempts, due_ms, code, reason)
         VALUES (1, 2, '2', ?1, 1, 7, 'retry', 'not now')",
        [&fields(1)[..]],
    )
    .unwrap();
    db.pragma_update(None, "application_id", 0x5362_6172).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    file
}

#[tokio::test]
async fn a_file_of_format_1_goes_on_where_it_was() {
    let file = file_of_format_1();
    let bus = file.host().await;
    bus.probe(&[group("g", &["t"], LONG_LEASE)]).await.unwrap();
    let version =
        |file: &File| -> i64 { file.connect().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap() };
    assert_eq!(version(&file), 1, "probing changes nothing");
    let mut all = consume(&join(&bus, LONG_LEASE).await, 3).await;
    all.sort_unstable();
    assert_eq!((all, version(&file)), (vec![0, 1, 2], 2));
    let schema = |file: &File| -> BTreeSet<(String, String)> {
        let db = file.connect();
        let mut select = db.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema").unwrap();
        let words = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows = select.query_map([], |row| Ok((row.get(0)?, words(row.get(1)?)))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let new = File::new();
    publish(&new.host().await, "t", 1).await;
    assert_eq!(schema(&file), schema(&new));
}

#[tokio::test]
async fn a_file_of_format_1_gives_its_messages_to_their_slices() {
    let file = file_of_format_1();
    let mut owner = Owner::join(&file.host().await, LONG_LEASE).await;
    let mut taken = owner.take(3).await;
    taken.sort_by_key(|delivery| number(&delivery.message));
    let how: Vec<_> = taken.iter().map(|delivery| (number(&delivery.message), delivery.origin)).collect();
    assert_eq!(how, [(0, Origin::Inherited), (1, Origin::Retry), (2, Origin::New)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn naming_lanes_holds_nobody_up() {
    let file = File::new();
    let (here, there) = (file.host().await, file.host().await);
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let order = LaneOf::new(move |message| {
        // Until the other end is dropped.
        let _ = gate.lock().unwrap().recv();
        lane_of(message)
    });
    let subscription = here.subscribe(&Group { order: Some(order), ..ordered(LONG_LEASE) }).await.unwrap();
    assert!(matches!(subscription.fetch(1, Duration::ZERO).await.unwrap(), Fetched::Turnover(_)));
    publish(&here, "t", 1).await;
    let mut fetch = Box::pin(subscription.fetch(1, BOUND));
    // It is stuck in naming a lane. Neither this process nor another waits for it.
    tokio::time::timeout(QUIET, &mut fetch).await.unwrap_err();
    for bus in [&here, &there] {
        bounded("publish", bus.publish(&[numbered("other", 0)])).await.unwrap();
        bounded("read", bus.read_key("space", "key")).await.unwrap();
    }
    drop(open);
    let Fetched::Deliveries(some) = bounded("fetch", fetch).await.unwrap() else { panic!("no deliveries") };
    assert_eq!(numbers(&some), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_hosts_write_nothing() {
    let file = File::new();
    let mut owners =
        vec![Owner::join(&file.host().await, LONG_LEASE).await, Owner::join(&file.host().await, LONG_LEASE).await];
    let end = Instant::now() + BOUND;
    while owners.iter().any(|owner| owner.slices.len() != usize::from(SLICES) / 2) {
        assert!(Instant::now() < end, "the slices are not shared");
        for owner in &mut owners {
            owner.step(1).await;
        }
    }
    let db = file.connect();
    let version = || -> i64 { db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let before = version();
    let wait = Duration::from_secs(1);
    let (one, two) = tokio::join!(owners[0].subscription.fetch(8, wait), owners[1].subscription.fetch(0, wait));
    for fetched in [one, two] {
        assert!(matches!(fetched.unwrap(), Fetched::Deliveries(some) if some.is_empty()));
    }
    assert_eq!(version(), before, "something was written");
}

#[tokio::test]
async fn a_backlog_stops_the_reading_and_not_for_ever() {
    let file = File::new();
    let bus = file.host().await;
    // Makes the group.
    join(&bus, LONG_LEASE).await.close().await.unwrap();
    let db = file.connect();
    // As if hosts before this one had read so many.
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         INSERT INTO pending (reader, seq, consumer, token, slice) SELECT 1, 1000000 + i, 999, 1, 1 FROM n",
    )
    .unwrap();
    publish(&bus, "t", 3).await;
    let mut owner = Owner::join(&bus, LONG_LEASE).await;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(owner.step(8).await.is_empty(), "it read on");
    }
    db.execute("DELETE FROM pending WHERE seq > 1000000", []).unwrap();
    let mut taken = numbers(&owner.take(3).await);
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_nobody_loses_a_slice() {
    let file = File::new();
    let (mut one, mut two) =
        (Owner::join(&file.host().await, SHORT_LEASE).await, Owner::join(&file.host().await, SHORT_LEASE).await);
    let half = usize::from(SLICES) / 2;
    let end = Instant::now() + BOUND;
    while one.slices.len() != half || two.slices.len() != half {
        assert!(Instant::now() < end, "the slices are not shared");
        one.step(1).await;
        two.step(1).await;
    }
    let (ones, twos) = (one.slices.clone(), two.slices.clone());
    let lock = file.connect();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    tokio::time::sleep(SHORT_LEASE * 2).await;
    lock.execute_batch("COMMIT").unwrap();
    // Every lease has run out. The first to come leaves the other one time to renew its own.
    for _ in 0..8 {
        one.step(1).await;
        assert_eq!(one.slices, ones);
    }
    for _ in 0..8 {
        two.step(1).await;
        one.step(1).await;
    }
    assert_eq!((one.slices, two.slices), (ones, twos));
}

#[tokio::test]
async fn what_was_read_and_never_handed_out_is_behind_and_not_in_hand() {
    let file = File::new();
    let bus = file.host().await;
    publish(&bus, "t", 20).await;
    let mut owner = Owner::join(&bus, LONG_LEASE).await;
    let held = owner.take(5).await;
    owner.step(0).await;
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lag, status.pending), (Some(15), held.len() as u64));
}

#[tokio::test]
async fn a_retry_without_a_lane_holds_its_lane_up() {
    let file = File::new();
    let bus = file.host().await;
    publish(&bus, "t", 1).await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    let delivery = one.take(1).await.remove(0);
    let lane: Lane = lane_of(&delivery.message);
    commit(&one.subscription, delivery, retry(1, LONG_LEASE)).await;
    one.subscription.close().await.unwrap();
    let mut two = Owner::join(&bus, LONG_LEASE).await;
    two.take_all_slices().await;
    let lanes: Vec<Lane> = two.waiting.iter().map(|waiting| waiting.lane).collect();
    assert_eq!(lanes, [lane]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_fetch_breaks_no_order() {
    let file = File::new();
    let bus = file.host().await;
    publish(&bus, "t", 600).await;
    let mut owner = Owner::join(&bus, LONG_LEASE).await;
    owner.take_all_slices().await;
    let mut first = Vec::new();
    let end = Instant::now() + BOUND;
    for step in 0_u64.. {
        assert!(Instant::now() < end, "{} came", first.len());
        // Some are dropped half way, wherever that is; then the rest may come.
        let moment = if step < 200 { Duration::from_micros(step * 97 % 20_000) } else { BOUND };
        let fetched = tokio::time::timeout(moment, owner.subscription.fetch(5, LONG_LEASE)).await;
        let Ok(Ok(Fetched::Deliveries(some))) = fetched else { continue };
        for delivery in some {
            first.push(number(&delivery.message));
            commit(&owner.subscription, delivery, ack()).await;
        }
        if first.len() == 600 {
            break;
        }
    }
    for lane in 0..LANES {
        let of_lane: Vec<usize> = first.iter().copied().filter(|n| n % LANES == lane).collect();
        assert!(of_lane.is_sorted(), "{of_lane:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_goes_on_for_a_caller_that_changes_its_mind() {
    let file = File::new();
    let bus = file.host().await;
    publish(&bus, "t", 1).await;
    let slow = LaneOf::new(|message| {
        std::thread::park_timeout(Duration::from_millis(400));
        lane_of(message)
    });
    let subscription = bus.subscribe(&Group { order: Some(slow), ..ordered(LONG_LEASE) }).await.unwrap();
    let came = bounded("a delivery", async {
        loop {
            let fetch = subscription.fetch(1, LONG_LEASE);
            match tokio::time::timeout(Duration::from_millis(200), fetch).await {
                Ok(Ok(Fetched::Deliveries(some))) => return numbers(&some),
                Ok(Ok(Fetched::Turnover(_))) | Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(came.await, [0]);
}
