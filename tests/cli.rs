//! The real binary, from outside: what it prints, and how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sandbar::bus::{self, Fetched, Settings};
use sandbar::event::{Cause, Settlement};
use serde_json::Value;

use crate::support::BOUND;
use crate::support::host::Bench;
use crate::support::process::finish;
use crate::support::vectors::{Vector, vector, vectors};

const KIND: &str = "org.openedx.content_authoring.course.catalog_info.changed.v1";

/// One handler on the embedded bus.
fn embedded() -> Bench {
    Bench::with(
        "[bus]\nurl = \"sqlite:events.db\"\ntopic_prefix = \"dev\"\n[[handler]]\nname = \"mirror\"\nmodule = \
         \"mirror.wasm\"\ntopics = [\"catalog\"]\nstart = \"beginning\"\n",
    )
}

fn catalog() -> Vector {
    vector("01_course_catalog_info_changed.json")
}

/// A component that was built against the released contract; it imports everything there is.
fn component() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contract/handler-0.1.0.wasm")
}

#[test]
fn decode_and_encode_are_each_others_inverse_to_the_byte() {
    let bench = Bench::with("");
    for vector in vectors() {
        let decoded = bench.call(&["decode", "--type", &vector.kind], &vector.datum());
        assert_eq!(decoded.code, 0, "{}: {}", vector.name, decoded.stderr);
        assert!(decoded.stdout.ends_with(b"}\n"), "one document and one newline");
        assert_eq!(serde_json::from_slice::<Value>(&decoded.stdout).unwrap(), vector.data, "{}", vector.name);
        let encoded = bench.call(&["encode", "--type", &vector.kind], &decoded.stdout);
        assert_eq!((encoded.code, &encoded.stdout), (0, &vector.datum()), "{}: {}", vector.name, encoded.stderr);
    }
}

#[test]
fn decode_and_encode_say_what_is_wrong() {
    let bench = Bench::with("");
    let vector = catalog();
    let cut = bench.call(&["decode", "--type", KIND], &vector.datum()[..10]);
    assert_eq!((cut.code, cut.stdout.len()), (2, 0));
    assert!(cut.stderr.starts_with("error: ") && cut.stderr.contains(KIND), "{}", cut.stderr);
    let unknown = bench.call(&["decode", "--type", &KIND.replace("changed", "changd")], &vector.datum());
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains(KIND), "the nearest type is named: {}", unknown.stderr);
    let unfit = bench.call(&["encode", "--type", KIND], br#"{"catalog_info": {"course_key": 5}}"#);
    assert_eq!((unfit.code, unfit.stdout.len()), (2, 0));
    assert!(unfit.stderr.contains("/catalog_info"), "{}", unfit.stderr);
    let missing = bench.call(&["decode", "--type", KIND, "--schemas", "nowhere"], b"");
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("nowhere"), "{}", missing.stderr);
}

#[test]
fn wrong_use_ends_with_2_and_help_with_0() {
    let bench = Bench::with("");
    for args in [&["publsh"][..], &["run", "--colour"], &["decode"], &["dlq", "purge"], &["publish", "--raw"]] {
        let ran = bench.call(args, b"");
        assert_eq!((ran.code, ran.stdout.len()), (2, 0), "{args:?}: {}", ran.stderr);
    }
    assert!(bench.ok(&["--help"], b"").contains("Exit codes"));
    assert!(bench.ok(&["run", "--help"], b"").contains("--join-foreign"));
    let missing = bench.call(&["run", "-c", "other.toml"], b"");
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.starts_with("error: other.toml: there is no such file"), "{}", missing.stderr);
    let by_variable = finish(bench.command(&["status"]).env("SANDBAR_CONFIG", "third.toml").spawn().unwrap(), b"");
    assert!(by_variable.stderr.contains("third.toml"), "{}", by_variable.stderr);
}

