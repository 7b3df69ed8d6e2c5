//! A Redis that answers and does not serve: it loads its data, or takes no writes.

use std::sync::Arc;

use sandbar::bus::Bus;

use super::*;
use crate::support::bounded;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loads_is_waited_for() {
    let mut server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let filling = "for n = 1, 5000 do redis.call('RPUSH', 'much', n) end";
    let _: () = server.run(&["EVAL", filling, "1", "much"]).await;
    let (bench, url) = (Bench::new(), server.url());
    let bus = open(&url).await;
    let mut host = handling(&bench, &bus, &url).await;
    server.load_slowly(200);
    server.kill();
    let loads = async {
        while !matches!(bus.probe(&[]).await, Err(error) if error.to_string().contains("LOADING")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // It is revived once it serves.
    bounded("loading", async { tokio::join!(server.revive(), loads) }).await;
    said(&host, "the bus is lost", 1).await;
    all_done(&bus, &mut host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_is_waited_for() {
    let server = Server::start(&[]).await;
    let (bench, url) = (Bench::new(), server.url());
    let bus = open(&url).await;
    let mut host = handling(&bench, &bus, &url).await;
    let _: () = server.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    said(&host, "READONLY", 1).await;
    let _: () = server.run(&["REPLICAOF", "NO", "ONE"]).await;
    all_done(&bus, &mut host).await;
}

/// A host that has handled its first event.
async fn handling(bench: &Bench, bus: &Arc<dyn Bus>, url: &str) -> Host {
    publish(bus, "in", &[draft()]).await;
    let handler = HandlerToml::new("witness", "witness", "in").with("[handler.grants]\npublish = [\"out\"]");
    let host = bench.run(&bench.config(url, &[handler]), &[]);
    progress(bus, "witness", |lag| lag == 0).await;
    host
}

/// What comes after the trouble is handled too, all of it once, and the host ends well.
async fn all_done(bus: &Arc<dyn Bus>, host: &mut Host) {
    publish(bus, "in", &[draft(), draft()]).await;
    progress(bus, "witness", |lag| lag == 0).await;
    assert_eq!(read_all(bus, "out").await.len(), 3);
    host.terminate();
    assert!(host.wait(BOUND).success(), "{}", host.log());
}

fn draft() -> Draft {
    Draft::new("test.witness.v1").header("effects", "o")
}
