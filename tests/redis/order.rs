//! Groups with order on Redis: what the server and the connection can do to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use sandbar::bus::{Bus, Delivery, Fetched, Origin, Settled};
use sandbar::event::{Lane, Message, SLICES};

use super::count;
use super::trouble::effects;
use crate::conformance::ordered::{LANES, Owner, lane_of, ordered};
use crate::conformance::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, join, number, numbered, numbers, publish, retry, settle,
    take, vanish,
};
use crate::support::redis::Server;
use crate::support::{BOUND, bounded};

/// Lets each live for a while and take nothing.
pub(super) async fn idle(owners: &mut [&mut Owner], time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for owner in &mut *owners {
            assert!(owner.step(0).await.is_empty());
        }
    }
}

async fn pending(bus: &Arc<dyn Bus>) -> u64 {
    bus.status(&"t".into(), "g").await.unwrap().pending
}

fn sorted(deliveries: &[Delivery]) -> Vec<usize> {
    let mut numbers = numbers(deliveries);
    numbers.sort_unstable();
    numbers
}

pub(super) fn lane_at(n: usize) -> Lane {
    Lane::of("t", (n % LANES).to_string().as_bytes())
}

#[tokio::test]
async fn what_a_dead_reader_has_read_is_placed_before_anything_newer() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut dead = Owner::join(&bus, SHORT_LEASE).await;
    dead.take_all_slices().await;
    publish(&bus, "t", LANES * 3).await;
    // As if it had died between reading and placing.
    let read = ["XREADGROUP", "GROUP", "g", "sandbar-reader", "COUNT", "10", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    vanish(dead.subscription, Vec::new());
    let mut heir = Owner::join(&server.host().await, SHORT_LEASE).await;
    let taken = heir.take(LANES * 3).await;
    for lane in 0..LANES {
        let of_lane: Vec<usize> = numbers(&taken).into_iter().filter(|n| n % LANES == lane).collect();
        assert_eq!(of_lane, [lane, lane + LANES, lane + 2 * LANES]);
    }
    assert!(taken.iter().all(|delivery| delivery.origin == Origin::New), "nobody had them in hand");
}

#[tokio::test]
async fn what_is_trimmed_between_reading_and_placing_is_counted_as_lost() {
    for server in [Server::start(&[]).await, Server::start_old().await] {
        let bus = server.host().await;
        let mut one = Owner::join(&bus, SHORT_LEASE).await;
        one.take_all_slices().await;
        publish(&bus, "t", 4).await;
        let read = ["XREADGROUP", "GROUP", "g", "sandbar-reader", "COUNT", "10", "STREAMS", "dev-t", ">"];
        let _: Value = server.run(&read).await;
        let _: u64 = server.run(&["XTRIM", "dev-t", "MAXLEN", "2"]).await;
        vanish(one.subscription, Vec::new());
        let mut heir = Owner::join(&server.host().await, SHORT_LEASE).await;
        assert_eq!(sorted(&heir.take(2).await), [2, 3]);
        let status = bus.status(&"t".into(), "g").await.unwrap();
        assert_eq!((status.pending, status.lost), (2, 2));
    }
}

