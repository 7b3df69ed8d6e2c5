//! Modules are swapped while events come at a fixed rate to two hosts on Redis: none may be lost, have its effect twice or
//! fail, and none may wait much longer than in a run without swaps.
//!
//! Open loop: event n is due at start + n / rate, and its latency counts from then until the server has appended its
//! effect. The effect names the event, and its position in the stream says when that was: to the millisecond, by the clock
//! of the machine, which is the publisher's too.
//!
//! Small here. `make swap-soak` lets a million events meet a hundred swaps, and beside that a run without any
//! (`SWAP_EVENTS`, `SWAP_SWAPS`, `SWAP_RATE`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sandbar::bus::Bus;
use tokio::task::JoinSet;

use super::swapping::{digest, serve, until, variant_of};
use super::*;
use crate::support::host::guest;

/// A run without more being said.
const EVENTS: usize = 4_000;
const SWAPS: usize = 8;
/// Events per second: what an unoptimised host on a busy machine keeps up with.
const RATE: usize = 500;

/// Before anything is recorded or swapped: pools and caches fill.
const LEAD: usize = 2;

/// By how much swaps may raise the 99th percentile, in milliseconds.
const MORE: u64 = 10;

/// What came of one run.
struct Measured {
    /// Milliseconds from when an event was due to its effect, sorted.
    latencies: Vec<u64>,
    /// Modules that effects name.
    modules: usize,
    swaps: usize,
}

