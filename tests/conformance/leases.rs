//! Leases: what is dropped, what dead hosts leave behind, and what frozen ones may no longer do.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sandbar::bus::{Origin, Settled};
use sandbar::event::{Effects, KeyWrite, Settlement, Topic};

use super::dead_letters::cause;
use super::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, consume, group, join, number, numbered, numbers, publish,
    retry, settle, take, take_nothing, take_one, vanish, while_renewing,
};

pub(crate) async fn a_dropped_receipt_comes_back_uncounted(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, LONG_LEASE).await;
    drop(take(&subscription, 2).await);
    let back = take(&subscription, 3).await;
    assert_eq!(numbers(&back), [0, 1, 2], "what was dropped comes before what is new");
    let how: Vec<_> = back.iter().map(|delivery| (delivery.attempts, delivery.origin)).collect();
    assert_eq!(how, [(0, Origin::Dropped), (0, Origin::Dropped), (0, Origin::New)]);
    for delivery in back {
        commit(&subscription, delivery, ack()).await;
    }
    take_nothing(&subscription, QUIET).await;
}

pub(crate) async fn a_drop_ends_the_wait(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    let held = take_one(&subscription).await;
    let start = Instant::now();
    let (back, ()) = tokio::join!(take_one(&subscription), async {
        tokio::time::sleep(QUIET).await;
        drop(held);
    });
    assert_eq!(back.origin, Origin::Dropped);
    assert!(start.elapsed() < SHORT_LEASE * 4, "after {:?}", start.elapsed());
}

pub(crate) async fn a_dead_hosts_messages_are_inherited(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let dying = join(&fixture.host().await, SHORT_LEASE).await;
    let held = take(&dying, 2).await;
    let since = Instant::now();
    vanish(dying, held);
    let heir = join(&bus, SHORT_LEASE).await;
    let inherited = take(&heir, 2).await;
    assert!(since.elapsed() >= SHORT_LEASE * 9 / 10, "taken over after {:?}, within the lease", since.elapsed());
    assert_eq!(numbers(&inherited), [0, 1]);
    for delivery in inherited {
        assert_eq!((delivery.attempts, delivery.origin), (0, Origin::Inherited));
        commit(&heir, delivery, ack()).await;
    }
    take_nothing(&heir, SHORT_LEASE * 2).await;
}

pub(crate) async fn inherited_messages_come_in_order(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 6).await;
    for _ in 0..2 {
        let dying = join(&bus, SHORT_LEASE).await;
        let held = take(&dying, 2).await;
        vanish(dying, held);
    }
    tokio::time::sleep(SHORT_LEASE * 3 / 2).await;
    let heir = join(&bus, SHORT_LEASE).await;
    assert_eq!(numbers(&take(&heir, 6).await), [0, 1, 2, 3, 4, 5]);
}

/// Whoever waits for longer than a lease and then takes something has it for a lease, though it renewed nothing.
pub(crate) async fn what_comes_after_a_long_wait_is_held(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let (one, two) = (join(&bus, SHORT_LEASE).await, join(&fixture.host().await, SHORT_LEASE).await);
    take_nothing(&one, SHORT_LEASE * 2).await;
    publish(&bus, "t", 1).await;
    let held = take_one(&one).await;
    take_nothing(&two, SHORT_LEASE / 4).await;
    commit(&one, held, ack()).await;
}

pub(crate) async fn a_begun_attempt_outlives_its_host(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let first = join(&bus, SHORT_LEASE).await;
    let held = take(&first, 1).await;
    vanish(first, held);
    for attempts in 0..2 {
        let heir = join(&bus, SHORT_LEASE).await;
        let delivery = take_one(&heir).await;
        assert_eq!((delivery.attempts, delivery.origin), (attempts, Origin::Inherited));
        assert!(heir.begin(&delivery).await.unwrap());
        vanish(heir, vec![delivery]);
    }
    let heir = join(&bus, SHORT_LEASE).await;
    assert_eq!(take_one(&heir).await.attempts, 2);
}

pub(crate) async fn renewing_keeps_it(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let holder = join(&bus, SHORT_LEASE).await;
    let held = take_one(&holder).await;
    let other = join(&fixture.host().await, SHORT_LEASE).await;
    while_renewing(&holder, take_nothing(&other, SHORT_LEASE * 3)).await;
    commit(&holder, held, Settlement::Ack(Effects { publish: vec![numbered("out", 1)], ..Effects::default() })).await;
}

pub(crate) async fn a_frozen_host_changes_nothing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 4).await;
    let frozen = join(&fixture.host().await, SHORT_LEASE).await;
    let held = take(&frozen, 4).await;
    let heir = join(&bus, SHORT_LEASE).await;
    let inherited = take(&heir, 4).await;
    let effects = Effects {
        publish: vec![numbered("out", 1)],
        key_space: "space".into(),
        writes: vec![KeyWrite { key: "k".into(), value: Some(Bytes::from_static(b"v")) }],
        reads: Vec::new(),
        ..Effects::default()
    };
    while_renewing(&heir, async {
        let mut held = held.into_iter();
        let mut next = || held.next().unwrap();
        let begun = next();
        assert!(!frozen.begin(&begun).await.unwrap(), "an attempt of a lost delivery began");
        drop(begun);
        for settlement in [retry(5, Duration::ZERO), Settlement::Dead(cause("bad")), Settlement::Ack(effects)] {
            let what = format!("{settlement:?}");
            let answer = settle(&frozen, next(), settlement).await;
            assert!(matches!(answer, Settled::Lost), "{what}: {answer:?}");
        }
        let topic = Topic::from("t");
        let status = bus.status(&topic, "g").await.unwrap();
        assert_eq!((status.pending, status.retrying, status.dead_letters), (4, 0, 0));
        assert_eq!(bus.read_key("space", "k").await.unwrap().version, 0, "a key of a lost call was written");
        let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
        take_nothing(&out, QUIET).await;
        for delivery in inherited {
            commit(&heir, delivery, retry(1, Duration::ZERO)).await;
        }
    })
    .await;
}

