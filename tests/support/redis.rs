//! A Redis server that belongs to one test: a port and a socket of its own, a directory of its own, gone with it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value};
use tempfile::TempDir;

use super::BOUND;
use super::shim::Shim;

/// A running server. Killed on drop; its log is printed when the test fails.
pub(crate) struct Server {
    directory: TempDir,
    program: PathBuf,
    port: u16,
    tls_port: Option<u16>,
    arguments: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    password: Option<String>,
    child: Mutex<Option<Child>>,
}

// === impl Server ===

impl Server {
    /// Starts a server without persistence and further lines of configuration: `["maxmemory", "10mb"]`.
    pub(crate) async fn start(configuration: &[&str]) -> Self {
        Self::start_program("redis-server".into(), configuration, None).await
    }

    /// Starts a server of the oldest Redis that is supported.
    pub(crate) async fn start_old() -> Self {
        Self::start_old_with(&[]).await
    }

    /// The same, with further lines of configuration.
    pub(crate) async fn start_old_with(configuration: &[&str]) -> Self {
        Self::start_other("SANDBAR_REDIS_62", configuration).await
    }

    /// Starts the server whose program this variable names, one of those that `make setup` fetches, with further lines
    /// of configuration.
    pub(crate) async fn start_other(variable: &str, configuration: &[&str]) -> Self {
        let program = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("{variable} names no server: run this through `make test`, which fetches one"));
        Self::start_program(program.into(), configuration, None).await
    }

    /// Starts a server that listens with TLS too and shows the certificate `cert.pem`, key `key.pem`.
    pub(crate) async fn start_tls(certificates: &Path) -> Self {
        Self::start_program("redis-server".into(), &[], Some(certificates)).await
    }

    async fn start_program(program: PathBuf, configuration: &[&str], certificates: Option<&Path>) -> Self {
        assert!(configuration.len().is_multiple_of(2), "names and values");
        let mut arguments = Vec::new();
        for pair in configuration.chunks(2) {
            arguments.extend([format!("--{}", pair[0]), pair[1].to_owned()]);
        }
        let password = configuration.chunks(2).find(|pair| pair[0] == "requirepass").map(|pair| pair[1].to_owned());
        // Between choosing a free port and using it somebody else may take it.
        for _ in 0..5 {
            let (program, mut arguments, password) = (program.clone(), arguments.clone(), password.clone());
            let tls_port = certificates.map(|folder| {
                let port = free_port();
                let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
                arguments.extend(["--tls-port".into(), port.to_string(), "--tls-auth-clients".into(), "no".into()]);
                arguments.extend([
                    "--tls-cert-file".into(),
                    path("cert.pem"),
                    "--tls-key-file".into(),
                    path("key.pem"),
                ]);
                port
            });
            let (directory, child) = (TempDir::new().unwrap(), Mutex::new(None));
            let environment = Vec::new();
            let server =
                Self { directory, program, port: free_port(), tls_port, arguments, environment, password, child };
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts it anew with its clock in the test's hands.
    pub(crate) async fn obey(mut self, shim: &Shim) -> Self {
        self.kill();
        self.environment = shim.environment().into();
        self.revive().await;
        self
    }

    /// Lets it take so many microseconds for each command of its append-only file when it is started again.
    pub(crate) fn load_slowly(&mut self, micros: usize) {
        self.arguments.extend(["--key-load-delay".to_owned(), micros.to_string()]);
    }

    /// Whether it is the oldest Redis that is supported.
    pub(crate) fn is_old(&self) -> bool {
        self.program.parent().is_some_and(|folder| folder.ends_with("redis-6.2"))
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The password it was started with.
    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// What it was started with under this name.
    pub(crate) fn setting(&self, name: &str) -> String {
        let at = self.arguments.iter().position(|argument| argument.strip_prefix("--") == Some(name)).unwrap();
        self.arguments[at + 1].clone()
    }

    /// Waits until this replica has all that its master has.
    pub(crate) async fn in_sync(&self) {
        let end = std::time::Instant::now() + BOUND;
        loop {
            // A server that becomes a replica closes its connections.
            let info: redis::RedisResult<String> = self.try_run(&["INFO", "replication"]).await;
            if info.as_ref().is_ok_and(|it| it.contains("role:slave") && it.contains("master_link_status:up")) {
                return;
            }
            assert!(std::time::Instant::now() < end, "a replica does not follow its master: {info:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `redis://`, without user and password.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// `rediss://`, of a server that was started with certificates.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}/0", self.tls_port.expect("started with TLS"))
    }

    /// The socket in the server's directory.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Kills the server as `kill -9` does.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port and directory.
    pub(crate) async fn revive(&self) {
        assert!(self.launch().await, "the server does not start again");
    }

    /// Stops or continues the process, which keeps its connections and answers nothing.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id).unwrap();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.expect("connect to the test's server")
    }

    /// Runs one command given as words.
    pub(crate) async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_run(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    async fn try_run<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.try_connection().await?;
        command(words).query_async(&mut connection).await
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let auth = self.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        let client = Client::open(format!("redis://{auth}127.0.0.1:{}/0", self.port))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(BOUND));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("redis.log")
    }

    pub(crate) fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Starts the process and waits until it serves; false if it ends instead.
    async fn launch(&self) -> bool {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(self.directory.path()).arg("--unixsocket").arg(self.socket()).args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{} (`make setup`): {error}", self.program.display()));
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let start = std::time::Instant::now();
        while start.elapsed() < BOUND {
            if let Ok(mut connection) = self.try_connection().await
                && redis::cmd("PING").query_async::<Value>(&mut connection).await.is_ok()
            {
                return true;
            }
            if !self.is_running() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            for line in last.into_iter().rev() {
                #[expect(clippy::print_stderr, reason = "shown only when the test fails")]
                {
                    eprintln!("redis-server: {line}");
                }
            }
        }
    }
}

/// A command given as words.
pub(crate) fn command(words: &[&str]) -> Cmd {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
