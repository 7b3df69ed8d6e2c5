//! Trimming what every group has acknowledged: on servers that can do it themselves and on those that cannot.

use std::sync::Arc;

use redis::Value;
use sandbar::bus::{Bus, Settings, Subscription, Trim};

use super::trouble::effects;
use super::{Log, count, host_with};
use crate::conformance::{
    SHORT_LEASE, ack, commit, consume, group, numbers, publish, retry, take, take_one, while_renewing,
};
use crate::support::bounded;
use crate::support::redis::Server;

async fn acked(server: &Server, cap: Option<u64>) -> Arc<dyn Bus> {
    host_with(&server.url(), Settings { trim: Some(Trim::Acked), stream_max_len: cap, ..Settings::default() }).await
}

async fn join_as(bus: &Arc<dyn Bus>, name: &str) -> Arc<dyn Subscription> {
    bus.subscribe(&group(name, &["t"], SHORT_LEASE)).await.unwrap()
}

/// Acknowledges all but some.
async fn ack_but(subscription: &Arc<dyn Subscription>, count: usize, spared: &[usize]) -> Vec<sandbar::bus::Delivery> {
    let mut kept = Vec::new();
    let mut batch = Vec::new();
    for (n, delivery) in take(subscription, count).await.into_iter().enumerate() {
        if spared.contains(&n) { kept.push(delivery) } else { batch.push((delivery, ack())) }
    }
    subscription.settle(batch).await;
    kept
}

/// Lets two leases pass while the hosts are alive, so that a turn at trimming came.
async fn turns(subscriptions: &[&Arc<dyn Subscription>]) {
    let pass = tokio::time::sleep(SHORT_LEASE * 5 / 2);
    tokio::pin!(pass);
    loop {
        tokio::select! {
            () = &mut pass => return,
            () = tokio::time::sleep(SHORT_LEASE / 5) => {
                for subscription in subscriptions {
                    subscription.renew().await.unwrap();
                }
            }
        }
    }
}

/// The numbers of the messages that are kept.
async fn kept(server: &Server) -> Vec<usize> {
    let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", "dev-t", "-", "+"]).await;
    entries.iter().map(|(_, fields)| fields[1].parse().unwrap()).collect()
}

/// Two groups, one slow, and one that is no Sandbar's. `passes`: the server passes over what is in hand.
async fn spares_what_is_not_acknowledged(server: Server, passes: bool) {
    let bus = acked(&server, None).await;
    publish(&bus, "t", 1_000).await;
    let (fast, slow) = (join_as(&bus, "fast").await, join_as(&bus, "slow").await);
    let _: () = server.run(&["XGROUP", "CREATE", "dev-t", "python", "0"]).await;
    while_renewing(&slow, async { consume(&fast, 1_000).await }).await;
    let mut held = while_renewing(&fast, async { ack_but(&slow, 600, &[150, 151]).await }).await;
    turns(&[&fast, &slow]).await;
    assert_eq!(kept(&server).await.len(), 1_000, "a group of another kind has read nothing");
    assert_eq!(bus.status(&"t".into(), "fast").await.unwrap().held_up_by.as_deref(), Some("python"));
    // It reads all, and has one in hand too.
    let read = ["XREADGROUP", "GROUP", "python", "p", "COUNT", "1000", "STREAMS", "dev-t", ">"];
    let _: Value = server.run(&read).await;
    let ids: Vec<(String, Value)> = server.run(&["XRANGE", "dev-t", "-", "+"]).await;
    let all: Vec<&str> = ids.iter().enumerate().filter(|(n, _)| *n != 350).map(|(_, (id, _))| id.as_str()).collect();
    assert_eq!(count(&server, &[&["XACK", "dev-t", "python"], &all[..]].concat()).await, 999);
    turns(&[&fast, &slow]).await;
    let left = kept(&server).await;
    let wanted: Vec<usize> = [150, 151, 350].into_iter().chain(600..1_000).collect();
    assert!(wanted.iter().all(|n| left.contains(n)), "something not acknowledged is gone: {left:?}");
    assert!(!left.contains(&0), "what all have acknowledged is kept");
    if passes {
        // And the last two that all have read.
        assert!(left.len() <= wanted.len() + 2, "{} are left", left.len());
    } else {
        assert!(left.len() > 850, "{} are left", left.len());
    }
    assert_eq!(bus.status(&"t".into(), "fast").await.unwrap().held_up_by.as_deref(), Some("slow"));
    // A retry survives although the entry goes.
    commit(&slow, held.remove(0), retry(1, SHORT_LEASE * 3)).await;
    commit(&slow, held.remove(0), effects(&["out"])).await;
    let python = &ids[350].0;
    assert_eq!(count(&server, &["XACK", "dev-t", "python", python]).await, 1);
    turns(&[&fast, &slow]).await;
    let left = kept(&server).await;
    assert!((600..1_000).all(|n| left.contains(&n)) && left.len() < 600, "{} are left", left.len());
    let mut rest = while_renewing(&fast, async { take(&slow, 401).await }).await;
    let again = rest.iter().position(|delivery| delivery.attempts == 1).unwrap();
    assert_eq!(numbers(&[rest.remove(again)]), [150]);
    assert_eq!(numbers(&rest), (600..1_000).collect::<Vec<_>>());
    for name in ["fast", "slow"] {
        assert_eq!(bus.status(&"t".into(), name).await.unwrap().lost, 0, "{name}");
    }
}

