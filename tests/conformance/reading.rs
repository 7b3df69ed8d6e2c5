//! Publishing and reading: order, bytes, sizes and waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandbar::bus::{Fetched, Origin};
use sandbar::event::{Fields, Outgoing, Topic};

use super::{
    BOUND, Fixture, LONG_LEASE, QUIET, ack, bounded, commit, consume, group, join, number, numbered, publish, take,
    take_nothing, take_one,
};

const MEBIBYTE: usize = 1 << 20;

pub(crate) async fn order_and_bytes_are_kept(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let pairs: Vec<Vec<(&[u8], &[u8])>> = vec![
        vec![(b"type", b"a"), (b"event_data", b"\0\x02\xff")],
        vec![(b"twice", b"1"), (b"other", b""), (b"twice", b"2")],
        vec![(b"", b"no name"), (b"\0nul\0", b"\0"), (b"\xff\xfe", b"not UTF-8"), (b"sp ace\r\n", b"\r\n$3\r\n")],
        vec![(&every_byte, &every_byte)],
        vec![("größe".as_bytes(), "ß".as_bytes())],
    ];
    let messages: Vec<Outgoing> =
        pairs.into_iter().map(|pairs| Outgoing { topic: "t".into(), fields: Fields::from_pairs(pairs) }).collect();
    let positions = bus.publish(&messages).await.unwrap().positions;
    assert_eq!(positions.len(), messages.len());

    let subscription = join(&bus, LONG_LEASE).await;
    let deliveries = take(&subscription, messages.len()).await;
    for ((delivery, sent), position) in deliveries.iter().zip(&messages).zip(&positions) {
        assert_eq!(delivery.message.fields, sent.fields);
        assert_eq!(&*delivery.message.topic, "t");
        assert_eq!(&delivery.message.position, position);
        assert_eq!(&delivery.message.first, position, "it was never published before");
        assert_eq!((delivery.attempts, delivery.origin), (0, Origin::New));
    }
}

pub(crate) async fn a_mebibyte_passes(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let payload: Vec<u8> = (0..MEBIBYTE).map(|at| (at * 31 % 251) as u8).collect();
    let sent = Outgoing { topic: "t".into(), fields: Fields::from_pairs([("payload", &payload)]) };
    bus.publish(std::slice::from_ref(&sent)).await.unwrap();
    let delivery = take_one(&join(&bus, LONG_LEASE).await).await;
    assert_eq!(delivery.message.fields, sent.fields);
}

pub(crate) async fn ten_mebibytes_pass_in_one_batch(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let payload = vec![7_u8; MEBIBYTE / 4];
    let messages: Vec<Outgoing> = (0..40)
        .map(|n: usize| Outgoing {
            topic: "t".into(),
            fields: Fields::from_pairs([(&b"n"[..], n.to_string().as_bytes()), (b"payload", &payload)]),
        })
        .collect();
    bus.publish(&messages).await.unwrap();
    let subscription = join(&bus, LONG_LEASE).await;
    let deliveries = take(&subscription, messages.len()).await;
    assert_eq!(super::numbers(&deliveries), (0..40).collect::<Vec<_>>());
    assert!(deliveries.iter().zip(&messages).all(|(delivery, sent)| delivery.message.fields == sent.fields));
    let answers = subscription.settle(deliveries.into_iter().map(|delivery| (delivery, ack())).collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, sandbar::bus::Settled::Committed)), "{answers:?}");
}

