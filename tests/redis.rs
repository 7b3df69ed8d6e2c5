//! Redis Streams: the conformance suite on a real server, and what only Redis can do to us.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sandbar::bus::{Bus, Settings, open};

use crate::conformance::{Fixture, conformance};
use crate::support::redis::Server;

mod across;
mod cluster;
mod divided;
mod durable;
mod failover;
mod order;
mod outage;
mod ready;
mod repair;
mod reports;
mod sentinel;
mod taken;
pub(crate) mod tls;
mod trim;
mod trouble;

conformance!(conforms, Server::start(&[]));
conformance!(on_6_2, Server::start_old());
conformance!(on_8_2, Server::start_other("SANDBAR_REDIS_82", &[]));
conformance!(on_valkey_8_1, Server::start_other("SANDBAR_VALKEY_81", &[]));

#[async_trait]
impl Fixture for Server {
    async fn host(&self) -> Arc<dyn Bus> {
        host(&self.url()).await
    }

    async fn lose_messages(&self, topic: &str) {
        let trimmed: u64 = self.run(&["XTRIM", &format!("dev-{topic}"), "MAXLEN", "0"]).await;
        assert!(trimmed > 0);
    }

    fn counts_unread(&self) -> bool {
        !self.is_old()
    }
}

/// A host on the bus at this URL.
async fn host(url: &str) -> Arc<dyn Bus> {
    let settings = Settings { url: url.to_owned(), topic_prefix: Some("dev".into()), ..Settings::default() };
    open(&settings).await.unwrap()
}

/// The same with further settings.
async fn host_with(url: &str, settings: Settings) -> Arc<dyn Bus> {
    open(&Settings { url: url.to_owned(), topic_prefix: Some("dev".into()), ..settings }).await.unwrap()
}

/// The number that a command answers with.
async fn count(server: &Server, words: &[&str]) -> u64 {
    server.run(words).await
}

/// The lines logged on this thread from now on.
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

// === impl Log ===

impl Log {
    pub(crate) fn start() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Lines(Arc::clone(&lines));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that contain `text`.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = String::from_utf8(self.lines.lock().unwrap().clone()).unwrap();
        lines.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
