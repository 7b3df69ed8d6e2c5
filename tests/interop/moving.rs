//! The guide in `docs/python.md` that moves a group here and back, run command by command while Python publishes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sandbar::bus::Bus;

use super::python::{self, Producer};
use super::{PREFIX, bus};
use crate::support::BOUND;
use crate::support::host::{Bench, binary, guest, workspace};
use crate::support::redis::Server;
use crate::support::vectors::{Vector, vector};

const TOPIC: &str = "enrollments";
/// At this event the Python receiver hangs, so that it is in hand when the consumer is stopped.
const HANG: usize = 15;

/// The fenced blocks of one kind in the guide, in its order.
fn blocks(guide: &str, kind: &str) -> Vec<String> {
    let fence = format!("```{kind}\n");
    guide.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Where the guide's commands run: `sandbar` and `python` are what they say, `manage.py` is a service's.
struct Place {
    bench: Bench,
    url: String,
}

// === impl Place ===

impl Place {
    fn new(config: &str, url: &str) -> Self {
        let more = "lease = \"1s\"\nstart = \"new\"\nretry_first = \"3s\"\n[handler.grants]\n\
                    publish = [\"out-a\", \"out-b\"]\nkeys = true\n";
        assert!(config.contains("redis://127.0.0.1:6379/0"), "{config}");
        let bench = Bench::with(&(config.replace("redis://127.0.0.1:6379/0", url) + more));
        fs::copy(guest("fanout"), bench.path("reports.wasm")).unwrap();
        fs::create_dir(bench.path("bin")).unwrap();
        symlink(binary(), bench.path("bin/sandbar")).unwrap();
        // Not a link: an interpreter that is reached by one does not find its packages.
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", python::python().display());
        fs::write(bench.path("bin/python"), script).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(bench.path("bin/python")).status().unwrap().success());
        let manage = workspace().join("tests/peers/manage.py");
        fs::copy(manage, bench.path("manage.py")).unwrap();
        Self { bench, url: url.to_owned() }
    }

    fn shell(&self, commands: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-euc", commands]).current_dir(self.bench.path("")).stdin(Stdio::null());
        let path = format!("{}:{}", self.bench.path("bin").display(), std::env::var("PATH").unwrap());
        shell.env("PATH", path).env("PEERS", workspace().join("tests/peers"));
        shell.env("EVENT_BUS_REDIS_CONNECTION_URL", &self.url).env("EVENT_BUS_TOPIC_PREFIX", PREFIX);
        shell.env("RECORD", self.bench.path("record"));
        shell
    }

    /// Starts a block that goes on running.
    fn start(&self, block: &str, hang: usize) -> Running {
        let log = fs::File::create(self.bench.path(&format!("log-{}", uuid::Uuid::new_v4()))).unwrap();
        let mut shell = self.shell(&format!("exec {block}"));
        shell.env("HANG", hang.to_string()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(shell.spawn().unwrap())
    }

    /// Runs a block to its end.
    fn run(&self, block: &str, name: &str, of: &Running) -> String {
        let ran = self.shell(block).env(name, of.0.id().to_string()).output().unwrap();
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{block}: {text}{}", String::from_utf8_lossy(&ran.stderr));
        text
    }

    /// What the Python receiver has handled.
    fn recorded(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.bench.path("record")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn ended(&mut self) {
        let end = Instant::now() + BOUND;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end");
            #[expect(clippy::disallowed_methods, reason = "the wait is bounded, and other threads go on")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Publishes events of its own all the while, on a thread.
struct Publishing {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeSet<String>>,
}

// === impl Publishing ===

impl Publishing {
    fn start(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url) = (Arc::clone(&stop), url.to_owned());
        let thread = std::thread::spawn(move || {
            let mut producer = Producer::start(&url, PREFIX);
            let one = vector("11_course_enrollment_changed_created_by.json");
            let mut sent = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let mut event: Vector = one.clone();
                TOPIC.clone_into(&mut event.topic);
                event.metadata.id = uuid::Uuid::new_v4().to_string();
                producer.send(&event);
                sent.insert(event.metadata.id);
                #[expect(clippy::disallowed_methods, reason = "a thread of its own, at a steady pace")]
                std::thread::sleep(Duration::from_millis(15));
            }
            sent
        });
        Self { stop, thread }
    }

    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What the handler has handled: it publishes the id of each event.
async fn handled(bus: &Arc<dyn Bus>) -> BTreeSet<String> {
    let all = crate::support::events::read_all(bus, "out-a").await;
    all.iter().map(|fields| String::from_utf8(fields.get("cause").unwrap().to_vec()).unwrap()).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not within {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_moves_a_group_here_and_back_without_skipping_an_event() {
    let text = fs::read_to_string(workspace().join("docs/python.md")).unwrap();
    let guide = text.split("\n## ").find(|section| section.starts_with("Moving a group")).unwrap();
    let [config] = blocks(guide, "toml").try_into().unwrap();
    let [stop_python, start_sandbar, stop_sandbar, start_python] = blocks(guide, "sh").try_into().unwrap();

    let server = Server::start(&[]).await;
    let place = Place::new(&config, &server.url());
    let bus = bus(&server.url()).await;
    let publishing = Publishing::start(&server.url());
    let status = async || bus.status(&TOPIC.into(), "reports").await.unwrap();

    let mut python = place.start(&start_python, HANG);
    until("Python hangs in a receiver", async || place.recorded().len() == HANG - 1 && status().await.pending == 1)
        .await;
    place.run(&stop_python, "CONSUMER", &python);
    python.ended();
    let in_hand: Vec<(String, String, u64, u64)> =
        server.run(&["XPENDING", &format!("{PREFIX}-{TOPIC}"), "reports", "-", "+", "9"]).await;
    assert!(in_hand.len() == 1 && in_hand[0].1 == "reports-1", "{in_hand:?}");

    let mut sandbar = place.start(&start_sandbar, 0);
    let alone = async || server.run::<u64>(&["XLEN", &format!("{PREFIX}-out-a")]).await;
    until("Sandbar has taken over", async || alone().await >= 50 && status().await.lag.is_some_and(|lag| lag < 5))
        .await;
    let ours = |pending: Vec<(String, String, u64, u64)>| pending.iter().all(|(_, name, ..)| name != "reports-1");
    until("what Python left is inherited", async || {
        ours(server.run(&["XPENDING", &format!("{PREFIX}-{TOPIC}"), "reports", "-", "+", "999"]).await)
    })
    .await;

    // For a moment the bus refuses the effects, so that some events wait for a retry when the host is stopped.
    let refused = format!("{PREFIX}-out-b");
    server.run::<u64>(&["DEL", &refused]).await;
    server.run::<()>(&["SET", &refused, "no stream"]).await;
    until("events wait for a retry", async || status().await.retrying >= 3).await;
    server.run::<u64>(&["DEL", &refused]).await;
    assert!(status().await.retrying >= 1, "the retries came too early for the test to mean anything");
    let mut shown = place.run(&stop_sandbar, "SANDBAR", &sandbar);
    sandbar.ended();
    assert!(shown.contains("RETRYING"), "{shown}");
    // "Otherwise run it once more": what came in just as it ended was given back.
    let (_, once_more) = stop_sandbar.split_once('\n').unwrap();
    for _ in 0..5 {
        let now = status().await;
        if (now.pending, now.retrying) != (0, 0) {
            shown = place.run(once_more, "SANDBAR", &sandbar);
        }
    }
    let now = status().await;
    assert_eq!((now.pending, now.retrying, now.dead_letters), (0, 0, 0), "{shown}");

    until("more comes in than Sandbar has seen", async || status().await.lag.is_some_and(|lag| lag > 5)).await;
    let before = place.recorded().len();
    let python = place.start(&start_python, 0);
    until("Python goes on", async || place.recorded().len() >= before + 50).await;
    let sent = publishing.stop();
    let mut all = BTreeSet::new();
    until("every event is handled", async || {
        all = place.recorded();
        all.extend(handled(&bus).await);
        sent.is_subset(&all)
    })
    .await;
    drop(python);
    let here = handled(&bus).await;
    assert!(here.iter().all(|id| sent.contains(id)) && here.len() >= 50, "both have had their share");
}
