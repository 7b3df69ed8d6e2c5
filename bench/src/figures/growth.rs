//! How the rate changes as the work grows: more handlers, more topics, larger events, more in hand, larger modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::event::{Event, ORDINARY};
use super::host::{Config, Host, guest};
use super::progress::{Watched, fill, rate};
use crate::paths::Paths;
use crate::sample::Sample;
use crate::server::Server;

mod padding;

const HANDLERS: [usize; 4] = [1, 10, 100, 1_000];
const TOPICS: [usize; 3] = [1, 10, 100];
const PAYLOADS: [(usize, &str); 4] = [(100, "100b"), (ORDINARY, "1k"), (16 << 10, "16k"), (64 << 10, "64k")];
const IN_FLIGHT: [usize; 5] = [1, 8, 64, 256, 1_024];
/// A call alone, waiting for the bus each time, is slow: so many are enough.
const ALONE: u64 = 5_000;
/// At most so many bytes are drained at a point, so that large events take no longer than small ones.
const BYTES: u64 = 256 << 20;
/// A look asks for all groups of all topics: the more there are, the rarer.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LOOK_EVERY_OF_MANY: Duration = Duration::from_millis(100);
/// Bytes of code, more or less, that a large module has and never calls.
const PADDING: usize = 5 << 20;

/// One point: everything but what grows is as in an ordinary configuration.
struct Point<'a> {
    handlers: usize,
    topics: usize,
    payload: usize,
    in_flight: Option<usize>,
    module: &'a Path,
    /// Events in all topics together, times the handlers that each topic has.
    calls: u64,
}

/// All points, one after the other.
pub(super) fn measure(paths: &Paths, calls: u64) -> Result<Vec<Sample>> {
    let dir = tempfile::tempdir()?;
    let noop = guest(paths, "noop.wasm")?;
    let large = padded(&noop, dir.path())?;
    let modules = [("noop", noop.clone()), ("xapi", guest(paths, "xapi.wasm")?), ("padded", large)];
    let point = || Point { handlers: 1, topics: 1, payload: ORDINARY, in_flight: None, module: &noop, calls };

    let mut samples = Vec::new();
    let mut add = |name: String, what: String, point: Point<'_>| -> Result<()> {
        let rate = point.measure(paths).with_context(|| name.clone())?;
        samples.push(Sample::new(name, what, "events/s", rate));
        Ok(())
    };
    for handlers in HANDLERS {
        let what = format!("{handlers} handlers of one topic, all together");
        add(format!("handlers_{handlers}"), what, Point { handlers, ..point() })?;
    }
    for topics in TOPICS {
        let what = format!("one handler of {topics} topics");
        add(format!("topics_{topics}"), what, Point { topics, ..point() })?;
    }
    for (payload, name) in PAYLOADS {
        let what = format!("events of {payload} bytes");
        add(format!("payload_{name}"), what, Point { payload, ..point() })?;
    }
    for in_flight in IN_FLIGHT {
        let calls = if in_flight == 1 { calls.min(ALONE) } else { calls };
        let what = format!("in_flight = {in_flight}");
        add(format!("in_flight_{in_flight}"), what, Point { in_flight: Some(in_flight), calls, ..point() })?;
    }
    for (name, module) in &modules {
        let what = format!("{name}, a module of {} KiB", fs::metadata(module)?.len() >> 10);
        add(format!("module_{name}"), what, Point { module, ..point() })?;
    }
    Ok(samples)
}

/// The component `module` with much more code around what it does.
fn padded(module: &Path, dir: &Path) -> Result<PathBuf> {
    let file = dir.join("padded.wasm");
    fs::write(&file, padding::pad(&fs::read(module)?, PADDING)?)?;
    Ok(file)
}

// === impl Point ===

impl Point<'_> {
    /// Calls per second in one drain.
    fn measure(&self, paths: &Paths) -> Result<f64> {
        let server = Server::start()?;
        let event = Event::of_size(paths.root(), self.payload)?;
        let calls = self.calls.min(BYTES / event.bytes() as u64);
        let each = (calls / self.handlers as u64 / self.topics as u64).max(1);
        let topics: Vec<String> = (0..self.topics).map(|index| format!("topic-{index}")).collect();
        for topic in &topics {
            fill(&server, topic, &event, each)?;
        }
        let total = each * (self.handlers * self.topics) as u64;

        let mut config = Config::new(&server.url());
        for index in 0..self.handlers {
            let in_flight = self.in_flight.map(|in_flight| format!("in_flight = {in_flight}\n")).unwrap_or_default();
            config.handler(&format!("handler-{index}"), self.module, &topics, &in_flight);
        }
        let mut watched = Watched::new(&server, topics)?;
        let many = self.handlers.max(self.topics) > 10;
        let mut host = Host::start(paths, &config)?;
        rate(total, if many { LOOK_EVERY_OF_MANY } else { LOOK_EVERY }, || {
            host.check()?;
            Ok(watched.look()?.0)
        })
    }
}
