//! What a host costs that has nothing to do, and one that has had much to do.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_host_rests_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    rests(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_host_rests_on_redis() {
    let server = Server::start(&[]).await;
    rests(&Bench::new(), &server.url()).await;
}

/// One handler of each kind, an event each, and then nothing. The bound is five times what is wanted of a release
/// build, since this one is not: a loop that does not rest uses a whole core.
async fn rests(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let ordered = HandlerToml::new("ordered", "probe", "other").with("order = \"topic\"");
    let config = bench.config(url, &[probe(), ordered]);
    let mut host = bench.run(&config, &[]);
    publish(&bus, "in", &[Draft::new("ok")]).await;
    publish(&bus, "other", &[Draft::new("ok")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, since) = (host.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (used, passed) = (host.cpu() - before, since.elapsed());
    assert!(used < passed / 20, "{used:?} of {passed:?}");
    host.terminate();
    assert!(host.wait(BOUND).success());
}
