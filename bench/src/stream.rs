//! The stream that everyone drains, and how far a group is with it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::{Connection, Value};
use serde::Deserialize;

use crate::contender::Running;
use crate::server::Server;

/// The topic as a configuration names it, and what is put before it on the bus.
pub(crate) const TOPIC: &str = "events";
pub(crate) const PREFIX: &str = "bench";

/// Entries in one write while filling.
const FILL_BATCH: u64 = 1_000;
/// How often a group is looked at. Short against the shortest drain, and rare enough to cost the server nothing.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A group that stands still this long will not go on.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// A filled stream. Entry n has the id `1-n`, so a group's position is also the number of entries it has read.
pub(crate) struct Stream<'a> {
    pub(crate) server: &'a Server,
    pub(crate) length: u64,
    entry_bytes: usize,
    event_type: String,
}

/// The part of a test vector that lies on the wire.
#[derive(Deserialize)]
struct Vector {
    event_type: String,
    redis: Wire,
}

#[derive(Deserialize)]
struct Wire {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value_b64: String,
}

// === impl Stream ===

impl<'a> Stream<'a> {
    /// Puts `length` copies of the vector's event into the stream.
    pub(crate) fn fill(server: &'a Server, vector: &Path, length: u64) -> Result<Self> {
        let text = std::fs::read(vector).with_context(|| format!("cannot read {}", vector.display()))?;
        let vector: Vector = serde_json::from_slice(&text)?;
        let mut fields = Vec::new();
        for field in vector.redis.fields {
            fields.push((field.name, STANDARD.decode(field.value_b64)?));
        }

        let mut connection = server.connect()?;
        for first in (1..=length).step_by(usize::try_from(FILL_BATCH)?) {
            let mut batch = redis::pipe();
            for number in first..(first + FILL_BATCH).min(length + 1) {
                batch.cmd("XADD").arg(key()).arg(format!("1-{number}")).arg(&fields).ignore();
            }
            batch.exec(&mut connection)?;
        }
        let entry_bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        Ok(Self { server, length, entry_bytes, event_type: vector.event_type })
    }

    /// What is measured, in one line.
    pub(crate) fn describe(&self) -> String {
        format!("{} events of {} bytes ({})", self.length, self.entry_bytes, self.event_type)
    }

    /// Watches `group` until it has acknowledged `target` entries and returns how many it did per second.
    ///
    /// The clock starts with the first acknowledgement seen, so starting up is not counted.
    pub(crate) fn watch(&self, group: &str, target: u64, running: &mut Running) -> Result<f64> {
        let mut connection = self.server.connect()?;
        let mut first = None;
        let mut last = (Instant::now(), 0);
        loop {
            let done = acknowledged(&mut connection, group)?;
            let now = Instant::now();
            if done > last.1 {
                last = (now, done);
            } else if now - last.0 > STALL_LIMIT {
                bail!("it stands still at {done} of {target} events");
            }
            if done > 0 {
                let (since, before) = *first.get_or_insert((now, done));
                if done >= target {
                    let seconds = (now - since).as_secs_f64();
                    if seconds == 0.0 {
                        bail!("all {target} events were done before the first look: use more events");
                    }
                    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                    return Ok((done - before) as f64 / seconds);
                }
            }
            running.check()?;
            pause();
        }
    }
}

/// The stream's key.
pub(crate) fn key() -> String {
    format!("{PREFIX}-{TOPIC}")
}

/// Lets the others run for a moment.
#[expect(clippy::disallowed_methods, reason = "this program has no executor")]
pub(crate) fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

/// How many entries the group has acknowledged; 0 if it is not there yet.
fn acknowledged(connection: &mut Connection, group: &str) -> Result<u64> {
    let groups: Vec<Vec<Value>> = redis::cmd("XINFO").arg("GROUPS").arg(key()).query(connection)?;
    for info in groups {
        let field = |name: &str| -> Result<String> {
            let at =
                info.iter().step_by(2).position(|key| matches!(key, Value::BulkString(key) if key == name.as_bytes()));
            let value =
                at.and_then(|at| info.get(2 * at + 1)).with_context(|| format!("XINFO GROUPS has no {name}"))?;
            Ok(redis::from_redis_value(value.clone())?)
        };
        if field("name")? == group {
            let position = field("last-delivered-id")?;
            let (_, read) = position.split_once('-').context("a position without a dash")?;
            return Ok(read.parse::<u64>()?.saturating_sub(field("pending")?.parse()?));
        }
    }
    Ok(0)
}
