//! A Redis server of the measurement's own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Far above what a start takes, so it only ends what will never come up.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Runs on a port of its own on the loopback, without persistence, until dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    port: u16,
    _directory: TempDir,
}

// === impl Server ===

impl Server {
    /// Starts `redis-server` and waits until it answers.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .arg("--dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server; `make setup` installs it")?;
        let mut server = Self { process, port, _directory: directory };
        let start = Instant::now();
        while !server.answers() {
            if let Some(status) = server.process.try_wait()? {
                bail!("redis-server ended at once: {status}");
            }
            if start.elapsed() > START_LIMIT {
                bail!("redis-server does not answer on port {port}");
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG\r\n")
        };
        ask().unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to save, and nobody to tell if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
