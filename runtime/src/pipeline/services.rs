//! What a guest's calls ask of the other steps: encode and sign a draft, read a key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::signing::Signer;
use crate::bus::{self, Bus};
use crate::event::{Event, KeyList, Versioned};
use crate::sandbox::{Draft, DraftError, Prepared, Services, Unread};

/// A bus that has not answered for so long has trouble. If less was left of the call, the guest took too long.
const PATIENCE: Duration = Duration::from_millis(100);

/// What one version of a handler is served with.
pub(super) struct HandlerServices {
    signer: Signer,
    bus: Arc<dyn Bus>,
    runtime: Handle,
}

// === impl HandlerServices ===

impl HandlerServices {
    pub(super) fn new(signer: Signer, bus: Arc<dyn Bus>) -> Self {
        Self { signer, bus, runtime: Handle::current() }
    }

    fn wait<T>(&self, deadline: Instant, read: impl Future<Output = Result<T, bus::Error>>) -> Result<T, Unread> {
        let begun = Instant::now();
        let bounded = async { tokio::time::timeout_at(deadline.into(), read).await };
        match self.runtime.block_on(bounded) {
            Ok(answer) => answer.map_err(|error| Unread { reason: error.to_string(), passing: error.is_transient() }),
            Err(_) => {
                let reason = "the bus did not answer within the time that is left of this call".to_owned();
                Err(Unread { reason, passing: begun.elapsed() >= PATIENCE })
            }
        }
    }
}

impl Services for HandlerServices {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        self.signer.prepare(event, index, draft)
    }

    fn read_key(&self, space: &str, key: &str, deadline: Instant) -> Result<Versioned, Unread> {
        self.wait(deadline, self.bus.read_key(space, key))
    }

    fn list_keys(&self, space: &str, prefix: &str, limit: usize, deadline: Instant) -> Result<KeyList, Unread> {
        self.wait(deadline, self.bus.list_keys(space, prefix, limit))
    }
}
