//! What a topic holds, read beside every group; and effects without a delivery.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sandbar::bus::{Applied, Bus, Edge, Error};
use sandbar::event::{Effects, KeyRead, KeyWrite, Position, Topic};

use super::{Fixture, LONG_LEASE, QUIET, consume, group, join, number, numbered, publish, take, take_nothing};

/// The numbers of a stretch of the topic `t`, read in pages of `page`.
async fn read(bus: &Arc<dyn Bus>, from: &Edge, to: Option<&Edge>, page: usize) -> Vec<usize> {
    let topic = Topic::from("t");
    let mut numbers = Vec::new();
    let Some(mut span) = bus.history(&topic, from, to).await.unwrap() else { return numbers };
    loop {
        let messages = bus.read(&topic, &span, page).await.unwrap();
        assert!(messages.len() <= page);
        let Some(last) = messages.last() else { return numbers };
        span.advance(&last.position);
        numbers.extend(messages.iter().map(number));
    }
}

fn at(position: &Position) -> Edge {
    Edge::Position(position.clone())
}

pub(crate) async fn it_is_read_in_pages_beside_every_group(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    assert_eq!(bus.history(&Topic::from("t"), &Edge::Beginning, None).await.unwrap(), None, "no such topic");
    let positions = publish(&bus, "t", 10).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take(&subscription, 4).await;
    let before = bus.status(&Topic::from("t"), "g").await.unwrap();
    let all: Vec<usize> = (0..10).collect();
    assert_eq!(read(&bus, &Edge::Beginning, None, 3).await, all);
    assert_eq!(read(&bus, &Edge::Beginning, None, 100).await, all);
    assert_eq!(
        read(&bus, &at(&positions[2]), Some(&at(&positions[5])), 2).await,
        [2, 3, 4, 5],
        "both ends belong to it"
    );
    assert_eq!(read(&bus, &at(&positions[9]), None, 2).await, [9]);
    assert_eq!(read(&bus, &at(&positions[5]), Some(&at(&positions[2])), 2).await, [0_usize; 0]);
    assert_eq!(bus.status(&Topic::from("t"), "g").await.unwrap(), before);
    drop(held);
    assert_eq!(consume(&subscription, 10).await.len(), 10, "the group reads on as if nothing had been");
    take_nothing(&subscription, QUIET).await;
    let error = bus.history(&Topic::from("t"), &at(&"soon".into()), None).await.unwrap_err();
    assert!(matches!(&error, Error::Settings(text) if text.contains("soon is no position")), "{error}");
}

pub(crate) async fn it_ends_where_the_topic_ended(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let topic = Topic::from("t");
    let later = Edge::Time(SystemTime::now() + Duration::from_secs(3600));
    for to in [None, Some(&later)] {
        let mut span = bus.history(&topic, &Edge::Beginning, to).await.unwrap().expect("a stretch");
        bus.publish(&[numbered("t", 9)]).await.unwrap();
        let read = bus.read(&topic, &span, 100).await.unwrap();
        let last = read.last().expect("messages").position.clone();
        assert!(span.ends_with(&last));
        span.advance(&last);
        assert_eq!(bus.read(&topic, &span, 100).await.unwrap(), [], "published later");
    }
}

pub(crate) async fn times_divide_it(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    // Far enough for clocks that differ by a few milliseconds.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let noon = Edge::Time(SystemTime::now());
    tokio::time::sleep(Duration::from_millis(100)).await;
    bus.publish(&[numbered("t", 2), numbered("t", 3)]).await.unwrap();
    assert_eq!(read(&bus, &noon, None, 10).await, [2, 3]);
    assert_eq!(read(&bus, &Edge::Beginning, Some(&noon), 10).await, [0, 1]);
    let epoch = Edge::Time(SystemTime::UNIX_EPOCH);
    assert_eq!(read(&bus, &epoch, None, 10).await, [0, 1, 2, 3]);
    assert_eq!(read(&bus, &epoch, Some(&epoch), 10).await, [0_usize; 0]);
}

pub(crate) async fn what_was_trimmed_is_passed_over(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let positions = publish(&bus, "t", 3).await;
    fixture.lose_messages("t").await;
    assert_eq!(read(&bus, &at(&positions[0]), None, 10).await, [0_usize; 0]);
    bus.publish(&[numbered("t", 3)]).await.unwrap();
    assert_eq!(read(&bus, &at(&positions[0]), None, 10).await, [3]);
}

pub(crate) async fn effects_without_a_delivery_commit_whole_or_not_at_all(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let writes =
        |value: &'static str| vec![KeyWrite { key: "k".into(), value: Some(Bytes::from_static(value.as_bytes())) }];
    let effects = |version, value| Effects {
        publish: vec![numbered("out", 1), numbered("more", 2)],
        key_space: "space".into(),
        writes: writes(value),
        reads: vec![KeyRead { key: Some("k".into()), version, value: None }],
        ..Effects::default()
    };
    assert_eq!(bus.apply(&effects(0, "a")).await.unwrap(), Applied::Committed);
    let written = bus.read_key("space", "k").await.unwrap();
    assert_eq!(written.value.as_deref(), Some(&b"a"[..]));
    // Seen before the write above.
    assert_eq!(bus.apply(&effects(0, "b")).await.unwrap(), Applied::Conflict);
    assert_eq!(bus.read_key("space", "k").await.unwrap(), written);
    assert_eq!(bus.apply(&effects(written.version, "c")).await.unwrap(), Applied::Committed);
    assert_eq!(bus.read_key("space", "k").await.unwrap().value.as_deref(), Some(&b"c"[..]));
    let only = Effects { publish: vec![numbered("out", 3)], ..Effects::default() };
    assert_eq!(bus.apply(&only).await.unwrap(), Applied::Committed);
    let only = Effects { key_space: "space".into(), writes: writes("d"), ..Effects::default() };
    assert_eq!(bus.apply(&only).await.unwrap(), Applied::Committed);
    assert_eq!(bus.apply(&Effects::default()).await.unwrap(), Applied::Committed);
    for (topic, expected) in [("out", &[1, 1, 3][..]), ("more", &[2, 2])] {
        let reader = bus.subscribe(&group("reader", &[topic], LONG_LEASE)).await.unwrap();
        assert_eq!(consume(&reader, expected.len()).await, expected, "{topic}");
        take_nothing(&reader, QUIET).await;
    }
}
