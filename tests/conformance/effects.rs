//! Effects: with the acknowledgement or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandbar::bus::{Bus, Settled, Subscription};
use sandbar::event::{Effects, KeyRead, KeyWrite, Settlement, Versioned};

use super::{
    Fixture, LONG_LEASE, QUIET, SHORT_LEASE, commit, consume, group, join, numbered, publish, retry, settle, take,
    take_nothing, take_one, vanish,
};

const SPACE: &str = "handler/keys";

fn set(key: &str, value: &'static str) -> KeyWrite {
    KeyWrite { key: key.into(), value: Some(Bytes::from_static(value.as_bytes())) }
}

fn delete(key: &str) -> KeyWrite {
    KeyWrite { key: key.into(), value: None }
}

fn saw(key: &str, version: u64) -> KeyRead {
    KeyRead { key: Some(key.into()), version, value: None }
}

fn keys(reads: Vec<KeyRead>, writes: Vec<KeyWrite>) -> Settlement {
    let publish = vec![numbered("out", 1)];
    Settlement::Ack(Effects { publish, key_space: SPACE.into(), writes, reads, ..Effects::default() })
}

/// Runs one call that writes keys.
async fn write(bus: &Arc<dyn Bus>, subscription: &Arc<dyn Subscription>, writes: Vec<KeyWrite>) {
    publish(bus, "t", 1).await;
    let effects = Effects { key_space: SPACE.into(), writes, ..Effects::default() };
    commit(subscription, take_one(subscription).await, Settlement::Ack(effects)).await;
}

async fn read(bus: &Arc<dyn Bus>, key: &str) -> (Option<String>, u64) {
    let Versioned { value, version } = bus.read_key(SPACE, key).await.unwrap();
    (value.map(|value| String::from_utf8(value.to_vec()).unwrap()), version)
}

/// The settlement is a conflict that changes nothing, and the delivery can be settled afresh.
async fn conflicts(bus: &Arc<dyn Bus>, subscription: &Arc<dyn Subscription>, reads: Vec<KeyRead>, between: KeyWrite) {
    publish(bus, "t", 1).await;
    let delivery = take_one(subscription).await;
    let other = bus.subscribe(&group("other", &["other"], LONG_LEASE)).await.unwrap();
    publish(bus, "other", 1).await;
    let effects = Effects { key_space: SPACE.into(), writes: vec![between], ..Effects::default() };
    commit(&other, take_one(&other).await, Settlement::Ack(effects)).await;
    let before = bus.list_keys(SPACE, "", 100).await.unwrap();
    let answer = settle(subscription, delivery, keys(reads, vec![set("mine", "1")])).await;
    let Settled::Conflict(delivery) = answer else { panic!("{answer:?}") };
    assert_eq!(bus.list_keys(SPACE, "", 100).await.unwrap(), before, "a conflict wrote a key");
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    take_nothing(&out, QUIET).await;
    let list = KeyRead { key: None, version: before.version, value: None };
    commit(subscription, delivery, keys(vec![list], vec![set("mine", "2")])).await;
    assert_eq!(read(bus, "mine").await.0.as_deref(), Some("2"));
    consume(&out, 1).await;
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn they_commit_with_the_ack(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, LONG_LEASE).await;
    assert_eq!(read(&bus, "k").await, (None, 0));
    let effects = Effects {
        publish: vec![numbered("left", 1), numbered("right", 2), numbered("left", 3)],
        key_space: SPACE.into(),
        writes: vec![set("k", "v"), set("empty", "")],
        reads: vec![
            saw("k", 0),
            KeyRead { key: None, version: bus.list_keys(SPACE, "", 1).await.unwrap().version, value: None },
        ],
        ..Effects::default()
    };
    commit(&subscription, take_one(&subscription).await, Settlement::Ack(effects)).await;
    let reader = fixture.host().await;
    let (value, version) = read(&reader, "k").await;
    assert_eq!(value.as_deref(), Some("v"));
    assert!(version > 0);
    assert_eq!(read(&reader, "empty").await.0.as_deref(), Some(""), "an empty value is a value");
    assert_eq!(reader.read_key("another", "k").await.unwrap(), Versioned::default(), "spaces are apart");
    for (topic, expected) in [("left", vec![1, 3]), ("right", vec![2])] {
        let out = reader.subscribe(&group("reader", &[topic], LONG_LEASE)).await.unwrap();
        assert_eq!(consume(&out, expected.len()).await, expected);
        take_nothing(&out, QUIET).await;
    }
    // What was read and has not moved since is no conflict.
    commit(&subscription, take_one(&subscription).await, keys(vec![saw("k", version)], vec![delete("k")])).await;
    assert_eq!(read(&reader, "k").await, (None, 0));
}

