//! A module in the shadow of the one that is served: it does again what was done, and leaves nothing but counts.

use serde_json::Value;

use super::swapping::{digest, serve, until, variant_of};
use super::*;
use crate::support::host::guest;

/// What came of the shadow, once so many events were looked at.
async fn compared(bench: &Bench, of: u64) -> Value {
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["versions", "--json"], b"")["handlers"][0]["candidate"]["shadow"].clone();
        let count = |name: &str| now[name].as_u64().unwrap_or(0);
        if count("compared") + count("skipped") + count("dropped") >= of {
            return now;
        }
        assert!(Instant::now() < end, "{of} are looked at: {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn shadow(bench: &Bench, handler: &str, file: &std::path::Path) {
    let said = bench.ok(&["swap", handler, file.to_str().unwrap(), "--shadow"], b"");
    assert!(said.contains("in the shadow of"), "{said}");
}

/// The same module does the same, and its effects are seen once; another one's differences are told.
async fn shadowed(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let config = bench.config(url, &[probe().with("[handler.grants]\npublish = [\"out\"]\nkeys = true")]);
    let mut host = bench.run(&config, &["--json"]);
    let (first, same) = (digest(&guest("probe")), variant_of(bench, "probe", 1));
    until(bench, "it runs", |now| serve(now, 1, &first)).await;
    let drafts = || {
        let mut drafts: Vec<_> = (0..10).map(|_| Draft::new("ok")).collect();
        let publish = || Draft::new("publish").header("topic", "out").header("size", 1).header("then", "ok");
        drafts.extend((0..10).map(|_| publish()));
        // Each reads what the one before has written.
        let count = |n| Draft::new("keys").header("do", format!("get k\nset k {n}")).header("then", "ok");
        drafts.extend((0..10).map(count));
        drafts.extend((0..10).map(|_| Draft::new("reject").header("code", "no")));
        drafts
    };

    shadow(bench, "probe", &same);
    publish(&bus, "in", &drafts()).await;
    let now = compared(bench, 40).await;
    let counts = (&now["compared"], &now["differed"], &now["skipped"], &now["dropped"]);
    assert_eq!(counts, (&40.into(), &0.into(), &0.into(), &0.into()), "{now}");
    assert_eq!(read_all(&bus, "out").await.len(), 10, "what it publishes goes nowhere");

    // By now the keys have more of them.
    let list = |n| Draft::new("keys").header("do", format!("list k 9\nset k{n} 1")).header("then", "ok");
    publish(&bus, "in", &(0..5).map(list).collect::<Vec<_>>()).await;
    let now = compared(bench, 45).await;
    assert_eq!((&now["compared"], &now["skipped"]), (&40.into(), &5.into()), "what has moved says nothing: {now}");

    // One that does nothing, and is content with everything.
    shadow(bench, "probe", &guest("noop"));
    publish(&bus, "in", &drafts()).await;
    let now = compared(bench, 40).await;
    assert_eq!((&now["compared"], &now["differed"]), (&40.into(), &30.into()), "{now}");
    let examples = now["examples"].to_string();
    assert!(examples.contains("0 events are published, by the one that is served 1"), "{examples}");
    let said = bench.ok(&["versions"], b"");
    assert!(said.contains("30 of 40 events came to something else"), "{said}");
    assert_eq!(read_all(&bus, "out").await.len(), 20);

    assert!(bench.ok(&["rollback", "probe"], b"").contains("no more"));
    publish(&bus, "in", &drafts()).await;
    until(bench, "all is settled", |now| (&now["lag"], &now["pending"]) == (&0.into(), &0.into())).await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    let tally = host.summary()["handlers"][0].clone();
    assert_eq!((&tally["acked"], &tally["dead"], &tally["retried"]), (&95.into(), &30.into(), &0.into()), "{tally}");
    let record = bench.json(&["versions", "--json"], b"")["handlers"][0].clone();
    assert!(record["candidate"].is_null() && record["versions"].as_array().unwrap().len() == 1, "{record}");
    assert_eq!(record["rejected"], serde_json::json!([]), "it was only looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_in_the_shadow_leaves_nothing_but_its_differences_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    shadowed(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_in_the_shadow_leaves_nothing_but_its_differences_on_redis() {
    let server = Server::start(&[]).await;
    shadowed(&Bench::new(), &server.url()).await;
}

/// Each event would take the shadow a second; nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_for_a_shadow_is_left_out_and_delays_nothing() {
    const EVENTS: usize = 1_000;
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[HandlerToml::new("h", "noop", "in")]);
    let mut host = bench.run(&config, &["--json"]);
    let first = digest(&guest("noop"));
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;
    shadow(&bench, "h", &guest("probe"));
    said(&host, "in its shadow", 1).await;
    publish(&bus, "in", &(0..EVENTS).map(|_| Draft::new("spin")).collect::<Vec<_>>()).await;
    until(&bench, "all is settled", |now| (&now["lag"], &now["pending"]) == (&0.into(), &0.into())).await;
    let now = compared(&bench, 500).await;
    assert!(now["dropped"].as_u64() >= Some(500), "{now}");
    // It is seen off with what waits for it.
    let begun = Instant::now();
    host.terminate();
    assert!(host.wait(BOUND).success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(host.summary()["handlers"][0]["acked"], EVENTS);
}

/// Once it is ended it does no more of what waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_is_ended_calls_nothing_more() {
    const EVENTS: usize = 200;
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[HandlerToml::new("h", "noop", "in")]);
    let host = bench.run(&config, &[]);
    let first = digest(&guest("noop"));
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;
    shadow(&bench, "h", &guest("witness"));
    said(&host, "in its shadow", 1).await;
    // Rounds of a nanosecond or more: a tenth of a second, whatever the machine.
    let draft = |n| Draft::new("e").numbered(n).header("work", 100_000_000_u64);
    publish(&bus, "in", &(0..EVENTS as u128).map(draft).collect::<Vec<_>>()).await;
    said(&host, "called attempt=1", 1).await;
    assert!(bench.ok(&["rollback", "h"], b"").contains("no more"));
    let called = || host.log().lines().filter(|line| line.contains("called attempt=1")).count();
    let before = called();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!((1..EVENTS).contains(&before) && called() <= before + 1, "{before}, then {}", called());
}
