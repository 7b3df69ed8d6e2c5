//! Pause, resume, and the socket through which hosts are told.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_nothing_is_read_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    paused(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_nothing_is_read_on_redis() {
    let server = Server::start(&[]).await;
    paused(&Bench::new(), &server.url()).await;
}

async fn until(bench: &Bench, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["status", "--json"], b"")["handlers"][0].clone();
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn settled(now: &Value) -> bool {
    (&now["lag"], &now["pending"], &now["retrying"]) == (&0.into(), &0.into(), &0.into())
}

/// Once while nothing is to be done, once while events flow and one waits for a retry.
async fn paused(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let handler = probe().with("in_flight = 16\n[handler.limits]\ntime = \"10s\"");
    let config = bench.config(url, &[handler]);
    publish(&bus, "in", &[Draft::new("ok")]).await;
    let mut host = bench.run(&config, &["--json"]);
    until(bench, "it runs", |now| settled(now) && now["state"] == "running").await;
    assert_eq!(bench.ok(&["pause", "probe"], b""), "paused probe on 1 host\n");
    until(bench, "it is paused", |now| now["state"] == "paused").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    publish(&bus, "in", &(0..20).map(|_| Draft::new("ok")).collect::<Vec<_>>()).await;
    // Longer than a read that was under way blocks, and longer than a lease.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending), (Some(20), 0), "{status:?}");
    assert_eq!(bench.ok(&["resume", "--all"], b""), "resumed all handlers on 1 host\n");
    until(bench, "it goes on", settled).await;

    let mut drafts: Vec<Draft> = (0..200).map(|_| Draft::new("busy").header("rounds", 5_000_000)).collect();
    drafts[0] = Draft::new("retry").header("after", 700);
    publish(&bus, "in", &drafts).await;
    until(bench, "some are done", |now| now["lag"].as_u64().unwrap() < 180 && now["retrying"] == 1).await;
    bench.ok(&["pause", "--all"], b"");
    let quiet = until(bench, "it is paused", |now| now["state"] == "paused").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = until(bench, "it is paused", |now| now["state"] == "paused").await;
    assert!(before["lag"].as_u64().unwrap() > 0, "too late to tell: {quiet}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = until(bench, "it is paused", |now| now["state"] == "paused").await;
    for figure in ["lag", "pending", "retrying", "dead_letters"] {
        assert_eq!(before[figure], after[figure], "{figure} while it is paused");
    }
    assert_eq!(after["retrying"], 1, "a retry that falls due waits: {after}");
    bench.ok(&["resume", "probe"], b"");
    until(bench, "all is done", |now| settled(now) && now["dead_letters"] == 1).await;
    host.terminate();
    assert!(host.wait(BOUND).success());
    let tally = &host.summary()["handlers"][0];
    assert_eq!((&tally["acked"], &tally["retried"], &tally["dead"]), (&220.into(), &1.into(), &1.into()));
}

/// The sockets in the default place.
fn sockets(bench: &Bench) -> Vec<PathBuf> {
    let own = fs::metadata(bench.path(".")).unwrap().uid();
    let entries = fs::read_dir(bench.path(&format!("sandbar-{own}"))).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        #[expect(clippy::disallowed_methods, reason = "a test's own thread, and the wait is bounded")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_host_of_a_file_is_told_and_dead_ones_are_passed_over() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let config = bench.config(&url, &[probe(), HandlerToml::new("other", "probe", "in")]);
    let none = bench.call(&["pause", "--all"], b"");
    assert_eq!(none.code, 1, "{}", none.stderr);
    assert!(none.stderr.contains("no host of sandbar.toml"), "{}", none.stderr);
    let (one, mut two) = (bench.run(&config, &[]), bench.run(&config, &[]));
    wait_for("both listen", || sockets(&bench).len() == 2);
    wait_for("both answer", || {
        bench.call(&["pause", "probe", "other"], b"").text() == "paused probe, other on 2 hosts\n"
    });
    let states = || bench.json(&["status", "--json"], b"")["handlers"].clone();
    wait_for("both are paused", || {
        let now = states();
        now[0]["state"] == "paused" && now[0]["hosts"].as_array().unwrap().len() == 2
    });
    let unknown = bench.call(&["resume", "prob"], b"");
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("probe, other"), "{}", unknown.stderr);
    one.kill();
    assert_eq!(bench.ok(&["resume", "other"], b""), "resumed other on 1 host\n");
    assert_eq!(sockets(&bench).len(), 1, "the dead host's socket is gone");
    wait_for("they differ", || {
        let now = states();
        now[0]["state"] == "paused"
            && now[1]["state"] == "running"
            && now[0]["consumers"].as_array().unwrap().len() == 1
    });
    two.terminate();
    assert!(two.wait(BOUND).success());
    assert!(sockets(&bench).is_empty(), "removed at the end");
    assert_eq!(bench.call(&["resume", "--all"], b"").code, 1);
}

