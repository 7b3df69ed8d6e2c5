//! The secret of the configuration reaches the guests' random numbers.

use crate::support::events::{Draft, open, publish};
use crate::support::host::{Bench, HandlerToml};

/// What a handler draws for the first event of a new bus, with this secret.
async fn drawn(secret: &str) -> String {
    let bench = Bench::new();
    let url = format!("sqlite:{}", bench.path("bus.db").display());
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("world")]).await;
    let config = bench.config(&url, &[HandlerToml::new("probe", "probe", "in")]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[host]\nsecret = {secret:?}\n{text}")).unwrap();
    bench.run(&config, &["--until-idle"]).finish();
    let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
    let reason = &letters[0].cause.reason;
    let hash = reason.split_once("hash ").and_then(|(_, rest)| rest.split(' ').next());
    hash.unwrap_or_else(|| panic!("no hash in {reason}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_draws_the_same_after_a_restart_with_the_same_secret() {
    let first = drawn("the secret of one host").await;
    assert_eq!(drawn("the secret of one host").await, first);
    assert_ne!(drawn("the secret of another").await, first);
    assert_ne!(drawn("").await, drawn("").await, "without one, each start makes up its own");
}
