//! `sandbar run` as a process: how calls end, how a host ends, and what it does with bad input.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandbar::bus::DeadLetter;
use sandbar::event::code;

use crate::support::BOUND;
use crate::support::events::{Draft, open, progress, publish, read_all};
use crate::support::host::{Bench, HandlerToml, Host};
use crate::support::redis::Server;

mod cap;
mod confined;
mod death;
mod disk;
mod divided;
mod ending;
mod input;
mod isolated;
mod order;
mod outage;
mod pacing;
mod reaching;
mod refusing;
mod reloading;
mod requests;
mod resting;
mod retrying;
mod secrets;
mod serving;
mod shadowing;
mod steering;
mod swap_soak;
mod swapping;
mod trusting;
mod trying;

fn embedded(bench: &Bench) -> String {
    format!("sqlite:{}", bench.path("bus.db").display())
}

/// Dead letters by code, with their reasons.
fn by_code(letters: &[DeadLetter]) -> BTreeMap<&str, &str> {
    letters.iter().map(|letter| (letter.cause.code.as_str(), letter.cause.reason.as_str())).collect()
}

/// A handler that does what the events say.
fn probe() -> HandlerToml {
    HandlerToml::new("probe", "probe", "in").with("max_attempts = 2\nretry_first = \"10ms\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_a_call_can_end_is_settled_and_the_host_goes_on() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let mut drafts = vec![
        Draft::new("retry").header("code", "busy").header("message", "come again"),
        Draft::new("reject").header("code", "bad").header("message", "never"),
        Draft::new("panic").header("message", "ouch"),
        Draft::new("spin"),
        Draft::new("hold").header("mebibytes", 64),
        Draft::new("publish").header("topic", "secret-topic").header("type", "x"),
    ];
    drafts.extend((0..50).map(|_| Draft::new("ok")));
    publish(&bus, "in", &drafts).await;
    let handler = probe().with("[handler.limits]\ntime = \"500ms\"\nmemory = \"16MiB\"");
    let config = bench.config(&url, &[handler]);
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();

    let log = host.log();
    assert!(log.contains("sandbar:handler/outbox") && log.contains("publish = ["), "says what was not granted: {log}");
    let summary = host.summary();
    assert_eq!(summary["handlers"][0]["acked"], 50);
    assert_eq!(summary["handlers"][0]["dead"], 6);
    assert_eq!(summary["handlers"][0]["retried"], 4, "each of the four retryable ones once");
    let letters = bus.dead_letters(&"in".into(), "probe", None, 100).await.unwrap();
    let found = by_code(&letters);
    let codes: Vec<_> = found.keys().copied().collect();
    assert_eq!(codes, ["bad", "busy", code::MEMORY_LIMIT, "said", code::TIME_LIMIT, code::TRAP]);
    assert!(found[code::TRAP].contains("ouch"), "{}", found[code::TRAP]);
    assert!(found[code::TIME_LIMIT].contains("500ms") && found[code::TIME_LIMIT].contains("[handler.limits]"));
    assert!(found["said"].contains("Denied") && found["said"].contains("secret-topic"), "{}", found["said"]);
    let attempts: u32 = letters.iter().map(|letter| letter.cause.attempts).sum();
    assert_eq!(attempts, 10, "two calls for each of four, one for each of the two that were rejected");
    assert!(letters.iter().all(|letter| letter.cause.module.len() == 64), "the module's digest is with each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_are_not_the_handlers_are_acknowledged_and_counted() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("ok"), Draft::new("other.a"), Draft::new("other.b"), Draft::new("ok")]).await;
    let config = bench.config(&url, &[probe().with("types = [\"o?\"]")]);
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    let summary = host.summary();
    assert_eq!((&summary["handlers"][0]["acked"], &summary["handlers"][0]["skipped"]), (&2.into(), &2.into()));
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.dead_letters), (Some(0), 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_may_not_feed_itself_for_ever() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("test.loop.v1")]).await;
    let looping = HandlerToml::new("looping", "looping", "in").with("[handler.grants]\npublish = [\"in\"]");
    let config = bench.config(&url, &[looping]);
    bench.run(&config, &["--until-idle"]).finish();
    let all = read_all(&bus, "in").await;
    assert_eq!(all.len(), 17, "the first and sixteen hops");
    let letters = bus.dead_letters(&"in".into(), "looping", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].cause.code, "limit");
    assert!(letters[0].cause.reason.contains("16 handlers"), "{}", letters[0].cause.reason);
}

/// Waits until so many lines of a host's log have this in them.
async fn said(host: &Host, what: &str, times: usize) {
    let end = Instant::now() + BOUND;
    while host.log().lines().filter(|line| line.contains(what)).count() < times {
        assert!(Instant::now() < end, "no {what:?}: {}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
