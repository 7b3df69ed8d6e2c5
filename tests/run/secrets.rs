//! Secrets as an operator meets them: from a variable or a file, read at the start, and seen nowhere.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;
use crate::support::process::{Ran, finish};

const VALUE: &str = "s3cr3t/of-the+lrs";

/// A handler that asks for `TOKEN`, and what `[secrets]` says of it.
fn asking(secrets: &str) -> Bench {
    let bench = Bench::new();
    let path = bench.config(&embedded(&bench), &[probe().with("[handler.grants]\nsecrets = [\"TOKEN\"]")]);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("[secrets]\n{secrets}\n{text}")).unwrap();
    bench
}

fn file(bench: &Bench, value: &str, mode: u32) {
    let path = bench.path("token");
    std::fs::write(&path, value).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn ended(mut command: Command) -> Ran {
    finish(command.spawn().unwrap(), b"")
}

fn run(bench: &Bench) -> Command {
    bench.command(&["run", "--until-idle"])
}

/// Runs a host whose handler tells the secret in every way; answers what was logged and the dead letters.
async fn told(bench: &Bench, command: Command) -> (String, Vec<DeadLetter>) {
    let bus = open(&embedded(bench)).await;
    let way = |way: &str| Draft::new("secret").header("name", "TOKEN").header("way", way).header("value", VALUE);
    publish(&bus, "in", &["is", "log", "print", "panic", "retry", "reject"].map(way)).await;
    let ran = ended(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    (ran.stderr, bus.dead_letters(&"in".into(), "probe", None, 10).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_its_handler_and_is_seen_nowhere() {
    let by_name = asking("");
    let mut named = run(&by_name);
    named.env("SANDBAR_SECRET_TOKEN", VALUE);
    let by_variable = asking("TOKEN = { env = \"LRS__TOKEN\" }");
    let mut other = run(&by_variable);
    other.env("LRS__TOKEN", VALUE).env("SANDBAR_SECRET_TOKEN", "another one of that name");
    let by_file = asking("TOKEN = { file = \"token\" }");
    file(&by_file, &format!("{VALUE}\n"), 0o600);
    let filed = run(&by_file);
    for (bench, command) in [(&by_name, named), (&by_variable, other), (&by_file, filed)] {
        let (log, letters) = told(bench, command).await;
        let reasons: Vec<&str> = letters.iter().map(|letter| letter.cause.reason.as_str()).collect();
        assert!(reasons.contains(&"true"), "the handler has it: {reasons:?}");
        assert_eq!(reasons.iter().filter(|reason| reason.contains("it is ***")).count(), 3, "{reasons:?}");
        assert!(log.matches("***").count() >= 6, "{log}");
        let causes: String = letters.iter().map(|letter| format!("{:?}", letter.cause)).collect();
        for text in [&log, &causes] {
            assert!(!text.contains(&VALUE[..8]) && !text.contains("of-the"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_without_a_value_refuses_the_start() {
    let bench = asking("");
    for ran in [ended(run(&bench)), bench.call(&["check"], b"")] {
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        // The line is that of the list.
        for part in ["sandbar.toml:", "asks for the secret \"TOKEN\"", "SANDBAR_SECRET_TOKEN", "{ file = "] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
    let offline = bench.call(&["check", "--offline"], b"");
    assert_eq!(offline.code, 0, "{}", offline.stderr);
    assert!(offline.stderr.contains("warning: ") && offline.stderr.contains("SANDBAR_SECRET_TOKEN"));
    let mut empty = run(&bench);
    empty.env("SANDBAR_SECRET_TOKEN", "");
    assert_eq!(ended(empty).code, 4);
    // What does not call handlers needs no secrets.
    assert_eq!(bench.call(&["status"], b"").code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_used_is_refused_and_not_shown() {
    let bench = asking("");
    for (value, why) in [("short77", "7 bytes"), (&*"long".repeat(20_000), "80000 bytes")] {
        let mut command = run(&bench);
        command.env("SANDBAR_SECRET_TOKEN", value);
        let ran = ended(command);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(ran.stderr.contains(why) && !ran.stderr.contains(value), "{}", ran.stderr);
    }
    let bench = asking("TOKEN = { file = \"token\" }");
    let missing = ended(run(&bench));
    assert!(missing.code == 4 && missing.stderr.contains("token cannot be used"), "{}", missing.stderr);
    file(&bench, "", 0o600);
    assert_eq!(ended(run(&bench)).code, 4, "an empty file is no secret");
    file(&bench, VALUE, 0o602);
    let writable = ended(run(&bench));
    assert_eq!(writable.code, 4, "{}", writable.stderr);
    assert!(writable.stderr.contains("everybody may write it (mode 0602)"), "{}", writable.stderr);
    file(&bench, VALUE, 0o604);
    for ran in [ended(run(&bench)), bench.call(&["check"], b"")] {
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("everybody may read") && !ran.stderr.contains(VALUE), "{}", ran.stderr);
    }
    file(&bench, VALUE, 0o640);
    let fine = ended(run(&bench));
    assert!(fine.code == 0 && !fine.stderr.contains("everybody"), "{}", fine.stderr);
    std::fs::remove_file(bench.path("token")).unwrap();
    std::fs::create_dir(bench.path("token")).unwrap();
    assert!(ended(run(&bench)).stderr.contains("it is no file"));
}
