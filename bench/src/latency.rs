//! The time from when an event should have been sent to when it is acknowledged, at fixed rates.
//!
//! **Open loop.** A thread sends event n at its intended time, start + n / rate, and waits for nobody: it reads no
//! answers, and when it is late it sends all that is due at once. Latency counts from the intended time. So a contender
//! that stops for a while is charged for every event that it kept waiting, not only for the first.
//!
//! **How the acknowledgement is seen.** Nobody but the server sees it alike for all contenders: their own clocks would
//! measure different things, a proxy would cost each event two more hops, MONITOR and the stream to replicas would repeat
//! each event to another reader. So a connection of its own asks the server every [`LOOK_EVERY`], in one write, XINFO GROUPS
//! (the last entry read) and XPENDING (the oldest not acknowledged). All entries before the latter, or up to the former
//! if none is pending, are done. An answer is about 200 bytes and takes the server some microseconds, whoever is measured.
//!
//! An event counts as acknowledged when it *and all before it* are. The bare loop acknowledges in order, so for it nothing
//! changes; a host with several threads is charged for the slowest of its neighbours. The time to the next look (up to
//! about 0.15 ms: a thread's sleep is longer than it was told) is in all figures alike and nearly leaves their difference.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use redis::{Connection, Value};

use crate::bare::{self, AtTheEnd};
use crate::contender::Contender;
use crate::event::Event;
use crate::paths::Paths;
use crate::running::Running;
use crate::sample::Sample;
use crate::server::Server;
use crate::stream::{Stream, number_of, pause, text};

mod producer;

use producer::Schedule;

/// Who is measured.
pub(crate) const CONTENDERS: &[Contender] = &[Contender::Bare, Contender::NoopFresh];

/// Events per second, with the word for it in the names of figures.
const RATES: [(u64, &str); 3] = [(1_000, "1k"), (10_000, "10k"), (50_000, "50k")];
/// In the names of figures, in the table, and of all events the share in per cent.
const PERCENTILES: [(&str, &str, f64); 3] = [("p50", "p50", 50.0), ("p99", "p99", 99.0), ("p999", "p99.9", 99.9)];
/// The rate and the percentile whose difference is a figure of its own.
const ADDED: &str = "10k_p99_us";

/// Events that lie there before: whoever has acknowledged them is ready.
const FIRST: u64 = 1_000;
/// Time at the rate before anything is recorded, and time that is recorded.
const LEAD: Duration = Duration::from_secs(1);
const RECORDED: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// Far more than a contender that keeps up needs for what is left at the end. One that does not is not measured further.
const PATIENCE: Duration = Duration::from_secs(60);
/// Significant digits.
const PRECISION: u8 = 3;

/// One round: all rates, whoever is chosen, the order turned in every other round. Seconds become microseconds.
pub(crate) fn measure(paths: &Paths, server: &Server, round: usize, chosen: &[Contender]) -> Result<Vec<Sample>> {
    let event = Event::of_vector(&paths.root().join("tests/vectors/13_tracking_event_emitted.json"))?;
    let mut samples: Vec<Sample> = Vec::new();
    for (rate, word) in RATES {
        let mut order = chosen.to_vec();
        order.rotate_left(round % chosen.len().max(1));
        for contender in order {
            let latencies = once(paths, server, &event, contender, rate)
                .with_context(|| format!("{contender} at {rate} events/s in round {}", round + 1))?;
            for (name, shown, share) in PERCENTILES {
                let name = format!("{contender}_{word}_{name}_us");
                let what = format!("{contender}, {}, latency {shown}", spoken(rate));
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let micros = latencies.value_at_percentile(share) as f64 / 1e3;
                samples.push(Sample::new(name, what, "µs", micros));
            }
        }
    }
    // In the first round the order of the lines is made.
    samples.sort_by_key(|sample| place(&sample.name));
    let value = |contender: Contender| {
        let name = format!("{contender}_{ADDED}");
        samples.iter().find(|sample| sample.name == name).map(|sample| sample.value)
    };
    if let (Some(with), Some(without)) = (value(Contender::NoopFresh), value(Contender::Bare)) {
        let what = "latency p99 at 10,000 events/s that Sandbar adds to the bare loop's";
        samples.push(Sample::new("added_p99_10k_us", what, "µs", with - without));
    }
    Ok(samples)
}

