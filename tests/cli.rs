//! The real binary, from outside: what it prints, and how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::BOUND;
use crate::support::host::Bench;
use crate::support::process::finish;
use crate::support::vectors::{Vector, vector, vectors};

mod code_cache;
mod documents;
mod faults;
mod inspect;
mod letters;
mod many_letters;
mod publishing;
mod replay;
mod status;
mod store;
mod testing;

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
