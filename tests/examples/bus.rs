//! The example handlers on real buses, by the binary.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::examples::root;
use crate::support::events::{open, read_all};
use crate::support::host::{Bench, HandlerToml, guest};
use crate::support::process::finish;
use crate::support::redis::Server;

#[test]
fn the_demonstration_tells_what_became_of_every_event() {
    let folder = root().join("example-handlers/demo");
    let mut command = Bench::new().command(&["demo", "--json", "--dir", folder.to_str().unwrap()]);
    command.current_dir(root()).env("SANDBAR_GUESTS", guest("hello").parent().unwrap());
    let ran = finish(command.spawn().unwrap(), b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<Value> = ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, story) = lines.split_last().unwrap();

    let mut outcomes: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for line in story {
        *outcomes.entry((line["handler"].as_str().unwrap(), line["outcome"].as_str().unwrap())).or_default() += 1;
    }
    let expected = [
        (("catalog-mirror", "acked"), 5),
        (("hello", "acked"), 8),
        (("notify-flaky", "acked"), 5),
        (("notify-flaky", "dead"), 1),
        (("notify-flaky", "retrying"), 4),
        (("xapi", "acked"), 11),
    ];
    assert_eq!(outcomes, expected.into());
    let tally = |handler: &str| {
        let found = summary["handlers"].as_array().unwrap().iter().find(|tally| tally["handler"] == handler).unwrap();
        ["acked", "skipped", "retried", "dead", "lost", "published"].map(|key| found[key].as_u64().unwrap())
    };
    assert_eq!(tally("hello"), [8, 0, 0, 0, 0, 0]);
    assert_eq!(tally("xapi"), [11, 0, 0, 0, 0, 11]);
    assert_eq!(tally("catalog-mirror"), [5, 0, 0, 0, 0, 0]);
    assert_eq!(tally("notify-flaky"), [5, 0, 4, 1, 0, 0]);
    assert_eq!(summary["stopped"], Value::Null);

    let details = |handler: &str, outcome: &str| -> BTreeSet<&str> {
        let of = story.iter().filter(|line| line["handler"] == handler && line["outcome"] == outcome);
        of.map(|line| line["detail"].as_str().unwrap()).collect()
    };
    assert_eq!(details("xapi", "acked"), ["acked, 1 published"].into());
    assert!(details("catalog-mirror", "acked").iter().any(|detail| detail.ends_with("keys written")));
    let given_up = details("notify-flaky", "dead");
    assert!(given_up.iter().all(|detail| detail.starts_with("dead letter (no-audience): ")), "{given_up:?}");
    let retried = details("notify-flaky", "retrying");
    assert!(retried.iter().any(|detail| detail.starts_with("retry (trap): ")), "{retried:?}");
    assert!(retried.contains("retry (mail-server): the mail server is busy"), "{retried:?}");
    // Nothing is settled for good twice, and each event comes at last to an end.
    let mut ended = BTreeSet::new();
    for line in story.iter().filter(|line| line["outcome"] != "retrying") {
        assert!(ended.insert((line["handler"].to_string(), line["position"].to_string())), "twice: {line}");
    }
    assert_eq!(ended.len(), 8 + 11 + 5 + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_on_redis_are_read_by_another_consumer() {
    let server = Server::start(&[]).await;
    let bench = Bench::with(&format!(
        r#"[bus]
url = "{}"
[[handler]]
name = "xapi"
module = {:?}
topics = ["course-enrollment", "grades"]
start = "beginning"
[handler.grants]
publish = [{{ topic = "xapi-statements", types = ["xapi.statement.v1"] }}]
config = {{ base = "https://lms.example.org" }}
"#,
        server.url(),
        guest("xapi")
    ));
    let demo = root().join("example-handlers/demo/events.jsonl");
    let published = bench.ok(&["publish", "--json", demo.to_str().unwrap()], b"");
    let sources: Vec<Value> = published.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sources: BTreeSet<String> = sources
        .iter()
        .filter(|event| matches!(event["topic"].as_str(), Some("grades" | "course-enrollment")))
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sources.len(), 11);

    let summary = bench.json(&["run", "--until-idle", "--json"], b"");
    assert_eq!(summary["handlers"][0]["published"], 11);
    let (mut stated, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for fields in read_all(&open(&server.url()).await, "xapi-statements").await {
        let text = |name: &str| String::from_utf8(fields.get(name).unwrap().to_vec()).unwrap();
        assert_eq!((text("type"), text("content-type")), ("xapi.statement.v1".into(), "application/json".into()));
        assert_eq!((text("source"), text("sandbar-hops")), ("openedx/sandbar/web".into(), "1".into()));
        let statement: Value = serde_json::from_str(&text("event_data")).unwrap();
        let course = statement.pointer("/object/id").and_then(Value::as_str).unwrap();
        assert!(course.ends_with(&text("sandbar-key")), "the course is the key: {statement}");
        assert!(statement["verb"]["id"].as_str().unwrap().starts_with("http"), "{statement}");
        stated.insert(statement["id"].as_str().unwrap().to_owned());
        ids.insert(text("id"));
    }
    assert_eq!(stated, sources, "a statement is known by the id of its event");
    assert_eq!((ids.len(), ids.is_disjoint(&sources)), (11, true), "the events that carry them have ids of their own");

    // And a handler behind it gets them as JSON.
    bench.config(&server.url(), &[HandlerToml::new("store", "noop", "xapi-statements")]);
    let stored = bench.json(&["run", "--until-idle", "--json"], b"");
    assert_eq!((&stored["handlers"][0]["acked"], &stored["handlers"][0]["dead"]), (&11.into(), &0.into()));
}
