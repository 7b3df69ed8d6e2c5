//! What is trimmed from the embedded bus, and how safe its writes are.

use std::sync::Arc;
use std::time::Duration;

use sandbar::bus::{Bus, Durability, Settings, Subscription, Trim, open};

use super::File;
use crate::conformance::{
    SHORT_LEASE, ack, commit, consume, group, numbered, numbers, publish, retry, take, while_renewing,
};

async fn acked(file: &File, cap: Option<u64>) -> Arc<dyn Bus> {
    let settings = settings(file);
    open(&Settings { trim: Some(Trim::Acked), stream_max_len: cap, ..settings }).await.unwrap()
}

fn settings(file: &File) -> Settings {
    let url = format!("sqlite:{}", file.path().display());
    Settings { url, topic_prefix: Some("dev".into()), ..Settings::default() }
}

async fn turns(subscriptions: &[&Arc<dyn Subscription>]) {
    for _ in 0..5 {
        for subscription in subscriptions {
            subscription.renew().await.unwrap();
        }
        tokio::time::sleep(SHORT_LEASE / 4).await;
    }
}

/// The positions that are kept.
fn kept(file: &File) -> Vec<i64> {
    let db = file.connect();
    let sql = "SELECT seq FROM message m JOIN topic t ON t.id = m.topic WHERE t.name = 'dev-t' ORDER BY seq";
    let mut select = db.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn acked_removes_what_every_group_has_acknowledged_and_nothing_else() {
    let file = File::new();
    let bus = acked(&file, None).await;
    publish(&bus, "t", 50).await;
    let join = async |name: &str| bus.subscribe(&group(name, &["t"], SHORT_LEASE)).await.unwrap();
    let (fast, slow) = (join("fast").await, join("slow").await);
    while_renewing(&slow, async { consume(&fast, 50).await }).await;
    turns(&[&fast, &slow]).await;
    assert_eq!(kept(&file).len(), 50, "one group has read nothing");
    assert_eq!(bus.status(&"t".into(), "fast").await.unwrap().held_up_by.as_deref(), Some("slow"));
    let mut held = take(&slow, 30).await;
    let (tenth, retried) = (held.remove(9), held.remove(3));
    for delivery in held {
        commit(&slow, delivery, ack()).await;
    }
    commit(&slow, retried, retry(1, SHORT_LEASE * 3)).await;
    turns(&[&fast, &slow]).await;
    assert_eq!(kept(&file), [10].into_iter().chain(31..=50).collect::<Vec<_>>());
    // The retry has what it needs although its message is gone, and what is in hand can still be settled.
    commit(&slow, tenth, ack()).await;
    let rest = while_renewing(&fast, async { take(&slow, 21).await }).await;
    let mut read = numbers(&rest);
    read.sort_unstable();
    assert_eq!(read, [3].into_iter().chain(30..50).collect::<Vec<_>>());
    for delivery in rest {
        commit(&slow, delivery, ack()).await;
    }
    turns(&[&fast, &slow]).await;
    assert_eq!(kept(&file), Vec::<i64>::new());
    let status = bus.status(&"t".into(), "slow").await.unwrap();
    assert_eq!((status.lost, status.lag, status.held_up_by), (0, Some(0), None));
}

#[tokio::test]
async fn the_cap_holds_and_a_topic_without_groups_is_left_alone() {
    let file = File::new();
    let bus = acked(&file, Some(20)).await;
    publish(&bus, "t", 15).await;
    let other = bus.subscribe(&group("g", &["other"], SHORT_LEASE)).await.unwrap();
    turns(&[&other]).await;
    assert_eq!(kept(&file).len(), 15, "nobody has acknowledged anything");
    let slow = bus.subscribe(&group("slow", &["t"], Duration::from_secs(60))).await.unwrap();
    publish(&bus, "t", 30).await;
    turns(&[&other]).await;
    assert_eq!(kept(&file), (26..=45).collect::<Vec<_>>());
    let status = bus.status(&"t".into(), "slow").await.unwrap();
    assert_eq!((status.lost, status.held_up_by.as_deref()), (25, Some("slow")));
    drop(slow);
}

#[tokio::test]
async fn durability_is_what_was_asked_for_and_replicas_are_refused() {
    let file = File::new();
    for (asked, reached) in [
        (None, Durability::Fsync),
        (Some(Durability::None), Durability::None),
        (Some(Durability::Fsync), Durability::Fsync),
    ] {
        let bus = open(&Settings { durability: asked, ..settings(&file) }).await.unwrap();
        assert_eq!(bus.publish(&[numbered("t", 0)]).await.unwrap().durability, reached);
    }
    let asked = Settings { durability: Some(Durability::Replicas(1)), ..settings(&file) };
    let error = open(&asked).await.err().unwrap();
    assert!(error.to_string().contains("has no replicas"), "{error}");
}