pub(crate) async fn max_bounds_the_sum_over_topics(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topics = ["a", "b", "c"];
    for topic in topics {
        publish(&bus, topic, 9).await;
    }
    let subscription = bus.subscribe(&group("g", &topics, LONG_LEASE)).await.unwrap();
    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut held = Vec::new();
    for max in [1, 1, 1, 2, 4, 5].into_iter().chain(std::iter::repeat(4)) {
        if held.len() == 27 {
            break;
        }
        let fetched = bounded("fetch", subscription.fetch(max, BOUND)).await.unwrap();
        let Fetched::Deliveries(deliveries) = fetched else { panic!("fetch gave {fetched:?}") };
        assert!((1..=max).contains(&deliveries.len()), "{} deliveries for max {max}", deliveries.len());
        for delivery in deliveries {
            seen.entry(delivery.message.topic.to_string()).or_default().push(number(&delivery.message));
            held.push(delivery);
        }
    }
    for topic in topics {
        assert_eq!(seen[topic], (0..9).collect::<Vec<_>>(), "topic {topic} in order");
    }
}

pub(crate) async fn a_full_topic_does_not_starve_others(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "full", 100).await;
    publish(&bus, "low", 1).await;
    publish(&bus, "lower", 1).await;
    let subscription = bus.subscribe(&group("g", &["full", "low", "lower"], LONG_LEASE)).await.unwrap();
    let held = take(&subscription, 8).await;
    for topic in ["low", "lower"] {
        assert!(held.iter().any(|delivery| &*delivery.message.topic == topic), "nothing of {topic} among the first 8");
    }
}

pub(crate) async fn an_empty_list_ends_the_wait(fixture: &dyn Fixture) {
    let subscription = join(&fixture.host().await, LONG_LEASE).await;
    let start = Instant::now();
    take_nothing(&subscription, Duration::from_millis(300)).await;
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(250), "an empty list after {waited:?} only");
    assert!(waited < Duration::from_secs(10), "an empty list after {waited:?}");
}

pub(crate) async fn a_publish_ends_the_wait(fixture: &dyn Fixture) {
    let (here, there) = (fixture.host().await, fixture.host().await);
    let subscription = join(&here, LONG_LEASE).await;
    for publisher in [&here, &there] {
        let start = Instant::now();
        let (delivery, ()) = tokio::join!(take_one(&subscription), async {
            tokio::time::sleep(QUIET).await;
            publisher.publish(&[numbered("t", 0)]).await.unwrap();
        });
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(5), "seen after {waited:?}");
        commit(&subscription, delivery, ack()).await;
    }
}

pub(crate) async fn publishing_nothing_is_nothing(fixture: &dyn Fixture) {
    assert!(fixture.host().await.publish(&[]).await.unwrap().positions.is_empty());
}

pub(crate) async fn what_is_trimmed_unread_is_counted_as_lost(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topic = Topic::from("t");
    publish(&bus, "t", 5).await;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(consume(&subscription, 2).await, [0, 1]);
    fixture.lose_messages("t").await;
    let lost = async || {
        let status = bus.status(&topic, "g").await.unwrap();
        assert_eq!(status.pending, 0);
        (status.lost, status.lag)
    };
    if fixture.counts_unread() {
        assert_eq!(lost().await, (3, Some(0)), "before anybody has looked");
    }
    let expected = if fixture.counts_unread() { 3 } else { 1 };
    // Whoever renews counts them, and nobody counts them again.
    for _ in 0..2 {
        subscription.renew().await.unwrap();
        assert_eq!(lost().await, (expected, Some(0)));
    }
    publish(&bus, "t", 4).await;
    assert_eq!(lost().await, (expected, Some(4)));
    assert_eq!(consume(&subscription, 2).await, [0, 1]);
    subscription.renew().await.unwrap();
    assert_eq!(lost().await, (expected, Some(2)));
    // Read past at once: a bus may not notice, but does not take them for still to be read.
    fixture.lose_messages("t").await;
    publish(&bus, "t", 1).await;
    assert_eq!(consume(&subscription, 1).await, [0]);
    assert_eq!(lost().await.1, Some(0));
    subscription.renew().await.unwrap();
    let (lost, lag) = lost().await;
    assert!(lag == Some(0) && lost >= expected, "{lost} {lag:?}");
}
