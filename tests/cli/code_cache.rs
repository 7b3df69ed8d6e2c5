//! `host.code_cache` as a user meets it: where it is, that `check` fills it, and that `run` does not compile then.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::host::{Bench, HandlerToml};

const COMPILED: &str = "the module is compiled";
const CACHED: &str = "the module's code is in the code cache";

fn bench(setting: &str) -> Bench {
    let bench = Bench::new();
    let url = format!("sqlite:{}", bench.path("bus.db").display());
    let config = bench.config(&url, &[HandlerToml::new("noop", "noop", "in")]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[host]\n{setting}\n{text}")).unwrap();
    bench
}

/// Runs to its end; answers what was logged.
fn start(bench: &Bench, args: &[&str]) -> String {
    let mut command = bench.command(args);
    command.env("XDG_CACHE_HOME", bench.path("caches")).env("SANDBAR_LOG", "debug");
    let ran = crate::support::process::finish(command.spawn().unwrap(), b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stderr
}

const RUN: &[&str] = &["run", "--until-idle"];

#[test]
fn check_fills_it_and_a_start_does_not_compile() {
    let bench = bench("");
    start(&bench, &["check"]);
    let folder = bench.path("caches/sandbar/code");
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
    for _ in 0..2 {
        let log = start(&bench, RUN);
        assert!(log.contains(CACHED) && !log.contains(COMPILED), "{log}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let log = start(&bench, RUN);
    assert!(log.contains(COMPILED) && !log.contains(CACHED), "{log}");
    assert!(start(&bench, RUN).contains(CACHED));
}

#[test]
fn it_is_where_the_configuration_says_or_nowhere() {
    let elsewhere = bench("code_cache = \"code\"");
    assert!(start(&elsewhere, RUN).contains(COMPILED));
    assert!(start(&elsewhere, RUN).contains(CACHED));
    assert!(elsewhere.path("code/key").is_file() && !elsewhere.path("caches").exists());

    let off = bench("code_cache = false");
    for _ in 0..2 {
        assert!(start(&off, RUN).contains(COMPILED));
    }
    assert!(!off.path("caches").exists());
}

#[test]
fn a_host_without_one_says_so_and_runs() {
    let bench = bench("code_cache = \"sandbar.toml\"");
    let log = start(&bench, RUN);
    assert!(log.contains("WARN") && log.contains("the code cache") && log.contains(COMPILED), "{log}");
}
