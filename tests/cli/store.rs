//! A bus that one test has for itself, of either kind.

use crate::support::host::Bench;
use crate::support::redis::Server;

/// The bus, and the folder that a command is run in.
pub(super) enum Store {
    Sqlite(Bench),
    Redis(Bench, Server),
}

// === impl Store ===

impl Store {
    pub(super) fn sqlite() -> Self {
        Self::Sqlite(Bench::new())
    }

    pub(super) async fn redis() -> Self {
        Self::Redis(Bench::new(), Server::start(&[]).await)
    }

    pub(super) fn bench(&self) -> &Bench {
        let (Self::Sqlite(bench) | Self::Redis(bench, _)) = self;
        bench
    }

    pub(super) fn url(&self) -> String {
        match self {
            Self::Sqlite(bench) => format!("sqlite:{}", bench.path("bus.db").display()),
            Self::Redis(_, server) => server.url(),
        }
    }
}
