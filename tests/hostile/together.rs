//! All cases at once in a real host, each a handler of its own, and one well-behaved neighbour.

use std::fmt::Write as _;
use std::fs;

use super::case;
use crate::support::events::{Draft, open, publish};
use crate::support::host::Bench;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_is_a_dead_letter_with_its_code_and_the_neighbour_is_served() {
    let code = Bench::new();
    // The second time nothing is compiled.
    for isolation in ["none", "process"] {
        all_at_once(isolation, &code.path("code")).await;
    }
}

async fn all_at_once(isolation: &str, code: &std::path::Path) {
    let bench = Bench::new();
    let url = format!("sqlite:{}", bench.path("bus.db").display());
    let bus = open(&url).await;
    let cases: Vec<_> = case::all().into_iter().filter(|case| !case.is_refused()).collect();
    let mut config = format!("[host]\ncode_cache = {code:?}\n[bus]\nurl = {url:?}\n{}", handler("neighbour"));
    config.push_str("[handler.grants]\nkeys = true\n");
    fs::create_dir(bench.path("modules")).unwrap();
    let module = |name: &str| bench.path("modules").join(format!("{name}.wasm"));
    fs::write(module("neighbour"), crate::sandbox::support::guest("probe")).unwrap();
    for case in &cases {
        fs::write(module(&case.name), case.wasm()).unwrap();
        let settings = case.settings();
        let isolation = if case.may_be_isolated() { isolation } else { "none" };
        write!(config, "{}isolation = {isolation:?}\n{settings}", handler(&case.name)).unwrap();
        let draft = Draft::new(if case.kind.is_empty() { "any" } else { &case.kind });
        let draft = case.headers.iter().fold(draft, |draft, (name, value)| draft.header(name, value));
        publish(&bus, &case.name, &[draft]).await;
    }
    let secret = Draft::new("keys").header("do", "set secret hush").header("then", "ok");
    publish(&bus, "neighbour", &[secret]).await;
    publish(&bus, "neighbour", &(0..200).map(|_| Draft::new("ok")).collect::<Vec<_>>()).await;
    let path = bench.path("sandbar.toml");
    fs::write(&path, config).unwrap();
    let mut host = bench.run(&path, &["--until-idle", "--json"]);
    host.finish();

    let summary = host.summary();
    let done = |name: &str| {
        let handlers = summary["handlers"].as_array().unwrap();
        let handler = handlers.iter().find(|handler| handler["handler"] == *name).unwrap();
        (handler["acked"].as_u64().unwrap(), handler["dead"].as_u64().unwrap())
    };
    assert_eq!(done("neighbour"), (201, 0));
    for case in &cases {
        let letters = bus.dead_letters(&case.name.as_str().into(), &case.name, None, 10).await.unwrap();
        if case.is_done() {
            assert_eq!((done(&case.name), letters.len()), ((1, 0), 0), "{}", case.name);
            continue;
        }
        assert_eq!((done(&case.name), letters.len()), ((0, 1), 1), "{}", case.name);
        assert_eq!(letters[0].cause.code, case.expect.code, "{}: {}", case.name, letters[0].cause.reason);
        case.check_reason(&letters[0].cause.reason);
    }
    let log = host.log();
    assert!(!log.contains('\u{1b}') && !log.contains("panicked at"), "{log}");
}

fn handler(name: &str) -> String {
    format!(
        "[[handler]]\nname = {name:?}\nmodule = \"modules/{name}.wasm\"\ntopics = [{name:?}]\nstart = \"beginning\"\nmax_attempts = 1\n"
    )
}

#[test]
fn check_says_why_each_is_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.path("modules")).unwrap();
    let cases: Vec<_> = case::all().into_iter().filter(case::Case::is_refused).collect();
    let mut config = String::from("[bus]\nurl = \"sqlite:bus.db\"\n");
    for case in &cases {
        fs::write(bench.path("modules").join(format!("{}.wasm", case.name)), case.wasm()).unwrap();
        write!(config, "{}{}", handler(&case.name), case.settings()).unwrap();
    }
    fs::write(bench.path("sandbar.toml"), config).unwrap();
    let ran = bench.call(&["check", "--offline"], b"");
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    for case in &cases {
        let line = ran.stderr.lines().find(|line| line.contains(&format!("{:?}", case.name)));
        case.check_refusal(line.unwrap_or_else(|| panic!("{} is not in {}", case.name, ran.stderr)));
    }
}
