//! What a Redis server does to its clients, and that nothing is lost or half done by it.

use std::time::Duration;

use sandbar::bus::{Error, Fetched, Origin, Settled, Start};
use sandbar::event::{Effects, KeyWrite, Outgoing, Settlement};

use super::count;
use crate::conformance::dead_letters::cause;
use crate::conformance::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, group, join, numbered, numbers, publish, retry, settle, take,
    take_nothing, take_one, vanish,
};
use crate::support::bounded;
use crate::support::redis::Server;

/// Publishes to topics and writes a key.
pub(super) fn effects(topics: &[&str]) -> Settlement {
    let publish = topics.iter().map(|topic| numbered(topic, 1)).collect();
    let writes = vec![KeyWrite { key: "k".into(), value: Some("v".into()) }];
    Settlement::Ack(Effects { publish, key_space: "space".into(), writes, ..Effects::default() })
}

#[tokio::test]
async fn out_of_memory_nothing_is_half_committed() {
    let server = Server::start(&["maxmemory-policy", "noeviction"]).await;
    let bus = server.host().await;
    publish(&bus, "t", 4).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 4).await;
    let _: () = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut back = Vec::new();
    for settlement in [effects(&["out", "more"]), retry(1, Duration::ZERO), Settlement::Dead(cause("bad"))] {
        let answer = settle(&subscription, held.remove(0), settlement).await;
        let Settled::Failed(delivery, settlement, Error::Unavailable { reason, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert!(reason.contains("maxmemory"), "{reason}");
        back.push((delivery, settlement));
    }
    for key in ["dev-out", "dev-more", "dev-sandbar.keys.space", "{dev-t}.retry.g", "{dev-t}.due.g", "{dev-t}.dlq.g"] {
        assert_eq!(count(&server, &["EXISTS", key]).await, 0, "{key} was written");
    }
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 4);
    // Leases are renewed and plain work is acknowledged all the same: that is what frees memory.
    assert!(subscription.renew().await.unwrap().is_empty());
    assert!(subscription.begin(&back[0].0).await.unwrap());
    commit(&subscription, held.remove(0), ack()).await;
    let error = bus.publish(&[numbered("t", 9)]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.is_transient(), "{error}");
    // Whether somebody tries again is for the caller to say: a single command does not.
    let error = error.to_string();
    assert!(error.ends_with("free memory or raise maxmemory") && !error.contains("retr"), "{error}");
    let _: () = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    for (delivery, settlement) in back {
        commit(&subscription, delivery, settlement).await;
    }
    assert_eq!((count(&server, &["XLEN", "dev-out"]).await, count(&server, &["XLEN", "dev-more"]).await), (1, 1));
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying, status.dead_letters), (0, 1, 1));
}

#[tokio::test]
async fn an_outbox_topic_of_the_wrong_type_commits_nothing() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let _: () = server.run(&["SET", "dev-wrong", "x"]).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let answer = settle(&subscription, take_one(&subscription).await, effects(&["right", "wrong"])).await;
    let Settled::Refused(delivery, reason) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("dev-wrong is a string, not a stream"), "{reason}");
    assert_eq!(count(&server, &["EXISTS", "dev-right", "dev-sandbar.keys.space"]).await, 0);
    commit(&subscription, delivery, ack()).await;
    // A key space of the wrong type is refused in the same way.
    let _: () = server.run(&["SET", "dev-sandbar.keys.space", "x"]).await;
    let answer = settle(&subscription, take_one(&subscription).await, effects(&["right"])).await;
    assert!(matches!(&answer, Settled::Refused(_, reason) if reason.contains("not a hash")), "{answer:?}");
    assert_eq!(count(&server, &["EXISTS", "dev-right"]).await, 0);
    // So is a topic whose ids are used up, when a second message would not fit.
    let _: () = server.run(&["XADD", "dev-full", "18446744073709551615-18446744073709551614", "n", "1"]).await;
    let full =
        Settlement::Ack(Effects { publish: vec![numbered("full", 1), numbered("full", 2)], ..Effects::default() });
    let answer = settle(&subscription, take_one(&subscription).await, full).await;
    assert!(matches!(&answer, Settled::Refused(_, reason) if reason.contains("used up its ids")), "{answer:?}");
    assert_eq!(count(&server, &["XLEN", "dev-full"]).await, 1);
}

