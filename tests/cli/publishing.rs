//! `sandbar publish`: what it takes, what it refuses, and what it shows meanwhile.

use std::fs::File;

use sandbar::event::Encoding;
use sandbar::wire::Profile;

use super::*;
use crate::support::events::{open, read_all};
use crate::support::host::{HandlerToml, binary};

#[test]
fn published_events_are_counted_and_numbered_faults_publish_nothing() {
    let bench = embedded();
    let data = catalog().data.to_string();
    let publish = ["publish", "--topic", "catalog", "--type", KIND];

    let faulty = format!("{data}\n{{\"catalog_info\": {{}}}}\n");
    let ran = bench.call(&publish, faulty.as_bytes());
    assert_eq!((ran.code, ran.stdout.len()), (2, 0), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: document 2\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("/catalog_info"), "{}", ran.stderr);
    for (args, input, wanted) in [
        (&publish[..3], data.as_str(), "it has no type: give --type"),
        (&publish[..1], &data, "it has no topic: give --topic"),
        (&publish, "", "no document"),
        (&publish, "{", "document 1"),
        (&publish, &format!("{{\"id\":\"7\",\"data\":{data}}}"), "no UUID"),
        (&publish, &format!("{{\"time\":\"2026-01-01T00:00:00+02:00\",\"data\":{data}}}"), "in UTC"),
        (&publish, &format!("{{\"headers\":{{\"ce_id\":\"x\"}},\"data\":{data}}}"), "belongs to the wire"),
        (&publish, &format!("{{\"topc\":\"x\",\"data\":{data}}}"), "topc"),
    ] {
        let ran = bench.call(args, input.as_bytes());
        assert_eq!(ran.code, 2, "{input}: {}", ran.stderr);
        assert!(ran.stderr.contains(wanted), "{wanted}: {}", ran.stderr);
    }
    let dry = bench.call(&[&publish[..], &["--dry-run"]].concat(), data.as_bytes());
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    assert!(!bench.path("events.db").exists(), "nothing has touched the bus so far");

    let id = "1d2f8a01-0b0c-11f1-8de9-0242ac120002";
    let envelope = format!(
        "{{\"topic\":\"catalog\",\"type\":\"{KIND}\",\"id\":\"{id}\",\"time\":\"2026-03-14T15:09:27+00:00\",\"headers\":\
         {{\"sourcehost\":\"lms-1\"}},\"data\":{data}}}"
    );
    let text = bench.ok(&["publish", "--json"], format!("{envelope}\n[{envelope},{envelope}]").as_bytes());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["id"] == id && line["topic"] == "catalog" && line["position"].is_string()));
    assert!(lines.iter().all(|line| line["durability"] == "fsync"), "{text}");
    fs::write(bench.path("one.json"), &data).unwrap();
    let text = bench.ok(&[&publish[..], &["one.json"]].concat(), b"");
    assert!(text.lines().count() == 1 && text.ends_with(" fsync\n"), "{text}");
    bench.ok(&[&publish[..], &["--raw"]].concat(), b"\xff\x00raw");
    let status = bench.json(&["status", "--json"], b"");
    assert_eq!(status["handlers"][0]["handler"], "mirror");
    assert_eq!(status["handlers"][0]["exists"], false);
    let table = bench.ok(&["status"], b"");
    assert!(table.starts_with("HANDLER") && table.contains("mirror") && table.contains("not made yet"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_without_a_schema_goes_out_as_json_when_that_is_said() {
    let bench = Bench::new();
    let url = format!("sqlite:{}", bench.path("bus.db").display());
    bench.config(&url, &[HandlerToml::new("noop", "noop", "greetings")]);
    let publish = ["publish", "--topic", "greetings", "--type", "org.example.greeting.v1"];
    let as_json = [&publish[..], &["--content-type", "application/json"]].concat();

    let refused = bench.call(&publish, b"{\"text\": \"hi\"}");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("or publish it as JSON: --content-type application/json"), "{}", refused.stderr);
    let unknown = bench.call(&[&publish[..], &["--content-type", "text/plain"]].concat(), b"{}");
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("text/plain") && unknown.stderr.contains("--raw"), "{}", unknown.stderr);
    assert_eq!(bench.call(&as_json, b"{\"text\": ").code, 2, "what is no JSON is not published as JSON");

    bench.ok(&as_json, br#"{"text": "hi", "n": 12345678901234567890.10}"#);
    bench.ok(&publish, br#"{"content_type": "Application/JSON", "data": [1]}"#);
    // The document's own word stands over the option; a type with a schema is JSON too when that is asked for.
    let vector = catalog();
    let mixed = format!(
        "{{\"type\":\"{KIND}\",\"content_type\":\"application/avro\",\"data\":{0}}}\n{{\"type\":\"{KIND}\",\"data\":{0}}}",
        vector.data
    );
    bench.ok(&as_json, mixed.as_bytes());
    bench.ok(&[&publish[..], &["--raw", "--content-type", "text/plain"]].concat(), b"\xffhi");
    bench.ok(&[&publish[..], &["--raw"]].concat(), b"\xff");

    let read = |fields| {
        let message = sandbar::event::Message { fields, ..vector.message() };
        let envelope = Profile::OpenEdx.read(&message).unwrap();
        (envelope.encoding, envelope.payload.to_vec())
    };
    let found: Vec<_> = read_all(&open(&url).await, "greetings").await.into_iter().map(read).collect();
    let expected = [
        (Encoding::Json, br#"{"text": "hi", "n": 12345678901234567890.10}"#.to_vec()),
        (Encoding::Json, b"[1]".to_vec()),
        (Encoding::Avro, vector.datum()),
        (Encoding::Json, vector.data.to_string().into_bytes()),
        (Encoding::Other("text/plain".to_owned()), b"\xffhi".to_vec()),
        (Encoding::Avro, b"\xff".to_vec()),
    ];
    assert_eq!(found, expected);
    // A handler gets the four that can be read.
    let tally = &bench.json(&["run", "--until-idle", "--json"], b"")["handlers"][0];
    assert_eq!((&tally["acked"], &tally["dead"]), (&4.into(), &2.into()));
}

/// The counter of long work is seen on a terminal, is drawn now and then, and is gone at the end; what is printed goes
/// to stdout without it.
#[test]
fn a_terminal_shows_how_far_publishing_is() {
    const EVENTS: usize = 20_000;
    let bench = embedded();
    fs::write(bench.path("many.jsonl"), "{}\n".repeat(EVENTS)).unwrap();
    let publish = "publish --topic t --type org.example.x.v1 --content-type application/json many.jsonl";
    // util-linux's `script` runs a command on a terminal of its own and records what it shows.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("{} {publish} > out.txt", binary().display()), "shown"]);
    script.current_dir(bench.path("")).env("TERM", "xterm").stdin(std::process::Stdio::piped());
    script.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ran = finish(script.spawn().expect("`script` of util-linux is installed"), b"");
    assert_eq!(ran.code, 0, "{}", ran.text());
    let printed = fs::read_to_string(bench.path("out.txt")).unwrap();
    assert_eq!(printed.lines().count(), EVENTS);
    assert!(!printed.contains(['\u{1b}', '\r']) && printed.is_ascii());
    let shown = ran.text();
    assert!(shown.contains("publishing 500 (") && shown.contains("/s)"), "{shown}");
    let draws = shown.matches("publishing ").count();
    assert!(draws < EVENTS / 100, "drawn {draws} times");
    assert!(shown.trim_end_matches(['\r', '\n']).ends_with("\u{1b}[2K"), "the last line is wiped: {shown:?}");

    // A pipe sees nothing of it.
    let quiet =
        bench.command(&publish.split(' ').collect::<Vec<_>>()).stdout(File::create(bench.path("o")).unwrap()).output();
    assert_eq!(quiet.unwrap().stderr, b"");
}
