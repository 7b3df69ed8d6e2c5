//! Retries: many of them, over hosts that die, and when the handler itself says when.

use std::sync::Arc;

use sandbar::bus::{Bus, Fetched, Settled, Subscription};
use sandbar::event::{Effects, RetryEntry, Settlement};

use super::*;
use crate::support::events::member;

/// What waits for a retry, far in the future.
const WAITING: usize = 100_000;
/// New events of one measurement, and how many are taken at once: few, so that what a read costs is seen.
const NEW: usize = 2_000;
const AT_ONCE: usize = 10;
/// How much longer new events may take beside all that waits. Looking through it at each read takes far longer.
const SLOWER: u32 = 5;

async fn fetch(member: &Arc<dyn Subscription>, most: usize) -> Vec<sandbar::bus::Delivery> {
    match member.fetch(most, BOUND).await.unwrap() {
        Fetched::Deliveries(deliveries) => deliveries,
        other => panic!("the group is not exclusive: {other:?}"),
    }
}

/// How long it takes to read and acknowledge new events, renewing on the way: the shortest of three times.
async fn pace(bus: &Arc<dyn Bus>, member: &Arc<dyn Subscription>) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let drafts: Vec<Draft> = (0..NEW).map(|_| Draft::new("ok")).collect();
        publish(bus, "in", &drafts).await;
        let (since, mut taken) = (Instant::now(), 0);
        while taken < NEW {
            let held = fetch(member, AT_ONCE).await;
            taken += held.len();
            let acks = held.into_iter().map(|delivery| (delivery, Settlement::Ack(Effects::default()))).collect();
            let answers = member.settle(acks).await;
            assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)), "{answers:?}");
            if taken % (AT_ONCE * 20) == 0 {
                assert!(member.renew().await.unwrap().is_empty());
            }
        }
        shortest = shortest.min(since.elapsed());
    }
    shortest
}

/// Puts one event into the retry store, due in an hour.
async fn put_off(bus: &Arc<dyn Bus>, member: &Arc<dyn Subscription>) {
    publish(bus, "in", &[Draft::new("ok")]).await;
    let due = std::time::SystemTime::now() + Duration::from_secs(3600);
    let entry = RetryEntry { attempts: 1, due, code: "busy".into(), reason: String::new(), lane: None };
    let held = fetch(member, 1).await.into_iter().map(|delivery| (delivery, Settlement::Retry(entry.clone())));
    assert!(matches!(member.settle(held.collect()).await[..], [Settled::Committed]));
}

async fn unslowed(bus: &Arc<dyn Bus>, member: &Arc<dyn Subscription>, before: Duration) {
    assert_eq!(bus.status(&"in".into(), "probe").await.unwrap().retrying, WAITING as u64);
    let after = pace(bus, member).await;
    assert!(after < before * SLOWER, "{NEW} events took {before:?} before, and {after:?} beside {WAITING} retries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_retries_slow_no_new_event_on_sqlite() {
    let bench = Bench::new();
    let bus = open(&embedded(&bench)).await;
    let member = member(&bus, "probe", "in").await;
    let before = pace(&bus, &member).await;
    put_off(&bus, &member).await;
    let copy = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
        INSERT INTO retry (reader, seq, first, fields, attempts, due_ms, code, reason)
        SELECT reader, n, n, fields, attempts, due_ms, code, reason FROM retry, n WHERE id = 1";
    let db = rusqlite::Connection::open(bench.path("bus.db")).unwrap();
    assert_eq!(db.execute(copy, [WAITING]).unwrap(), WAITING - 1);
    unslowed(&bus, &member, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_retries_slow_no_new_event_on_redis() {
    let server = Server::start(&[]).await;
    let bus = open(&server.url()).await;
    let member = member(&bus, "probe", "in").await;
    let before = pace(&bus, &member).await;
    put_off(&bus, &member).await;
    let copy = "local id, due = unpack(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES'))
        local record = redis.call('HGET', KEYS[1], id)
        for n = 2, tonumber(ARGV[1]) do
          redis.call('HSET', KEYS[1], n .. '-1', record)
          redis.call('ZADD', KEYS[2], due, n .. '-1')
        end";
    let keys = ["{in}.retry.probe", "{in}.due.probe"];
    server.run::<()>(&["EVAL", copy, "2", keys[0], keys[1], &WAITING.to_string()]).await;
    unslowed(&bus, &member, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handlers_own_wish_wins_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    own_wish(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handlers_own_wish_wins_on_redis() {
    let server = Server::start(&[]).await;
    own_wish(&Bench::new(), &server.url()).await;
}

/// The back-off would take an hour; the handler wants to be called again soon.
async fn own_wish(bench: &Bench, url: &str) {
    let bus = open(url).await;
    publish(&bus, "in", &[Draft::new("retry").header("after", 100).header("code", "busy")]).await;
    let patient =
        HandlerToml::new("probe", "probe", "in").with("max_attempts = 3\nretry_first = \"1h\"\nretry_max = \"1h\"");
    let config = bench.config(url, &[patient]);
    bench.run(&config, &["--until-idle"]).finish();
    let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.cause.attempts).collect::<Vec<_>>(), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_and_due_times_survive_kills_and_trimming_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let trim = async || {
        let db = rusqlite::Connection::open(bench.path("bus.db")).unwrap();
        assert_eq!(db.execute("DELETE FROM message", []).unwrap(), 1);
    };
    survive(&bench, &url, trim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_and_due_times_survive_kills_and_trimming_on_redis() {
    let server = Server::start(&[]).await;
    let trim = async || assert_eq!(server.run::<u64>(&["XTRIM", "in", "MAXLEN", "0"]).await, 1);
    survive(&Bench::new(), &server.url(), trim).await;
}

/// Three calls, four seconds apart; the host is killed after the first and after the second, and its message is gone.
async fn survive(bench: &Bench, url: &str, trim: impl AsyncFn()) {
    const AFTER: Duration = Duration::from_secs(4);
    let bus = open(url).await;
    let draft = Draft::new("retry").header("after", AFTER.as_millis()).header("code", "busy");
    publish(&bus, "in", std::slice::from_ref(&draft)).await;
    let handler = HandlerToml::new("probe", "probe", "in").with("max_attempts = 3\nretry_first = \"1ms\"");
    let config = bench.config(url, &[handler]);
    let status = async || bus.status(&"in".into(), "probe").await.unwrap();
    let since = Instant::now();
    for call in 1..=2 {
        let host = bench.run(&config, &[]);
        // The second call takes it out of the store and puts it back.
        while status().await.retrying == 0 || (call == 2 && since.elapsed() < AFTER * 3 / 2) {
            assert!(since.elapsed() < BOUND, "no retry: {}", host.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        host.kill();
        if call == 1 {
            trim().await;
        }
    }
    bench.run(&config, &["--until-idle"]).finish();
    assert!(since.elapsed() >= AFTER * 2, "it came early, after {:?}", since.elapsed());
    let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.cause.attempts).collect::<Vec<_>>(), [3]);
    assert_eq!(letters[0].fields, draft.fields(), "the bytes as they came");
}
