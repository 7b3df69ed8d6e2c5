//! What keeps a host from starting: one clear error and an exit code, soon.

use super::*;

/// Runs a host that must end by itself and returns its exit code and log.
fn refused(bench: &Bench, url: &str, handler: HandlerToml) -> (i32, String) {
    let config = bench.config(url, &[handler]);
    let mut host = bench.run(&config, &[]);
    let status = host.wait(BOUND);
    (status.code().unwrap(), host.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_is_not_there() {
    let port = crate::support::redis::free_port();
    let (code, log) = refused(&Bench::new(), &format!("redis://:hush@127.0.0.1:{port}/0"), probe());
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("cannot be reached") && !log.contains("hush"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password() {
    let server = Server::start(&["requirepass", "right"]).await;
    let url = server.url().replace("redis://", "redis://:wrong@");
    let (code, log) = refused(&Bench::new(), &url, probe());
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("credentials") && !log.contains("wrong@"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_the_wrong_type() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["SET", "in", "x"]).await;
    let (code, log) = refused(&Bench::new(), &server.url(), probe());
    assert_eq!(code, 4, "{log}");
    assert!(log.contains("in is a string, not a stream"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_live_consumers_of_others() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["XGROUP", "CREATE", "in", "probe", "0", "MKSTREAM"]).await;
    server.run::<()>(&["XGROUP", "CREATECONSUMER", "in", "probe", "python-1"]).await;
    let bench = Bench::new();
    let (code, log) = refused(&bench, &server.url(), probe());
    assert_eq!(code, 4, "{log}");
    assert!(log.contains("python-1") && log.contains("--join-foreign"), "{log}");
    let config = bench.config(&server.url(), &[probe()]);
    bench.run(&config, &["--join-foreign", "--until-idle"]).finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_that_are_none() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let core = wat::parse_str("(module)").unwrap();
    let empty = wat::parse_str("(component)").unwrap();
    for (wasm, expected) in [
        (&b"#!/bin/sh"[..], "not a WebAssembly binary"),
        (&core, "core module"),
        (&empty, "sandbar:handler/guest@0.1.0"),
    ] {
        let path = bench.path("module.wasm");
        std::fs::write(&path, wasm).unwrap();
        let config = bench.config(&url, &[probe()]);
        let text = std::fs::read_to_string(&config).unwrap();
        let line = text.lines().find(|line| line.starts_with("module")).unwrap();
        std::fs::write(&config, text.replace(line, "module = \"module.wasm\"")).unwrap();
        let mut host = bench.run(&config, &[]);
        assert_eq!(host.wait(BOUND).code(), Some(4), "{}", host.log());
        assert!(host.log().contains(expected), "{expected}: {}", host.log());
        let ran = bench.call(&["check"], b"");
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
}
