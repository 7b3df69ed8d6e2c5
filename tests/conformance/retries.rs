//! The retry store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sandbar::bus::{Delivery, Fetched, Origin, Settled};
use sandbar::event::{Effects, Settlement, Topic};

use super::{
    BOUND, Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, commit, consume, group, join, number, numbered, numbers,
    publish, retry, settle, take, take_nothing, take_one, vanish,
};

const SOON: Duration = Duration::from_millis(400);

pub(crate) async fn a_retry_waits_until_it_is_due(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&subscription).await;
    let (sent, since) = (delivery.message.clone(), Instant::now());
    commit(&subscription, delivery, retry(3, SOON)).await;
    let other = take_one(&subscription).await;
    assert_eq!((number(&other.message), other.origin), (1, Origin::New), "a waiting retry holds nothing up");
    commit(&subscription, other, ack()).await;
    let again = take_one(&subscription).await;
    assert!(since.elapsed() >= SOON - Duration::from_millis(5), "came after {:?}", since.elapsed());
    assert!(since.elapsed() < SOON + Duration::from_secs(5), "came after {:?}", since.elapsed());
    assert_eq!((again.attempts, again.origin), (3, Origin::Retry));
    assert_eq!(again.message, sent);
    commit(&subscription, again, ack()).await;
    take_nothing(&subscription, QUIET).await;
}

pub(crate) async fn only_those_due_come_when_no_more_is_wanted(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 4).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 2).await;
    drop(held.pop());
    commit(&subscription, held.remove(0), retry(1, SOON)).await;
    let since = Instant::now();
    let mut due = Vec::new();
    while due.is_empty() {
        assert!(since.elapsed() < BOUND, "the retry does not come");
        due = deliveries(subscription.fetch_due(16, QUIET).await.unwrap());
    }
    assert!(since.elapsed() >= SOON - Duration::from_millis(20), "came after {:?}", since.elapsed());
    assert_eq!(numbers(&due), [0], "neither what was dropped nor what is new");
    assert_eq!(due[0].origin, Origin::Retry);
    commit(&subscription, due.remove(0), ack()).await;
    assert_eq!(deliveries(subscription.fetch_due(16, QUIET).await.unwrap()).len(), 0);
    let mut rest = consume(&subscription, 3).await;
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3], "they come when they are wanted again");
}

fn deliveries(fetched: Fetched) -> Vec<Delivery> {
    match fetched {
        Fetched::Deliveries(deliveries) => deliveries,
        other => panic!("the group is not exclusive: {other:?}"),
    }
}

pub(crate) async fn a_retry_outlives_hosts_and_its_message(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&subscription).await;
    let sent = delivery.message.clone();
    commit(&subscription, delivery, retry(2, SOON)).await;
    vanish(subscription, Vec::new());
    drop(bus);
    fixture.lose_messages("t").await;
    let later = join(&fixture.host().await, LONG_LEASE).await;
    let again = take_one(&later).await;
    assert_eq!((&again.message, again.attempts, again.origin), (&sent, 2, Origin::Retry));
    commit(&later, again, ack()).await;
}

pub(crate) async fn a_retry_can_be_retried_and_acked(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    for attempts in 0..4 {
        let delivery = take_one(&subscription).await;
        assert_eq!(delivery.attempts, attempts);
        commit(&subscription, delivery, retry(attempts + 1, Duration::ZERO)).await;
        let status = bus.status(&Topic::from("t"), "g").await.unwrap();
        assert_eq!((status.pending, status.retrying), (0, 1));
    }
    let dropped = take_one(&subscription).await;
    drop(dropped);
    let back = take_one(&subscription).await;
    assert_eq!((back.attempts, back.origin), (4, Origin::Dropped), "a drop counts no attempt");
    commit(&subscription, back, ack()).await;
    take_nothing(&subscription, QUIET).await;
    let status = bus.status(&Topic::from("t"), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying, status.dead_letters), (0, 0, 0));
}

