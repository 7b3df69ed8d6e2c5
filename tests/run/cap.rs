//! The cap on dead letters: the handler pauses instead of dropping any, and goes on by itself.

use serde_json::Value;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_pauses_at_its_cap_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    capped(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_pauses_at_its_cap_on_redis() {
    let server = Server::start(&[]).await;
    capped(&Bench::new(), &server.url()).await;
}

async fn until(bench: &Bench, what: &str, holds: impl Fn(&Value) -> bool) {
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["status", "--json"], b"")["handlers"][0].clone();
        if holds(&now) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn capped(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let config = bench.config(url, &[probe().with("dead_letters_max = 3")]);
    publish(&bus, "in", &[Draft::new("reject"), Draft::new("reject"), Draft::new("reject")]).await;
    let mut host = bench.run(&config, &["--json"]);
    until(bench, "the cap is reached", |now| now["state"] == "dead letters" && now["dead_letters"] == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    publish(&bus, "in", &(0..10).map(|_| Draft::new("ok")).collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.dead_letters), (Some(10), 0, 3), "{status:?}");
    let said = host.log().matches("have reached their cap").count();
    assert_eq!(said, 1, "{}", host.log());

    bench.ok(&["dlq", "purge", "--all", "--yes"], b"");
    until(bench, "it goes on", |now| now["lag"] == 0 && now["pending"] == 0 && now["state"] == "running").await;
    // The host that starts at the cap reads nothing at all.
    publish(&bus, "in", &[Draft::new("reject"), Draft::new("reject"), Draft::new("reject")]).await;
    until(bench, "the cap is reached again", |now| now["state"] == "dead letters").await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    assert_eq!(host.summary()["handlers"][0]["acked"], 10);
    publish(&bus, "in", &[Draft::new("ok")]).await;
    let mut host = bench.run(&config, &["--json"]);
    until(bench, "it is there", |now| now["state"] == "dead letters").await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    assert_eq!(host.summary()["handlers"][0]["acked"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_too_old_pauses_its_handler() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe().with("dead_letters_max_age = \"2s\"")]);
    publish(&bus, "in", &[Draft::new("reject")]).await;
    let host = bench.run(&config, &[]);
    until(&bench, "it is a dead letter", |now| now["dead_letters"] == 1).await;
    until(&bench, "it is too old", |now| now["state"] == "dead letters").await;
    let now = bench.json(&["status", "--json"], b"")["handlers"][0].clone();
    assert!(now["oldest_dead_letter_seconds"].as_f64().unwrap() >= 2.0, "{now}");
    assert!(host.log().contains("dead_letters_max_age is 2s"), "{}", host.log());
}
