//! The Python peers as processes: `tests/peers/produce.py` and `consume.py`, run by the Python that `make test` set up.

use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::vectors::Vector;

/// A peer that is told nothing for so long ends by itself, whatever becomes of the test.
const SECONDS: &str = "60";

/// What the Python producer made of some events.
#[derive(Debug)]
pub(crate) struct Produced {
    /// The release that produced them.
    pub(crate) openedx_events: String,
    /// Types of those that this release cannot express; they were not sent.
    pub(crate) unsupported: Vec<String>,
}

/// The Python producer, which publishes an event whenever it is told to. Ended on drop.
#[derive(Debug)]
pub(crate) struct Producer {
    process: Peer,
    stdin: ChildStdin,
}

/// A Python consumer at work. Ended on drop.
#[derive(Debug)]
pub(crate) struct Consumer {
    process: Peer,
}

#[derive(Debug)]
struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Publishes the vectors, each to its own topic, through the real Python producer.
pub(crate) async fn produce(url: &str, prefix: &str, vectors: &[Vector]) -> Produced {
    let mut command = peer("produce.py");
    command.args(["--url", url, "--prefix", prefix, "--seconds", SECONDS]);
    let input: String = vectors.iter().map(|vector| line(vector) + "\n").collect();
    tokio::task::spawn_blocking(move || {
        let mut peer = Peer::start(&mut command);
        let mut stdin = peer.child.stdin.take().unwrap();
        // Both sides buffer more than all vectors and all answers, so neither waits for the other.
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let openedx_events = peer.read()["openedx-events"].as_str().unwrap().to_owned();
        let mut unsupported = Vec::new();
        for answer in peer.rest() {
            if answer.get("sent").is_none() {
                unsupported.push(answer["event_type"].as_str().unwrap().to_owned());
            }
        }
        Produced { openedx_events, unsupported }
    })
    .await
    .unwrap()
}

// === impl Producer ===

impl Producer {
    /// Starts it. Blocks until it is ready, as [`Producer::send`] blocks until the event is on the bus.
    pub(crate) fn start(url: &str, prefix: &str) -> Self {
        let mut command = peer("produce.py");
        command.args(["--url", url, "--prefix", prefix, "--seconds", "300"]);
        let mut process = Peer::start(&mut command);
        let stdin = process.child.stdin.take().unwrap();
        process.read();
        Self { process, stdin }
    }

    pub(crate) fn send(&mut self, vector: &Vector) {
        self.stdin.write_all((line(vector) + "\n").as_bytes()).unwrap();
        assert_eq!(self.process.read()["sent"], true, "{}", vector.kind);
    }
}

// === impl Consumer ===

impl Consumer {
    /// Starts the real Python consumer from the stream's beginning, to receive `count` events. Returns when its group
    /// exists.
    pub(crate) async fn start(url: &str, prefix: &str, topic: &str, group: &str, count: usize) -> Self {
        let mut command = peer("consume.py");
        command.args(["--url", url, "--prefix", prefix, "--topic", topic, "--group", group]);
        command.args(["--count", &count.to_string(), "--seconds", SECONDS]);
        tokio::task::spawn_blocking(move || {
            let mut process = Peer::start(&mut command);
            process.read();
            Self { process }
        })
        .await
        .unwrap()
    }

    /// What its Django receiver got, once that is all it was to receive and all of it is acknowledged.
    pub(crate) async fn events(mut self) -> Vec<Value> {
        tokio::task::spawn_blocking(move || self.process.rest()).await.unwrap()
    }
}

// === impl Peer ===

impl Peer {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line. What it writes to standard error is the test's.
    fn read(&mut self) -> Value {
        let line = self.lines.next().expect("the Python peer ended early").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// All further lines, until it has ended well.
    fn rest(&mut self) -> Vec<Value> {
        let lines: Vec<Value> = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the Python peer failed ({status}) after {} lines", lines.len());
        lines
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peer(script: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script));
    command
}

/// The interpreter with the real event bus.
pub(crate) fn python() -> PathBuf {
    let python = env::var_os("SANDBAR_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/venv/bin/python"), PathBuf::from);
    assert!(python.exists(), "{} is missing: `make peers` sets it up", python.display());
    python
}

fn line(vector: &Vector) -> String {
    json!({
        "event_type": vector.kind,
        "topic": vector.topic,
        "key_field": vector.event_key_field,
        "data": vector.data,
        "metadata": vector.metadata,
    })
    .to_string()
}