#[tokio::test]
async fn who_has_lost_the_turn_reads_and_places_nothing() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let _: () = server.run(&["SET", "{dev-t}.reader.g", "another:1", "PX", "1000"]).await;
    publish(&bus, "t", 8).await;
    assert!(one.step(8).await.is_empty());
    // Nor by a script that was on its way when the turn went to another.
    let script = include_str!("../../runtime/src/bus/redis/read.lua");
    let version: String = server.run(&["HGET", "{dev-t}.slices.g", "version"]).await;
    let mut read = vec!["EVAL", script, "3", "dev-t", "{dev-t}.reader.g", "{dev-t}.slices.g"];
    read.extend(["g", "me:1", &version, "800", "8", "0"]);
    let said: Value = server.run(&read).await;
    assert_eq!(said, Value::Array(vec![Value::BulkString(b"standby".to_vec())]));
    assert_eq!(pending(&bus).await, 0, "it read in another's turn");
    // What it had read before is not for it to place either.
    let read = ["XREADGROUP", "GROUP", "g", "sandbar-reader", "COUNT", "1", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    let entry: Vec<(String, Value)> = server.run(&["XRANGE", "dev-t", "-", "+", "COUNT", "1"]).await;
    let script = concat!(
        include_str!("../../runtime/src/bus/redis/later.lua"),
        include_str!("../../runtime/src/bus/redis/place.lua")
    );
    let mut place = vec!["EVAL", script, "6", "dev-t"];
    place.extend(["{dev-t}.reader.g", "{dev-t}.slices.g", "{dev-t}.placed.g", "{dev-t}.wake.g", "{dev-t}.lost.g"]);
    place.extend(["g", "me:1", "me", "0", "0-0", "1", &entry[0].0, "5"]);
    let said: Vec<String> = server.run(&place).await;
    assert_eq!(said, ["standby"]);
    // Its turn comes again, and all is there.
    assert_eq!(sorted(&one.take(8).await), (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_trimmed_in_hand_commits_and_is_inherited_with_its_lane() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 2).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    let mut held = one.take(2).await;
    held.sort_by_key(|delivery| number(&delivery.message));
    server.lose_messages("t").await;
    assert!(one.subscription.renew().await.unwrap().is_empty(), "nothing is lost");
    commit(&one.subscription, held.remove(0), effects(&["out"])).await;
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 1);
    let left: Message = held[0].message.clone();
    vanish(one.subscription, held);
    let mut heir = Owner::join(&server.host().await, SHORT_LEASE).await;
    let taken = heir.take(1).await.remove(0);
    assert_eq!((&taken.message, taken.origin), (&left, Origin::Inherited));
    assert_eq!(
        heir.waiting.iter().map(|one| (one.lane, &one.first)).collect::<Vec<_>>(),
        [(lane_of(&left), &left.first)]
    );
    commit(&heir.subscription, taken, ack()).await;
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying, status.lost), (0, 0, 0));
}

#[tokio::test]
async fn what_is_trimmed_before_it_was_handed_out_is_counted_as_lost() {
    for server in [Server::start(&[]).await, Server::start_old().await] {
        let bus = server.host().await;
        let mut one = Owner::join(&bus, SHORT_LEASE).await;
        one.take_all_slices().await;
        let mut two = Owner::join(&server.host().await, SHORT_LEASE).await;
        while one.slices.len() != two.slices.len() {
            idle(&mut [&mut one, &mut two], QUIET).await;
        }
        publish(&bus, "t", 50).await;
        while pending(&bus).await < 50 {
            idle(&mut [&mut one, &mut two], Duration::from_millis(50)).await;
        }
        server.lose_messages("t").await;
        let end = Instant::now() + BOUND;
        while pending(&bus).await > 0 {
            assert!(Instant::now() < end, "{} are pending still", pending(&bus).await);
            assert!(one.step(9).await.is_empty() && two.step(9).await.is_empty());
        }
        assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 50);
    }
}

#[tokio::test]
async fn nothing_is_read_while_a_hundred_thousand_are_pending() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&server.host().await, SHORT_LEASE).await;
    while one.slices.len() != two.slices.len() {
        idle(&mut [&mut one, &mut two], QUIET).await;
    }
    let append = "for n = 0, 101999 do redis.call('XADD', KEYS[1], '*', 'n', n) end";
    let _: () = server.run(&["EVAL", append, "1", "dev-t"]).await;
    while pending(&bus).await < 100_000 {
        idle(&mut [&mut one, &mut two], QUIET).await;
    }
    let full = pending(&bus).await;
    assert!(full < 101_100, "{full}");
    idle(&mut [&mut one, &mut two], QUIET).await;
    assert_eq!(pending(&bus).await, full, "it reads on");
    // And reads on when some are settled.
    for owner in [&mut one, &mut two] {
        let some = owner.take(1_000).await;
        let answers = owner.subscription.settle(some.into_iter().map(|delivery| (delivery, ack())).collect()).await;
        assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)));
    }
    let end = Instant::now() + BOUND;
    while pending(&bus).await < 100_000 {
        assert!(Instant::now() < end, "it does not read again");
        idle(&mut [&mut one, &mut two], QUIET).await;
    }
}

