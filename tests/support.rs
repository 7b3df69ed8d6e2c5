//! What tests share: bounded waits, and servers that end with the test that started them.

use std::time::Duration;

pub(crate) mod beside;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod host;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod sentinel;
pub(crate) mod shim;
pub(crate) mod vectors;
pub(crate) mod web;

/// No wait in a test is longer. Far above what anything takes on a busy machine, so it only ends what hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Waits for `future` within [`BOUND`].
pub(crate) async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {BOUND:?}"),
    }
}