pub(crate) async fn a_lost_ack_has_none(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let frozen = join(&bus, SHORT_LEASE).await;
    let held = take_one(&frozen).await;
    let heir = join(&fixture.host().await, SHORT_LEASE).await;
    let inherited = take_one(&heir).await;
    let answer = settle(&frozen, held, keys(vec![saw("k", 0)], vec![set("k", "lost")])).await;
    assert!(matches!(answer, Settled::Lost), "{answer:?}");
    assert_eq!(read(&bus, "k").await, (None, 0));
    commit(&heir, inherited, keys(vec![saw("k", 0)], vec![set("k", "kept")])).await;
    assert_eq!(read(&bus, "k").await.0.as_deref(), Some("kept"));
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    consume(&out, 1).await;
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn a_moved_key_is_a_conflict(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    write(&bus, &subscription, vec![set("k", "1")]).await;
    let version = read(&bus, "k").await.1;
    // The same value again is a write too.
    conflicts(&bus, &subscription, vec![saw("k", version)], set("k", "1")).await;
}

pub(crate) async fn a_new_key_is_a_conflict_for_a_list(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    write(&bus, &subscription, vec![set("a", "1")]).await;
    let version = bus.list_keys(SPACE, "a", 10).await.unwrap().version;
    conflicts(&bus, &subscription, vec![KeyRead { key: None, version, value: None }], set("ab", "phantom")).await;
}

pub(crate) async fn a_recreated_key_is_a_conflict(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    write(&bus, &subscription, vec![set("k", "1")]).await;
    let version = read(&bus, "k").await.1;
    write(&bus, &subscription, vec![delete("k")]).await;
    conflicts(&bus, &subscription, vec![saw("k", version)], set("k", "1")).await;
}

pub(crate) async fn an_absent_key_that_appears_is_a_conflict(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    conflicts(&bus, &subscription, vec![saw("k", 0)], set("k", "1")).await;
}

pub(crate) async fn keys_list_by_prefix(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    assert!(bus.list_keys(SPACE, "", 10).await.unwrap().keys.is_empty());
    let subscription = join(&bus, LONG_LEASE).await;
    let names = ["a", "a*b", "a%", "a_b", "ab", "ß", "ßa", "b", "A", "[x]", "\u{10ffff}"];
    write(&bus, &subscription, names.iter().map(|name| set(name, "1")).collect()).await;
    let list = async |prefix: &str, limit| bus.list_keys(SPACE, prefix, limit).await.unwrap().keys;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(list("", 100).await, sorted);
    assert_eq!(list("a", 100).await, ["a", "a%", "a*b", "a_b", "ab"]);
    assert_eq!(list("a", 2).await, ["a", "a%"]);
    assert_eq!(list("a*", 100).await, ["a*b"]);
    assert_eq!(list("a_", 100).await, ["a_b"]);
    assert_eq!(list("[x", 100).await, ["[x]"]);
    assert_eq!(list("ß", 100).await, ["ß", "ßa"]);
    assert_eq!(list("\u{10ffff}", 100).await, ["\u{10ffff}"]);
    assert!(list("", 0).await.is_empty());
}

pub(crate) async fn writes_apply_in_order(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    write(&bus, &subscription, vec![set("k", "1"), delete("k"), set("k", "2"), set("gone", "1"), delete("gone")]).await;
    let (value, first) = read(&bus, "k").await;
    assert_eq!(value.as_deref(), Some("2"));
    assert_eq!(read(&bus, "gone").await, (None, 0));
    let listed = bus.list_keys(SPACE, "", 10).await.unwrap().version;
    assert!(listed >= first);
    write(&bus, &subscription, vec![set("k", "2")]).await;
    assert!(read(&bus, "k").await.1 > first, "a version is never used again");
    assert!(bus.list_keys(SPACE, "", 10).await.unwrap().version > listed);
}

pub(crate) async fn effects_of_a_retry_commit_once(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let dying = join(&bus, SHORT_LEASE).await;
    commit(&dying, take_one(&dying).await, retry(1, Duration::ZERO)).await;
    let held = take(&dying, 1).await;
    let heir = join(&fixture.host().await, SHORT_LEASE).await;
    let inherited = take_one(&heir).await;
    commit(&heir, inherited, keys(Vec::new(), vec![set("k", "heir")])).await;
    for delivery in held {
        let answer = settle(&dying, delivery, keys(Vec::new(), vec![set("k", "late")])).await;
        assert!(matches!(answer, Settled::Lost), "{answer:?}");
    }
    vanish(dying, Vec::new());
    assert_eq!(read(&bus, "k").await.0.as_deref(), Some("heir"));
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    consume(&out, 1).await;
    take_nothing(&out, QUIET).await;
}

pub(crate) async fn published_effects_end_a_wait(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let delivery = take_one(&subscription).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    let start = Instant::now();
    let (numbers, ()) = tokio::join!(consume(&out, 1), async {
        tokio::time::sleep(QUIET).await;
        commit(&subscription, delivery, keys(Vec::new(), Vec::new())).await;
    });
    assert_eq!(numbers, [1]);
    assert!(start.elapsed() < Duration::from_secs(5), "seen after {:?}", start.elapsed());
}

/// Settles one delivery with writes under a limit; the refusal, if it is one.
async fn limited(
    bus: &Arc<dyn Bus>,
    subscription: &Arc<dyn Subscription>,
    most: u64,
    writes: Vec<KeyWrite>,
) -> Option<String> {
    publish(bus, "t", 1).await;
    let publish = vec![numbered("out", 1)];
    let effects = Effects { publish, key_space: SPACE.into(), writes, key_bytes: Some(most), ..Effects::default() };
    match settle(subscription, take_one(subscription).await, Settlement::Ack(effects)).await {
        Settled::Committed => None,
        Settled::Refused(delivery, reason) => {
            commit(subscription, delivery, Settlement::Ack(Effects::default())).await;
            Some(reason)
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn keys_hold_no_more_than_they_may(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let subscription = join(&bus, LONG_LEASE).await;
    let out = bus.subscribe(&group("reader", &["out"], LONG_LEASE)).await.unwrap();
    let refused = |bytes: u64, most: u64| {
        let text = format!("the keys of the handler would hold {bytes} bytes, and may hold {most}; more: ");
        Some(format!("{text}[handler.grants] keys = {{ max_bytes = \"…\" }}"))
    };
    // Written before there was a limit: counted when there is one. Names count by their bytes.
    write(&bus, &subscription, vec![set("a", "1234"), set("ä", "7:8")]).await;
    assert_eq!(limited(&bus, &subscription, 20, vec![set("b", "123456789")]).await, None);
    assert_eq!(limited(&bus, &subscription, 20, vec![set("c", "")]).await, refused(21, 20));
    assert_eq!(read(&bus, "c").await.0, None, "nothing of it is written");
    consume(&out, 1).await;
    take_nothing(&out, QUIET).await;
    // What is written over or deleted makes room, in the same call too.
    assert_eq!(limited(&bus, &subscription, 20, vec![set("a", ""), set("c", "123")]).await, None);
    let writes = || vec![set("d", "12345"), delete("d"), set("d", "1"), delete("b"), set("d", "1234567890")];
    assert_eq!(limited(&bus, &subscription, 20, writes()).await, refused(21, 20));
    assert_eq!(limited(&bus, &subscription, 21, writes()).await, None);
    // Under a lower limit less is welcome, and as much.
    assert_eq!(limited(&bus, &subscription, 5, vec![set("d", "123456789")]).await, None);
    assert_eq!(limited(&bus, &subscription, 5, vec![set("d", "123456780")]).await, None);
    assert_eq!(limited(&bus, &subscription, 5, vec![set("d", "1234567890")]).await, refused(21, 5));
    // A host without the limit writes without counting.
    write(&bus, &subscription, vec![set("e", "12345678")]).await;
    assert_eq!(limited(&bus, &subscription, 30, vec![set("f", "")]).await, None);
    assert_eq!(limited(&bus, &subscription, 30, vec![set("g", "")]).await, refused(31, 30));
    let names = bus.list_keys(SPACE, "", 100).await.unwrap().keys;
    assert_eq!(names, ["a", "c", "d", "e", "f", "ä"], "the count is none of them");
}
