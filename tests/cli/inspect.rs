//! `sandbar inspect` as a user meets it.

use serde_json::{Value, json};

use super::embedded;
use crate::support::host::{Bench, guest, workspace};

fn path(name: &str) -> String {
    guest(name).display().to_string()
}

#[test]
fn it_tells_what_an_example_handler_is() {
    let bench = Bench::with("");
    let (file, wasm) = (path("xapi"), std::fs::read(guest("xapi")).unwrap());
    let text = bench.ok(&["inspect", &file], b"");
    let digest = sandbar::sandbox::inspect(&wasm).digest;
    for line in [
        &*format!("sha256     {digest}"),
        &format!("size       {} bytes", wasm.len()),
        "contract   sandbar:handler@0.1.0",
        "exports    sandbar:handler/guest@0.1.0",
        "           sandbar:handler/outbox@0.1.0",
        "grants     [handler.grants] publish = [\"topic\"]",
        "           [handler.grants] config = { name = \"value\" }",
        "optional   [handler.grants] clock = true",
        "producers  language: Rust",
        "signature  none",
        "loads      as far as can be seen",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let document = bench.json(&["inspect", &file, "--json"], b"");
    assert_eq!(document["sha256"], digest);
    assert_eq!(
        document["grants"][0],
        json!({
            "imports": "sandbar:handler/outbox", "line": "[handler.grants] publish = [\"topic\"]", "optional": false
        })
    );
    assert_eq!((&document["compiled"], &document["handler"]), (&Value::Bool(false), &Value::Null));
}

/// What differs from one compiler to the next stands in the README as an example.
const OF_THE_BUILD: [&str; 2] = ["sha256 ", "size "];

#[test]
fn the_readme_shows_what_each_example_is() {
    let bench = Bench::with("");
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    for name in ["hello", "xapi", "catalog-mirror", "notify-flaky", "sealed"] {
        let shown = readme.split_once(&format!("$ sandbar inspect {name}.wasm\n")).unwrap().1;
        let shown: Vec<&str> = shown.lines().take_while(|line| !line.is_empty() && !line.starts_with("```")).collect();
        let text = bench.ok(&["inspect", &path(name)], b"");
        let mut said = text.lines();
        assert!(shown.len() > 8, "{shown:?}");
        for line in shown.into_iter().filter(|line| line.trim() != "…" && !line.starts_with("file ")) {
            let is = |found: &str| match OF_THE_BUILD.iter().find(|what| line.starts_with(**what)) {
                Some(what) => found.starts_with(what),
                None => found == line,
            };
            assert!(said.any(is), "the README shows {line:?} of {name}, in this order; it says\n{text}");
        }
    }
}

#[test]
fn it_says_whether_a_handler_would_run_it() {
    let bench = embedded();
    let file = path("xapi");
    let document = bench.json(&["inspect", &file, "--handler", "mirror", "--json"], b"");
    let handler = &document["handler"];
    assert_eq!((&handler["accepted"], handler["missing"].as_array().unwrap().len()), (&Value::Bool(true), 2));
    let text = bench.ok(&["inspect", &file, "--config", "sandbar.toml", "--handler", "mirror"], b"");
    assert!(
        text.contains("accepted   by handler \"mirror\"") && text.contains("not granted: [handler.grants] publish")
    );

    let config = std::fs::read_to_string(bench.path("sandbar.toml")).unwrap();
    std::fs::write(bench.path("sandbar.toml"), format!("{config}sha256 = \"{}\"\n", "0".repeat(64))).unwrap();
    let refused = bench.call(&["inspect", &file, "--handler", "mirror"], b"");
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.text().contains("refused    by handler \"mirror\": it has the digest"), "{}", refused.text());
    let unknown = bench.call(&["inspect", &file, "--handler", "miror"], b"");
    assert!(unknown.code == 2 && unknown.stderr.contains("\"mirror\""), "{}", unknown.stderr);
}

#[test]
fn what_is_no_handler_is_told_and_refused() {
    let bench = Bench::with("");
    for (bytes, why) in [
        (b"#!/bin/sh".to_vec(), "is not a WebAssembly binary"),
        (wat::parse_str("(component)").unwrap(), "exports nothing"),
    ] {
        std::fs::write(bench.path("x.wasm"), &bytes).unwrap();
        let ran = bench.call(&["inspect", "x.wasm"], b"");
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(ran.text().contains(why) && !ran.text().contains('\u{1b}'), "{}", ran.text());
    }
    assert_eq!(bench.call(&["inspect", "missing.wasm"], b"").code, 2);
}
