//! An outage of what a handler depends on: its breaker opens, nothing is given up, and it goes on by itself.

use serde_json::Value;

use super::*;

/// What the probe's `depends` needs is a key of its own, which the test takes away and gives back.
trait Dependency {
    async fn set(&self, down: bool);
}

struct File(std::path::PathBuf);

impl Dependency for File {
    async fn set(&self, down: bool) {
        let db = rusqlite::Connection::open(&self.0).unwrap();
        db.busy_timeout(BOUND).unwrap();
        let sql = if down {
            "INSERT INTO key (space, key, value, version) VALUES ('probe', 'dependency', CAST('down' AS BLOB), 1)"
        } else {
            "DELETE FROM key WHERE space = 'probe'"
        };
        assert_eq!(db.execute(sql, []).unwrap(), 1);
    }
}

impl Dependency for Server {
    async fn set(&self, down: bool) {
        let words: &[&str] = if down {
            &["HSET", "sandbar.keys.probe", "=dependency", "1:down"]
        } else {
            &["HDEL", "sandbar.keys.probe", "=dependency"]
        };
        assert_eq!(self.run::<u64>(words).await, 1);
    }
}

const EVENTS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_makes_no_dead_letters_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    outage(&bench, &url, &File(bench.path("bus.db")), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_makes_no_dead_letters_on_redis() {
    let server = Server::start(&[]).await;
    outage(&Bench::new(), &server.url(), &server, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_makes_no_dead_letters_where_order_matters() {
    let server = Server::start(&[]).await;
    outage(&Bench::new(), &server.url(), &server, "order = \"key\"\nkey = \"/key\"").await;
}

fn handler(order: &str) -> HandlerToml {
    HandlerToml::new("probe", "probe", "in").with("max_attempts = 2\nretry_first = \"300ms\"\nin_flight = 32").with(order).with(
        "[handler.breaker]\nfailures = 10\npause_first = \"200ms\"\npause_max = \"400ms\"\n[handler.grants]\nkeys = true",
    )
}

fn state(bench: &Bench) -> Value {
    bench.json(&["status", "--json"], b"")["handlers"][0].clone()
}

async fn until(bench: &Bench, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + BOUND;
    loop {
        let now = state(bench);
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One event among the others is poison: it is to be given up, but not before the outage is over.
async fn outage(bench: &Bench, url: &str, dependency: &impl Dependency, order: &str) {
    let bus = open(url).await;
    let mut drafts: Vec<Draft> =
        (0..EVENTS).map(|n| Draft::new("depends").json(&format!("{{\"key\": {}}}", n % 20))).collect();
    // Among the first that fail.
    drafts[3] = Draft::new("retry").header("code", "poison").json("{\"key\": \"poison\"}");
    publish(&bus, "in", &drafts).await;
    dependency.set(true).await;
    let config = bench.config(url, &[handler(order)]);
    let mut host = bench.run(&config, &["--json"]);
    until(bench, "it opens", |now| now["state"] == "breaker open").await;
    // Long enough for every event that is in hand to fail for the last time, and for some probes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = state(bench);
    assert!(now["state"].as_str().unwrap().starts_with("breaker"), "{now}");
    assert_eq!(now["dead_letters"], 0, "{now}");
    if order.is_empty() {
        assert!(now["lag"].as_u64().unwrap() > EVENTS as u64 / 4, "reading has stopped: {now}");
    }
    assert!(host.log().contains("nothing is called until the pause is over"), "{}", host.log());

    dependency.set(false).await;
    let settled = |now: &Value| (&now["lag"], &now["pending"], &now["retrying"]) == (&0.into(), &0.into(), &0.into());
    until(bench, "all is settled", settled).await;
    until(bench, "it is closed", |now| now["state"] == "running").await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    let summary = host.summary();
    assert_eq!((&summary["handlers"][0]["acked"], &summary["handlers"][0]["dead"]), (&(EVENTS - 1).into(), &1.into()));
    let letters = bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap();
    assert_eq!(by_code(&letters).keys().collect::<Vec<_>>(), [&"poison"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_the_end_of_an_outage() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &(0..EVENTS).map(|_| Draft::new("retry")).collect::<Vec<_>>()).await;
    let handler =
        probe().with("in_flight = 64\n[handler.breaker]\nfailures = 10\npause_first = \"1h\"\npause_max = \"1h\"");
    let config = bench.config(&url, &[handler]);
    let mut host = bench.run(&config, &["--json"]);
    until(&bench, "it opens", |now| now["state"] == "breaker open").await;
    let asked = Instant::now();
    host.terminate();
    assert_eq!(host.wait(BOUND).code(), Some(0), "{}", host.log());
    assert!(asked.elapsed() < Duration::from_secs(20), "well within the grace: {:?}", asked.elapsed());
    let now = state(&bench);
    assert_eq!((&now["dead_letters"], &now["consumers"]), (&0.into(), &serde_json::json!([])), "{now}");
    let figure = |name: &str| now[name].as_u64().unwrap();
    assert_eq!(figure("lag") + figure("pending") + figure("retrying"), EVENTS as u64, "all are still to come: {now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_breaker_an_outage_is_dead_letters() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &(0..EVENTS).map(|_| Draft::new("retry")).collect::<Vec<_>>()).await;
    let config = bench.config(&url, &[probe().with("breaker = false")]);
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    assert_eq!(host.summary()["handlers"][0]["dead"], EVENTS);
}
