//! The streams that everyone drains, and how far the groups are with them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Connection, Value};

use crate::event::Event;
use crate::running::Running;
use crate::server::Server;

/// The only topic as a configuration names it, and what is put before it on the bus.
pub(crate) const TOPIC: &str = "events";
pub(crate) const PREFIX: &str = "bench";

/// Entries in one write while filling.
const FILL_BATCH: u64 = 500;
/// How often a group is looked at. Short against the shortest drain, and rare enough to cost the server nothing.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Groups that a look may tell of before the next look waits longer: telling takes the server some microseconds each.
const GROUPS_PER_LOOK: usize = 10;
/// A group that stands still this long will not go on.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Filled streams, all alike. Entry n of each has the id `1-n`, so a group's position is also the number of entries it
/// has read. They are removed when this is dropped.
pub(crate) struct Stream<'a> {
    pub(crate) server: &'a Server,
    /// Entries of each topic.
    pub(crate) length: u64,
    /// As a configuration names them.
    pub(crate) topics: Vec<String>,
    pub(crate) event: Event,
}

// === impl Stream ===

impl<'a> Stream<'a> {
    /// Puts `length` copies of the event into each of `topics` streams.
    pub(crate) fn fill(server: &'a Server, event: Event, topics: usize, length: u64) -> Result<Self> {
        let names = match topics {
            1 => vec![TOPIC.to_owned()],
            _ => (1..=topics).map(|number| format!("{TOPIC}-{number}")).collect(),
        };
        let stream = Self { server, length, topics: names, event };
        let mut connection = server.connect()?;
        for key in stream.keys() {
            for first in (1..=length).step_by(usize::try_from(FILL_BATCH)?) {
                let mut batch = redis::pipe();
                for number in first..(first + FILL_BATCH).min(length + 1) {
                    batch.cmd("XADD").arg(&key).arg(format!("1-{number}")).arg(&stream.event.fields).ignore();
                }
                batch.exec(&mut connection)?;
            }
        }
        Ok(stream)
    }

    /// The streams' keys, in the order of the topics.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.topics.iter().map(|topic| format!("{PREFIX}-{topic}")).collect()
    }

    /// What is measured, in one line.
    pub(crate) fn describe(&self) -> String {
        let each =
            if self.topics.len() > 1 { format!(" in each of {} topics", self.topics.len()) } else { String::new() };
        format!("{} events of {} bytes{each} ({})", self.length, self.event.bytes(), self.event.kind)
    }

    /// Makes a group at the beginning of each stream.
    pub(crate) fn make_group(&self, connection: &mut Connection, group: &str) -> Result<()> {
        for key in self.keys() {
            redis::cmd("XGROUP").arg("CREATE").arg(key).arg(group).arg("0").exec(connection)?;
        }
        Ok(())
    }

    /// Watches until all groups together have acknowledged `target` entries and returns how many they did per second.
    ///
    /// The clock starts with the first acknowledgement seen, so starting up is not counted. If that is the last one too, the
    /// rate is that since the look before, which is too high: there were too few events.
    pub(crate) fn watch(&self, target: u64, running: &mut Running) -> Result<f64> {
        let mut connection = self.server.connect()?;
        let mut first = None;
        let mut idle = Instant::now();
        let mut last = (Instant::now(), 0);
        loop {
            let (done, groups) = self.acknowledged(&mut connection)?;
            let now = Instant::now();
            if done > last.1 {
                last = (now, done);
            } else if now - last.0 > STALL_LIMIT {
                bail!("it stands still at {done} of {target} events");
            }
            if done > 0 {
                let at_once = if done >= target { (idle, 0) } else { (now, done) };
                let (since, before) = *first.get_or_insert(at_once);
                if done >= target {
                    let seconds = (now - since).as_secs_f64();
                    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                    return Ok((done - before) as f64 / seconds);
                }
            } else {
                idle = now;
            }
            running.check()?;
            pause(LOOK_EVERY * u32::try_from(1 + groups / GROUPS_PER_LOOK)?);
        }
    }

    /// Removes everything but the entries, as if nobody had read them.
    pub(crate) fn forget_readers(&self) -> Result<()> {
        let mut connection = self.server.connect()?;
        let keys = self.keys();
        let all: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection)?;
        let others: Vec<String> = all.into_iter().filter(|key| !keys.contains(key)).collect();
        if !others.is_empty() {
            redis::cmd("UNLINK").arg(others).exec(&mut connection)?;
        }
        for key in keys {
            for info in groups(&mut connection, &key)? {
                redis::cmd("XGROUP").arg("DESTROY").arg(&key).arg(text(&info, "name")?).exec(&mut connection)?;
            }
        }
        Ok(())
    }

    /// How many entries have been acknowledged, and by how many groups of how many streams.
    pub(crate) fn acknowledged(&self, connection: &mut Connection) -> Result<(u64, usize)> {
        let (mut done, mut seen) = (0, 0);
        for key in self.keys() {
            for info in groups(connection, &key)? {
                let read = number_of(&text(&info, "last-delivered-id")?)?;
                done += read.saturating_sub(text(&info, "pending")?.parse()?);
                seen += 1;
            }
        }
        Ok((done, seen))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // A server that does not answer any more has nothing to be removed either.
        if let Ok(mut connection) = self.server.connect() {
            let _ = redis::cmd("UNLINK").arg(self.keys()).exec(&mut connection);
        }
    }
}

/// The number of the entry with this id.
pub(crate) fn number_of(id: &str) -> Result<u64> {
    let (_, number) = id.split_once('-').with_context(|| format!("{id:?} is no id of an entry"))?;
    Ok(number.parse()?)
}

/// One field of a group's description, as XINFO GROUPS gives it.
pub(crate) fn text(info: &[Value], name: &str) -> Result<String> {
    let at = info.iter().step_by(2).position(|key| matches!(key, Value::BulkString(key) if key == name.as_bytes()));
    let value = at.and_then(|at| info.get(2 * at + 1)).with_context(|| format!("XINFO GROUPS has no {name}"))?;
    Ok(redis::from_redis_value(value.clone())?)
}

/// Lets the others run for a while.
#[expect(clippy::disallowed_methods, reason = "this program has no executor")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn groups(connection: &mut Connection, key: &str) -> Result<Vec<Vec<Value>>> {
    Ok(redis::cmd("XINFO").arg("GROUPS").arg(key).query(connection)?)
}
