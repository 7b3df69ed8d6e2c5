//! Redis Streams: the conformance suite on a real server, and what only Redis can do to us.

use std::sync::Arc;

use async_trait::async_trait;
use sandbar::bus::{Bus, Settings, open};

use crate::conformance::{Fixture, conformance};
use crate::support::redis::Server;

mod tls;
mod trouble;

conformance!(conforms, Server::start(&[]));
conformance!(on_6_2, Server::start_old());

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
    let settings = Settings { url: url.to_owned(), topic_prefix: Some("dev".into()), stream_max_len: None };
    open(&settings).await.unwrap()
}

/// The number that a command answers with.
async fn count(server: &Server, words: &[&str]) -> u64 {
    server.run(words).await
}
