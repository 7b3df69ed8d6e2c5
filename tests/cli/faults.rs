//! What is wrong with a real Redis, and how each command ends on it.

use super::*;
use crate::support::host::HandlerToml;
use crate::support::redis::{Server, free_port};

/// Commands that need the bus, with what they read from stdin. None of them names a dead letter: there is none.
const ALL: [&[&str]; 7] = [
    &["run", "--until-idle"],
    &["check"],
    &["status"],
    &["publish", "--topic", "in", "--type", "x", "--raw"],
    &["dlq", "list"],
    &["dlq", "requeue", "--all"],
    &["dlq", "purge", "--all", "--yes"],
];

fn noop(url: &str) -> Bench {
    let bench = Bench::new();
    bench.config(url, &[HandlerToml::new("noop", "noop", "in")]);
    bench
}

/// Runs each command and holds its exit code and words against what is expected of it.
fn each(bench: &Bench, expected: impl Fn(&[&str]) -> (i32, &'static str)) {
    for args in ALL {
        let ran = bench.call(args, b"x");
        let (code, words) = expected(args);
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.stderr, ran.text());
        assert!(ran.stderr.contains(words), "{args:?}: {words:?} is not in {}", ran.stderr);
        assert!(!ran.stderr.contains("hush"), "the password is told: {}", ran.stderr);
        let told = ran.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(told, usize::from(code != 0), "{args:?} tells one error: {}", ran.stderr);
    }
}

#[test]
fn a_server_that_is_not_there_is_3_for_every_command() {
    let bench = noop(&format!("redis://:hush@127.0.0.1:{}/0", free_port()));
    each(&bench, |_| (3, "cannot be reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_refused_are_3_for_every_command() {
    let server = Server::start(&["requirepass", "right"]).await;
    each(&noop(&server.url().replace("redis://", "redis://:hush@")), |_| (3, "refuses the credentials"));
    each(&noop(&server.url()), |_| (3, "refuses the credentials"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_no_stream_is_4() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["SET", "in", "x"]).await;
    // Dead letters lie under another key, so those commands work.
    each(&noop(&server.url()), |args| if args[0] == "dlq" { (0, "") } else { (4, "in is a string, not a stream") });

    let server = Server::start(&[]).await;
    server.run::<()>(&["SET", "{in}.dlq.noop", "x"]).await;
    let bench = noop(&server.url());
    for args in ALL.iter().filter(|args| args[0] == "dlq") {
        let ran = bench.call(args, b"");
        assert_eq!(ran.code, 4, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("{in}.dlq.noop is a string, not a stream"), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_consumers_of_others_is_4_where_it_would_be_joined() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["XGROUP", "CREATE", "in", "noop", "0", "MKSTREAM"]).await;
    server.run::<()>(&["XGROUP", "CREATECONSUMER", "in", "noop", "python-1"]).await;
    let joins = |args: &[&str]| matches!(args[0], "run" | "check");
    each(&noop(&server.url()), |args| if joins(args) { (4, "python-1") } else { (0, "") });
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_all_that_is_wrong_with_files_and_bus_at_once() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["SET", "wrong", "x"]).await;
    server.run::<()>(&["XGROUP", "CREATE", "joined", "shared", "0", "MKSTREAM"]).await;
    server.run::<()>(&["XGROUP", "CREATECONSUMER", "joined", "shared", "python-1"]).await;
    let bench = Bench::with(&format!(
        r#"[bus]
url = "{}"
[schemas]
dirs = ["nowhere"]
[[handler]]
name = "broken"
module = "broken.wasm"
topics = ["fine"]
[[handler]]
name = "asks"
module = "asks.wasm"
topics = ["wrong"]
[handler.grants]
keys = true
[[handler]]
name = "shared"
module = "asks.wasm"
topics = ["joined"]
"#,
        server.url()
    ));
    fs::write(bench.path("broken.wasm"), "no module").unwrap();
    fs::copy(component(), bench.path("asks.wasm")).unwrap();

    let errors = [
        (3, "nowhere"),
        (7, "[[handler]] \"broken\": module broken.wasm is not a WebAssembly binary"),
        (12, "wrong is a string, not a stream"),
        (18, "group shared on joined has live consumers that are not Sandbar's (python-1)"),
    ];
    let ran = bench.call(&["check"], b"");
    assert_eq!(ran.code, 2, "the smallest of all: {}", ran.stderr);
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(told.len(), errors.len(), "{told:#?}");
    for (told, (line, words)) in told.iter().zip(errors) {
        assert!(told.starts_with(&format!("error: sandbar.toml:{line}: ")) && told.contains(words), "{words}: {told}");
    }
    // One is granted, the others are not; without a table for grants the handler's own line is named.
    let warned = |start: &str| ran.stderr.lines().any(|line| line.starts_with(start));
    let asks = "module asks.wasm imports sandbar:handler/";
    assert!(warned(&format!("warning: sandbar.toml:13: {asks}outbox, which [[handler]] \"asks\"")), "{}", ran.stderr);
    assert!(!warned(&format!("warning: sandbar.toml:13: {asks}keys")), "{}", ran.stderr);
    assert!(warned(&format!("warning: sandbar.toml:15: {asks}keys, which [[handler]] \"shared\"")), "{}", ran.stderr);
    assert!(ran.text().contains("bus: reachable"), "{}", ran.text());

    let document: Value = serde_json::from_slice(&bench.call(&["check", "--json"], b"").stdout).unwrap();
    let lines: Vec<_> = document["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(lines, errors.map(|(line, _)| line));
    let without = bench.command(&["check"]).env("SANDBAR_SCHEMAS__DIRS", "").spawn().unwrap();
    assert_eq!(finish(without, b"").code, 4, "with the schemas right, what is left is refused at the start");
}
