//! SIGHUP: a configuration is taken over while events flow.

use std::fs;

use serde_json::Value;

use super::*;

/// What each handler does, by its name.
fn status(bench: &Bench) -> BTreeMap<String, Value> {
    let all = bench.json(&["status", "--json"], b"")["handlers"].as_array().unwrap().clone();
    all.into_iter().map(|handler| (handler["handler"].as_str().unwrap().to_owned(), handler)).collect()
}

async fn until(bench: &Bench, what: &str, holds: impl Fn(&BTreeMap<String, Value>) -> bool) -> BTreeMap<String, Value> {
    let end = Instant::now() + BOUND;
    loop {
        let now = status(bench);
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn said(host: &Host, what: &str) {
    let end = Instant::now() + BOUND;
    while !host.log().contains(what) {
        assert!(Instant::now() < end, "{what}: {}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn runs(handler: &Value) -> bool {
    handler["hosts"].as_array().is_some_and(|hosts| hosts.len() == 1) && handler["state"] == "running"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_are_added_changed_and_removed_and_the_others_go_on() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let of = |name: &str, topic: &str| HandlerToml::new(name, "probe", topic).with("max_attempts = 1");
    let (stays, goes, changes) = (|| of("stays", "a"), of("goes", "b"), of("changes", "c"));
    let config = bench.config(&url, &[stays(), goes, changes]);
    let mut command = bench.command(&["run", "--json"]);
    command.env("SANDBAR_LOG", "info");
    let mut host = bench.start(command);
    let before = until(&bench, "all run", |now| now.values().all(runs)).await;

    // Whatever is wrong changes nothing.
    let good = fs::read_to_string(&config).unwrap();
    let bad = [
        (good.replace("topics = [\"b\"]", "topcis = [\"b\"]"), "topcis"),
        (good.replace("max_attempts = 1", "max_attempts = 1\ntypes = []"), "is empty"),
        (good.replacen("[bus]", "[host]\ngrace = \"5s\"\n[bus]", 1), "takes a restart"),
        (good.replace("name = \"goes\"\nmodule = ", "name = \"goes\"\nmodule = \"absent.wasm\" #"), "absent.wasm"),
    ];
    for (text, told) in bad {
        fs::write(&config, text).unwrap();
        host.signal("-HUP");
        said(&host, told).await;
    }
    assert!(!host.log().contains("is taken over"), "{}", host.log());
    fs::write(&config, &good).unwrap();
    assert!(status(&bench).values().all(runs), "nothing was changed");

    bench.config(
        &url,
        &[
            of("added", "d"),
            stays(),
            HandlerToml::new("changes", "probe", "c").with("max_attempts = 2\nretry_first = \"10ms\""),
        ],
    );
    host.signal("-HUP");
    said(&host, "is taken over").await;
    let now = until(&bench, "the new ones run", |now| now.len() == 3 && now.values().all(runs)).await;
    assert_eq!(before["stays"]["consumers"], now["stays"]["consumers"], "it was not touched");
    assert_ne!(before["changes"]["consumers"], now["changes"]["consumers"]);
    for topic in ["a", "b", "c", "d"] {
        publish(&bus, topic, &[Draft::new("ok"), Draft::new("retry")]).await;
    }
    until(&bench, "all is done", |now| now.values().all(|now| now["dead_letters"] == 1 && now["pending"] == 0)).await;
    let left = bus.status(&"b".into(), "goes").await.unwrap();
    assert_eq!((left.lag, left.consumers.len()), (Some(2), 0), "whoever was removed reads no more: {left:?}");
    let letter = bus.dead_letters(&"c".into(), "changes", None, 1).await.unwrap().remove(0);
    assert_eq!(letter.cause.attempts, 2, "by its new settings");
    // A handler that came can be steered.
    bench.ok(&["pause", "added"], b"");
    until(&bench, "it is paused", |now| now["added"]["state"] == "paused").await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    let summary = host.summary();
    let names: Vec<_> = summary["handlers"].as_array().unwrap().iter().map(|tally| &tally["handler"]).collect();
    assert_eq!(names, ["added", "stays", "changes", "goes"], "{summary}");
}
