//! Requests as an operator meets them: granted by a line, repeated with the event, sent by a confined host, held back in a
//! replay and in a shadow.

use std::fs;
use std::path::Path;

use super::swapping::{digest, serve, until};
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
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("[host]\nhttp_ca_file = \"ca.pem\"\n{text}")).unwrap();
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
    fs::copy(folder.path().join("ca.pem"), bench.path("ca.pem")).unwrap();
    assert_eq!(check().code, 0, "{}", check().stderr);
    bench.run(&config, &["--until-idle"]).finish();
    let letters = bus.dead_letters(&"in".into(), "fetch", None, 10).await.unwrap();
    assert_eq!(letters[0].cause.reason, "200 5 hello");
}

/// Sets `[host]` of a configuration.
fn host_section(config: &Path, lines: &str) {
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, format!("[host]\n{lines}\n{text}")).unwrap();
}

async fn said(host: &Host, what: &str) {
    let end = Instant::now() + BOUND;
    while !host.log().contains(what) {
        assert!(Instant::now() < end, "{what}: {}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Servers are found by their names and trusted by certificates that are read once the host is confined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_host_sends_requests_by_name_and_by_tls() {
    let folder = certificates("IP:127.0.0.1,DNS:localhost");
    let ca = folder.path().join("ca.pem");
    let server = Server::start(&[]).await;
    let unix = format!("unix://{}", server.socket().display());
    let (plain, secured) = (Web::start(), Web::secured(folder.path()));
    for (n, bus_url) in [None, Some(server.url()), Some(unix)].into_iter().enumerate() {
        // The system's authorities, and the operator's own; neither lies beside the configuration.
        for (web, system, own) in [(&plain, false, false), (&secured, true, false), (&secured, false, true)] {
            let bench = Bench::new();
            let url = bus_url.clone().unwrap_or_else(|| embedded(&bench));
            let topic = format!("in-{n}-{}-{system}-{own}", web.port);
            let to = web.url_by("localhost", "/statements");
            let handler = HandlerToml::new("fetch", "fetch", &topic).with("max_attempts = 1");
            let grant = format!("http = [{{ url = \"{to}\", private = true }}]");
            let config = bench.config(&url, &[handler.with(&format!("[handler.grants]\n{grant}"))]);
            if own {
                host_section(&config, &format!("http_ca_file = {ca:?}"));
            }
            let bus = open(&url).await;
            publish(&bus, &topic, &[Draft::new("fetch").header("do", format!("POST {to}")).header("body", "it")]).await;
            let asked = web.asked().len();
            let mut host = bench.run_as(&config, &["--until-idle"], |command| {
                command.envs(system.then_some(("SSL_CERT_FILE", &ca)));
            });
            host.finish();
            assert!(host.log().contains("the host is confined"), "{}", host.log());
            let letters = bus.dead_letters(&topic.as_str().into(), "fetch", None, 10).await.unwrap();
            assert_eq!(letters[0].cause.reason, "200 5 hello", "{url}: {}", host.log());
            let arrived = web.asked();
            assert_eq!((arrived.len(), &arrived[asked].body[..]), (asked + 1, &b"it"[..]));
            assert_eq!(arrived[asked].header("host"), format!("localhost:{}", web.port));
        }
    }
}

/// What a host has given up does not come back: it says so instead of failing each request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_confined_without_requests_takes_no_grant_for_them() {
    let web = Web::start();
    let url_of = |path: &str| web.url_by("localhost", path);
    let grant = format!("http = [{{ url = \"{}\", private = true }}]", url_of("/*"));
    let granted = || fetch(&grant);
    let disabled =
        || HandlerToml::new("later", "fetch", "in").with(&format!("enabled = false\n[handler.grants]\n{grant}"));
    for (hardening, before) in [("on", vec![fetch("")]), ("on", vec![fetch(""), disabled()]), ("off", vec![fetch("")])]
    {
        let refused = hardening == "on" && before.len() == 1;
        let bench = Bench::new();
        let url = embedded(&bench);
        let host_lines = format!("hardening = {hardening:?}");
        let config = bench.config(&url, &before);
        host_section(&config, &host_lines);
        let mut command = bench.command(&["run"]);
        command.env("SANDBAR_LOG", "info");
        let mut host = bench.start(command);
        said(&host, "the control socket listens").await;
        let first = digest(&crate::support::host::guest("fetch"));
        until(&bench, "it runs", |now| serve(now, 1, &first)).await;

        let config = bench.config(&url, &[granted()]);
        host_section(&config, &host_lines);
        host.signal("-HUP");
        let told = if refused { "that takes a restart" } else { "the configuration is taken over" };
        said(&host, told).await;
        let bus = open(&url).await;
        publish(&bus, "in", &[Draft::new("fetch").header("do", format!("GET {}", url_of("/a"))).header("then", "ok")])
            .await;
        progress(&bus, "fetch", |lag| lag == 0).await;
        if refused {
            assert!(host.log().contains("has the grant `http`"), "{}", host.log());
            assert!(!host.log().contains("is taken over"), "{}", host.log());
        }
        host.terminate();
        assert!(host.wait(BOUND).success());
        assert_eq!(web.asked().len(), usize::from(!refused), "{}", host.log());
        web.forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_in_the_shadow_sends_nothing_and_what_it_would_have_asked_is_not_compared() {
    let web = Web::start();
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[fetch(&format!("http = [\"{}\"]", web.url("/*")))]);
    let mut host = bench.run(&config, &["--json"]);
    let first = digest(&crate::support::host::guest("fetch"));
    until(&bench, "it runs", |now| serve(now, 1, &first)).await;
    let same = super::swapping::variant_of(&bench, "fetch", 1);
    let swapped = bench.ok(&["swap", "fetch", same.to_str().unwrap(), "--shadow"], b"");
    assert!(swapped.contains("in the shadow of"), "{swapped}");
    let post = || Draft::new("fetch").header("do", format!("POST {}", web.url("/a"))).header("then", "ok");
    let other = || Draft::new("fetch").header("then", "ok");
    publish(&bus, "in", &[post(), other(), post(), other(), post()]).await;
    let end = Instant::now() + BOUND;
    let now = loop {
        let now = bench.json(&["versions", "--json"], b"")["handlers"][0]["candidate"]["shadow"].clone();
        let count = |name: &str| now[name].as_u64().unwrap_or(0);
        if count("compared") + count("skipped") + count("dropped") >= 5 {
            break now;
        }
        assert!(Instant::now() < end, "five are looked at: {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&now["compared"], &now["differed"], &now["skipped"]), (&2.into(), &0.into(), &3.into()), "{now}");
    assert_eq!(web.asked().len(), 3, "those of the module that is served");
    host.terminate();
    assert!(host.wait(BOUND).success());
}