#[tokio::test]
async fn nobody_is_dead_for_one_lease_after_an_outage() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let mut one = Owner::join(&server.host().await, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&server.host().await, SHORT_LEASE).await;
    while one.slices.len() != two.slices.len() {
        idle(&mut [&mut one, &mut two], QUIET).await;
    }
    let bus = server.host().await;
    publish(&bus, "t", 32).await;
    let mut held = Vec::new();
    while held.is_empty() {
        assert!(one.step(0).await.is_empty());
        held = two.step(1).await;
    }
    server.kill();
    tokio::time::sleep(SHORT_LEASE * 3 / 2).await;
    server.revive().await;
    // The first is back first; the second could not show that it lives.
    let half = one.slices.len();
    let start = Instant::now();
    while start.elapsed() < SHORT_LEASE / 2 {
        match bounded("fetch", one.subscription.fetch(0, Duration::from_millis(20))).await {
            Ok(Fetched::Deliveries(_)) => {}
            Ok(Fetched::Turnover(turnover)) => panic!("{turnover:?}"),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    while two.subscription.renew().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    commit(&two.subscription, held.remove(0), effects(&["out"])).await;
    assert_eq!(half, usize::from(SLICES) / 2);
}

#[tokio::test]
async fn the_names_of_slices_are_nobody() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 16).await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    let held = one.take(16).await;
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!(status.consumers, [one.subscription.consumer()]);
    assert_eq!(status.pending, 16);
    let probed = bus.probe(&[ordered(LONG_LEASE)]).await.unwrap();
    assert!(probed.is_empty(), "{probed:?}");
    drop(held);
}

#[tokio::test]
async fn a_settlement_whose_answer_is_lost_is_stored_once() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 2).await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    let mut held = one.take(2).await;
    // As if an acknowledgement had been stored and its answer lost.
    let id = held[0].message.position.to_string();
    let _: u64 = server.run(&["XACK", "dev-t", "g", &id]).await;
    commit(&one.subscription, held.remove(0), ack()).await;
    // But what another has is not this one's to acknowledge.
    let id = held[0].message.position.to_string();
    let _: Value = server.run(&["XCLAIM", "dev-t", "g", "another", "0", &id]).await;
    let answer = settle(&one.subscription, held.remove(0), ack()).await;
    assert!(matches!(answer, Settled::Lost), "{answer:?}");
    assert_eq!(pending(&bus).await, 1);
}

#[tokio::test]
async fn what_a_host_without_order_leaves_is_found_though_newer_ones_came_first() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    publish(&bus, "t", LANES * 2).await;
    // A host of the former configuration reads one, and dies.
    let read = ["XREADGROUP", "GROUP", "g", "former", "COUNT", "1", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    for delivery in one.take(LANES * 2 - 1).await {
        commit(&one.subscription, delivery, ack()).await;
    }
    let left = one.take(1).await.remove(0);
    assert_eq!(number(&left.message), 0);
    commit(&one.subscription, left, ack()).await;
    assert_eq!(pending(&bus).await, 0);
}

#[tokio::test]
async fn what_another_reader_has_placed_comes_before_what_is_read_after_it() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    one.take_all_slices().await;
    let lane_0 = |n: usize| numbered("t", n * LANES);
    bus.publish(&[lane_0(0)]).await.unwrap();
    let first = one.take(1).await.remove(0);
    commit(&one.subscription, first, ack()).await;
    // As if another had read and placed one, in a turn between two of this one's.
    let between = bus.publish(&[lane_0(1)]).await.unwrap().positions.remove(0).to_string();
    let read = ["XREADGROUP", "GROUP", "g", "sandbar-reader", "COUNT", "1", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    let slice = lane_at(0).slice().to_string();
    let name = format!("sandbar-slice-{slice}");
    let _: Value = server.run(&["XCLAIM", "dev-t", "g", &name, "0", &between]).await;
    let _: u64 = server.run(&["HSET", "{dev-t}.placed.g", &slice, &between]).await;
    bus.publish(&[lane_0(2)]).await.unwrap();
    assert_eq!(numbers(&one.take(2).await), [LANES, 2 * LANES]);
}

#[tokio::test]
async fn what_waits_for_a_retry_goes_along_when_order_is_given_up_and_taken_up() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 2).await;
    let mut with = Owner::join(&bus, SHORT_LEASE).await;
    for delivery in with.take(2).await {
        commit(&with.subscription, delivery, retry(1, SHORT_LEASE * 2)).await;
    }
    // No lane was said: it is named anew.
    assert_eq!(count(&server, &["ZCARD", "{dev-t}.due.g"]).await, 0);
    with.subscription.close().await.unwrap();
    let without = join(&bus, SHORT_LEASE).await;
    let mut taken = take(&without, 2).await;
    assert_eq!(sorted(&taken), [0, 1]);
    assert!(taken.iter().all(|delivery| (delivery.origin, delivery.attempts) == (Origin::Retry, 1)));
    commit(&without, taken.remove(0), ack()).await;
    commit(&without, taken.remove(0), retry(2, Duration::ZERO)).await;
    without.close().await.unwrap();
    let mut with = Owner::join(&bus, SHORT_LEASE).await;
    let back = with.take(1).await.remove(0);
    assert_eq!(back.attempts, 2);
    commit(&with.subscription, back, ack()).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().retrying, 0);
}
