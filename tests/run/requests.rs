//! Requests as an operator meets them: granted by a line, repeated with the event, held back in a replay.

use super::*;
use crate::support::web::{Web, certificates};

fn fetch(grants: &str) -> HandlerToml {
    let handler = HandlerToml::new("fetch", "fetch", "in").with("max_attempts = 2\nretry_first = \"10ms\"");
    handler.with(&format!("[handler.grants]\n{grants}"))
}

fn keys(web: &Web) -> Vec<String> {
    web.asked().iter().map(|asked| asked.header("idempotency-key").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_sends_the_same_key_and_a_replay_without_effects_sends_nothing() {
    let web = Web::start();
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let post = |then: &str| {
        let path = web.url("/private-path?token=4711");
        Draft::new("fetch").header("do", format!("POST {path}")).header("then", then)
    };
    publish(&bus, "in", &[post("retry"), post("retry")]).await;
    let config = bench.config(&url, &[fetch(&format!("http = [\"{}\"]", web.url("/*")))]);
    let mut command = bench.command(&["run", "--until-idle"]);
    command.env("SANDBAR_LOG", "info,sandbar=debug");
    let ran = crate::support::process::finish(command.spawn().unwrap(), b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("a request was answered"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("4711"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("which it was not given"), "{}", ran.stderr);

    let mut keys_seen = keys(&web);
    keys_seen.sort();
    assert_eq!(keys_seen.len(), 4);
    assert!(
        keys_seen[0] == keys_seen[1] && keys_seen[1] != keys_seen[2] && keys_seen[2] == keys_seen[3],
        "{keys_seen:?}"
    );

    let replay = |more: &[&str], code: i32| {
        let path = config.to_str().unwrap();
        let ran = bench.call(
            &[&["replay", "--config", path, "--json", "--handler", "fetch", "--from", "beginning"], more].concat(),
            b"",
        );
        assert_eq!(ran.code, code, "{}{}", ran.stderr, ran.text());
        ran.text()
    };
    let told = replay(&[], 6);
    assert_eq!(told.matches("a replay without --effects sends no requests").count(), 2, "{told}");
    assert_eq!(web.asked().len(), 4);
    replay(&["--effects"], 6);
    assert_eq!(web.asked().len(), 6);
    assert!(keys(&web)[4..].iter().all(|key| keys_seen.contains(key)), "a receiver knows them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_with_the_line_to_add() {
    let web = Web::start();
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("fetch").header("do", format!("GET {}", web.url("/a")))]).await;
    let config = bench.config(&url, &[fetch("")]);
    let line = r#"[handler.grants] http = ["https://host.example.org/*"]"#;
    let path = config.to_str().unwrap();
    let checked = bench.call(&["check", "--config", path], b"");
    assert!(
        checked.stderr.contains("wasi:http/outgoing-handler") && checked.stderr.contains(line),
        "{}",
        checked.stderr
    );
    let module = crate::support::host::guest("fetch");
    let inspected = bench.call(&["inspect", module.to_str().unwrap(), "--config", path, "--handler", "fetch"], b"");
    assert_eq!(inspected.text().matches(line).count(), 2, "{}", inspected.text());
    let mut host = bench.run(&config, &["--until-idle"]);
    host.finish();
    assert!(host.log().contains(line), "{}", host.log());
    let letters = bus.dead_letters(&"in".into(), "fetch", None, 10).await.unwrap();
    let reason = &letters[0].cause.reason;
    let wanted = format!("to allow it: [handler.grants] http = [\"{}\"]", web.url("/*"));
    assert!(reason.contains("HttpRequestDenied") && reason.contains(&wanted), "{reason}");
    assert_eq!(web.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_the_operators_own_is_trusted_if_its_file_can_be_used() {
    let folder = certificates("IP:127.0.0.1");
    let web = Web::secured(folder.path());
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("fetch").header("do", format!("GET {}", web.url("/a")))]).await;
    let config = bench.config(&url, &[fetch(&format!("http = [\"{}\"]", web.url("/*")))]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[host]\nhttp_ca_file = \"ca.pem\"\n{text}")).unwrap();
    let check = || bench.call(&["check", "--config", config.to_str().unwrap()], b"");
    let missing = check();
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("`http_ca_file` in [host]") && missing.stderr.contains("No such file"),
        "{}",
        missing.stderr
    );
    let failed = crate::support::process::finish(bench.command(&["run", "--until-idle"]).spawn().unwrap(), b"");
    assert!(failed.code != 0 && failed.stderr.contains("http_ca_file"), "{}", failed.stderr);
    std::fs::copy(folder.path().join("ca.pem"), bench.path("ca.pem")).unwrap();
    assert_eq!(check().code, 0, "{}", check().stderr);
    bench.run(&config, &["--until-idle"]).finish();
    let letters = bus.dead_letters(&"in".into(), "fetch", None, 10).await.unwrap();
    assert_eq!(letters[0].cause.reason, "200 5 hello");
}
