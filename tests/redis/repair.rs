//! What somebody else did to our keys, or a host left behind, is noticed, counted and put right.

use std::time::Duration;

use redis::Value;
use sandbar::bus::{Error, Origin, Settled, Start, Subscription};
use sandbar::event::{Effects, Settlement};

use super::{Log, count};
use crate::conformance::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, consume, group, join, numbered, numbers, publish, retry,
    settle, take, take_nothing, take_one,
};
use crate::support::bounded;
use crate::support::redis::Server;

/// What one read takes under the consumer's name, as if its answer had been lost on the way. Returns the ids.
async fn read_astray(server: &Server, subscription: &dyn Subscription, most: &str) -> Vec<String> {
    let name = subscription.consumer();
    let _: Value = server.run(&["XREADGROUP", "GROUP", "g", name, "COUNT", most, "STREAMS", "dev-t", ">"]).await;
    let pending: Vec<(String, String, u64, u64)> = server.run(&["XPENDING", "dev-t", "g", "-", "+", "99", name]).await;
    pending.into_iter().map(|(id, ..)| id).collect()
}

/// Adds entries without sending them one by one.
async fn add_many(server: &Server, many: usize) {
    let script = "for n = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'n', n) end";
    let _: Value = server.run(&["EVAL", script, "1", "dev-t", &many.to_string()]).await;
}

#[tokio::test]
async fn what_went_astray_and_was_trimmed_is_counted_as_lost() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    let astray = read_astray(&server, &*subscription, "2").await;
    assert_eq!(count(&server, &["XDEL", "dev-t", &astray[0]]).await, 1);
    let log = Log::start();
    let found = take(&subscription, 2).await;
    assert_eq!(numbers(&found), [2, 1]);
    assert_eq!(found[1].origin, Origin::Dropped);
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lost, status.pending), (1, 2));
    let said = log.with("they are lost");
    assert!(said.len() == 1 && said[0].contains("group=g") && said[0].contains(&astray[0]), "{said:?}");
}

#[tokio::test]
async fn dead_consumers_go_unless_something_is_pending_for_them() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    // Two that died long ago, one of which still holds a message, and one that was here just now.
    let read = ["XREADGROUP", "GROUP", "g", "holding", "COUNT", "1", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    let (seconds, _): (u64, u64) = server.run(&["TIME"]).await;
    for (name, seen) in [("holding", 0), ("empty", 0), ("recent", seconds * 1000)] {
        let _: u64 = server.run(&["XGROUP", "CREATECONSUMER", "dev-t", "g", name]).await;
        let _: u64 = server.run(&["ZADD", "{dev-t}.hosts.g", &seen.to_string(), name]).await;
    }
    // Not taken over: it was claimed a moment ago, and again and again.
    let pending: Vec<(String, String, u64, u64)> = server.run(&["XPENDING", "dev-t", "g", "-", "+", "9"]).await;
    let names = async || -> Vec<String> { server.run(&["ZRANGE", "{dev-t}.hosts.g", "0", "-1"]).await };
    bounded("sweeping", async {
        while names().await.contains(&"empty".to_owned()) {
            let _: Value = server.run(&["XCLAIM", "dev-t", "g", "holding", "0", &pending[0].0]).await;
            take_nothing(&subscription, Duration::from_millis(50)).await;
        }
    })
    .await;
    let left = names().await;
    assert!(left.contains(&"holding".to_owned()) && left.contains(&"recent".to_owned()), "{left:?}");
    let groups: String = format!("{:?}", server.run::<Value>(&["XINFO", "CONSUMERS", "dev-t", "g"]).await);
    assert!(!groups.contains("empty") && groups.contains("holding") && groups.contains("recent"), "{groups}");
}

#[tokio::test]
async fn the_lag_is_counted_where_the_server_has_lost_count() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    add_many(&server, 2_510).await;
    let held = take(&subscription, 3).await;
    // A hole further on: from here the server does not know.
    let entries: Vec<(String, Value)> = server.run(&["XRANGE", "dev-t", "-", "+", "COUNT", "5"]).await;
    assert_eq!(count(&server, &["XDEL", "dev-t", &entries[4].0]).await, 1);
    let groups = format!("{:?}", server.run::<Value>(&["XINFO", "GROUPS", "dev-t"]).await);
    assert!(groups.contains("nil"), "the server knows the lag: {groups}");
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lag, status.pending, status.lost), (Some(2_506), 3, 0));
    // Counting ends somewhere.
    add_many(&server, 20_000).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lag, None);
    drop(held);
}

