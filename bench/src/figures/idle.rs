//! What a handler takes that has nothing to do.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::host::{Config, Host, guest, rest};
use super::progress::{Watched, float};
use crate::paths::Paths;
use crate::sample::Sample;
use crate::server::Server;

/// The handlers are spread over so many topics.
const TOPICS: usize = 10;
/// A handler renews its leases three times per lease; by then it has done all that it does again and again.
const LEASE: Duration = Duration::from_secs(6);
/// After that many looks whose sum no longer changes by a hundredth, it is at rest.
const LOOKS: usize = 20;

/// The memory of each of `handlers` beyond the first.
pub(super) fn measure(paths: &Paths, handlers: usize) -> Result<Vec<Sample>> {
    ensure!(handlers > 1, "one handler has nothing to be compared with");
    let one = at_rest(paths, 1)?;
    let all = at_rest(paths, handlers)?;
    let each = (all - one) / float(handlers as u64 - 1);
    Ok(vec![
        Sample::new("idle_handler_kib", format!("each of {handlers} idle handlers"), "KiB", each),
        Sample::new("idle_host_kib", "a host with one idle handler", "KiB", one),
    ])
}

/// KiB of a host with so many handlers of one module that have nothing to do.
fn at_rest(paths: &Paths, handlers: usize) -> Result<f64> {
    let server = Server::start()?;
    let module = guest(paths, "noop.wasm")?;
    let topic = |index: usize| format!("idle-{}", index % TOPICS);
    let mut config = Config::new(&server.url());
    for index in 0..handlers {
        let lease = format!("lease = \"{}s\"", LEASE.as_secs());
        config.handler(&format!("handler-{index}"), &module, &[topic(index)], &lease);
    }
    let topics: Vec<String> = (0..TOPICS.min(handlers)).map(topic).collect();
    let mut host = Host::start(paths, &config)?;
    // Topics come with their first group.
    let mut connection = server.connect()?;
    for topic in &topics {
        let key = super::progress::key(topic);
        while !redis::cmd("EXISTS").arg(&key).query::<bool>(&mut connection)? {
            host.check()?;
            rest(Duration::from_millis(5));
        }
    }
    Watched::new(&server, topics)?.wait_for_groups(&mut host, handlers)?;

    rest(LEASE);
    let mut before = host.memory_kib()?;
    for _ in 0..LOOKS {
        rest(LEASE / 6);
        let now = host.memory_kib()?;
        host.check()?;
        if (now - before).abs() < before / 100.0 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}