#[test]
fn check_tells_everything_at_once() {
    let bench = Bench::with(
        r#"[bus]
url = "redis://127.0.0.1:1/0"
[schemas]
dirs = ["nowhere"]
[[handler]]
name = "absent"
module = "absent.wasm"
topics = ["a"]
max_attemps = 3
[[handler]]
name = "text"
module = "text.wasm"
topics = ["b"]
[[handler]]
name = "core"
module = "core.wasm"
topics = ["c"]
lease = "5"
"#,
    );
    fs::write(bench.path("text.wasm"), "hello").unwrap();
    fs::write(bench.path("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let ran = bench.call(&["check", "--offline"], b"");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for start in [
        "error: sandbar.toml:9: unknown key `max_attemps` in [[handler]] \"absent\"; did you mean `max_attempts`?",
        "error: sandbar.toml:18: `lease` in [[handler]] \"core\" is \"5\"",
        "error: sandbar.toml:3: ",
        "error: sandbar.toml:7: [[handler]] \"absent\": module absent.wasm cannot be read",
        "error: sandbar.toml:12: [[handler]] \"text\": module text.wasm is not a WebAssembly binary",
        "error: sandbar.toml:16: [[handler]] \"core\": module core.wasm is a core module",
    ] {
        assert!(ran.stderr.lines().any(|line| line.starts_with(start)), "{start} is not in\n{}", ran.stderr);
    }
    assert!(ran.text().contains("6 errors, 0 warnings"), "{}", ran.text());

    let ran = bench.call(&["check", "--offline", "--json"], b"");
    assert_eq!((ran.code, ran.stderr.as_str()), (2, ""));
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(document["ok"], false);
    let lines: Vec<_> = document["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(lines, [9, 18, 3, 7, 12, 16]);
}

#[test]
fn check_ends_with_the_code_of_what_is_wrong() {
    let config = "[bus]\nurl = \"redis://127.0.0.1:1/0\"\n[[handler]]\nname = \"x\"\nmodule = \"x.wasm\"\ntopics = [\"a\"]\n\
                  types = [\"org.openedx.*\", \"org.opendx.*\"]\n";
    let bench = Bench::with(config);
    let offline = bench.call(&["check", "--offline"], b"");
    assert_eq!(offline.code, 4, "{}", offline.stderr);
    let warning = "warning: sandbar.toml:7: `types` in [[handler]] \"x\": \"org.opendx.*\" matches no type";
    assert!(offline.stderr.contains(warning), "{}", offline.stderr);
    assert!(!offline.stderr.contains("\"org.openedx.*\" matches"), "{}", offline.stderr);
    let bench = Bench::with("[bus]\nurl = \"redis://127.0.0.1:1/0\"\n");
    assert_eq!(bench.call(&["check", "--offline"], b"").code, 0);
}

#[test]
fn an_unreachable_bus_ends_with_3() {
    let config = "[bus]\nurl = \"redis://:hunter2@127.0.0.1:1/0\"\n[[handler]]\nname = \"x\"\nmodule = \"x.wasm\"\ntopics = [\"a\"]\n";
    let bench = Bench::with(config);
    for args in [&["status"][..], &["dlq", "list"], &["publish", "--topic", "a", "--type", KIND, "--raw"]] {
        let ran = bench.call(args, b"x");
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: bus at "), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    let check = bench.call(&["check"], b"");
    assert_eq!(check.code, 3, "{}", check.stderr);
    assert!(check.stderr.contains("error: sandbar.toml:2: bus at "), "{}", check.stderr);
}

#[test]
fn consumers_that_are_disabled_are_not_run() {
    let bench = embedded();
    let child = bench.command(&["run"]).env("EVENT_BUS_REDIS_CONSUMERS_ENABLED", "False").spawn().unwrap();
    let ran = finish(child, b"");
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("EVENT_BUS_REDIS_CONSUMERS_ENABLED"), "{}", ran.stderr);
    let none = Bench::with("[bus]\nurl = \"sqlite:events.db\"\n").call(&["run"], b"");
    assert_eq!(none.code, 2, "{}", none.stderr);
    assert!(none.stderr.contains("no handler is enabled"), "{}", none.stderr);
}

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
    fs::write(bench.path("one.json"), &data).unwrap();
    assert_eq!(bench.ok(&[&publish[..], &["one.json"]].concat(), b"").lines().count(), 1);
    bench.ok(&[&publish[..], &["--raw"]].concat(), b"\xff\x00raw");
    let status = bench.json(&["status", "--json"], b"");
    assert_eq!(status["handlers"][0]["handler"], "mirror");
    assert_eq!(status["handlers"][0]["exists"], false);
    let table = bench.ok(&["status"], b"");
    assert!(table.starts_with("HANDLER") && table.contains("mirror") && table.contains("not made yet"), "{table}");
}

/// Gives up all that waits on the bench's bus, with these codes in turn.
async fn give_up(bench: &Bench, codes: &[&str]) -> Vec<sandbar::event::Message> {
    let url = format!("sqlite:{}", bench.path("events.db").display());
    let settings = Settings { url, topic_prefix: Some("dev".to_owned()), stream_max_len: None };
    let bus = bus::open(&settings).await.unwrap();
    let group = bus::Group {
        name: "mirror".to_owned(),
        topics: vec!["catalog".into()],
        start: bus::Start::Beginning,
        lease: Duration::from_secs(30),
        consumer: "test".to_owned(),
        exclusive: false,
        join_foreign: false,
    };
    let subscription = bus.subscribe(&group).await.unwrap();
    let Fetched::Deliveries(deliveries) = subscription.fetch(100, Duration::from_secs(5)).await.unwrap() else {
        panic!("deliveries")
    };
    let messages = deliveries.iter().map(|delivery| delivery.message.clone()).collect();
    let cause = |code: &str| Cause {
        code: code.to_owned(),
        reason: format!("\u{1b}[31mbecause of {code}"),
        attempts: 5,
        handler: "mirror".to_owned(),
        module: "abc".to_owned(),
        at: std::time::SystemTime::now(),
    };
    let batch = deliveries
        .into_iter()
        .zip(codes.iter().cycle())
        .map(|(delivery, code)| (delivery, Settlement::Dead(cause(code))));
    let settled = subscription.settle(batch.collect()).await;
    assert!(settled.iter().all(|settled| matches!(settled, bus::Settled::Committed)), "{settled:?}");
    subscription.close().await.unwrap();
    messages
}

#[test]
fn dead_letters_are_listed_shown_sent_again_and_deleted() {
    let bench = embedded();
    let vector = catalog();
    let publish = ["publish", "--topic", "catalog", "--type", KIND];
    for _ in 0..3 {
        bench.ok(&publish, vector.data.to_string().as_bytes());
    }
    bench.ok(&[&publish[..], &["--raw"]].concat(), b"\xff\xff");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let messages = runtime.block_on(give_up(&bench, &["trap", "unknown-course"]));
    assert_eq!(messages.len(), 4);

    let list = bench.json(&["dlq", "list", "--json"], b"");
    assert_eq!(list["count"], 4);
    let groups: Vec<_> = list["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| (g["code"].as_str().unwrap(), g["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(groups, [("trap", 2), ("unknown-course", 2)]);
    let ids: Vec<&str> =
        list["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| id.starts_with("mirror/catalog/")), "{ids:?}");

    let text = bench.ok(&["dlq", "list", "--limit", "1"], b"");
    assert!(text.contains("because of trap") && text.contains("… and 3 more"), "{text}");
    assert!(!text.contains('\u{1b}'), "a handler's words reach no terminal as escapes");
    assert_eq!(bench.json(&["dlq", "list", "--json", "--code", "trap"], b"")["count"], 2);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--since", "1h"], b"")["count"], 4);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--since", "2999-01-01T00:00:00Z"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--until", "1h"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--type", "org.other.*"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--topic", "other"], b"")["count"], 0);
    assert_eq!(bench.call(&["dlq", "list", "--handler", "other"], b"").code, 2);

    let shown = bench.json(&["dlq", "show", ids[0], "--json"], b"");
    assert_eq!((&shown["data"], &shown["code"]), (&vector.data, &Value::from("trap")));
    assert_eq!(BASE64.decode(shown["payload_base64"].as_str().unwrap()).unwrap(), vector.datum());
    let raw = bench.json(&["dlq", "show", ids[3], "--json"], b"");
    assert_eq!((&raw["data"], raw["payload_base64"].as_str()), (&Value::Null, Some("//8=")));
    let text = bench.ok(&["dlq", "show", ids[3]], b"");
    assert!(text.contains("code: unknown-course") && text.contains("payload (base64):\n//8="), "{text}");

    let absent = bench.call(&["dlq", "requeue", ids[0], "mirror/catalog/999999"], b"");
    assert_eq!(absent.code, 2, "{}", absent.stderr);
    assert_eq!(bench.json(&["dlq", "list", "--json"], b"")["count"], 4, "one wrong id changes nothing");
    assert_eq!(bench.json(&["dlq", "requeue", ids[0], "--json"], b"")["requeued"], 1);
    let status = &bench.json(&["status", "--json"], b"")["handlers"][0];
    assert_eq!((&status["dead_letters"], &status["retrying"], &status["lag"]), (&3.into(), &1.into(), &0.into()));
    let moved = bench.json(&["dlq", "requeue", "--all", "--code", "trap", "--to", "topic", "--json"], b"");
    assert_eq!((&moved["requeued"], &moved["asked"]), (&1.into(), &1.into()));
    let status = &bench.json(&["status", "--json"], b"")["handlers"][0];
    assert_eq!((&status["dead_letters"], &status["retrying"], &status["lag"]), (&2.into(), &1.into(), &1.into()));

    let refused = bench.call(&["dlq", "purge", "--all"], b"");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(bench.json(&["dlq", "list", "--json"], b"")["count"], 2);
    assert_eq!(bench.ok(&["dlq", "purge", ids[1]], b""), "purged 1 of 1\n");
    assert_eq!(bench.json(&["dlq", "purge", "--all", "--yes", "--json"], b"")["purged"], 1);
    assert_eq!(bench.ok(&["dlq", "list"], b""), "no dead letters\n");
}

#[test]
fn check_says_which_line_grants_what_a_module_imports() {
    let bench = embedded();
    fs::copy(component(), bench.path("mirror.wasm")).unwrap();
    let document = bench.json(&["check", "--json"], b"");
    assert_eq!((&document["ok"], &document["bus"]), (&Value::Bool(true), &"reachable".into()));
    assert_eq!(document["modules"][0]["handler"], "mirror");
    let messages: Vec<_> =
        document["warnings"].as_array().unwrap().iter().map(|w| w["message"].as_str().unwrap()).collect();
    let wanted = "module mirror.wasm imports sandbar:handler/outbox, which [[handler]] \"mirror\" is not granted: \
                  [handler.grants] publish = [\"topic\"]";
    assert!(messages.contains(&wanted), "{messages:?}");
    let granted =
        bench.command(&["check", "--json"]).env("SANDBAR_HANDLER__MIRROR__GRANTS__PUBLISH", "out").spawn().unwrap();
    let ran = finish(granted, b"");
    assert!(!String::from_utf8(ran.stdout).unwrap().contains("handler/outbox"), "granted now");
}

#[test]
fn a_signal_ends_a_run_with_0() {
    let bench = embedded();
    fs::copy(component(), bench.path("mirror.wasm")).unwrap();
    for signal in ["TERM", "INT"] {
        let child = bench.command(&["run"]).env("SANDBAR_LOG", "info").spawn().unwrap();
        let end = Instant::now() + BOUND;
        while bench.json(&["status", "--json"], b"")["handlers"][0]["consumers"].as_array().unwrap().is_empty() {
            assert!(Instant::now() < end, "the handler has not joined within {BOUND:?}");
        }
        let id = child.id().to_string();
        // As `timeout` does: the process and then its group, so the same signal twice.
        for _ in 0..2 {
            assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        }
        let ran = finish(child, b"");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("SIG{signal}")), "{}", ran.stderr);
        assert_eq!(bench.json(&["status", "--json"], b"")["handlers"][0]["consumers"], Value::Array(Vec::new()));
    }
}