#[tokio::test]
async fn a_retry_store_of_the_wrong_type_loses_nothing() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 2).await;
    let _: () = server.run(&["SET", "{dev-t}.retry.g", "x"]).await;
    let answer = settle(&subscription, held.remove(0), retry(1, Duration::ZERO)).await;
    let Settled::Failed(delivery, _, Error::WrongType { key, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(key, "{dev-t}.retry.g");
    held.push(delivery);
    let _: u64 = server.run(&["DEL", "{dev-t}.retry.g"]).await;
    let _: () = server.run(&["SET", "{dev-t}.due.g", "x"]).await;
    let _: () = server.run(&["SET", "{dev-t}.dlq.g", "x"]).await;
    for settlement in [retry(1, Duration::ZERO), Settlement::Dead(cause("bad"))] {
        let answer = settle(&subscription, held.remove(0), settlement).await;
        assert!(matches!(&answer, Settled::Failed(_, _, Error::WrongType { .. })), "{answer:?}");
        assert_eq!(count(&server, &["EXISTS", "{dev-t}.retry.g"]).await, 0);
    }
    let pending: Vec<Vec<String>> =
        server.run(&["XPENDING", "dev-t", "g", "-", "+", "9", subscription.consumer()]).await;
    assert_eq!(pending.len(), 2);
}

#[tokio::test]
async fn a_topic_of_the_wrong_type_is_named_at_subscribe_and_by_probe() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let _: () = server.run(&["LPUSH", "dev-t", "x"]).await;
    let error = bus.subscribe(&group("g", &["t"], LONG_LEASE)).await.err().unwrap();
    assert!(error.to_string().starts_with("dev-t is a list, not a stream"), "{error}");
    assert_eq!(bus.probe(&[group("g", &["t"], LONG_LEASE)]).await.unwrap().len(), 1);
    let error = bus.publish(&[numbered("t", 1)]).await.unwrap_err();
    assert!(matches!(error, Error::WrongType { .. }), "{error}");
}

#[tokio::test]
async fn a_group_that_vanished_is_made_again_before_the_oldest_unsettled() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 6).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 4).await;
    let later = held.split_off(2);
    for delivery in held {
        commit(&subscription, delivery, ack()).await;
    }
    subscription.renew().await.unwrap();
    let _: u64 = server.run(&["XGROUP", "DESTROY", "dev-t", "g"]).await;
    let lost = subscription.renew().await.unwrap();
    assert_eq!(lost.len(), 2, "what was in hand is lost with the group");
    for delivery in later {
        let answer = settle(&subscription, delivery, effects(&["out"])).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
    }
    let repeated = take(&subscription, 4).await;
    assert_eq!(numbers(&repeated), [2, 3, 4, 5], "repeats from the mark on, no loss");
    // The whole topic goes: it is made again, and what comes then is read.
    let _: u64 = server.run(&["DEL", "dev-t"]).await;
    take_nothing(&subscription, QUIET).await;
    publish(&bus, "t", 2).await;
    let fresh = take(&subscription, 2).await;
    assert_eq!(numbers(&fresh), [0, 1]);
    // Nor does a start take the place of the mark when the host comes back to a missing group.
    subscription.close().await.unwrap();
    let _: u64 = server.run(&["XGROUP", "DESTROY", "dev-t", "g"]).await;
    let mut again = group("g", &["t"], LONG_LEASE);
    again.start = Start::New;
    assert_eq!(numbers(&take(&bus.subscribe(&again).await.unwrap(), 2).await), [0, 1]);
}

#[tokio::test]
async fn a_call_commits_although_its_entry_was_trimmed() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 5).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    let mut held = take(&subscription, 5).await;
    server.lose_messages("t").await;
    // Before a renewal noticed, and after.
    commit(&subscription, held.remove(0), effects(&["out"])).await;
    assert!(subscription.renew().await.unwrap().is_empty());
    assert_eq!(count(&server, &["ZCARD", "{dev-t}.due.g"]).await, 4, "rescued to the retry store");
    assert!(subscription.renew().await.unwrap().is_empty());
    commit(&subscription, held.remove(0), effects(&["out"])).await;
    commit(&subscription, held.remove(0), ack()).await;
    commit(&subscription, held.remove(0), retry(1, Duration::ZERO)).await;
    let again = take_one(&subscription).await;
    assert_eq!((again.attempts, again.origin), (1, Origin::Retry));
    commit(&subscription, again, ack()).await;
    // The host dies with the last: another inherits it, body and all.
    vanish(subscription, held);
    let heir = join(&server.host().await, SHORT_LEASE).await;
    let inherited = take_one(&heir).await;
    assert_eq!((numbers(std::slice::from_ref(&inherited)), inherited.origin), (vec![4], Origin::Inherited));
    commit(&heir, inherited, ack()).await;
    assert_eq!(count(&server, &["EXISTS", "{dev-t}.retry.g", "{dev-t}.due.g", "{dev-t}.attempts.g"]).await, 0);
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 2);
}