#[tokio::test]
async fn a_position_that_somebody_moved_back_is_said_once() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(consume(&subscription, 3).await, [0, 1, 2]);
    subscription.renew().await.unwrap();
    let _: () = server.run(&["XGROUP", "SETID", "dev-t", "g", "0"]).await;
    let log = Log::start();
    for _ in 0..2 {
        subscription.renew().await.unwrap();
        let said = log.with("moved the group's position back");
        assert!(said.len() == 1 && said[0].contains("group=g"), "{said:?}");
    }
    assert_eq!(consume(&subscription, 3).await, [0, 1, 2], "they come again");
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 0);
}

#[tokio::test]
async fn a_retry_that_cannot_be_read_is_said_and_stays_while_others_pass() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let _: u64 = server.run(&["HSET", "{dev-t}.retry.g", "1-1", "junk"]).await;
    let _: u64 = server.run(&["ZADD", "{dev-t}.due.g", "0", "1-1"]).await;
    let log = Log::start();
    commit(&subscription, take_one(&subscription).await, retry(1, Duration::ZERO)).await;
    let again = take_one(&subscription).await;
    assert_eq!((numbers(std::slice::from_ref(&again)), again.origin), (vec![0], Origin::Retry));
    commit(&subscription, again, ack()).await;
    take_nothing(&subscription, QUIET).await;
    let said = log.with("cannot be read; it stays there");
    assert!(said.len() == 1 && said[0].contains("1-1"), "{said:?}");
    assert_eq!(count(&server, &["HEXISTS", "{dev-t}.retry.g", "1-1"]).await, 1);
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().retrying, 1);
}

#[tokio::test]
async fn a_count_of_attempts_of_the_wrong_type_loses_nothing() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take_one(&subscription).await;
    let _: () = server.run(&["SET", "{dev-t}.attempts.g", "x"]).await;
    let settlements = [
        retry(1, Duration::ZERO),
        Settlement::Ack(Effects { publish: vec![numbered("out", 1)], ..Effects::default() }),
    ];
    for settlement in settlements {
        let answer = settle(&subscription, held, settlement).await;
        let Settled::Failed(back, _, Error::WrongType { key, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(key, "{dev-t}.attempts.g");
        held = back;
    }
    assert_eq!(count(&server, &["EXISTS", "{dev-t}.retry.g", "{dev-t}.due.g", "dev-out"]).await, 0);
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 1);
}

#[tokio::test]
async fn one_message_to_a_topic_without_ids_left_is_refused() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let _: () = server.run(&["XADD", "dev-full", "18446744073709551615-18446744073709551615", "n", "1"]).await;
    let full = Settlement::Ack(Effects { publish: vec![numbered("full", 1)], ..Effects::default() });
    let answer = settle(&subscription, take_one(&subscription).await, full).await;
    assert!(matches!(&answer, Settled::Refused(_, reason) if reason.contains("used up its ids")), "{answer:?}");
}

#[tokio::test]
async fn what_was_trimmed_unread_is_said_once_with_the_group() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 5).await;
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&bus, LONG_LEASE).await);
    assert_eq!(consume(&one, 2).await, [0, 1]);
    server.lose_messages("t").await;
    let log = Log::start();
    for subscription in [&one, &two, &one] {
        subscription.renew().await.unwrap();
        let said = log.with("before the group had read them");
        assert!(said.len() == 1 && said[0].contains("group=g") && said[0].contains(" count=3"), "{said:?}");
    }
    // Part of what is unread goes, and the rest is read before anybody looks. Redis 7.0 goes on counting what was
    // read and so gives it away at the end; later ones do not.
    publish(&bus, "t", 5).await;
    assert_eq!(count(&server, &["XTRIM", "dev-t", "MAXLEN", "2"]).await, 3);
    assert_eq!(consume(&one, 1).await, [3]);
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lag, Some(1));
    assert_eq!(consume(&one, 1).await, [4]);
    two.renew().await.unwrap();
    let info: String = server.run(&["INFO", "server"]).await;
    let expected = if info.contains("redis_version:7.0.") { 6 } else { 3 };
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, expected);
}

