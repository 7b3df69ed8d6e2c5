//! `sandbar test`: a module's fixtures.

use std::fs;

use serde_json::{Value, json};

use crate::support::host::{Bench, guest, workspace};

fn fixtures(of: &str) -> String {
    workspace().join("example-handlers").join(of).join("fixtures").display().to_string()
}

fn path(name: &str) -> String {
    guest(name).display().to_string()
}

/// A fixture of `xapi` with one of its values changed.
fn changed(bench: &Bench, pointer: &str, to: Value) {
    let text = fs::read_to_string(format!("{}/enrolled.event.json", fixtures("xapi"))).unwrap();
    let mut fixture: Value = serde_json::from_str(&text).unwrap();
    *fixture.pointer_mut(pointer).unwrap() = to;
    fs::create_dir_all(bench.path("xapi")).unwrap();
    fs::write(bench.path("xapi/enrolled.event.json"), fixture.to_string()).unwrap();
}

#[test]
fn the_fixtures_of_the_example_handlers_pass() {
    let bench = Bench::with("");
    let text = bench.ok(&["test", &path("xapi"), "--fixtures", &fixtures("xapi")], b"");
    assert_eq!(text, "passed   enrolled\npassed   grade-beyond-one\n2 passed, 0 failed, 0 skipped\n");
    let mirror =
        bench.json(&["test", &path("catalog-mirror"), "--fixtures", &fixtures("catalog-mirror"), "--json"], b"");
    assert_eq!((&mirror["fixture"], &mirror["outcome"]), (&json!("hidden"), &json!("passed")), "{mirror}");
}

#[test]
fn what_is_not_as_expected_is_told_with_its_place() {
    let bench = Bench::with("");
    // The folder beside the module is found by itself.
    fs::copy(guest("xapi"), bench.path("xapi.wasm")).unwrap();
    for (pointer, to, told) in [
        ("/expect/verdict", json!("reject"), "the verdict is done, expected is reject"),
        ("/expect/published/0/topic", json!("elsewhere"), "the verdict is reject"),
        ("/expect/published/0/key", json!("k"), "published[0] has the key"),
        ("/expect/published/0/type", json!("t"), "published[0] has the type \"xapi.statement.v1\""),
        ("/expect/published/0/data/actor/account/name", json!("8"), "published[0].data: /actor/account/name is \"7\""),
        ("/expect/published", json!([]), "the verdict is reject (denied"),
        ("/config", json!({}), "the verdict is reject"),
        ("/event/data/enrollment/mode", json!(5), "/enrollment/mode"),
        ("/event/time", json!("yesterday"), "header time is \"yesterday\""),
    ] {
        changed(&bench, pointer, to);
        let ran = bench.call(&["test", "xapi.wasm"], b"");
        assert_eq!(ran.code, 6, "{pointer}: {}{}", ran.text(), ran.stderr);
        assert!(ran.text().contains(told), "{pointer}: {}", ran.text());
        assert!(ran.text().ends_with("0 passed, 1 failed, 0 skipped\n"), "{}", ran.text());
    }
}

#[test]
fn as_a_handler_it_has_that_handlers_grants_and_types() {
    let config = |more: &str| {
        Bench::with(&format!(
            "[bus]\nurl = \"sqlite:events.db\"\n[[handler]]\nname = \"x\"\nmodule = \"x.wasm\"\ntopics = [\"t\"]\n{more}"
        ))
    };
    let test =
        |bench: &Bench| bench.call(&["test", &path("xapi"), "--handler", "x", "--fixtures", &fixtures("xapi")], b"");
    let granted = "[handler.grants]\npublish = [\"xapi-statements\"]\nconfig = { base = \"https://other.example\" }\n";
    let ran = test(&config(granted));
    assert_eq!(ran.code, 0, "the fixture's configuration counts: {}{}", ran.text(), ran.stderr);
    let ran = test(&config("[handler.grants]\nconfig = { base = \"https://other.example\" }\n"));
    assert_eq!(ran.code, 6, "{}", ran.text());
    assert!(ran.text().contains("failed   enrolled: the verdict is reject (denied"), "{}", ran.text());
    let ran = test(&config(&format!("types = [\"org.openedx.learning.course.persistent*\"]\n{granted}")));
    assert_eq!(ran.code, 0, "{}{}", ran.text(), ran.stderr);
    assert!(ran.text().starts_with("skipped  enrolled") && ran.text().contains("1 passed, 0 failed, 1 skipped"));
    let ran = test(&config(&format!("sha256 = \"{}\"\n{granted}", "0".repeat(64))));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}

#[test]
fn what_is_no_fixture_is_wrong_use() {
    let bench = Bench::with("");
    fs::copy(guest("xapi"), bench.path("xapi.wasm")).unwrap();
    let told = |what: &str, told: &str| {
        let ran = bench.call(&["test", "xapi.wasm"], b"");
        assert_eq!(ran.code, 2, "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{what}: {}", ran.stderr);
    };
    told("no folder", "--fixtures names the folder");
    fs::create_dir(bench.path("xapi")).unwrap();
    told("an empty one", "has no file *.event.json");
    fs::write(bench.path("xapi/one.event.json"), "{\"event\": {}, \"expcet\": {}}").unwrap();
    told("a slip", "fixture one cannot be used");
    let ran = bench.call(&["test", "xapi.wasm", "--handler", "nobody"], b"");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}
