//! Order, trimming and effects without a delivery, on topics that lie on several nodes of a cluster.

use std::sync::Arc;
use std::time::Duration;

use sandbar::bus::{Applied, Bus, Delivery, Error, Settings, Trim, open};
use sandbar::event::{Effects, Settlement};

use super::divided::{Done, assert_in_order, run};
use crate::conformance::ordered::{Owner, ordered};
use crate::conformance::{LONG_LEASE, SHORT_LEASE, commit, consume, group, numbered, publish, while_renewing};
use crate::support::bounded;
use crate::support::cluster::Cluster;
use crate::support::events::open as open_plain;

async fn length(cluster: &Cluster, topic: &str) -> u64 {
    cluster.run(topic, &["XLEN", topic]).await
}

#[tokio::test]
async fn what_is_handled_in_order_publishes_to_other_nodes() {
    let cluster = Cluster::start(2, 0).await;
    let (from, to) = (cluster.name_on(0, "from").await, cluster.name_on(1, "to").await);
    let bus = open_plain(&cluster.url()).await;
    publish(&bus, &from, 20).await;
    let group = sandbar::bus::Group { topics: vec![(*from).into()], ..ordered(LONG_LEASE) };
    let mut owner = Owner::join_group(&bus, &group).await;
    let held: Vec<Delivery> = owner.take(20).await;
    // The slices are another's by now: nothing of this may be appended.
    let slices = format!("{{{from}}}.slices.{}", group.name);
    let owners: Vec<(String, String)> = cluster.run(&slices, &["HGETALL", &slices]).await;
    let _: u64 = cluster.run(&slices, &["DEL", &slices]).await;
    let publishing = |n| Settlement::Ack(Effects { publish: vec![numbered(&to, n)], ..Effects::default() });
    let mut held = held.into_iter().enumerate();
    let (n, first) = held.next().unwrap();
    let answers = owner.subscription.settle(vec![(first, publishing(n))]).await;
    assert!(matches!(answers[..], [sandbar::bus::Settled::Lost]), "{answers:?}");
    assert_eq!(length(&cluster, &to).await, 0);
    for (field, value) in &owners {
        let _: u64 = cluster.run(&slices, &["HSET", &slices, field, value]).await;
    }
    for (n, delivery) in held {
        commit(&owner.subscription, delivery, publishing(n)).await;
    }
    let reader = bus.subscribe(&crate::conformance::group("reader", &[&to], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&reader, 19).await, (1..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_every_group_has_acknowledged_is_trimmed_on_every_node() {
    let cluster = Cluster::start(2, 0).await;
    let (a, b) = (cluster.name_on(0, "a").await, cluster.name_on(1, "b").await);
    let settings = Settings { url: cluster.url(), trim: Some(Trim::Acked), ..Settings::default() };
    let bus: Arc<dyn Bus> = open(&settings).await.unwrap();
    for topic in [&a, &b] {
        publish(&bus, topic, 500).await;
    }
    let subscription = bus.subscribe(&group("g", &[&a, &b], SHORT_LEASE)).await.unwrap();
    while_renewing(&subscription, consume(&subscription, 1_000)).await;
    let trimmed = async {
        while length(&cluster, &a).await + length(&cluster, &b).await > 400 {
            tokio::time::sleep(SHORT_LEASE / 5).await;
        }
    };
    bounded("trimming", while_renewing(&subscription, trimmed)).await;
    let status = bus.status(&(*b).into(), "g").await.unwrap();
    assert_eq!((status.lag, status.pending, status.lost), (Some(0), 0, 0));
}

#[tokio::test]
async fn effects_without_a_delivery_are_refused_whole_if_they_span_nodes() {
    let cluster = Cluster::start(2, 0).await;
    let (a, b) = (cluster.name_on(0, "a").await, cluster.name_on(1, "b").await);
    let bus = open_plain(&cluster.url()).await;
    let effects = |topics: &[&String]| Effects {
        publish: topics.iter().map(|topic| numbered(topic, 1)).collect(),
        ..Effects::default()
    };
    let error = bus.apply(&effects(&[&a, &b])).await.unwrap_err();
    assert!(matches!(&error, Error::Settings(text) if text.contains("topic_prefix")), "{error}");
    assert_eq!((length(&cluster, &a).await, length(&cluster, &b).await), (0, 0));
    assert_eq!(bus.apply(&effects(&[&b, &b])).await.unwrap(), Applied::Committed);
    assert_eq!(length(&cluster, &b).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_keep_their_order_while_their_slot_moves() {
    const COUNT: usize = 1_500;
    let cluster = Cluster::start(2, 0).await;
    let done = Done::default();
    let mut hosts = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let subscription = open_plain(&cluster.url()).await.subscribe(&ordered(SHORT_LEASE)).await.unwrap();
        hosts.spawn(run(subscription, Arc::clone(&done), COUNT, false));
    }
    let bus = open_plain(&cluster.url()).await;
    let publishing = async {
        for n in 0..COUNT {
            bus.publish(&[numbered("t", n)]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (slot, first) = (cluster.slot("t").await, cluster.owner("t").await);
    let moving = async {
        for (from, to) in [(first, 1 - first), (1 - first, first)] {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.begin_move(slot, from, to).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(cluster.move_keys(slot, from, to).await > 1);
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.move_keys(slot, from, to).await;
            cluster.end_move(slot, to).await;
        }
    };
    tokio::join!(publishing, moving);
    bounded("handling all", async { while hosts.join_next().await.transpose().unwrap().is_some() {} }).await;
    assert_in_order(&done, COUNT);
}
