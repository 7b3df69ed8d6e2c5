//! How long to leave a bus alone that is in trouble, and when to say so.

use std::time::{Duration, Instant};

use crate::bus;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(50);
/// No pause is longer: a bus that is back is noticed within it.
const LONGEST: Duration = Duration::from_secs(2);

/// Trouble with the bus, as one handler's loop sees it: said once when it begins and once when it is over.
#[derive(Debug)]
pub(super) struct Backoff {
    /// What is tried, for the log.
    doing: &'static str,
    pause: Option<Duration>,
    since: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new(doing: &'static str) -> Self {
        Self { doing, pause: None, since: None }
    }

    /// How long to wait before the next request.
    pub(super) fn pause(&self) -> Duration {
        self.pause.unwrap_or_default()
    }

    /// A request failed.
    pub(super) fn more(&mut self, handler: &str, error: &bus::Error) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            if error.is_transient() {
                tracing::warn!(handler, doing = self.doing, %error, "the bus is in trouble; what is in hand stays in hand");
            } else {
                tracing::error!(handler, doing = self.doing, %error, "the bus refuses; this will not mend itself");
            }
        }
        self.pause = Some(self.pause.map_or(FIRST, |pause| (pause * 2).min(LONGEST)));
    }

    /// A request went well.
    pub(super) fn over(&mut self, handler: &str) {
        self.pause = None;
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(handler, doing = self.doing, seconds, "the bus serves again");
        }
    }
}
