//! A Redis server of the benchmark's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Client, Connection};
use tempfile::TempDir;

use crate::stream::pause;

/// Far above what a start takes, so it only ends what will never come up.
const START_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Runs on a port of its own on the loopback, without persistence, until dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    _dir: TempDir,
}

// === impl Server ===

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server; `make setup` installs it")?;
        let mut server = Self { process, port, _dir: dir };
        let start = Instant::now();
        while server.connect().is_err() {
            if let Some(status) = server.process.try_wait()? {
                bail!("redis-server ended at once: {status}");
            }
            if start.elapsed() > START_LIMIT {
                bail!("redis-server does not answer on port {port}");
            }
            pause(LOOK_EVERY);
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Ok(Client::open(self.url())?.get_connection()?)
    }

    pub(crate) fn version(&self) -> Result<String> {
        let info: String = redis::cmd("INFO").arg("server").query(&mut self.connect()?)?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.context("the server does not say its version")?.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to save, and nobody to tell if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