#[tokio::test]
async fn a_hole_further_on_is_not_taken_for_lost() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let positions = publish(&bus, "t", 6).await;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(consume(&subscription, 2).await, [0, 1]);
    // Read ones go, and one that is unread and lies beyond the first that is kept: how many went before is unclear.
    assert_eq!(count(&server, &["XDEL", "dev-t", positions[4].as_str()]).await, 1);
    assert_eq!(count(&server, &["XTRIM", "dev-t", "MAXLEN", "3"]).await, 2);
    let log = Log::start();
    subscription.renew().await.unwrap();
    assert_eq!(log.with("before the group had read them"), Vec::<String>::new());
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lost, status.lag), (0, Some(3)));
    assert_eq!(consume(&subscription, 3).await, [2, 3, 5]);
}

#[tokio::test]
async fn a_server_that_does_not_count_still_says_that_some_were_lost() {
    let server = Server::start_old().await;
    let bus = server.host().await;
    publish(&bus, "t", 5).await;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(consume(&subscription, 2).await, [0, 1]);
    // What was read may go without a word.
    assert_eq!(count(&server, &["XTRIM", "dev-t", "MAXLEN", "3"]).await, 2);
    let log = Log::start();
    subscription.renew().await.unwrap();
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 0);
    server.lose_messages("t").await;
    for _ in 0..2 {
        subscription.renew().await.unwrap();
        let said = log.with("before the group had read them");
        assert!(said.len() == 1 && said[0].contains("at_least=1"), "{said:?}");
    }
    // The mark that remembers what there was still serves to make the group again.
    subscription.close().await.unwrap();
    let _: u64 = server.run(&["XGROUP", "DESTROY", "dev-t", "g"]).await;
    publish(&bus, "t", 1).await;
    assert_eq!(consume(&join(&bus, LONG_LEASE).await, 1).await, [0]);
}

#[tokio::test]
async fn a_group_that_never_read_counts_from_where_it_was_made() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 7).await;
    assert_eq!(count(&server, &["XTRIM", "dev-t", "MAXLEN", "4"]).await, 3);
    let beginning = join(&bus, LONG_LEASE).await;
    let mut asked = group("new", &["t"], LONG_LEASE);
    asked.start = Start::New;
    let new = bus.subscribe(&asked).await.unwrap();
    publish(&bus, "t", 2).await;
    server.lose_messages("t").await;
    // What went before a group was there was never its own.
    for (name, subscription, expected) in [("g", beginning, 6), ("new", new, 2)] {
        assert_eq!(bus.status(&"t".into(), name).await.unwrap().lost, expected, "{name}");
        subscription.renew().await.unwrap();
        assert_eq!(bus.status(&"t".into(), name).await.unwrap().lost, expected, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_was_killed_has_lost_nothing_that_was_read() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let bus = server.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    publish(&bus, "t", 5).await;
    for delivery in take(&subscription, 5).await {
        commit(&subscription, delivery, ack()).await;
    }
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 0);
    subscription.renew().await.unwrap();
    server.kill();
    server.revive().await;
    // The server has forgotten how much was read, and must not be believed.
    let bus = server.host().await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 0);
    bounded("renewing after the restart", async {
        while subscription.renew().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().lost, 0);
    // From here on it counts again.
    let subscription = join(&bus, LONG_LEASE).await;
    publish(&bus, "t", 3).await;
    for delivery in take(&subscription, 3).await {
        commit(&subscription, delivery, ack()).await;
    }
    publish(&bus, "t", 4).await;
    assert_eq!(count(&server, &["XTRIM", "dev-t", "MAXLEN", "=", "0"]).await, 12);
    subscription.renew().await.unwrap();
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lost, status.lag), (4, Some(0)));
}

#[tokio::test]
async fn a_host_counts_as_alive_though_another_made_the_group_anew() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    // It reads nothing afterwards, so that the group's own list does not have it.
    let _: u64 = server.run(&["XGROUP", "DESTROY", "dev-t", "g"]).await;
    let _: String = server.run(&["XGROUP", "CREATE", "dev-t", "g", "$"]).await;
    subscription.renew().await.unwrap();
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().consumers, [subscription.consumer()]);
    subscription.close().await.unwrap();
    assert!(bus.status(&"t".into(), "g").await.unwrap().consumers.is_empty());
}