/// Says one line and reads one.
fn ask(path: &Path, line: &str) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[test]
fn nobody_on_the_socket_holds_the_host_up() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let config = bench.config(&url, &[probe()]);
    let _host = bench.run(&config, &[]);
    wait_for("it listens", || sockets(&bench).len() == 1);
    let path = sockets(&bench).remove(0);
    wait_for("its mode is set", || fs::metadata(&path).unwrap().permissions().mode() & 0o777 == 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    let answer = ask(&path, r#"{"do": "status"}"#);
    assert_eq!((&answer["ok"], &answer["handlers"][0]["handler"]), (&true.into(), &"probe".into()), "{answer}");
    for wrong in [
        "",
        "what?",
        "[1]",
        r#"{"do": "stop"}"#,
        r#"{"do": "pause", "handlers": 5}"#,
        r#"{"do": "pause", "handlers": [5]}"#,
    ] {
        assert_eq!(ask(&path, wrong)["ok"], false, "{wrong}");
    }
    let unknown = ask(&path, r#"{"do": "pause", "handlers": ["probe", "x"]}"#);
    assert_eq!(unknown, json!({ "ok": false, "error": "no handler \"x\" runs here" }));
    assert_eq!(ask(&path, r#"{"do": "status"}"#)["handlers"][0]["state"], "running", "nothing was changed");

    let asked = Instant::now();
    let mut long = UnixStream::connect(&path).unwrap();
    long.set_read_timeout(Some(BOUND)).unwrap();
    // The host stops reading half way, which may break the pipe.
    let _ = long.write_all(&vec![b'x'; 1 << 20]);
    let mut rest = Vec::new();
    let _ = long.read_to_end(&mut rest);
    assert!(rest.len() < 1_000, "it is refused and left");
    assert!(asked.elapsed() < Duration::from_secs(8), "at once, not when it is silent for too long");
    let silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let asked = Instant::now();
    assert_eq!(ask(&path, r#"{"do": "status"}"#)["ok"], true);
    assert!(asked.elapsed() < Duration::from_secs(8), "it did not wait for the silent to time out");
    drop(silent);
}

#[test]
fn an_unsafe_place_is_refused() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let config = bench.config(&url, &[probe()]);
    let text = fs::read_to_string(&config).unwrap();
    let with = |control: &str| fs::write(&config, format!("[host]\ncontrol = {control}\n{text}")).unwrap();
    let open = bench.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(bench.path("private")).unwrap();
    fs::set_permissions(bench.path("private"), Permissions::from_mode(0o700)).unwrap();
    fs::write(bench.path("private/file"), "").unwrap();
    let long = format!("\"{}/s.sock\"", "x".repeat(120));
    for (control, says) in [("\"open/s.sock\"", "0700"), ("\"private/file\"", "no socket"), (&*long, "107")] {
        with(control);
        let ran = bench.call(&["run"], b"");
        assert_eq!(ran.code, 4, "{control}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{control}: {}", ran.stderr);
    }
    // A place that is asked for, in a directory that is made for it; and taken the second time.
    with("\"made/s.sock\"");
    let mut host = bench.run(&config, &[]);
    wait_for("it listens", || bench.call(&["pause", "--all"], b"").code == 0);
    assert_eq!(fs::metadata(bench.path("made")).unwrap().permissions().mode() & 0o777, 0o700);
    let second = bench.call(&["run"], b"");
    assert_eq!(second.code, 4);
    assert!(second.stderr.contains("another host listens"), "{}", second.stderr);
    host.terminate();
    assert!(host.wait(BOUND).success());

    with("false");
    assert_eq!(bench.call(&["pause", "--all"], b"").code, 2);
    // Where nobody asked for a socket, a place that will not do is no reason not to run.
    with("true");
    let own = bench.path(&format!("sandbar-{}", fs::metadata(bench.path(".")).unwrap().uid()));
    drop(fs::remove_dir_all(&own));
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
    let mut host = bench.run(&config, &["--until-idle"]);
    host.finish();
    assert!(host.log().contains("there is no control socket"), "{}", host.log());
}
