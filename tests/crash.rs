//! A host that is killed in the middle of its work: every event is handled, every effect is there once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sandbar::bus::Bus;
use sandbar::event::Fields;
use tokio::time::sleep;

use crate::support::events::{Draft, open, progress, publish, read_all};
use crate::support::host::{Bench, HandlerToml};
use crate::support::redis::Server;

/// Events of one run.
const EVENTS: usize = 10_000;
/// Times the host is killed on the way.
const KILLS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_no_effect_on_sqlite() {
    let bench = Bench::new();
    let url = format!("sqlite:{}", bench.path("bus.db").display());
    killed_on_the_way(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_no_effect_on_redis() {
    let server = Server::start(&[]).await;
    killed_on_the_way(&Bench::new(), &server.url()).await;
}

async fn killed_on_the_way(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let sent = publish_numbered(&bus, EVENTS).await;
    let config = bench.config(url, &[fanout()]);
    for kill in 1..=KILLS {
        let host = bench.run(&config, &[]);
        let enough = (EVENTS * kill / (KILLS + 1)) as u64;
        progress(&bus, "fanout", |lag| lag <= EVENTS as u64 - enough).await;
        host.kill();
    }
    let before = bus.status(&"in".into(), "fanout").await.unwrap();
    assert!(before.lag.unwrap() + before.pending > 0, "the host was killed in the middle, not after the end");

    bench.run(&config, &["--until-idle"]).finish();
    let after = bus.status(&"in".into(), "fanout").await.unwrap();
    assert_eq!((after.pending, after.retrying, after.dead_letters, after.lost), (0, 0, 0, 0));
    each_effect_once(&bus, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_topic_of_the_wrong_type_commits_nothing() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let bus = open(&url).await;
    server.run::<()>(&["SET", "out-b", "no stream"]).await;
    let sent = publish_numbered(&bus, EVENTS).await;
    let bench = Bench::new();
    let handler = HandlerToml::new("fanout", "fanout", "in")
        // Every commit is refused: an outage, which is not what this is about.
        .with("max_attempts = 2\nretry_first = \"20ms\"\nbreaker = false")
        .with("[handler.grants]\npublish = [\"out-a\", \"out-b\"]\nkeys = true");
    let config = bench.config(&url, &[handler]);
    let host = bench.run(&config, &[]);
    progress(&bus, "fanout", |lag| lag <= 5_000).await;
    host.kill();
    bench.run(&config, &["--until-idle"]).finish();

    assert_eq!(read_all(&bus, "out-a").await.len(), 0, "the first topic holds nothing of a refused commit");
    assert_eq!(bus.list_keys("fanout", "", 10).await.unwrap().keys, [""; 0]);
    let dead = bus.dead_letters(&"in".into(), "fanout", None, sent.len() + 1).await.unwrap();
    assert_eq!(dead.len(), sent.len(), "every event is a dead letter, once");
    for letter in &dead {
        assert_eq!(letter.cause.code, "effects-refused");
        assert!(letter.cause.reason.contains("out-b"), "{}", letter.cause.reason);
    }
    let ids: HashSet<_> = dead.iter().map(|letter| letter.fields.get("id").unwrap().to_vec()).collect();
    assert_eq!(ids.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_commits_nothing_by_halves() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let bus = open(&url).await;
    let sent = publish_numbered(&bus, EVENTS).await;
    let bench = Bench::new();
    let config = bench.config(&url, &[fanout()]);
    let host = bench.run(&config, &[]);
    progress(&bus, "fanout", |lag| lag <= 7_000).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    // Long enough for every commit under way to be refused, and for others to be tried.
    sleep(Duration::from_secs(1)).await;
    host.kill();
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let (a, b) = (read_all(&bus, "out-a").await, read_all(&bus, "out-b").await);
    assert_eq!(causes(&a), causes(&b), "both topics hold the same events");
    assert!(a.len() < sent.len(), "the server was full before the end");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let mut host = bench.run(&config, &["--until-idle"]);
    sleep(Duration::from_millis(500)).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    host.finish();
    each_effect_once(&bus, &sent).await;
}

/// A handler that publishes each event to two topics and writes one key.
fn fanout() -> HandlerToml {
    HandlerToml::new("fanout", "fanout", "in").with("[handler.grants]\npublish = [\"out-a\", \"out-b\"]\nkeys = true")
}

/// Publishes events without data and returns their ids.
async fn publish_numbered(bus: &Arc<dyn Bus>, count: usize) -> HashSet<String> {
    let drafts: Vec<Draft> = (0..count).map(|_| Draft::new("test.numbered.v1")).collect();
    publish(bus, "in", &drafts).await;
    drafts.into_iter().map(|draft| draft.id).collect()
}

async fn each_effect_once(bus: &Arc<dyn Bus>, sent: &HashSet<String>) {
    for topic in ["out-a", "out-b"] {
        let published = read_all(bus, topic).await;
        assert_eq!(published.len(), sent.len(), "{topic} holds one message for each event");
        let ids: HashSet<_> = published.iter().map(|fields| fields.get("id").unwrap().to_vec()).collect();
        assert_eq!(ids.len(), sent.len(), "{topic} holds no id twice");
        assert!(causes(&published) == *sent, "{topic} holds something of every event");
    }
    let keys = bus.list_keys("fanout", "", sent.len() + 1).await.unwrap().keys;
    assert_eq!(keys.len(), sent.len());
}

/// The events that a topic's messages were published for.
fn causes(published: &[Fields]) -> HashSet<String> {
    let cause = |fields: &Fields| String::from_utf8(fields.get("cause").unwrap().to_vec()).unwrap();
    published.iter().map(cause).collect()
}
