//! When there is nothing left to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Until;
use crate::bus::Bus;
use crate::config::HandlerConfig;

/// How often the bus is asked once every consumer is at rest.
const INTERVAL: Duration = Duration::from_millis(50);

/// Ready when no consumer has anything in hand and the bus knows of nothing unread, pending or retrying, for any
/// handler, twice in a row: what one handler published, another may still have to read.
pub(super) async fn reached(until: Until, handlers: &[HandlerConfig], busy: &[Arc<AtomicBool>], bus: &dyn Bus) {
    if until == Until::Shutdown {
        return std::future::pending().await;
    }
    let mut quiet = 0;
    while quiet < 2 {
        tokio::time::sleep(INTERVAL).await;
        let resting = busy.iter().all(|busy| !busy.load(Ordering::Acquire));
        quiet = if resting && drained(handlers, bus).await { quiet + 1 } else { 0 };
    }
}

async fn drained(handlers: &[HandlerConfig], bus: &dyn Bus) -> bool {
    for handler in handlers {
        for topic in &handler.group.topics {
            // An outage is no rest: ask again.
            let Ok(status) = bus.status(topic, &handler.group.name).await else { return false };
            if status.lag != Some(0) || status.pending > 0 || status.retrying > 0 {
                return false;
            }
        }
    }
    true
}
