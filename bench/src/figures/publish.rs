//! Publishing from a file, beside the Python producer.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::event::{Event, ORDINARY};
use super::host::{Config, PREFIX};
use super::progress::{key, rate};
use crate::paths::Paths;
use crate::sample::Sample;
use crate::server::Server;

const TOPIC: &str = "published";
/// The Python producer trims to this if nobody says otherwise, so here both do.
const MAX_LEN: u64 = 10_000;
/// Some seconds of the Python producer.
const PYTHON_EVENTS: u64 = 20_000;
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A producer at work. Dropping it ends it.
pub(super) struct Publishing(Child);

/// Events per second of both.
pub(super) fn measure(paths: &Paths, events: u64) -> Result<Vec<Sample>> {
    let event = Event::of_size(paths.root(), ORDINARY)?;
    let dir = tempfile::tempdir()?;
    let file = documents(&event, events, dir.path())?;

    let server = Server::start()?;
    let line = format!("stream_max_len = {MAX_LEN}");
    let config = Config::new(&server.url()).with_bus(&line).write(dir.path())?;
    let ours = watch(&server, events, publish(paths, &config, TOPIC, &event, &file)?)?;

    let server = Server::start()?;
    let count = events.min(PYTHON_EVENTS);
    let python = watch(&server, count, python(paths, &server, &event, count, dir.path())?)?;
    Ok(vec![
        Sample::new("publish", "`sandbar publish` from a file", "events/s", ours),
        Sample::new("publish_python", "Python producer", "events/s", python),
    ])
}

/// A file with so many events, one document per line.
pub(super) fn documents(event: &Event, count: u64, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("events.jsonl");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    let line = event.document.to_string() + "\n";
    for _ in 0..count {
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    Ok(path)
}

/// `sandbar publish`, started.
pub(super) fn publish(paths: &Paths, config: &Path, topic: &str, event: &Event, file: &Path) -> Result<Publishing> {
    let log = config.with_file_name("published.log");
    let mut command = Command::new(paths.sandbar()?);
    command.arg("publish").arg("-c").arg(config).args(["--topic", topic, "--type", &event.kind]).arg(file);
    Publishing::start(command.stdout(File::create(log)?))
}

/// The Python producer, started; it sends one event again and again, as fast as it can.
fn python(paths: &Paths, server: &Server, event: &Event, count: u64, dir: &Path) -> Result<Publishing> {
    let input = dir.join("python.jsonl");
    let line = json!({
        "event_type": event.kind, "topic": TOPIC, "key_field": "tracking_log.name", "data": event.document,
        "metadata": event.metadata,
    });
    std::fs::write(&input, line.to_string() + "\n")?;
    let arguments: Vec<OsString> = vec![
        paths.root().join("tests/peers/produce.py").into(),
        "--url".into(),
        server.url().into(),
        "--prefix".into(),
        PREFIX.into(),
        "--repeat".into(),
        count.to_string().into(),
        "--seconds".into(),
        "300".into(),
    ];
    let mut command = Command::new(paths.python()?);
    Publishing::start(command.args(arguments).stdin(File::open(input)?).stdout(Stdio::null()))
}

/// Events per second, as the server sees them come, and that the producer says it has done well.
fn watch(server: &Server, target: u64, mut publishing: Publishing) -> Result<f64> {
    let mut connection = server.connect()?;
    let start = Instant::now();
    let rate = rate(target, LOOK_EVERY, || {
        publishing.check()?;
        if !redis::cmd("EXISTS").arg(key(TOPIC)).query::<bool>(&mut connection)? {
            ensure!(start.elapsed() < Duration::from_secs(60), "nothing arrives");
            return Ok(0);
        }
        added(&mut connection)
    })?;
    publishing.wait()?;
    Ok(rate)
}

/// How many entries the stream has ever had. It is trimmed, so its length says nothing.
fn added(connection: &mut redis::Connection) -> Result<u64> {
    let info: redis::Value = redis::cmd("XINFO").arg("STREAM").arg(key(TOPIC)).query(connection)?;
    let fields = info.into_sequence().map_err(|_| anyhow::anyhow!("XINFO STREAM answered in another shape"))?;
    let is = |pair: &&[redis::Value]| matches!(&pair[0], redis::Value::BulkString(key) if key == b"entries-added");
    let pair = fields.chunks_exact(2).find(is).context("the server does not count entries: use Redis 7 or later")?;
    Ok(redis::from_redis_value(pair[1].clone())?)
}

// === impl Publishing ===

impl Publishing {
    fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
    }

    /// Fails if it has failed.
    fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) if !status.success() => anyhow::bail!("the producer failed: {status}"),
            _ => Ok(()),
        }
    }

    /// Waits until it is through.
    pub(super) fn wait(&mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "the producer failed: {status}");
        Ok(())
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        // After a failure it may still be at work; what it does is thrown away.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
