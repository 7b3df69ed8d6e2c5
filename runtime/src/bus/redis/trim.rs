//! Trimming what every group has acknowledged: never while publishing, but about once per lease by one of the hosts.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Pipeline;
use tokio::time::Instant;

use super::super::Error;
use super::super::durability::{Trimming, say_held_up};
use super::keys::{self, Keys};
use super::{Shared, errors, millis, parse, position_parts, scripts};

/// Steps of one turn: what is left after so many is left for the next turn, so that a renewal is not held up.
const STEPS: usize = 50;
/// The shortest time between two words on one topic.
const SAID: Duration = Duration::from_secs(300);

/// What this process knows of the topics it trims.
#[derive(Default)]
pub(super) struct Trimmer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Streams that were written to: those that are read only elsewhere are trimmed from here too.
    written: HashSet<String>,
    /// When each stream was last looked at.
    looked: HashMap<String, Instant>,
    /// When a word was last said of a stream, and whether it was at its cap.
    said: HashMap<String, (Instant, bool)>,
}

/// What one step of the script found.
struct Step {
    next: String,
    holder: String,
    length: u64,
}

// === impl Trimmer ===

impl Trimmer {
    /// Remembers a stream that is published to.
    pub(super) fn wrote(&self, trimming: Trimming, stream: &str) {
        if trimming.acked {
            let mut state = self.lock();
            if !state.written.contains(stream) {
                state.written.insert(stream.to_owned());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams whose turn it is again.
    fn due(&self, topics: &[Keys], lease: Duration) -> Vec<String> {
        let mut state = self.lock();
        let all: HashSet<String> =
            topics.iter().map(|keys| keys.stream.clone()).chain(state.written.iter().cloned()).collect();
        let now = Instant::now();
        let is_due = |stream: &String| state.looked.get(stream).is_none_or(|looked| now - *looked >= lease);
        let due: Vec<String> = all.into_iter().filter(is_due).collect();
        state.looked.extend(due.iter().map(|stream| (stream.clone(), now)));
        due
    }

    fn say(&self, stream: &str, step: &Step, cap: u64) {
        let is_full = step.length >= cap;
        let mut state = self.lock();
        let is_known = |(at, was_full): &(Instant, bool)| at.elapsed() < SAID && (*was_full || !is_full);
        if step.holder.is_empty() || state.said.get(stream).is_some_and(is_known) {
            return;
        }
        if say_held_up(stream, &step.holder, step.length, cap) {
            state.said.insert(stream.to_owned(), (Instant::now(), is_full));
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Trims these topics and those that this process publishes to, if that is wanted and nobody has for one lease.
    pub(super) async fn trim(&self, topics: &[Keys], who: &str, lease: Duration) {
        if !self.trimming.acked {
            return;
        }
        for stream in self.trimmer.due(topics, lease) {
            // Nothing depends on it: the next turn comes.
            if let Err(error) = self.trim_stream(&stream, who, lease).await {
                tracing::debug!(stream, %error, "the topic is not trimmed now");
            }
        }
    }

    async fn trim_stream(&self, stream: &str, who: &str, lease: Duration) -> Result<(), Error> {
        let turn = keys::trim(stream);
        let mut cursor = String::new();
        for _ in 0..STEPS {
            let mut trim = scripts::TRIM.call(&[stream, &turn]);
            trim.arg(who).arg(millis(lease)).arg(&cursor);
            let found = parse::texts(self.link.value(trim).await?, "trim")?;
            // It is another's turn.
            let Ok([next, _, holder, length]) = <[String; 4]>::try_from(found) else { return Ok(()) };
            let step = Step { next, holder, length: length.parse().unwrap_or(0) };
            if step.next.is_empty() {
                if let Some(cap) = self.trimming.max_len {
                    self.trimmer.say(stream, &step, cap);
                }
                return Ok(());
            }
            cursor = step.next;
        }
        Ok(())
    }

    /// The group that has the oldest entry which it has not acknowledged.
    pub(super) async fn holder(&self, keys: &Keys, last: &str) -> Result<Option<String>, Error> {
        let mut groups = Vec::new();
        let mut ask = Pipeline::new();
        for found in self.xinfo("GROUPS", keys, None).await? {
            let pairs = parse::array(found, "XINFO GROUPS")?;
            let text = |name: &str| parse::named(&pairs, name).cloned().and_then(parse::text);
            let (Some(name), Some(delivered)) = (text("name"), text("last-delivered-id")) else {
                return Err(errors::unexpected("XINFO GROUPS"));
            };
            ask.cmd("XPENDING").arg(&keys.stream).arg(&name);
            groups.push((name, delivered));
        }
        let mut oldest: Option<((u64, u64), String)> = None;
        for ((name, delivered), answer) in groups.into_iter().zip(self.link.send(ask).await?) {
            // A group that has just gone holds nothing up.
            let Ok(summary) = answer else { continue };
            let pending = parse::array(summary, "XPENDING")?.into_iter().nth(1).and_then(parse::text);
            if pending.is_none() && delivered == last {
                continue;
            }
            let at = position_parts(pending.as_deref().unwrap_or(&delivered)).unwrap_or_default();
            if oldest.as_ref().is_none_or(|(known, _)| at < *known) {
                oldest = Some((at, name));
            }
        }
        Ok(oldest.map(|(_, name)| name))
    }
}
