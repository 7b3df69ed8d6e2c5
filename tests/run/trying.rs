//! A module on trial: one that fails more often is given up by itself, one that is as good is served.
//!
//! `make canary-runs` does it twenty times over, with events that fail on either module (`CANARY_RUNS`).

use std::path::PathBuf;

use serde_json::Value;

use super::swapping::{digest, serve, until, variant_of};
use super::*;
use crate::support::host::guest;

/// The record of the handler's modules, once it satisfies `holds`.
async fn record(bench: &Bench, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["versions", "--json"], b"")["handlers"][0].clone();
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn runs() -> usize {
    std::env::var("CANARY_RUNS").map_or(1, |text| text.parse().unwrap())
}

/// A module on trial, in the place of another.
struct Trial {
    served: &'static str,
    tried: PathBuf,
    way: &'static str,
    /// Of a hundred events, so many are those that the probe rejects.
    rejected: usize,
}

/// What the one that is served handles before the trial.
const BEFORE: usize = 100;

// === impl Trial ===

impl Trial {
    /// The record when it is decided, what the host did, and how many events there were.
    async fn run(&self, bench: &Bench, url: &str) -> (Value, Value, usize) {
        let bus = open(url).await;
        let config =
            bench.config(url, &[HandlerToml::new("h", self.served, "in").with("in_flight = 64\nmax_attempts = 1")]);
        let mut host = bench.run(&config, &["--json"]);
        let drafts = |from: usize, to: usize| -> Vec<_> {
            let kind = |n: usize| if n % 100 < self.rejected { "reject" } else { "ok" };
            (from..to).map(|n| Draft::new(kind(n))).collect()
        };
        publish(&bus, "in", &drafts(0, BEFORE)).await;
        progress(&bus, "h", |lag| lag == 0).await;
        let said = bench.ok(&["swap", "h", self.tried.to_str().unwrap(), "--canary", self.way], b"");
        assert!(said.starts_with("h tries it beside "), "{said}");
        let (mut events, end) = (BEFORE, Instant::now() + BOUND);
        let now = loop {
            for _ in 0..5 {
                publish(&bus, "in", &drafts(0, 200)).await;
                events += 200;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let now = bench.json(&["versions", "--json"], b"")["handlers"][0].clone();
            if now["candidate"].is_null() {
                break now;
            }
            assert!(Instant::now() < end, "it is not decided: {now}");
        };
        until(bench, "all is settled", |now| (&now["lag"], &now["pending"]) == (&0.into(), &0.into())).await;
        host.terminate();
        assert!(host.wait(BOUND).success());
        (now, host.summary()["handlers"][0].clone(), events)
    }
}

async fn given_up(bench: &Bench, url: &str, way: &'static str) {
    // To the one that is served all events are welcome.
    let trial = Trial { served: "noop", tried: guest("probe"), way, rejected: 20 };
    let (now, tally, all) = trial.run(bench, url).await;
    assert_eq!(now["versions"].as_array().unwrap().len(), 1, "{now}");
    let rejected = &now["rejected"][0];
    assert_eq!(rejected["digest"], *digest(&guest("probe")), "{now}");
    let calls = rejected["events"].as_u64().unwrap();
    eprintln!("canary {way}: given up after {calls} calls, {} failed", rejected["failures"]);
    assert!((50..=500).contains(&calls), "{now}");
    let counts = (&tally["acked"], &tally["dead"], &tally["retried"]);
    assert_eq!(counts, (&all.into(), &0.into(), &0.into()), "what failed on trial ran on the other: {tally}");
    assert!(bench.ok(&["versions"], b"").contains("h gave"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_fails_a_fifth_is_given_up_by_itself_on_sqlite() {
    for _ in 0..runs() {
        let bench = Bench::new();
        let url = embedded(&bench);
        given_up(&bench, &url, "20%").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_fails_a_fifth_is_given_up_by_itself_on_redis() {
    for _ in 0..runs() {
        let server = Server::start(&[]).await;
        given_up(&Bench::new(), &server.url(), "500").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_is_as_good_is_served_after_its_trial() {
    // By chance one in a hundred of those that fail now and then may be given up: a test must not.
    let rejected = if runs() > 1 { 3 } else { 0 };
    for _ in 0..runs() {
        let bench = Bench::new();
        let url = embedded(&bench);
        let trial = Trial { served: "probe", tried: variant_of(&bench, "probe", 1), way: "50%", rejected };
        let (now, tally, all) = trial.run(&bench, &url).await;
        let versions = now["versions"].as_array().unwrap();
        let digests: Vec<_> = versions.iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
        assert_eq!(digests, [digest(&guest("probe")), digest(&trial.tried)], "{now}");
        assert_eq!(now["rejected"].as_array().unwrap().len(), 0, "{now}");
        let dead = all * rejected / 100;
        if rejected == 0 {
            assert_eq!(versions[1]["events"], 500, "those of the trial count: {now}");
            let told = record(&bench, "the host has told", |now| now["versions"][0]["events"] != 0).await;
            let events = told["versions"].as_array().unwrap().iter().map(|entry| entry["events"].as_u64().unwrap());
            assert_eq!(events.sum::<u64>(), all as u64, "each once: {told}");
        }
        assert_eq!((&tally["acked"], &tally["dead"]), (&(all - dead).into(), &dead.into()), "{tally}");
        eprintln!("canary 50%: as good, and served");
    }
}

/// All hosts try it, one that starts too; what they see counts together; and a rollback ends it on all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_follow_a_trial_and_what_comes_of_it() {
    let (bench, server) = (Bench::new(), Server::start(&[]).await);
    let bus = open(&server.url()).await;
    let config = bench.config(&server.url(), &[probe()]);
    let (first, second) = (digest(&guest("probe")), variant_of(&bench, "probe", 1));
    let mut hosts = vec![bench.run(&config, &[]), bench.run(&config, &[])];
    until(&bench, "both run", |now| serve(now, 2, &first)).await;
    let canary = || bench.ok(&["swap", "probe", second.to_str().unwrap(), "--canary", "50%"], b"");
    canary();
    for host in &hosts {
        said(host, "is on trial", 1).await;
    }
    let said_so = bench.ok(&["rollback", "probe"], b"");
    assert!(said_so.contains("no more"), "{said_so}");
    record(&bench, "it is over", |now| now["candidate"].is_null() && now["rejected"].as_array().unwrap().len() == 1)
        .await;

    canary();
    hosts.push(bench.run(&config, &[]));
    said(&hosts[2], "is on trial", 1).await;
    for host in &hosts[..2] {
        said(host, "is on trial", 2).await;
    }
    let drafts = || (0..300).map(|_| Draft::new("ok")).collect::<Vec<_>>();
    publish(&bus, "in", &drafts()).await;
    let now = record(&bench, "all have told", |now| {
        now["candidate"]["new"]["calls"].as_u64() >= Some(50) && now["candidate"]["old"]["calls"].as_u64() >= Some(50)
    })
    .await;
    assert!(bench.ok(&["versions"], b"").contains("probe tries "), "{now}");
    // Two hosts that end take with them nothing of what was seen.
    for host in &mut hosts[..2] {
        host.terminate();
        assert!(host.wait(BOUND).success());
    }
    let end = Instant::now() + BOUND;
    while bench.json(&["versions", "--json"], b"")["handlers"][0]["versions"].as_array().unwrap().len() < 2 {
        assert!(Instant::now() < end, "it is not decided");
        publish(&bus, "in", &drafts()).await;
    }
    let digest = digest(&second);
    until(&bench, "it is served", |now| serve(now, 1, &digest)).await;
}
