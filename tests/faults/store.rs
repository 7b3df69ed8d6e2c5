//! The bus of a run, with everything that can be done to it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::streams::StreamRangeReply;
use sandbar::bus::{self, Bus, Settings};
use sandbar::event::Outgoing;
use tokio::time::sleep;

use super::events::Event;
use super::plan::{Kind, Mode};
use crate::support::BOUND;
use crate::support::host::guest;
use crate::support::proxy::Proxy;
use crate::support::redis::{Server, command};
use crate::support::shim::Shim;

/// The topic that events are published to.
pub(super) const TOPIC: &str = "in";
/// The topic that the handler publishes to.
pub(super) const OUT: &str = "out";
/// The handler, and so the group.
pub(super) const GROUP: &str = "witness";

/// A bus, reached by each host through a proxy of its own where there is a network.
pub(super) struct Store {
    pub(super) server: Option<Server>,
    /// The server's.
    clock: Shim,
    pub(super) proxies: Vec<Proxy>,
    directory: tempfile::TempDir,
    pub(super) bus: Arc<dyn Bus>,
}

// === impl Store ===

impl Store {
    pub(super) async fn start(mode: &Mode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = match mode.bus {
            Kind::Sqlite => None,
            Kind::Always => Some(Server::start(&["appendonly", "yes", "appendfsync", "always"]).await),
            Kind::EverySecond => Some(Server::start(&["appendonly", "yes", "appendfsync", "everysec"]).await),
            Kind::Oldest => Some(Server::start_old_with(&["appendonly", "yes", "appendfsync", "always"]).await),
        };
        let mut proxies = Vec::new();
        if let Some(server) = &server {
            for _ in 0..mode.hosts {
                proxies.push(Proxy::start(server.port()).await);
            }
        }
        let clock = Shim::new(&directory.path().join("server.shim"));
        let server = match server {
            Some(server) => Some(server.obey(&clock).await),
            None => None,
        };
        let url = server.as_ref().map_or_else(|| embedded(directory.path()), Server::url);
        let bus = bus::open(&Settings { url, ..Settings::default() }).await.unwrap();
        Self { server, clock, proxies, directory, bus }
    }

    /// Writes one configuration for each host.
    pub(super) fn configs(&self, mode: &Mode) -> Vec<PathBuf> {
        (0..mode.hosts).map(|host| self.config(mode, host)).collect()
    }

    /// One for each host.
    pub(super) fn shims(&self, mode: &Mode) -> Vec<Shim> {
        (0..mode.hosts).map(|host| Shim::new(&self.directory.path().join(format!("host-{host}.shim")))).collect()
    }

    /// Turns the clock that leases and due times go by: the server's.
    pub(super) fn turn_clock(&self, by: i64) {
        self.clock.turn_clock(by);
    }

    fn config(&self, mode: &Mode, host: usize) -> PathBuf {
        let url = match self.proxies.get(host) {
            Some(proxy) => {
                format!("redis://127.0.0.1:{}/0?socket_timeout=0.7&socket_connect_timeout=0.7", proxy.port())
            }
            None => embedded(self.directory.path()),
        };
        let Mode { order, lease, in_flight, max_attempts, .. } = mode;
        let module = guest("witness");
        let text = format!(
            "[bus]\nurl = {url:?}\n[host]\ngrace = \"5s\"\npoll_timeout = \"1s\"\nthreads = 1\n\
             [[handler]]\nname = {GROUP:?}\nmodule = {module:?}\ntopics = [{TOPIC:?}]\nstart = \"beginning\"\n\
             order = {order:?}\nkey = \"/lane\"\nlease = \"{lease}ms\"\nin_flight = {in_flight}\n\
             max_attempts = {max_attempts}\nretry_first = \"30ms\"\nretry_max = \"200ms\"\n\
             [handler.limits]\ntime = \"10s\"\n[handler.grants]\npublish = [{OUT:?}]\nkeys = true\n"
        );
        let text = if *order == "key" { text } else { text.replace("key = \"/lane\"\n", "") };
        let path = self.directory.path().join(format!("host-{host}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Publishes each event once, however often it has to be tried. With `max_len` the topic is trimmed with it.
    pub(super) async fn publish(&self, events: &[Event], max_len: Option<u64>) {
        let trimming = match max_len {
            None => None,
            Some(_) => {
                let url = embedded(self.directory.path());
                let settings = Settings { url, stream_max_len: max_len, ..Settings::default() };
                Some(bus::open(&settings).await.unwrap())
            }
        };
        let bus = trimming.as_ref().unwrap_or(&self.bus);
        let mut rest: Vec<&Event> = events.iter().collect();
        let end = tokio::time::Instant::now() + BOUND;
        while !rest.is_empty() {
            let outgoing = |event: &&Event| Outgoing { topic: TOPIC.into(), fields: event.draft().fields() };
            let messages: Vec<Outgoing> = rest.iter().map(outgoing).collect();
            match bus.publish(&messages).await {
                Ok(_) => return,
                Err(error) => {
                    assert!(tokio::time::Instant::now() < end, "cannot publish: {error}");
                    sleep(Duration::from_millis(50)).await;
                    // Nobody trims meanwhile: what is not there was not stored.
                    let there = self.ids_on_redis().await;
                    rest.retain(|event| !there.contains(&event.id));
                }
            }
        }
    }

    /// The ids of the events in the topic. The embedded bus stores a batch as a whole or not at all, so that what
    /// failed there is not there.
    async fn ids_on_redis(&self) -> HashSet<String> {
        let Some(server) = &self.server else { return HashSet::new() };
        let found: StreamRangeReply = server.run(&["XRANGE", TOPIC, "-", "+"]).await;
        found.ids.iter().filter_map(|entry| entry.get("id")).collect()
    }

    /// Runs a command on Redis. What it answers does not matter, but that it does.
    pub(super) async fn command(&self, words: &[&str]) {
        if let Some(server) = &self.server {
            let mut connection = server.connection().await;
            let answer: redis::RedisResult<redis::Value> = command(words).query_async(&mut connection).await;
            if let Err(error) = answer {
                // A group that is not there cannot be destroyed.
                assert!(error.kind() != redis::ErrorKind::Io, "{words:?}: {error}");
            }
        }
    }

    /// How large the embedded bus's log of writes is.
    pub(super) fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.directory.path().join("bus.db-wal")).map_or(0, |found| found.len())
    }
}

fn embedded(directory: &Path) -> String {
    format!("sqlite:{}", directory.join("bus.db").display())
}
