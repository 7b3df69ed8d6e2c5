//! What a subscription has in hand, by delivery id, and what was dropped of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{DeliveryId, Receipt, Returns};

/// A table of deliveries in hand. `T` is what the backend must know to settle, renew or give back one of them.
pub(crate) struct InHand<T> {
    state: Mutex<State<T>>,
    returned: Notify,
}

struct State<T> {
    entries: HashMap<DeliveryId, T>,
    dropped: Vec<DeliveryId>,
    next: u64,
}

// === impl InHand ===

impl<T: Send + 'static> InHand<T> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { entries: HashMap::new(), dropped: Vec::new(), next: 0 };
        Arc::new(Self { state: Mutex::new(state), returned: Notify::new() })
    }

    /// Takes `entry` in hand.
    pub(crate) fn take(self: &Arc<Self>, entry: T) -> Receipt {
        let mut state = self.lock();
        let id = DeliveryId(state.next);
        state.next += 1;
        state.entries.insert(id, entry);
        Receipt::new(id, Arc::clone(self) as Arc<dyn Returns>)
    }

    /// Forgets an entry: it is settled or lost.
    pub(crate) fn remove(&self, id: DeliveryId) -> Option<T> {
        self.lock().entries.remove(&id)
    }

    /// Removes and returns whatever was dropped since the last call, for the backend to deliver again.
    pub(crate) fn take_dropped(&self) -> Vec<T> {
        let mut state = self.lock();
        let dropped = std::mem::take(&mut state.dropped);
        dropped.into_iter().filter_map(|id| state.entries.remove(&id)).collect()
    }

    /// True if the caller has something that it has not dropped.
    pub(crate) fn holds_any(&self) -> bool {
        let state = self.lock();
        let dropped: HashSet<&DeliveryId> = state.dropped.iter().collect();
        state.entries.keys().any(|id| !dropped.contains(id))
    }

    /// Wakes who waits in `returned`.
    pub(crate) fn nudge(&self) {
        self.returned.notify_one();
    }

    /// Waits until something has been dropped since the last time it waited. For the one caller of `fetch`.
    pub(crate) async fn returned(&self) {
        self.returned.notified().await;
    }

    /// Looks at the table under its lock: keep it short.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut HashMap<DeliveryId, T>) -> R) -> R {
        look(&mut self.lock().entries)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Returns for InHand<T> {
    fn dropped(&self, id: DeliveryId) {
        let mut state = self.lock();
        if state.entries.contains_key(&id) {
            state.dropped.push(id);
            self.returned.notify_one();
        }
    }
}
