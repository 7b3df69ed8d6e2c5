//! An event that kills its host is found out, and nothing else pays for it.

use super::*;

/// All of them are read ahead, together with the event that kills.
const NEIGHBOURS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    quarantined(&bench, &url, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_on_redis() {
    let server = Server::start(&[]).await;
    quarantined(&Bench::new(), &server.url(), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_where_order_matters() {
    let bench = Bench::new();
    let url = embedded(&bench);
    quarantined(&bench, &url, "order = \"topic\"").await;
}

/// The event computes without end; the host is killed during each of its calls. The first call is of an event that is
/// new, so its start is not on record; the next two are.
async fn quarantined(bench: &Bench, url: &str, order: &str) {
    let bus = open(url).await;
    let killer = Draft::new("test.witness.v1").header("work", u64::MAX);
    let id = killer.id.clone();
    // They take a moment, so that some are still in hand when the host is killed.
    let neighbour = || Draft::new("test.witness.v1").header("work", 2_000_000);
    let mut drafts: Vec<Draft> = (0..NEIGHBOURS).map(|_| neighbour()).collect();
    drafts.insert(NEIGHBOURS / 2, killer);
    publish(&bus, "in", &drafts).await;
    let handler = HandlerToml::new("witness", "witness", "in")
        .with("max_attempts = 2\nretry_first = \"10ms\"")
        .with(order)
        .with("[handler.limits]\ntime = \"10m\"");
    let config = bench.config(url, &[handler]);
    for _ in 0..3 {
        let host = bench.run(&config, &[]);
        called(&host, &id).await;
        host.kill();
        let status = bus.status(&"in".into(), "witness").await.unwrap();
        assert_eq!(status.lag, Some(0), "everything was read ahead");
        assert!(status.pending > 1, "neighbours are in hand with it: {status:?}");
    }
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    assert_eq!(host.summary()["handlers"][0]["dead"], 1, "{}", host.log());
    let letters = bus.dead_letters(&"in".into(), "witness", None, 300).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].cause.code.as_str(), letters[0].cause.attempts), (code::HOST_DEATH, 2));
    assert_eq!(letters[0].fields, drafts[NEIGHBOURS / 2].fields());
    let status = bus.status(&"in".into(), "witness").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying), (Some(0), 0, 0), "the neighbours are handled");
}

/// Waits until the call of an event has begun.
async fn called(host: &Host, id: &str) {
    let end = Instant::now() + BOUND;
    while !host.log().lines().any(|line| line.contains(id) && line.contains("called attempt=")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(Instant::now() < end, "it does not run the event: {}", host.log());
    }
}