pub(crate) async fn an_old_receipt_is_void_when_the_message_comes_back(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let one = join(&bus, SHORT_LEASE).await;
    let mut old = take(&one, 2).await;
    let two = join(&fixture.host().await, SHORT_LEASE).await;
    let between = take(&two, 2).await;
    vanish(two, between);
    // The same consumer, which never learnt that it had lost them, gets them a second time.
    let mut new = take(&one, 2).await;
    let effects = |n| Settlement::Ack(Effects { publish: vec![numbered("out", n)], ..Effects::default() });
    // One of them is settled by the new receipt first, the other by the old one first.
    commit(&one, new.remove(0), effects(0)).await;
    for n in 0..2 {
        let answer = settle(&one, old.remove(0), effects(10 + n)).await;
        assert!(matches!(answer, Settled::Lost), "the old receipt of {n}: {answer:?}");
    }
    commit(&one, new.remove(0), effects(1)).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&out, 2).await, [0, 1]);
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn renewing_reports_the_lost(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let frozen = join(&bus, SHORT_LEASE).await;
    let held = take(&frozen, 2).await;
    assert!(frozen.renew().await.unwrap().is_empty());
    let heir = join(&fixture.host().await, SHORT_LEASE).await;
    let inherited = take_one(&heir).await;
    let lost = frozen.renew().await.unwrap();
    let expected: Vec<_> = held
        .iter()
        .filter(|delivery| number(&delivery.message) == number(&inherited.message))
        .map(sandbar::bus::Delivery::id)
        .collect();
    assert_eq!(lost, expected);
    assert!(frozen.renew().await.unwrap().is_empty(), "the same loss is told once");
}

pub(crate) async fn a_frozen_host_takes_nothing_back_by_renewing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let frozen = join(&fixture.host().await, SHORT_LEASE).await;
    let mut held = take(&frozen, 3).await;
    // One of them waits for a retry that came back, which is leased in another way.
    commit(&frozen, held.remove(0), retry(1, Duration::ZERO)).await;
    held.extend(take(&frozen, 1).await);
    let heir = join(&bus, SHORT_LEASE).await;
    let inherited = take(&heir, 3).await;
    // It wakes, and renews again and again before it does anything else; the heir renews as it should.
    let mut lost = Vec::new();
    for _ in 0..3 {
        assert_eq!(heir.renew().await.unwrap(), [], "taken back");
        lost.extend(frozen.renew().await.unwrap());
    }
    let effects = |n| Settlement::Ack(Effects { publish: vec![numbered("out", n)], ..Effects::default() });
    for delivery in inherited {
        commit(&heir, delivery, effects(1)).await;
    }
    assert_eq!(lost.len(), 3, "it is told of each once: {lost:?}");
    for delivery in held {
        let answer = settle(&frozen, delivery, effects(2)).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
    }
    take_nothing(&frozen, SHORT_LEASE * 2).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&out, 3).await, [1, 1, 1]);
    take_nothing(&out, QUIET).await;
}

/// From one host to another and back, each of which believes all the while that it has it.
pub(crate) async fn effects_come_once_although_it_went_there_and_back(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let one = join(&bus, SHORT_LEASE).await;
    let mut held = take(&one, 2).await;
    commit(&one, held.remove(0), retry(1, Duration::ZERO)).await;
    held.extend(take(&one, 1).await);
    let two = join(&fixture.host().await, SHORT_LEASE).await;
    let there = take(&two, 2).await;
    let back = take(&one, 2).await;
    let effects = |n| Settlement::Ack(Effects { publish: vec![numbered("out", n)], ..Effects::default() });
    while_renewing(&one, async {
        for (n, delivery) in
            [(0, held), (1, there)].into_iter().flat_map(|(n, all)| all.into_iter().map(move |d| (n, d)))
        {
            let subscription = if n == 0 { &one } else { &two };
            let answer = settle(subscription, delivery, effects(n)).await;
            assert!(matches!(answer, Settled::Lost), "{n}: {answer:?}");
        }
        for delivery in back {
            commit(&one, delivery, effects(2)).await;
        }
    })
    .await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&out, 2).await, [2, 2]);
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn renewing_beside_settling_reports_nothing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 200).await;
    let subscription = join(&bus, LONG_LEASE).await;
    for _ in 0..20 {
        let batch = take(&subscription, 10).await.into_iter().map(|delivery| (delivery, ack())).collect();
        let (answers, lost) = tokio::join!(subscription.settle(batch), subscription.renew());
        assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)), "{answers:?}");
        assert_eq!(lost.unwrap(), [], "what is settled is not lost");
    }
}
