//! Sends events at their times, whatever becomes of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::stream::{Stream, pause};

/// Time until the first event, in which the sending thread starts.
const HEAD_START: Duration = Duration::from_millis(20);
/// Most events in one write, so that a thread that is late does not build the whole rest in memory.
const MOST_AT_ONCE: u64 = 1_000;

/// When which event is to be sent. It is fixed before the first is.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    start: Instant,
    rate: u64,
    /// The number of the last event that was there before.
    before: u64,
    last: u64,
}

// === impl Schedule ===

impl Schedule {
    /// `rate` events a second for `time`, numbered from the one after `before`.
    pub(super) fn new(rate: u64, before: u64, time: Duration) -> Self {
        let mut schedule = Self { start: Instant::now() + HEAD_START, rate, before, last: before };
        schedule.last += schedule.count_within(time);
        schedule
    }

    /// How many events are due in a time as long as this.
    pub(super) fn count_within(&self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos() * u128::from(self.rate) / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// When this event is to be sent.
    pub(super) fn intended(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos((number - self.before - 1) * 1_000_000_000 / self.rate)
    }

    /// The number of the last event that is due now.
    fn due(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.start) {
            Some(time) => (self.before + 1 + self.count_within(time)).min(self.last),
            None => self.before,
        }
    }
}

/// Sends all of them from a thread of its own.
pub(super) fn start(stream: &Stream<'_>, key: &str, schedule: Schedule) -> Result<JoinHandle<Result<()>>> {
    let mut socket = TcpStream::connect(stream.server.address())?;
    socket.set_nodelay(true)?;
    // Without answers there is nothing to be read, and the server has less to do. That all has arrived shows at the end,
    // when it is acknowledged.
    socket.write_all(b"CLIENT REPLY OFF\r\n")?;
    let mut head = format!("*{}\r\n", 3 + 2 * stream.event.fields.len()).into_bytes();
    bulk(&mut head, b"XADD");
    bulk(&mut head, key.as_bytes());
    let mut tail = Vec::new();
    for (name, value) in &stream.event.fields {
        bulk(&mut tail, name.as_bytes());
        bulk(&mut tail, value);
    }
    Ok(thread::spawn(move || send(&mut socket, &head, &tail, schedule)))
}

fn send(socket: &mut TcpStream, head: &[u8], tail: &[u8], schedule: Schedule) -> Result<()> {
    let mut sent = schedule.before;
    let mut batch = Vec::new();
    while sent < schedule.last() {
        let due = schedule.due(Instant::now()).min(sent + MOST_AT_ONCE);
        if due == sent {
            pause(schedule.intended(sent + 1).saturating_duration_since(Instant::now()));
            continue;
        }
        batch.clear();
        for number in sent + 1..=due {
            batch.extend_from_slice(head);
            bulk(&mut batch, format!("1-{number}").as_bytes());
            batch.extend_from_slice(tail);
        }
        socket.write_all(&batch)?;
        sent = due;
    }
    // An answer now, after all of the others were suppressed, says that the server has taken everything.
    socket.write_all(b"CLIENT REPLY ON\r\n")?;
    let mut answer = [0; 5];
    socket.read_exact(&mut answer)?;
    ensure!(&answer == b"+OK\r\n", "the server answered {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn bulk(text: &mut Vec<u8>, word: &[u8]) {
    text.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    text.extend_from_slice(word);
    text.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_follows_the_clock_and_not_what_was_sent() {
        let schedule = Schedule::new(10_000, 1_000, Duration::from_secs(2));
        assert_eq!(schedule.last(), 21_000);
        assert_eq!(schedule.due(schedule.start - Duration::from_nanos(1)), 1_000);
        assert_eq!(schedule.due(schedule.start), 1_001);
        assert_eq!(schedule.due(schedule.start + Duration::from_micros(99)), 1_001);
        assert_eq!(schedule.due(schedule.start + Duration::from_micros(100)), 1_002);
        assert_eq!(schedule.due(schedule.start + Duration::from_secs(9)), 21_000);
        assert_eq!(schedule.intended(1_001), schedule.start);
        assert_eq!(schedule.intended(11_001), schedule.start + Duration::from_secs(1));
    }
}
