//! Exclusive groups: one consumer at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::bus::{Bus, Fetched, Origin, Settled, Subscription};
use sandbar::event::{Effects, Message, Settlement};

use super::{
    BOUND, Fixture, QUIET, SHORT_LEASE, ack, bounded, commit, consume, group, numbered, numbers, publish, retry,
    settle, take, take_nothing, take_one, vanish, while_renewing,
};

async fn join(bus: &Arc<dyn Bus>) -> Arc<dyn Subscription> {
    let mut group = group("g", &["t"], SHORT_LEASE);
    group.exclusive = true;
    bus.subscribe(&group).await.unwrap()
}

/// Waits for the turn, as a live host does, and returns what waits for a retry.
async fn activate(subscription: &Arc<dyn Subscription>) -> Vec<Message> {
    bounded("becoming active", async {
        loop {
            subscription.renew().await.unwrap();
            match subscription.fetch(16, SHORT_LEASE / 4).await.unwrap() {
                Fetched::Active { retrying } => return retrying,
                Fetched::StandBy => {}
                Fetched::Deliveries(some) => panic!("{} deliveries before its turn", some.len()),
            }
        }
    })
    .await
}

async fn stands_by(subscription: &Arc<dyn Subscription>, wait: Duration) {
    let fetched = bounded("fetch", subscription.fetch(16, wait)).await.unwrap();
    assert!(matches!(fetched, Fetched::StandBy), "{fetched:?}");
}

async fn supports(fixture: &dyn Fixture) -> bool {
    fixture.host().await.guarantees().exclusive_groups
}

pub(crate) async fn one_is_active(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let (one, two) = (join(&bus).await, join(&fixture.host().await).await);
    assert!(activate(&one).await.is_empty());
    assert_eq!(consume(&one, 2).await, [0, 1]);
    let start = Instant::now();
    while start.elapsed() < SHORT_LEASE * 3 {
        while_renewing(&one, stands_by(&two, QUIET)).await;
        take_nothing(&one, Duration::from_millis(20)).await;
    }
}

pub(crate) async fn the_next_one_takes_over_in_order(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 6).await;
    let one = join(&bus).await;
    activate(&one).await;
    let mut held = take(&one, 4).await;
    commit(&one, held.remove(1), ack()).await;
    let two = join(&fixture.host().await).await;
    stands_by(&two, Duration::from_millis(10)).await;
    vanish(one, held);
    let since = Instant::now();
    assert!(activate(&two).await.is_empty());
    assert!(since.elapsed() < SHORT_LEASE * 4, "took over after {:?}", since.elapsed());
    let deliveries = take(&two, 5).await;
    assert_eq!(numbers(&deliveries), [0, 2, 3, 4, 5], "first what was left behind, in order");
    let origins: Vec<Origin> = deliveries.iter().map(|delivery| delivery.origin).collect();
    assert_eq!(origins, [Origin::Inherited, Origin::Inherited, Origin::Inherited, Origin::New, Origin::New]);
    for delivery in deliveries {
        commit(&two, delivery, ack()).await;
    }
}

pub(crate) async fn a_frozen_one_stands_by(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let frozen = join(&bus).await;
    activate(&frozen).await;
    let mut held = take(&frozen, 2).await;
    let heir = join(&fixture.host().await).await;
    activate(&heir).await;
    let inherited = take(&heir, 2).await;
    while_renewing(&heir, async {
        let effects = Effects { publish: vec![numbered("out", 1)], ..Effects::default() };
        let answer = settle(&frozen, held.remove(0), Settlement::Ack(effects)).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
        stands_by(&frozen, BOUND / 4).await;
        let answer = settle(&frozen, held.remove(0), retry(1, Duration::ZERO)).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
        for delivery in inherited {
            commit(&heir, delivery, ack()).await;
        }
    })
    .await;
    // Its turn comes again when the other one goes.
    heir.close().await.unwrap();
    activate(&frozen).await;
    take_nothing(&frozen, QUIET).await;
}

pub(crate) async fn closing_hands_the_turn_over(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let one = join(&bus).await;
    activate(&one).await;
    let held = take(&one, 2).await;
    let two = join(&fixture.host().await).await;
    stands_by(&two, Duration::from_millis(10)).await;
    one.close().await.unwrap();
    let since = Instant::now();
    activate(&two).await;
    assert!(since.elapsed() < SHORT_LEASE, "handed over after {:?} only", since.elapsed());
    let back = take(&two, 2).await;
    assert_eq!(numbers(&back), [0, 1]);
    assert!(back.iter().all(|delivery| delivery.attempts == 0));
    drop(held);
}

pub(crate) async fn retries_are_listed_when_it_becomes_active(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let one = join(&bus).await;
    activate(&one).await;
    let mut held = take(&one, 3).await;
    let waiting = held[1].message.clone();
    commit(&one, held.remove(1), retry(1, SHORT_LEASE * 4)).await;
    vanish(one, held);
    let two = join(&fixture.host().await).await;
    assert_eq!(activate(&two).await, std::slice::from_ref(&waiting));
    for delivery in take(&two, 2).await {
        commit(&two, delivery, ack()).await;
    }
    let again = while_renewing(&two, take_one(&two)).await;
    assert_eq!((&again.message, again.attempts, again.origin), (&waiting, 1, Origin::Retry));
    commit(&two, again, ack()).await;
}

pub(crate) async fn one_that_only_wants_what_is_due_learns_that_its_turn_is_over(fixture: &dyn Fixture) {
    if !supports(fixture).await {
        return;
    }
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let one = join(&bus).await;
    activate(&one).await;
    let held = take_one(&one).await;
    // Frozen for longer than its lease.
    tokio::time::sleep(SHORT_LEASE * 2).await;
    let two = join(&fixture.host().await).await;
    activate(&two).await;
    let end = Instant::now() + BOUND;
    while !matches!(one.fetch_due(16, QUIET).await.unwrap(), Fetched::StandBy) {
        assert!(Instant::now() < end, "it is not told");
        two.renew().await.unwrap();
    }
    drop(held);
}