/// Nanoseconds from the intended time of each event to its acknowledgement.
fn once(paths: &Paths, server: &Server, event: &Event, contender: Contender, rate: u64) -> Result<Histogram<u64>> {
    let stream = Stream::fill(server, event.clone(), 1, FIRST)?;
    let group = format!("{contender}-latency");
    let groups = [group.clone()];
    let mut running = match contender {
        // The loop that waits on the server instead of ending.
        Contender::Bare => bare::start(&stream, &groups, AtTheEnd::Wait)?,
        _ => contender.start(paths, &stream, &groups)?,
    };
    let latencies = follow(&stream, &group, rate, &mut running);
    drop(running);
    stream.forget_readers()?;
    latencies
}

fn follow(stream: &Stream<'_>, group: &str, rate: u64, running: &mut Running) -> Result<Histogram<u64>> {
    let mut connection = stream.server.connect()?;
    let patience = Instant::now() + PATIENCE;
    while stream.acknowledged(&mut connection)?.0 < FIRST {
        running.check()?;
        anyhow::ensure!(Instant::now() < patience, "it did not begin");
        pause(Duration::from_millis(10));
    }

    let [key] = &stream.keys()[..] else { bail!("latency is measured with one topic") };
    let look = looker(key, group);
    let schedule = Schedule::new(rate, FIRST, LEAD + RECORDED);
    let unrecorded = schedule.count_within(LEAD);
    let sending = producer::start(stream, key, schedule)?;
    let mut latencies = Histogram::new(PRECISION)?;
    let mut seen = FIRST;
    let patience = Instant::now() + LEAD + RECORDED + PATIENCE;
    while seen < schedule.last() {
        let reached = done(&look, &mut connection, group)?;
        let now = Instant::now();
        for number in seen + 1..=reached {
            if number > FIRST + unrecorded {
                let latency = now.saturating_duration_since(schedule.intended(number));
                latencies.record(u64::try_from(latency.as_nanos())?)?;
            }
        }
        seen = seen.max(reached);
        running.check()?;
        anyhow::ensure!(now < patience, "it is {} events behind and does not catch up", schedule.last() - seen);
        pause(LOOK_EVERY);
    }
    sending.join().unwrap_or_else(|_| bail!("the sending thread panicked"))?;
    Ok(latencies)
}

/// Both questions in one write. In this order nothing that happens between them makes an entry look done that is not.
fn looker(key: &str, group: &str) -> redis::Pipeline {
    let mut both = redis::pipe();
    both.cmd("XINFO").arg("GROUPS").arg(key);
    both.cmd("XPENDING").arg(key).arg(group);
    both
}

/// The last entry that is acknowledged with all before it.
fn done(look: &redis::Pipeline, connection: &mut Connection, group: &str) -> Result<u64> {
    let (groups, pending): (Vec<Vec<Value>>, Vec<Value>) = look.query(connection)?;
    for info in groups {
        if text(&info, "name")? == group {
            let read = number_of(&text(&info, "last-delivered-id")?)?;
            return match pending.get(1) {
                Some(Value::BulkString(oldest)) => Ok(read.min(number_of(std::str::from_utf8(oldest)?)? - 1)),
                _ => Ok(read),
            };
        }
    }
    Ok(0)
}

/// `10,000 events/s`.
fn spoken(rate: u64) -> String {
    format!("{},000 events/s", rate / 1_000)
}

/// Where a name stands in the table: by rate, then by contender.
fn place(name: &str) -> (Option<usize>, Option<usize>) {
    let rate = RATES.iter().position(|(_, word)| name.contains(&format!("_{word}_")));
    (rate, CONTENDERS.iter().position(|contender| name.starts_with(&contender.to_string())))
}
