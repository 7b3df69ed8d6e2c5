//! The loop that a user would write by hand, with the `redis` crate.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use redis::{Connection, Value};

use crate::running::Running;
use crate::stream::Stream;

/// Entries per read: beyond this the rate no longer grows.
pub(crate) const BATCH: u64 = 200;
/// How long a read waits for the first entry, in milliseconds, so that the loop notices that it should end.
const WAIT: u64 = 100;

/// A group, read by one connection over all topics of the stream.
pub(crate) struct Loop {
    connection: Connection,
    group: String,
    keys: Vec<String>,
    wait: bool,
    /// What was read last and is to be acknowledged, for each key.
    done: Vec<Vec<Vec<u8>>>,
}

/// What to do when everything is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTheEnd {
    Stop,
    Wait,
}

/// Reads with one loop for each group, in turn, until nothing is left for any.
pub(crate) fn start(stream: &Stream<'_>, groups: &[String], end: AtTheEnd) -> Result<Running> {
    run(stream, groups, end, |_, entry| id_of(entry).context("an entry without an id"))
}

/// The same, giving each entry, with the place of its topic, to `each`, which returns its id.
pub(crate) fn run(
    stream: &Stream<'_>,
    groups: &[String],
    end: AtTheEnd,
    mut each: impl FnMut(usize, Value) -> Result<Vec<u8>> + Send + 'static,
) -> Result<Running> {
    let mut loops = Vec::new();
    for group in groups {
        loops.push(Loop::new(stream, group, end)?);
    }
    Ok(Running::thread(move |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            let mut more = false;
            for one in &mut loops {
                more |= one.turn(&mut each)?;
            }
            if !more && end == AtTheEnd::Stop {
                break;
            }
        }
        Ok(())
    }))
}

// === impl Loop ===

impl Loop {
    /// Makes the group.
    fn new(stream: &Stream<'_>, group: &str, end: AtTheEnd) -> Result<Self> {
        let mut connection = stream.server.connect()?;
        stream.make_group(&mut connection, group)?;
        let keys = stream.keys();
        let done = vec![Vec::new(); keys.len()];
        Ok(Self { connection, group: group.to_owned(), keys, wait: end == AtTheEnd::Wait, done })
    }

    /// Acknowledges what it has read and reads on, in one round trip. False when nothing was left.
    fn turn(&mut self, each: &mut impl FnMut(usize, Value) -> Result<Vec<u8>>) -> Result<bool> {
        let mut batch = redis::pipe();
        for (key, done) in self.keys.iter().zip(&mut self.done) {
            if !done.is_empty() {
                batch.cmd("XACK").arg(key).arg(&self.group).arg(&*done).ignore();
                done.clear();
            }
        }
        batch.cmd("XREADGROUP").arg("GROUP").arg(&self.group).arg("loop").arg("COUNT").arg(BATCH);
        if self.wait {
            batch.arg("BLOCK").arg(WAIT);
        }
        batch.arg("STREAMS").arg(&self.keys).arg(vec![">"; self.keys.len()]);
        let (reply,): (Value,) = batch.query(&mut self.connection)?;
        if reply == Value::Nil {
            return Ok(false);
        }
        for stream in reply.into_sequence().ok().context("XREADGROUP answered no list")? {
            let (key, entries) = entries(stream).context("XREADGROUP answered in another shape")?;
            let at = self.keys.iter().position(|known| known.as_bytes() == key).context("another stream answered")?;
            for entry in entries {
                self.done[at].push(each(at, entry)?);
            }
        }
        Ok(true)
    }
}

/// The key and the entries of one stream, `[key, [[id, fields], …]]`. The client library's own type for it would put
/// every field into a map first.
fn entries(stream: Value) -> Option<(Vec<u8>, Vec<Value>)> {
    let [Value::BulkString(key), entries] = <[Value; 2]>::try_from(stream.into_sequence().ok()?).ok()? else {
        return None;
    };
    Some((key, entries.into_sequence().ok()?))
}

fn id_of(entry: Value) -> Option<Vec<u8>> {
    match entry.into_sequence().ok()?.into_iter().next()? {
        Value::BulkString(id) => Some(id),
        _ => None,
    }
}
