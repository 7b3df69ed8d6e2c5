//! Dead letters: kept as they came, listed, requeued, purged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandbar::bus::{Bus, DeadLetter, Origin, Requeue};
use sandbar::event::{Cause, Fields, Outgoing, Position, Settlement, Topic, from_unix_millis, unix_millis};

use super::{
    Fixture, LONG_LEASE, QUIET, ack, commit, group, join, numbered, numbers, publish, retry, take, take_nothing,
    take_one,
};

pub(crate) fn cause(code: &str) -> Cause {
    Cause {
        code: code.into(),
        reason: "größer\nthan \"life\"".into(),
        attempts: 5,
        handler: "xapi".into(),
        module: "ab".repeat(32),
        // Buses keep milliseconds.
        at: from_unix_millis(unix_millis(SystemTime::now())),
    }
}

async fn letters(bus: &Arc<dyn Bus>) -> Vec<DeadLetter> {
    bus.dead_letters(&Topic::from("t"), "g", None, 1_000).await.unwrap()
}

/// Publishes `count` messages and makes dead letters of them.
async fn bury(bus: &Arc<dyn Bus>, count: usize) -> Vec<DeadLetter> {
    publish(bus, "t", count).await;
    let subscription = join(bus, LONG_LEASE).await;
    for delivery in take(&subscription, count).await {
        commit(&subscription, delivery, Settlement::Dead(cause("bad"))).await;
    }
    subscription.close().await.unwrap();
    let letters = letters(bus).await;
    assert_eq!(letters.len(), count);
    letters
}

pub(crate) async fn it_holds_the_bytes_and_the_cause(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let fields =
        Fields::from_pairs([(&b"twice"[..], &b"\0\xff"[..]), (b"twice", b""), (b"\xfe", b"2"), (b"code", b"3")]);
    let sent = Outgoing { topic: "t".into(), fields: fields.clone() };
    let position = bus.publish(&[sent]).await.unwrap().positions.remove(0);
    let subscription = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&subscription).await;
    let cause = cause("undecodable");
    commit(&subscription, delivery, Settlement::Dead(cause.clone())).await;
    take_nothing(&subscription, QUIET).await;
    assert_eq!(bus.status(&Topic::from("t"), "g").await.unwrap().pending, 0);
    // Read by another host.
    let letter = letters(&fixture.host().await).await.remove(0);
    let expected =
        DeadLetter { id: letter.id.clone(), topic: "t".into(), first: position.clone(), position, fields, cause };
    assert_eq!(letter, expected);
}

pub(crate) async fn requeued_to_its_topic(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let letter = bury(&bus, 1).await.remove(0);
    let (mine, other) =
        (join(&bus, LONG_LEASE).await, bus.subscribe(&group("other", &["t"], LONG_LEASE)).await.unwrap());
    commit(&other, take_one(&other).await, ack()).await;
    let topic = Topic::from("t");
    let moved = bus.requeue(&topic, "g", std::slice::from_ref(&letter.id), Requeue::Topic).await.unwrap();
    assert_eq!(moved, 1);
    assert!(letters(&bus).await.is_empty());
    for subscription in [&mine, &other] {
        let delivery = take_one(subscription).await;
        assert_eq!((delivery.attempts, delivery.origin), (0, Origin::New));
        assert_eq!(delivery.message.fields, letter.fields, "the bytes as they came");
        assert_eq!(delivery.message.first, letter.first);
        assert_ne!(delivery.message.position, letter.position);
        let again = cause("again");
        commit(subscription, delivery, Settlement::Dead(again)).await;
    }
    // Buried and requeued a second time, it still knows where it began.
    let second = letters(&bus).await.remove(0);
    assert_eq!((&second.first, &second.fields), (&letter.first, &letter.fields));
    assert_eq!(bus.requeue(&topic, "g", &[second.id], Requeue::Topic).await.unwrap(), 1);
    assert_eq!(take_one(&mine).await.message.first, letter.first);
}

pub(crate) async fn requeued_to_its_handler(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let letters_before = bury(&bus, 2).await;
    let other = bus.subscribe(&group("other", &["t"], LONG_LEASE)).await.unwrap();
    for delivery in take(&other, 2).await {
        commit(&other, delivery, ack()).await;
    }
    let ids: Vec<Position> = letters_before.iter().map(|letter| letter.id.clone()).collect();
    assert_eq!(bus.requeue(&Topic::from("t"), "g", &ids, Requeue::Handler).await.unwrap(), 2);
    assert!(letters(&bus).await.is_empty());
    let mine = join(&bus, LONG_LEASE).await;
    let mut back = take(&mine, 2).await;
    back.sort_by_key(|delivery| super::number(&delivery.message));
    for (delivery, letter) in back.into_iter().zip(&letters_before) {
        assert_eq!((delivery.attempts, delivery.origin), (0, Origin::Retry), "attempts are counted anew");
        assert_eq!((&delivery.message.first, &delivery.message.fields), (&letter.first, &letter.fields));
        commit(&mine, delivery, ack()).await;
    }
    take_nothing(&other, QUIET).await;
}

pub(crate) async fn purged(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let before = bury(&bus, 3).await;
    let topic = Topic::from("t");
    assert_eq!(bus.purge(&topic, "g", &[before[1].id.clone(), before[1].id.clone()]).await.unwrap(), 1);
    assert_eq!(letters(&bus).await, [before[0].clone(), before[2].clone()]);
    assert_eq!(bus.status(&topic, "g").await.unwrap().dead_letters, 2);
}

pub(crate) async fn listed_in_pages(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let all = bury(&bus, 5).await;
    let listed = all.iter().map(|letter| super::number_in(&letter.fields));
    assert_eq!(listed.collect::<Vec<_>>(), [0, 1, 2, 3, 4], "oldest first");
    let topic = Topic::from("t");
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|letter: &DeadLetter| letter.id.clone());
        let page = bus.dead_letters(&topic, "g", after.as_ref(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

pub(crate) async fn unknown_ones_are_passed_over(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topic = Topic::from("t");
    assert!(bus.dead_letters(&topic, "nobody", None, 10).await.unwrap().is_empty());
    let letter = bury(&bus, 1).await.remove(0);
    assert!(bus.dead_letters(&topic, "nobody", None, 10).await.unwrap().is_empty());
    assert_eq!(bus.purge(&topic, "nobody", std::slice::from_ref(&letter.id)).await.unwrap(), 0, "another group's");
    assert_eq!(bus.purge(&topic, "g", std::slice::from_ref(&letter.id)).await.unwrap(), 1);
    for to in [Requeue::Topic, Requeue::Handler] {
        assert_eq!(bus.requeue(&topic, "g", std::slice::from_ref(&letter.id), to).await.unwrap(), 0);
    }
    take_nothing(&join(&bus, LONG_LEASE).await, QUIET).await;
}

pub(crate) async fn a_retried_one_keeps_its_positions(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    bus.publish(&[numbered("t", 9)]).await.unwrap();
    let subscription = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&subscription).await;
    let sent = delivery.message.clone();
    commit(&subscription, delivery, retry(1, Duration::ZERO)).await;
    let delivery = take(&subscription, 1).await;
    assert_eq!(numbers(&delivery), [9]);
    for delivery in delivery {
        commit(&subscription, delivery, Settlement::Dead(cause("bad"))).await;
    }
    let letter = letters(&bus).await.remove(0);
    assert_eq!((letter.first, letter.position, letter.fields), (sent.first, sent.position, sent.fields));
    let status = bus.status(&Topic::from("t"), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying, status.dead_letters), (0, 0, 1));
}
