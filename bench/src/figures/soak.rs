//! The memory of a host under load, at the start and after a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::event::{Event, ORDINARY};
use super::host::{Config, Host, guest, rest};
use super::progress::{Watched, key};
use crate::paths::Paths;
use crate::sample::Sample;
use crate::server::Server;

const TOPIC: &str = "soak";
/// By then pools, caches and buffers have the size that the load gives them. A tenth of the run, if that is shorter.
const WARM_UP: Duration = Duration::from_secs(30);
/// The load: so many events in each write, and so often. Less than a host can take, so that it keeps up.
const BATCH: usize = 100;
const EVERY: Duration = Duration::from_millis(10);
/// The stream is kept at this length.
const KEPT: u64 = 100_000;

/// Memory at the start and at the end of so many minutes.
pub(super) fn measure(paths: &Paths, minutes: f64) -> Result<Vec<Sample>> {
    ensure!(minutes > 0.0 && minutes.is_finite(), "a soak of {minutes} minutes shows nothing");
    let length = Duration::from_secs_f64(minutes * 60.0);
    let server = Server::start()?;
    let event = Event::of_size(paths.root(), ORDINARY)?;
    let mut config = Config::new(&server.url());
    config.handler("soak", &guest(paths, "noop.wasm")?, &[TOPIC.to_owned()], "");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| load(&server, &event, &over));
        let measured = watch(paths, &server, &config, length);
        over.store(true, Ordering::Relaxed);
        match load.join() {
            Ok(loaded) => loaded?,
            Err(_) => bail!("the load's thread panicked"),
        }
        let (start, end) = measured?;
        let after = |when: &str| format!("memory of a host under load, {when}");
        Ok(vec![
            Sample::new("soak_start_kib", after("warmed up"), "KiB", start),
            Sample::new("soak_end_kib", after(&format!("after {minutes} minutes")), "KiB", end),
        ])
    })
}

fn watch(paths: &Paths, server: &Server, config: &Config, length: Duration) -> Result<(f64, f64)> {
    // The topic comes with the first event.
    let mut connection = server.connect()?;
    while !redis::cmd("EXISTS").arg(key(TOPIC)).query::<bool>(&mut connection)? {
        rest(EVERY);
    }
    let mut host = Host::start(paths, config)?;
    Watched::new(server, vec![TOPIC.to_owned()])?.wait_for_groups(&mut host, 1)?;
    let start = Instant::now();
    rest(WARM_UP.min(length / 10));
    let before = host.memory_kib()?;
    while start.elapsed() < length {
        rest(Duration::from_millis(200));
        host.check()?;
    }
    Ok((before, host.memory_kib()?))
}

/// Appends events until it is over.
fn load(server: &Server, event: &Event, over: &AtomicBool) -> Result<()> {
    let mut connection = server.connect()?;
    let mut batch = redis::pipe();
    for _ in 0..BATCH {
        batch.cmd("XADD").arg(key(TOPIC)).arg("MAXLEN").arg("~").arg(KEPT).arg("*").arg(&event.fields).ignore();
    }
    while !over.load(Ordering::Relaxed) {
        batch.exec(&mut connection)?;
        rest(EVERY);
    }
    Ok(())
}