#[tokio::test]
async fn what_is_trimmed_unread_from_a_dead_hosts_hand_is_counted_as_lost() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let dying = join(&bus, SHORT_LEASE).await;
    let held = take(&dying, 3).await;
    let first = held[0].message.position.to_string();
    vanish(dying, held);
    assert_eq!(count(&server, &["XDEL", "dev-t", &first]).await, 1);
    let heir = join(&bus, SHORT_LEASE).await;
    assert_eq!(numbers(&take(&heir, 2).await), [1, 2]);
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lost, status.pending), (1, 2));
}

#[tokio::test]
async fn live_consumers_of_another_kind_are_refused() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let _: () = server.run(&["XGROUP", "CREATE", "dev-t", "g", "0"]).await;
    let _: u64 = server.run(&["XGROUP", "CREATECONSUMER", "dev-t", "g", "python"]).await;
    let mut asked = group("g", &["t"], LONG_LEASE);
    let error = bus.subscribe(&asked).await.err().unwrap();
    assert!(matches!(&error, Error::Foreign { consumers, .. } if consumers == "python"), "{error}");
    assert!(matches!(bus.probe(std::slice::from_ref(&asked)).await.unwrap()[..], [Error::Foreign { .. }]));
    asked.join_foreign = true;
    let one = bus.subscribe(&asked).await.unwrap();
    let _: u64 = server.run(&["XGROUP", "DELCONSUMER", "dev-t", "g", "python"]).await;
    asked.join_foreign = false;
    // Our own are no strangers, nor is what a leaving one gave back.
    let held = take_one(&one).await;
    one.close().await.unwrap();
    drop(held);
    let two = bus.subscribe(&asked).await.unwrap();
    assert_eq!(take_one(&two).await.origin, Origin::Dropped);
}

#[tokio::test]
async fn a_message_of_thousands_of_fields_is_retried_and_buried_whole() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let fields = sandbar::event::Fields::from_pairs((0..5_000).map(|n| (n.to_string(), "v")));
    bus.publish(&[Outgoing { topic: "t".into(), fields: fields.clone() }]).await.unwrap();
    let subscription = join(&bus, LONG_LEASE).await;
    commit(&subscription, take_one(&subscription).await, retry(1, Duration::ZERO)).await;
    let again = take_one(&subscription).await;
    assert_eq!(again.message.fields, fields);
    commit(&subscription, again, Settlement::Dead(cause("bad"))).await;
    let letter = bus.dead_letters(&"t".into(), "g", None, 1).await.unwrap().remove(0);
    assert_eq!(letter.fields, fields);
    let error = bus
        .requeue(&"t".into(), "g", std::slice::from_ref(&letter.id), sandbar::bus::Requeue::Topic)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("requeue it to its handler"), "{error}");
    assert_eq!(bus.requeue(&"t".into(), "g", &[letter.id], sandbar::bus::Requeue::Handler).await.unwrap(), 1);
    assert_eq!(take_one(&subscription).await.message.fields, fields);
}

#[tokio::test]
async fn fewer_permits_than_topics_still_reach_every_topic() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let topics = ["a", "b", "c", "d", "e"];
    let subscription = bus.subscribe(&group("g", &topics, LONG_LEASE)).await.unwrap();
    for topic in topics {
        publish(&bus, topic, 1).await;
    }
    let mut seen = Vec::new();
    while seen.len() < topics.len() {
        let Fetched::Deliveries(some) = bounded("fetch", subscription.fetch(2, LONG_LEASE)).await.unwrap() else {
            panic!("stand by")
        };
        assert!(!some.is_empty() && some.len() <= 2);
        let mut pending = 0;
        for topic in topics {
            pending += bus.status(&topic.into(), "g").await.unwrap().pending;
        }
        assert_eq!(pending, some.len() as u64, "more was taken from the bus than asked for");
        for delivery in some {
            seen.push(delivery.message.topic.to_string());
            commit(&subscription, delivery, ack()).await;
        }
    }
    seen.sort();
    assert_eq!(seen, topics);
}

#[tokio::test]
async fn claiming_gets_past_what_it_may_not_claim() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 6).await;
    let late = join(&bus, SHORT_LEASE).await;
    // Late to renew: its own are idle too, and fill the first pages of the pending list.
    let own = take(&late, 3).await;
    let dying = join(&bus, SHORT_LEASE).await;
    let held = take(&dying, 3).await;
    vanish(dying, held);
    tokio::time::sleep(SHORT_LEASE * 5 / 4).await;
    let inherited = take(&late, 3).await;
    assert_eq!(numbers(&inherited), [3, 4, 5]);
    for delivery in own.into_iter().chain(inherited) {
        commit(&late, delivery, effects(&["out"])).await;
    }
}