/// Whoever asks how far a group is must not be told that it is done while an event is on its way to the store.
pub(crate) async fn what_goes_to_the_store_is_never_out_of_sight(fixture: &dyn Fixture) {
    // Longer than a look.
    const MOMENT: Duration = Duration::from_millis(10);
    let (bus, observer) = (fixture.host().await, fixture.host().await);
    let subscription = join(&bus, LONG_LEASE).await;
    // Counts up when an event is there and when it is about to be done.
    let (there, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let looking = async {
        loop {
            let before = there.load(Ordering::SeqCst);
            let status = observer.status(&Topic::from("t"), "g").await.unwrap();
            if before % 2 == 1 && there.load(Ordering::SeqCst) == before {
                assert_ne!((status.lag, status.pending, status.retrying), (Some(0), 0, 0));
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let moving = async {
        let end = Instant::now() + BOUND;
        // On a busy machine few looks are shorter than an event is there.
        for moved in 0.. {
            if moved >= 60 && (counted.load(Ordering::SeqCst) > 10 || Instant::now() > end) {
                break;
            }
            publish(&bus, "t", 1).await;
            let delivery = take_one(&subscription).await;
            there.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(MOMENT).await;
            commit(&subscription, delivery, retry(1, Duration::ZERO)).await;
            tokio::time::sleep(MOMENT).await;
            let again = take_one(&subscription).await;
            there.fetch_add(1, Ordering::SeqCst);
            commit(&subscription, again, ack()).await;
        }
    };
    tokio::select! {
        () = moving => {}
        () = looking => {}
    }
    assert!(counted.load(Ordering::SeqCst) > 10, "it looked while events were there");
}

pub(crate) async fn another_consumer_may_get_it(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let one = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&one).await;
    let two = join(&fixture.host().await, LONG_LEASE).await;
    commit(&one, delivery, retry(1, Duration::ZERO)).await;
    let again = take_one(&two).await;
    assert_eq!((again.attempts, again.origin), (1, Origin::Retry));
    take_nothing(&one, QUIET).await;
    commit(&two, again, ack()).await;
}

pub(crate) async fn a_dead_hosts_retry_is_inherited(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let dying = join(&bus, SHORT_LEASE).await;
    let delivery = take_one(&dying).await;
    commit(&dying, delivery, retry(1, Duration::ZERO)).await;
    let again = take_one(&dying).await;
    vanish(dying, vec![again]);
    let heir = join(&fixture.host().await, SHORT_LEASE).await;
    let inherited = take_one(&heir).await;
    assert_eq!((inherited.attempts, inherited.origin), (1, Origin::Inherited));
    assert!(heir.begin(&inherited).await.unwrap());
    vanish(heir, vec![inherited]);
    let last = join(&fixture.host().await, SHORT_LEASE).await;
    let inherited = take_one(&last).await;
    assert_eq!((inherited.attempts, inherited.origin), (2, Origin::Inherited));
    commit(&last, inherited, ack()).await;
    take_nothing(&last, SHORT_LEASE * 2).await;
}

pub(crate) async fn a_retry_held_twice_commits_once(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let one = join(&bus, SHORT_LEASE).await;
    let delivery = take_one(&one).await;
    commit(&one, delivery, retry(1, Duration::ZERO)).await;
    let old = take_one(&one).await;
    let two = join(&fixture.host().await, SHORT_LEASE).await;
    let between = take(&two, 1).await;
    vanish(two, between);
    let new = take_one(&one).await;
    let effects = |n| Settlement::Ack(Effects { publish: vec![numbered("out", n)], ..Effects::default() });
    let answer = settle(&one, old, effects(0)).await;
    assert!(matches!(answer, Settled::Lost), "{answer:?}");
    commit(&one, new, effects(1)).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&out, 1).await, [1]);
    take_nothing(&out, QUIET).await;
}
