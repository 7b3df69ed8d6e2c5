//! Futures that are dropped half way.

use std::collections::BTreeSet;
use std::time::Duration;

use sandbar::bus::Fetched;

use super::{Fixture, LONG_LEASE, SHORT_LEASE, ack, bounded, join, number, publish, take_nothing};

pub(crate) async fn a_dropped_fetch_loses_nothing(fixture: &dyn Fixture) {
    const COUNT: usize = 400;
    let bus = fixture.host().await;
    publish(&bus, "t", COUNT).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    let mut handled = BTreeSet::new();
    // A fixed sequence of "random" moments, from none to a few milliseconds.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_micros((random >> 33) % 2_000);
        let fetch = subscription.fetch(3, Duration::from_secs(1));
        if let Ok(fetched) = tokio::time::timeout(moment, fetch).await {
            handled.extend(settle_all(&subscription, fetched.unwrap()).await);
        }
        subscription.renew().await.unwrap();
    }
    bounded("fetching the rest", async {
        while handled.len() < COUNT {
            let fetched = subscription.fetch(64, SHORT_LEASE / 4).await.unwrap();
            handled.extend(settle_all(&subscription, fetched).await);
            subscription.renew().await.unwrap();
        }
    })
    .await;
    assert_eq!(handled, (0..COUNT).collect());
    take_nothing(&subscription, SHORT_LEASE * 2).await;
}

async fn settle_all(subscription: &std::sync::Arc<dyn sandbar::bus::Subscription>, fetched: Fetched) -> Vec<usize> {
    let Fetched::Deliveries(deliveries) = fetched else { panic!("fetch gave {fetched:?}") };
    let numbers = super::numbers(&deliveries);
    let answers = subscription.settle(deliveries.into_iter().map(|delivery| (delivery, ack())).collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, sandbar::bus::Settled::Committed)), "{answers:?}");
    numbers
}

pub(crate) async fn a_dropped_settle_leaves_nothing_in_limbo(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 40).await;
    let subscription = join(&bus, LONG_LEASE).await;
    for step in 0..40 {
        let delivery = super::take_one(&subscription).await;
        let settle = subscription.settle(vec![(delivery, ack())]);
        let _ = tokio::time::timeout(Duration::from_micros(step * 25), settle).await;
    }
    // Whatever was not stored comes back, to this consumer or, once it has left, to another.
    while let Fetched::Deliveries(some) = subscription.fetch(16, Duration::from_millis(50)).await.unwrap() {
        if some.is_empty() {
            break;
        }
        for delivery in some {
            assert!(number(&delivery.message) < 40);
            super::commit(&subscription, delivery, ack()).await;
        }
    }
    subscription.close().await.unwrap();
    let other = join(&fixture.host().await, LONG_LEASE).await;
    while let Fetched::Deliveries(some) = other.fetch(16, Duration::from_millis(100)).await.unwrap() {
        if some.is_empty() {
            break;
        }
        for delivery in some {
            super::commit(&other, delivery, ack()).await;
        }
    }
    let status = bus.status(&sandbar::event::Topic::from("t"), "g").await.unwrap();
    assert_eq!((status.pending, status.lag), (0, Some(0)), "something stays pending for nobody");
}