fn set(name: &str, or: usize) -> usize {
    std::env::var(name).map_or(or, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_flow_while_modules_are_swapped_on_redis() {
    let (events, swaps, rate) = (set("SWAP_EVENTS", EVENTS), set("SWAP_SWAPS", SWAPS), set("SWAP_RATE", RATE));
    // Times say something only on a machine that does nothing else.
    let strict = std::env::var_os("SWAP_EVENTS").is_some();
    let without = if strict { Some(run(events, 0, rate).await) } else { None };
    let with = run(events, swaps, rate).await;
    let least = if strict { swaps / 2 } else { 1 };
    assert!(with.modules > least, "{} modules in {swaps} swaps", with.modules);
    let head =
        "| run on 2 hosts | swaps | modules that made effects | lost, twice, failed | p50 | p99 | p99.9 | longest |";
    eprintln!("{events} events at {rate}/s\n\n{head}\n|---|---|---|---|---|---|---|---|");
    for (name, run) in without.iter().map(|run| ("without swaps", run)).chain([("with swaps", &with)]) {
        let Measured { modules, swaps, .. } = run;
        let [half, p99, p999, longest] = [500, 990, 999, 1_000].map(|of| run.at(of));
        eprintln!("| {name} | {swaps} | {modules} | 0, 0, 0 | {half} ms | {p99} ms | {p999} ms | {longest} ms |");
    }
    if let Some(without) = without {
        let (before, now) = (without.at(990), with.at(990));
        assert!(now <= before + MORE, "p99 is {now} ms with swaps and {before} ms without");
    }
}

/// Everything is checked here but the time.
async fn run(events: usize, swaps: usize, rate: usize) -> Measured {
    let (bench, server) = (Bench::new(), Server::start(&[]).await);
    let bus = open(&server.url()).await;
    let handler = HandlerToml::new("h", "witness", "in").with("[handler.grants]\npublish = [\"out\"]");
    let config = bench.config(&server.url(), &[handler]);
    let start = || {
        let mut command = bench.command(&["run", "--json", "--config"]);
        command.arg(&config).env("SANDBAR_LOG", "warn");
        bench.start(command)
    };
    let mut hosts = [start(), start()];
    let first = digest(&guest("witness"));
    until(&bench, "both run", |now| serve(now, 2, &first)).await;
    let files: Vec<PathBuf> = (0..swaps.min(250)).map(|mark| variant_of(&bench, "witness", mark as u8)).collect();

    let begun = (tokio::time::Instant::now(), now_ms());
    let lead = rate * LEAD;
    let mut publishing = JoinSet::new();
    publishing.spawn(publish_paced(bus, begun.0, lead + events, rate));
    let span = Duration::from_secs_f64(events as f64 / rate as f64);
    for n in 0..swaps {
        // The last one early enough that events meet it.
        let at = Duration::from_secs(LEAD as u64) + span * n as u32 / swaps as u32;
        tokio::time::sleep_until(begun.0 + at).await;
        let file = files[n % files.len()].display().to_string();
        let said = tokio::task::block_in_place(|| bench.ok(&["swap", "h", &file], b""));
        assert!(said.starts_with("h serves "), "{said}");
    }
    publishing.join_next().await.unwrap().unwrap();
    let last = files.last().map_or(first, |file| digest(file));
    until(&bench, "all is settled, and both serve the last one", |now| {
        let left = (&now["lag"], &now["pending"], &now["retrying"], &now["dead_letters"]);
        left == (&0.into(), &0.into(), &0.into(), &0.into()) && serve(now, 2, &last)
    })
    .await;
    for host in &mut hosts {
        host.terminate();
        assert!(host.wait(BOUND).success());
        let tally = host.summary()["handlers"][0].clone();
        assert_eq!((&tally["retried"], &tally["dead"]), (&0.into(), &0.into()), "no call fails by a swap: {tally}");
    }
    let versions = bench.json(&["versions", "--json"], b"")["handlers"][0]["versions"].clone();
    let failures = |entry: &serde_json::Value| entry["failures"].as_u64().unwrap();
    assert_eq!(versions.as_array().unwrap().iter().map(failures).sum::<u64>(), 0, "{versions}");

    let (seen, modules) = effects(&server, lead + events).await;
    let due = |n: usize| begun.1 + (n * 1_000 / rate) as u64;
    let mut latencies: Vec<u64> = (lead..lead + events).map(|n| seen[n].saturating_sub(due(n))).collect();
    latencies.sort_unstable();
    Measured { latencies, modules, swaps }
}

/// Publishes so many events, each when it is due: all that are due go in one write.
async fn publish_paced(bus: Arc<dyn Bus>, start: tokio::time::Instant, events: usize, rate: usize) {
    let mut sent = 0;
    while sent < events {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as usize;
        let due = due.clamp(sent, events);
        let drafts: Vec<_> = (sent..due).map(|n| Draft::new("e").numbered(n as u128).header("effects", "o")).collect();
        publish(&bus, "in", &drafts).await;
        sent = due;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// When the effect of each event was there, and how many modules made them. Each event has one.
async fn effects(server: &Server, events: usize) -> (Vec<u64>, usize) {
    type Entry = (String, Vec<(String, Vec<u8>)>);
    let mut seen = vec![0; events];
    let mut modules = BTreeMap::<Vec<u8>, usize>::new();
    let mut from = "-".to_owned();
    loop {
        let page: Vec<Entry> = server.run(&["XRANGE", "out", &from, "+", "COUNT", "10000"]).await;
        let Some((last, _)) = page.last() else { break };
        from = format!("({last}");
        for (id, fields) in page {
            let field = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
            let cause = String::from_utf8(field("cause").unwrap()).unwrap();
            let n = uuid::Uuid::parse_str(&cause).unwrap().as_u128() as usize;
            assert_eq!(seen[n], 0, "event {n} has its effect twice");
            seen[n] = id.split('-').next().unwrap().parse().unwrap();
            *modules.entry(field("sandbar-module").unwrap()).or_default() += 1;
        }
    }
    let lost: Vec<usize> = (0..events).filter(|n| seen[*n] == 0).collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    (seen, modules.len())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

// === impl Measured ===

impl Measured {
    /// The latency that so many of a thousand do not exceed.
    fn at(&self, of: usize) -> u64 {
        let place = (self.latencies.len() * of).div_ceil(1_000).clamp(1, self.latencies.len());
        self.latencies[place - 1]
    }
}
