//! A Redis master, its replica and the sentinels that watch them: processes that belong to one test.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, FromRedisValue, Value};
use tempfile::TempDir;
use tokio::time::sleep;

use super::BOUND;
use super::redis::{Server, command, free_port};

/// The name under which the sentinels know the master.
pub(crate) const MASTER: &str = "events";

/// Two servers, the first of which starts as master, and three sentinels.
pub(crate) struct Watched {
    pub(crate) servers: [Server; 2],
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    port: u16,
    child: Child,
    _directory: TempDir,
}

// === impl Watched ===

impl Watched {
    /// Starts all of it and waits until the sentinels know the replica and each other.
    pub(crate) async fn start(configuration: &[&str]) -> Self {
        let mut settings = vec!["appendonly", "yes", "repl-diskless-sync-delay", "0"];
        settings.extend(configuration);
        let master = Server::start(&settings).await;
        let replica = Server::start(&settings).await;
        let _: () = replica.run(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
        replica.in_sync().await;
        let password = master.password().map(str::to_owned);
        let sentinels = (0..3).map(|_| Sentinel::start(master.port(), password.as_deref())).collect();
        let watched = Self { servers: [master, replica], sentinels };
        watched.known().await;
        watched
    }

    /// `redis+sentinel://`, without user and password.
    pub(crate) fn url(&self) -> String {
        let ports: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{MASTER}/0", ports.join(","))
    }

    /// Asks one sentinel.
    pub(crate) async fn ask<T: FromRedisValue>(&self, sentinel: usize, words: &[&str]) -> redis::RedisResult<T> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.sentinels[sentinel].port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        command(words).query_async(&mut connection).await
    }

    /// Asks for a fail-over until the sentinels take it up: soon after another one they do not.
    pub(crate) async fn fail_over(&self) {
        let end = Instant::now() + BOUND;
        while let Err(error) = self.ask::<Value>(0, &["SENTINEL", "FAILOVER", MASTER]).await {
            assert!(Instant::now() < end, "no fail-over: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all sentinels name this server as master.
    pub(crate) async fn agreed_on(&self, server: usize) {
        let port = self.servers[server].port().to_string();
        let end = Instant::now() + BOUND;
        for sentinel in 0..self.sentinels.len() {
            loop {
                let named: redis::RedisResult<Vec<String>> =
                    self.ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
                if named.is_ok_and(|named| named[1] == port) {
                    break;
                }
                assert!(Instant::now() < end, "the sentinels do not agree on server {server}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn known(&self) {
        let end = Instant::now() + BOUND;
        for sentinel in 0..self.sentinels.len() {
            loop {
                let replicas = self.ask::<Vec<Value>>(sentinel, &["SENTINEL", "REPLICAS", MASTER]).await;
                let others = self.ask::<Vec<Value>>(sentinel, &["SENTINEL", "SENTINELS", MASTER]).await;
                if replicas.is_ok_and(|found| found.len() == 1) && others.is_ok_and(|found| found.len() == 2) {
                    break;
                }
                assert!(Instant::now() < end, "a sentinel does not find the others");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

// === impl Sentinel ===

impl Sentinel {
    /// The server's own program is the sentinel too.
    fn start(master: u16, password: Option<&str>) -> Self {
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let file = directory.path().join("sentinel.conf");
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nlogfile sentinel.log\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {MASTER} 1500\nsentinel failover-timeout {MASTER} 6000\n",
            directory.path().display()
        );
        if let Some(password) = password {
            text += &format!("sentinel auth-pass {MASTER} {password}\n");
        }
        fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("redis-server (`make setup`): {error}"));
        Self { port, child, _directory: directory }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
