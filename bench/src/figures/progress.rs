//! Streams, and how far the groups that read them are, seen from outside.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Connection, Value};

use super::event::Event;
use super::host::{Host, PREFIX, rest};
use crate::server::Server;

/// Entries in one write while filling, and bytes at most.
const FILL_COUNT: u64 = 1_000;
const FILL_BYTES: u64 = 4 << 20;
/// What stands still this long will not go on.
const STALL_LIMIT: Duration = Duration::from_secs(120);

/// Groups that read topics.
pub(super) struct Watched {
    connection: Connection,
    topics: Vec<String>,
}

/// Puts `count` copies of an event into a topic. Entry n has the id `1-n`.
pub(super) fn fill(server: &Server, topic: &str, event: &Event, count: u64) -> Result<()> {
    let mut connection = server.connect()?;
    let batch = (FILL_BYTES / event.bytes() as u64).clamp(1, FILL_COUNT);
    for first in (1..=count).step_by(usize::try_from(batch)?) {
        let mut commands = redis::pipe();
        for number in first..(first + batch).min(count + 1) {
            commands.cmd("XADD").arg(key(topic)).arg(format!("1-{number}")).arg(&event.fields).ignore();
        }
        commands.exec(&mut connection)?;
    }
    Ok(())
}

/// The stream of a topic.
pub(super) fn key(topic: &str) -> String {
    format!("{PREFIX}-{topic}")
}

/// One look after the other until `done` answers `target`; what that did per second from the first that was seen on.
pub(super) fn rate(target: u64, every: Duration, mut done: impl FnMut() -> Result<u64>) -> Result<f64> {
    let (mut first, mut last) = (None, (Instant::now(), 0));
    loop {
        let count = done()?;
        let now = Instant::now();
        if count > last.1 {
            last = (now, count);
        } else if now - last.0 > STALL_LIMIT {
            bail!("it stands still at {count} of {target}");
        }
        if count > 0 {
            let (since, before) = *first.get_or_insert((now, count));
            if count >= target {
                if before >= target {
                    bail!("all {target} were done before the first look: use more events");
                }
                return Ok(float(count - before) / (now - since).as_secs_f64());
            }
        }
        rest(every);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(server: &Server, topics: Vec<String>) -> Result<Self> {
        Ok(Self { connection: server.connect()?, topics })
    }

    /// How many entries all groups have acknowledged, and how many groups there are.
    pub(super) fn look(&mut self) -> Result<(u64, usize)> {
        let mut looks = redis::pipe();
        for topic in &self.topics {
            looks.cmd("XINFO").arg("GROUPS").arg(key(topic));
        }
        let topics: Vec<Vec<Vec<Value>>> = looks.query(&mut self.connection)?;
        let mut done = 0;
        for group in topics.iter().flatten() {
            done += acknowledged(group)?;
        }
        Ok((done, topics.iter().map(Vec::len).sum()))
    }

    /// Waits until all groups together have acknowledged so many.
    pub(super) fn wait(&mut self, host: &mut Host, target: u64) -> Result<()> {
        self.wait_for(host, |(done, _)| done >= target)
    }

    /// Waits until there are so many groups.
    pub(super) fn wait_for_groups(&mut self, host: &mut Host, target: usize) -> Result<()> {
        self.wait_for(host, |(_, groups)| groups >= target)
    }

    fn wait_for(&mut self, host: &mut Host, reached: impl Fn((u64, usize)) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let look = self.look()?;
            if reached(look) {
                return Ok(());
            }
            host.check()?;
            if start.elapsed() > STALL_LIMIT {
                bail!("after {STALL_LIMIT:?} there are {} groups with {} acknowledged", look.1, look.0);
            }
            rest(Duration::from_millis(1));
        }
    }
}

/// How many entries a group of `XINFO GROUPS` has acknowledged: what it has read, less what it holds.
fn acknowledged(group: &[Value]) -> Result<u64> {
    let field = |name: &str| -> Result<String> {
        let is = |pair: &&[Value]| matches!(&pair[0], Value::BulkString(key) if key == name.as_bytes());
        let pair = group.chunks_exact(2).find(is).with_context(|| format!("XINFO GROUPS has no {name}"))?;
        Ok(redis::from_redis_value(pair[1].clone())?)
    };
    let position = field("last-delivered-id")?;
    let (_, read) = position.split_once('-').context("a position without a dash")?;
    Ok(read.parse::<u64>()?.saturating_sub(field("pending")?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_acknowledged_what_it_read_and_does_not_hold() {
        let text = |text: &str| Value::BulkString(text.into());
        let group =
            vec![text("name"), text("g"), text("pending"), Value::Int(30), text("last-delivered-id"), text("1-100")];
        assert_eq!(acknowledged(&group).unwrap(), 70);
        assert!(acknowledged(&group[..2]).is_err());
    }

    #[test]
    fn a_rate_is_of_what_came_after_the_first_look() {
        let mut looks = [0, 100, 100, 300].into_iter();
        let rate = rate(300, Duration::from_millis(10), || Ok(looks.next().unwrap())).unwrap();
        // 200 in 20 ms and whatever a loaded machine adds to that.
        assert!(rate > 0.0 && rate <= 10_000.0, "{rate}");
        assert!(super::rate(5, Duration::ZERO, || Ok(5)).is_err(), "nothing was measured");
    }
}
