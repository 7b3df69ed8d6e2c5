//! What operators see of a group: reports of its consumers, and how old the oldest is.

use std::time::{Duration, SystemTime};

use sandbar::bus::Start;
use sandbar::event::{Cause, Settlement, Topic};

use super::*;

pub(crate) async fn a_report_is_shown_until_its_consumer_leaves(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topic = Topic::from("t");
    let (one, two) = (join(&bus, LONG_LEASE).await, join(&bus, LONG_LEASE).await);
    one.report("first".into());
    assert!(bus.status(&topic, "g").await.unwrap().reports.is_empty(), "it comes with a renewal");
    one.renew().await.unwrap();
    one.report("second".into());
    one.renew().await.unwrap();
    two.report("another's".into());
    two.renew().await.unwrap();
    // A renewal of what has not changed keeps it.
    two.renew().await.unwrap();
    let seen = fixture.host().await.status(&topic, "g").await.unwrap().reports;
    let expected = [(one.consumer(), "second"), (two.consumer(), "another's")];
    assert_eq!(seen, expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    one.close().await.unwrap();
    let left = bus.status(&topic, "g").await.unwrap().reports;
    assert_eq!(left.keys().collect::<Vec<_>>(), [two.consumer()]);
}

pub(crate) async fn a_report_of_a_dead_consumer_is_not_shown(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let one = join(&bus, SHORT_LEASE).await;
    one.report("alive".into());
    one.renew().await.unwrap();
    vanish(one, Vec::new());
    bounded("the report goes", async {
        while !bus.status(&Topic::from("t"), "g").await.unwrap().reports.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn cause() -> Cause {
    Cause {
        code: "bad".into(),
        reason: "r".into(),
        attempts: 1,
        handler: "h".into(),
        module: String::new(),
        at: SystemTime::now(),
    }
}

/// Whatever its state, the oldest that is not settled counts, and nothing else.
pub(crate) async fn the_oldest_is_what_is_not_settled(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let topic = Topic::from("t");
    let oldest = async || bus.status(&topic, "g").await.unwrap().oldest;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(oldest().await, None);
    let mut times = Vec::new();
    for _ in 0..4 {
        publish(&bus, "t", 1).await;
        times.push(SystemTime::now());
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    // Published between `times[n - 1]` and `times[n]`; the clocks are one machine's.
    let is = async |n: usize| {
        let found = oldest().await.expect("something is not settled");
        assert!(found <= times[n] && (n == 0 || found > times[n - 1]), "{n}: {found:?} in {times:?}");
    };
    is(0).await;
    let mut held = take(&subscription, 3).await;
    is(0).await;
    commit(&subscription, held.remove(0), ack()).await;
    is(1).await;
    commit(&subscription, held.remove(0), retry(1, Duration::from_secs(600))).await;
    is(1).await;
    commit(&subscription, held.remove(0), ack()).await;
    is(1).await;
    let status = bus.status(&topic, "g").await.unwrap();
    assert_eq!((status.lag, status.oldest_dead_letter), (Some(1), None));
    let other = bus.subscribe(&Group { start: Start::New, ..group("new", &["t"], LONG_LEASE) }).await.unwrap();
    assert_eq!(bus.status(&topic, "new").await.unwrap().oldest, None, "what lies before its start is not its own");
    other.close().await.unwrap();
    let last = take_one(&subscription).await;
    let before = SystemTime::now() - Duration::from_millis(30);
    commit(&subscription, last, Settlement::Dead(cause())).await;
    is(1).await;
    let given_up = bus.status(&topic, "g").await.unwrap().oldest_dead_letter.expect("there is one");
    assert!(given_up >= before && given_up <= SystemTime::now() + Duration::from_millis(30));
}

pub(crate) async fn a_fetch_of_none_ends_a_read_and_takes_nothing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    // Given up while it waits on the bus.
    let waiting = subscription.fetch(16, Duration::from_secs(30));
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    let none = bounded("fetch", subscription.fetch(0, Duration::ZERO)).await.unwrap();
    assert!(matches!(&none, Fetched::Deliveries(some) if some.is_empty()), "{none:?}");
    publish(&bus, "t", 3).await;
    let none = bounded("fetch", subscription.fetch(0, Duration::ZERO)).await.unwrap();
    assert!(matches!(&none, Fetched::Deliveries(some) if some.is_empty()), "{none:?}");
    let status = bus.status(&Topic::from("t"), "g").await.unwrap();
    assert_eq!((status.lag, status.pending), (Some(3), 0), "no read is left that takes them");
    assert_eq!(consume(&subscription, 3).await, [0, 1, 2]);
}
