//! Entries that somebody else took: other hosts, foreign consumers. And what is left of hosts after an outage.

use std::time::Duration;

use redis::Value;
use sandbar::bus::{Fetched, Requeue, Settled};
use sandbar::event::Settlement;

use super::count;
use super::trouble::effects;
use crate::conformance::dead_letters::cause;
use crate::conformance::{
    Fixture, LONG_LEASE, ack, commit, join, publish, retry, settle, take, take_nothing, take_one, while_renewing,
};
use crate::support::bounded;
use crate::support::redis::Server;

#[tokio::test]
async fn what_a_foreign_consumer_took_has_no_effect_here() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 5).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take(&subscription, 5).await;
    for delivery in &held {
        let id = delivery.message.position.as_str();
        let _: Value = server.run(&["XCLAIM", "dev-t", "g", "python", "0", id]).await;
    }
    // One of them it has handled already.
    let first = held[0].message.position.to_string();
    assert_eq!(count(&server, &["XACK", "dev-t", "g", &first]).await, 1);
    let mut held = held.into_iter();
    let settlements = [effects(&["out"]), effects(&["out"]), retry(1, Duration::ZERO), Settlement::Dead(cause("bad"))];
    for settlement in settlements {
        let answer = settle(&subscription, held.next().unwrap(), settlement).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
    }
    // Nor does a renewal take it back.
    let last = held.next().unwrap();
    assert_eq!(subscription.renew().await.unwrap(), [last.id()]);
    let pending: Vec<(String, String, u64, u64)> = server.run(&["XPENDING", "dev-t", "g", "-", "+", "9"]).await;
    assert_eq!(pending.len(), 4);
    assert!(pending.iter().all(|(_, name, ..)| name == "python"), "{pending:?}");
    let ours = ["dev-out", "dev-sandbar.keys.space", "{dev-t}.retry.g", "{dev-t}.dlq.g"];
    assert_eq!(count(&server, &[&["EXISTS"][..], &ours].concat()).await, 0);
    // It gives one back to the one that had it first: the receipt of then is void.
    let back = last.message.position.to_string();
    let _: Value = server.run(&["XCLAIM", "dev-t", "g", subscription.consumer(), "0", &back]).await;
    let answer = settle(&subscription, last, effects(&["out"])).await;
    assert!(matches!(answer, Settled::Lost), "{answer:?}");
    assert_eq!(count(&server, &["EXISTS", "dev-out"]).await, 0);
}

#[tokio::test]
async fn after_three_leases_without_a_server_no_running_call_is_repeated() {
    /// Long enough that the holder comes back within one although the machine is busy.
    const LEASE: Duration = Duration::from_secs(2);
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let holder = join(&bus, LEASE).await;
    let held = take(&holder, 3).await;
    let other = join(&server.host().await, LEASE).await;
    take_nothing(&other, Duration::from_millis(10)).await;
    server.kill();
    tokio::time::sleep(LEASE * 3).await;
    server.revive().await;
    // The other is back first. The holder renews what its calls still run for.
    let renewing = async {
        tokio::time::sleep(LEASE / 2).await;
        loop {
            drop(holder.renew().await);
            tokio::time::sleep(LEASE / 5).await;
        }
    };
    let reading = async {
        let end = tokio::time::Instant::now() + LEASE * 3;
        while tokio::time::Instant::now() < end {
            match bounded("fetch", other.fetch(9, Duration::from_millis(50))).await {
                Ok(Fetched::Deliveries(some)) => assert!(some.is_empty(), "a call that runs was given out again"),
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    };
    tokio::select! { () = renewing => {}, () = reading => {} }
    while_renewing(&holder, async {
        for delivery in held {
            commit(&holder, delivery, effects(&["out"])).await;
        }
    })
    .await;
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 3);
}

#[tokio::test]
async fn a_consumer_that_left_is_removed_and_what_it_had_is_not() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 2).await;
    let names = async || format!("{:?}", server.run::<Value>(&["XINFO", "CONSUMERS", "dev-t", "g"]).await);
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&bus, LONG_LEASE).await);
    let held = take(&one, 2).await;
    two.close().await.unwrap();
    assert!(!names().await.contains(two.consumer()), "it had nothing");
    one.close().await.unwrap();
    assert!(!names().await.contains(one.consumer()), "it has given back what it had");
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 2);
    drop(held);
    let three = join(&bus, LONG_LEASE).await;
    for delivery in take(&three, 2).await {
        commit(&three, delivery, ack()).await;
    }
}

#[tokio::test]
async fn two_letters_of_one_event_do_not_become_one() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    for _ in 0..2 {
        commit(&subscription, take_one(&subscription).await, Settlement::Dead(cause("bad"))).await;
        // Somebody moves the group back: the event is handled and given up again.
        let _: () = server.run(&["XGROUP", "SETID", "dev-t", "g", "0"]).await;
    }
    let letters = bus.dead_letters(&"t".into(), "g", None, 9).await.unwrap();
    let ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
    assert_eq!(letters[0].position, letters[1].position);
    assert_eq!(bus.requeue(&"t".into(), "g", &ids, Requeue::Handler).await.unwrap(), 1);
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.retrying, status.dead_letters), (1, 1), "the second one waits where it is");
}
