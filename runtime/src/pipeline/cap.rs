//! The cap on a handler's dead letters: asked of the bus now and then, never for an event.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;

use crate::bus::{self, Bus};
use crate::config::{DeadLetterCap, HandlerConfig};
use crate::event::Topic;

/// Own dead letters are followed by a look, but not by more than one in this time.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// While the cap is reached: how soon it is noticed that letters were requeued or purged.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Looks at the dead letters of a handler.
pub(super) struct Cap {
    bus: Arc<dyn Bus>,
    group: String,
    topics: Vec<Topic>,
    cap: DeadLetterCap,
}

// === impl Cap ===

impl Cap {
    /// `None` if the handler has no cap.
    pub(super) fn of(settings: &HandlerConfig, bus: &Arc<dyn Bus>) -> Option<Arc<Self>> {
        let cap = settings.dead_letters;
        (cap.max.is_some() || cap.max_age.is_some()).then(|| {
            let (group, topics) = (settings.group.name.clone(), settings.group.topics.clone());
            Arc::new(Self { bus: Arc::clone(bus), group, topics, cap })
        })
    }

    /// Which cap is reached, in words; `None` if none is.
    pub(super) async fn reached(&self) -> Result<Option<String>, bus::Error> {
        let all = try_join_all(self.topics.iter().map(|topic| self.bus.status(topic, &self.group))).await?;
        let count: u64 = all.iter().map(|status| status.dead_letters).sum();
        if let Some(max) = self.cap.max
            && count >= max
        {
            return Ok(Some(format!("there are {count}, dead_letters_max is {max}")));
        }
        let oldest = all.iter().filter_map(|status| status.oldest_dead_letter).min();
        if let (Some(max_age), Some(oldest)) = (self.cap.max_age, oldest)
            && let age = SystemTime::now().duration_since(oldest).unwrap_or_default()
            && age > max_age
        {
            let age = Duration::from_secs(age.as_secs());
            return Ok(Some(format!("the oldest is {age:?} old, dead_letters_max_age is {max_age:?}")));
        }
        Ok(None)
    }
}
