//! A disk that fails under a running host, and clocks that jump.

use super::*;
use crate::support::shim::{EIO, ENOSPC, EROFS, Shim};

/// Of each disk that fails.
const EVENTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_read_only_or_broken_is_waited_out() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let shim = Shim::new(&bench.path("shim"));
    let bus = open(&url).await;
    let handler = HandlerToml::new("witness", "witness", "in").with("[handler.grants]\npublish = [\"out\"]");
    let mut host = bench.run_under(&shim, &bench.config(&url, &[handler]));
    let mut ids = Vec::new();
    for (seen, error) in [ENOSPC, EROFS, EIO].into_iter().enumerate() {
        shim.refuse_writes(Some(error));
        let drafts: Vec<Draft> = (0..EVENTS).map(|_| Draft::new("test.witness.v1").header("effects", "o")).collect();
        ids.extend(drafts.iter().map(|draft| draft.id.clone()));
        publish(&bus, "in", &drafts).await;
        said(&host, "the bus is in trouble", seen + 1).await;
        shim.refuse_writes(None);
        progress(&bus, "witness", |lag| lag == 0).await;
        let published = read_all(&bus, "out").await;
        let mut causes: Vec<&str> =
            published.iter().map(|fields| std::str::from_utf8(fields.get("cause").unwrap()).unwrap()).collect();
        causes.sort_unstable();
        ids.sort_unstable();
        assert_eq!(causes, ids, "each effect once");
    }
    host.terminate();
    assert!(host.wait(BOUND).success(), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_lose_nothing_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let shim = Shim::new(&bench.path("shim"));
    jumps(&bench, &url, &shim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_lose_nothing_on_redis() {
    let bench = Bench::new();
    let shim = Shim::new(&bench.path("shim"));
    let server = Server::start(&[]).await.obey(&shim).await;
    jumps(&bench, &server.url(), &shim).await;
}

/// Retries fall due by the clock; whatever it does, every event is handled once and the host goes on.
async fn jumps(bench: &Bench, url: &str, shim: &Shim) {
    let bus = open(url).await;
    let handler = HandlerToml::new("witness", "witness", "in").with("retry_first = \"1h\"\nretry_max = \"1h\"");
    let mut host = bench.run_under(shim, &bench.config(url, &[handler]));
    publish(&bus, "in", &[Draft::new("test.witness.v1").header("fail", 1)]).await;
    said(&host, "the event will be tried again", 1).await;
    shim.turn_clock(2 * 3_600_000);
    said(&host, "handled attempt=2", 1).await;
    shim.turn_clock(-24 * 3_600_000);
    publish(&bus, "in", &[Draft::new("test.witness.v1")]).await;
    said(&host, "handled attempt=1", 1).await;
    progress(&bus, "witness", |lag| lag == 0).await;
    host.terminate();
    assert!(host.wait(BOUND).success(), "{}", host.log());
}
