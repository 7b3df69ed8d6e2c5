//! Groups and their consumers: who gets what, and what is left when one leaves.

use std::collections::HashSet;
use std::time::Duration;

use sandbar::bus::{Fetched, GroupStatus, Origin, Settled};
use sandbar::event::{Effects, KeyRead, Settlement, Topic};
use tokio::task::JoinSet;

use super::dead_letters::cause;
use super::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, bounded, commit, consume, group, join, number, numbers, publish,
    retry, settle, take, take_nothing, take_one, vanish,
};

pub(crate) async fn groups_do_not_see_each_other(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let one = bus.subscribe(&group("one", &["t"], LONG_LEASE)).await.unwrap();
    for delivery in take(&one, 3).await {
        commit(&one, delivery, ack()).await;
    }
    let two = bus.subscribe(&group("two", &["t"], LONG_LEASE)).await.unwrap();
    assert_eq!(numbers(&take(&two, 3).await), [0, 1, 2]);
    take_nothing(&one, QUIET).await;
}

pub(crate) async fn consumers_share_without_overlap(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 20).await;
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&fixture.host().await, LONG_LEASE).await);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.extend(take(&one, 5).await);
        held.extend(take(&two, 5).await);
    }
    let distinct: HashSet<usize> = numbers(&held).into_iter().collect();
    assert_eq!(distinct.len(), 20);
    take_nothing(&one, QUIET).await;
    take_nothing(&two, QUIET).await;
}

pub(crate) async fn an_ack_is_final(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    let mut held = take(&subscription, 2).await;
    commit(&subscription, held.remove(0), ack()).await;
    vanish(subscription, held);
    drop(bus);
    let later = join(&fixture.host().await, SHORT_LEASE).await;
    let left = take_one(&later).await;
    assert_eq!(number(&left.message), 1, "the one that was not acknowledged");
    commit(&later, left, ack()).await;
    take_nothing(&later, SHORT_LEASE * 2).await;
}

pub(crate) async fn thousands_are_each_acked_once(fixture: &dyn Fixture) {
    const COUNT: usize = 5_000;
    let bus = fixture.host().await;
    for start in (0..COUNT).step_by(500) {
        let batch: Vec<_> = (start..start + 500).map(|n| super::numbered("t", n)).collect();
        bus.publish(&batch).await.unwrap();
    }
    let mut hosts = JoinSet::new();
    for _ in 0..2 {
        let subscription = join(&fixture.host().await, LONG_LEASE).await;
        hosts.spawn(async move {
            let mut acked = Vec::new();
            loop {
                let fetched = subscription.fetch(128, Duration::from_millis(500)).await.unwrap();
                let Fetched::Deliveries(deliveries) = fetched else { panic!("fetch gave {fetched:?}") };
                if deliveries.is_empty() {
                    return acked;
                }
                acked.extend(numbers(&deliveries));
                let batch = deliveries.into_iter().map(|delivery| (delivery, ack())).collect();
                let answers = subscription.settle(batch).await;
                assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)), "{answers:?}");
            }
        });
    }
    let mut acked = Vec::new();
    while let Some(some) = bounded("consuming", hosts.join_next()).await {
        acked.extend(some.unwrap());
    }
    acked.sort_unstable();
    assert_eq!(acked, (0..COUNT).collect::<Vec<_>>());
    let status = bus.status(&Topic::from("t"), "g").await.unwrap();
    assert_eq!((status.pending, status.lag), (0, Some(0)));
}

pub(crate) async fn a_mixed_batch_answers_in_order(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 6).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take(&subscription, 6).await;
    let stale = Effects {
        key_space: "space".into(),
        reads: vec![KeyRead { key: Some("k".into()), version: 77, value: None }],
        publish: vec![super::numbered("out", 1)],
        ..Effects::default()
    };
    let good = Effects { publish: vec![super::numbered("out", 2)], ..Effects::default() };
    let settlements = vec![
        ack(),
        retry(1, Duration::from_secs(600)),
        Settlement::Ack(stale),
        Settlement::Dead(cause("bad")),
        Settlement::Ack(good),
        ack(),
    ];
    let mut answers = bounded("settle", subscription.settle(held.into_iter().zip(settlements).collect())).await;
    let shape: Vec<&str> = answers
        .iter()
        .map(|answer| match answer {
            Settled::Committed => "committed",
            Settled::Conflict(_) => "conflict",
            _ => "other",
        })
        .collect();
    assert_eq!(shape, ["committed", "committed", "conflict", "committed", "committed", "committed"], "{answers:?}");
    let Settled::Conflict(again) = answers.remove(2) else { panic!("a conflict") };
    assert_eq!(number(&again.message), 2, "the conflict gives its own delivery back");
    commit(&subscription, again, ack()).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&out, 1).await, [2], "only the effects of what was committed");
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn closing_gives_back_at_once(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let leaving = join(&bus, LONG_LEASE).await;
    let held = take(&leaving, 3).await;
    let staying = join(&fixture.host().await, LONG_LEASE).await;
    take_nothing(&staying, QUIET).await;
    leaving.close().await.unwrap();
    let back = take(&staying, 3).await;
    assert_eq!(numbers(&back), [0, 1, 2]);
    assert!(back.iter().all(|delivery| delivery.attempts == 0 && delivery.origin != Origin::Inherited), "{back:?}");
    for delivery in held {
        let answer = settle(&leaving, delivery, retry(9, Duration::ZERO)).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
    }
    for delivery in back {
        commit(&staying, delivery, ack()).await;
    }
}

pub(crate) async fn a_closed_consumer_is_gone(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&bus, LONG_LEASE).await);
    let topic = Topic::from("t");
    let mut both = [one.consumer().to_owned(), two.consumer().to_owned()];
    both.sort();
    let mut alive = bus.status(&topic, "g").await.unwrap().consumers;
    alive.sort();
    assert_eq!(alive, both);
    one.close().await.unwrap();
    assert_eq!(bus.status(&topic, "g").await.unwrap().consumers, [two.consumer().to_owned()]);
}

pub(crate) async fn status_counts(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topic = Topic::from("t");
    let before = bus.status(&topic, "g").await.unwrap();
    assert_eq!((before.exists, before.pending, before.retrying, before.dead_letters), (false, 0, 0, 0));
    publish(&bus, "t", 7).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 4).await;
    commit(&subscription, held.remove(0), ack()).await;
    commit(&subscription, held.remove(0), retry(1, Duration::from_secs(600))).await;
    commit(&subscription, held.remove(0), Settlement::Dead(cause("bad"))).await;
    let status = bus.status(&topic, "g").await.unwrap();
    let expected = GroupStatus {
        exists: true,
        lag: Some(3),
        pending: 1,
        retrying: 1,
        dead_letters: 1,
        lost: 0,
        oldest: status.oldest,
        oldest_dead_letter: status.oldest_dead_letter,
        held_up_by: Some("g".into()),
        consumers: vec![subscription.consumer().to_owned()],
        reports: status.reports.clone(),
    };
    assert_eq!(status, expected);
}

pub(crate) async fn consumers_are_named_apart(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&bus, LONG_LEASE).await);
    assert_ne!(one.consumer(), two.consumer());
    assert!(one.consumer().starts_with("test-"), "{}", one.consumer());
}

pub(crate) async fn probing_changes_nothing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let found = bus.probe(&[group("g", &["t", "u"], LONG_LEASE)]).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
    assert!(!bus.status(&Topic::from("t"), "g").await.unwrap().exists, "probing made the group");
}
