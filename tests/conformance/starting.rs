//! Where a group starts, and that it starts once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandbar::bus::{Bus, Start, Subscription};

use super::{
    Fixture, LONG_LEASE, QUIET, ack, commit, consume, group, numbered, numbers, publish, take, take_nothing, take_one,
};

async fn join_at(bus: &Arc<dyn Bus>, start: Start) -> Arc<dyn Subscription> {
    let mut group = group("g", &["t"], LONG_LEASE);
    group.start = start;
    bus.subscribe(&group).await.unwrap()
}

pub(crate) async fn with_what_is_new(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join_at(&bus, Start::New).await;
    take_nothing(&subscription, QUIET).await;
    bus.publish(&[numbered("t", 3)]).await.unwrap();
    assert_eq!(numbers(&take(&subscription, 1).await), [3]);
}

pub(crate) async fn at_the_beginning(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 3).await;
    assert_eq!(numbers(&take(&join_at(&bus, Start::Beginning).await, 3).await), [0, 1, 2]);
    // A topic that nobody has published to is made.
    let mut early = group("g", &["later"], LONG_LEASE);
    early.start = Start::Beginning;
    let subscription = bus.subscribe(&early).await.unwrap();
    publish(&bus, "later", 1).await;
    assert_eq!(numbers(&take(&subscription, 1).await), [0]);
}

pub(crate) async fn after_a_position(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let positions = publish(&bus, "t", 4).await;
    assert_eq!(numbers(&take(&join_at(&bus, Start::After(positions[1].clone())).await, 2).await), [2, 3]);
}

pub(crate) async fn at_a_time(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    // Far enough for clocks that differ by a few milliseconds.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let noon = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    bus.publish(&[numbered("t", 2), numbered("t", 3)]).await.unwrap();
    let subscription = join_at(&bus, Start::At(noon)).await;
    assert_eq!(consume(&subscription, 2).await, [2, 3]);
    take_nothing(&subscription, QUIET).await;
}

pub(crate) async fn the_start_is_used_once(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let positions = publish(&bus, "t", 4).await;
    let first = join_at(&bus, Start::After(positions[0].clone())).await;
    commit(&first, take_one(&first).await, ack()).await;
    first.close().await.unwrap();
    for start in [Start::Beginning, Start::New, Start::After(positions[3].clone()), Start::At(SystemTime::now())] {
        let what = format!("{start:?}");
        let again = join_at(&fixture.host().await, start).await;
        let held = take(&again, 2).await;
        assert_eq!(numbers(&held), [2, 3], "{what} moved the group");
        again.close().await.unwrap();
    }
}

pub(crate) async fn a_group_goes_on_where_it_was(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let first = join_at(&bus, Start::New).await;
    first.close().await.unwrap();
    drop((first, bus));
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let again = join_at(&bus, Start::New).await;
    assert_eq!(numbers(&take(&again, 2).await), [0, 1], "published while nobody was there");
}