#[tokio::test]
async fn nothing_unacknowledged_goes_on_6_2() {
    spares_what_is_not_acknowledged(Server::start_old().await, false).await;
}

#[tokio::test]
async fn nothing_unacknowledged_goes_on_7_0() {
    spares_what_is_not_acknowledged(Server::start(&[]).await, false).await;
}

#[tokio::test]
async fn nothing_unacknowledged_goes_on_8_2() {
    spares_what_is_not_acknowledged(Server::start_other("SANDBAR_REDIS_82", &[]).await, true).await;
}

#[tokio::test]
async fn a_topic_without_a_group_is_left_alone_and_one_that_is_only_written_is_not() {
    let server = Server::start(&[]).await;
    let bus = acked(&server, None).await;
    publish(&bus, "t", 400).await;
    let subscription = join_as(&bus, "g").await;
    for delivery in while_renewing(&subscription, take(&subscription, 300)).await {
        commit(&subscription, delivery, effects(&["out"])).await;
    }
    turns(&[&subscription]).await;
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 300, "nobody has acknowledged anything");
    assert!(count(&server, &["XLEN", "dev-t"]).await < 300);
    let _: () = server.run(&["XGROUP", "CREATE", "dev-out", "python", "$"]).await;
    turns(&[&subscription]).await;
    assert!(count(&server, &["XLEN", "dev-out"]).await < 200, "its one group has read all");
}

#[tokio::test]
async fn the_cap_holds_is_announced_and_what_it_takes_is_told_with_its_ids() {
    let server = Server::start(&[]).await;
    let bus = acked(&server, Some(1_000)).await;
    let log = Log::start();
    let (fast, slow) = (join_as(&bus, "fast").await, join_as(&bus, "slow").await);
    let positions = publish(&bus, "t", 700).await;
    while_renewing(&slow, async { consume(&fast, 700).await }).await;
    turns(&[&fast, &slow]).await;
    assert_eq!(log.with("holds the topic up"), Vec::<String>::new(), "there is room");
    publish(&bus, "t", 150).await;
    turns(&[&fast, &slow]).await;
    let said = log.with("holds the topic up");
    assert!(said.len() == 1 && said[0].contains("group=slow") && said[0].contains("cap=1000"), "{said:?}");
    publish(&bus, "t", 1_500).await;
    assert!(count(&server, &["XLEN", "dev-t"]).await < 1_200, "the cap holds while publishing");
    bounded("telling", async {
        while log.with("messages were trimmed before the group had read them").len() < 2 {
            turns(&[&fast, &slow]).await;
        }
    })
    .await;
    let said = log.with("at its cap");
    assert!(said.len() == 1 && said[0].contains("group=slow"), "{said:?}");
    let first: Vec<(String, Value)> = server.run(&["XRANGE", "dev-t", "-", "+", "COUNT", "1"]).await;
    let lost = log.with("group=slow");
    assert!(lost.iter().any(|line| line.contains("after=0-0") && line.contains(&first[0].0)), "{lost:?}");
    let status = bus.status(&"t".into(), "slow").await.unwrap();
    assert!(status.lost >= 1_150 && status.lost <= 1_350, "{status:?}");
    assert!(positions.len() == 700 && status.held_up_by.as_deref() == Some("slow"), "{status:?}");
}

#[tokio::test]
async fn publishing_never_trims_below_the_cap() {
    let server = Server::start(&[]).await;
    let bus = acked(&server, None).await;
    publish(&bus, "t", 300).await;
    let subscription = join_as(&bus, "g").await;
    while_renewing(&subscription, async { consume(&subscription, 300).await }).await;
    let _: () = server.run(&["CONFIG", "RESETSTAT"]).await;
    publish(&bus, "t", 300).await;
    let one = take_one(&subscription).await;
    commit(&subscription, one, ack()).await;
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    assert!(!stats.contains("cmdstat_xtrim"), "{stats}");
    // Three renewals per lease, many hosts: one turn.
    let _: u64 = server.run(&["DEL", "{dev-t}.trim"]).await;
    let _: () = server.run(&["CONFIG", "RESETSTAT"]).await;
    for _ in 0..5 {
        let another = acked(&server, None).await;
        let member = join_as(&another, "g").await;
        member.renew().await.unwrap();
        member.renew().await.unwrap();
        if server.run::<i64>(&["PTTL", "{dev-t}.trim"]).await < 0 {
            return; // A machine so busy that a lease has passed shows nothing.
        }
    }
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    // One that trims, and one that asks whether the server can pass over what is in hand.
    assert!(stats.contains("cmdstat_xtrim:calls=2,"), "{stats}");
}
