//! Seeing and steering a running host: what each handler is to do, and what it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::consumer::Calls;
use super::reload::{self, NotReloaded, Reloaded};
use super::versions::{Refusal, Swap, Swapped, Wish};
use crate::config::Config;
use crate::event::unix_millis;

/// The rate is over this many seconds.
const SECONDS: usize = 10;

/// Wishes that wait for a keeper.
const WISHES: usize = 4;

/// The handle on a running host. Whoever made it gives it to [`super::run`] and keeps a reference.
#[derive(Debug)]
pub struct Control {
    handlers: Mutex<Vec<Arc<Steering>>>,
    reloads: mpsc::Sender<reload::Wish>,
    /// Here while no host runs.
    to_reload: Mutex<Option<mpsc::Receiver<reload::Wish>>>,
}

/// What a handler's loop does with its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It reads and calls.
    #[default]
    Running,
    /// An operator paused it.
    Paused,
    /// Its dead letters have reached their cap.
    DeadLetters,
    /// So many failed in a row that nothing is called for a while.
    BreakerOpen,
    /// One event at a time is called, to see whether the outage is over.
    BreakerHalfOpen,
    /// So many events wait behind others that only retries are read: `parked_max` is reached.
    Parked,
}

/// What a host tells of one handler: through its control socket, and on the bus with every renewal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The handler. Two handlers of different files may share a group.
    pub handler: String,
    /// What it does.
    pub state: State,
    /// Events that hold a permit: being called, settled, or waiting to be.
    pub in_hand: usize,
    /// Events held back behind others of their key or topic.
    pub held_back: usize,
    /// Events settled per second, over the last ten seconds.
    pub rate: f64,
    /// SHA-256 of its module, in hex.
    pub module: String,
    /// Since when that is served, in milliseconds since the Unix epoch; 0 if it is not known.
    #[serde(default)]
    pub module_since_ms: u64,
    /// Calls of that module that ended, on this host.
    #[serde(default)]
    pub module_calls: u64,
    /// How many of them failed.
    #[serde(default)]
    pub module_failures: u64,
    /// Why this host does not serve the module that its group is to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_trouble: Option<String>,
    /// The host's process.
    pub pid: u32,
}

/// A handler that this host does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no handler {0:?} runs here")]
pub struct UnknownHandler(pub String);

/// One handler's side of it.
#[derive(Debug)]
pub(super) struct Steering {
    name: String,
    paused: watch::Sender<bool>,
    seen: Mutex<Seen>,
    wishes: mpsc::Sender<Wish>,
    /// Here while no keeper has it.
    to_grant: Mutex<Option<mpsc::Receiver<Wish>>>,
}

/// What is shown of the module that is called.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Its digest.
    pub(super) module: String,
    pub(super) since: Option<SystemTime>,
    pub(super) calls: Arc<Calls>,
    /// Why another one that is wanted is not called.
    pub(super) trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    state: State,
    in_hand: usize,
    held_back: usize,
    shown: Shown,
    meter: Meter,
}

/// Events in each of the last seconds.
#[derive(Debug, Default)]
struct Meter {
    since: Option<Instant>,
    counts: [u64; SECONDS],
    /// The second that was counted last, from `since`.
    second: u64,
}

// === impl Control ===

impl Control {
    /// A handle on a host of this configuration, of which nothing is paused.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Self::of(config.handlers.iter().map(|handler| handler.name.clone()))
    }

    pub(super) fn of(names: impl IntoIterator<Item = String>) -> Arc<Self> {
        let (reloads, to_reload) = mpsc::channel(WISHES);
        let handlers = Mutex::new(names.into_iter().map(Steering::new).collect());
        Arc::new(Self { handlers, reloads, to_reload: Mutex::new(Some(to_reload)) })
    }

    /// Pauses these handlers, or with `None` all: nothing new is read and no call starts; calls under way end and
    /// settle. Lasts until [`Control::resume`] or the end of the process.
    ///
    /// # Errors
    ///
    /// If one of them is not known; then nothing is changed.
    pub fn pause(&self, handlers: Option<&[String]>) -> Result<(), UnknownHandler> {
        self.set(handlers, true)
    }

    /// Lets these handlers, or with `None` all, go on.
    ///
    /// # Errors
    ///
    /// If one of them is not known; then nothing is changed.
    pub fn resume(&self, handlers: Option<&[String]>) -> Result<(), UnknownHandler> {
        self.set(handlers, false)
    }

    /// What each handler does at this moment, in the order of the configuration.
    #[must_use]
    pub fn status(&self) -> Vec<Report> {
        self.all().iter().map(|handler| handler.report()).collect()
    }

    /// Has a handler served by another module, from the next call on: verified, compiled and tested first, and recorded on the
    /// bus, so that its group's other hosts follow.
    ///
    /// # Errors
    ///
    /// Why not; the module that is served goes on.
    pub async fn swap(&self, handler: &str, swap: Swap) -> Result<Swapped, Refusal> {
        self.wish(handler, |answer| Wish::Swap(swap, answer)).await
    }

    /// Undoes a handler's last swap, on all hosts of its group.
    ///
    /// # Errors
    ///
    /// Why not; the module that is served goes on.
    pub async fn roll_back(&self, handler: &str, by: &str) -> Result<Swapped, Refusal> {
        self.wish(handler, |answer| Wish::Rollback(by.to_owned(), answer)).await
    }

    /// Has the running host take another configuration over: handlers are added, removed and changed, the others go on
    /// undisturbed.
    ///
    /// # Errors
    ///
    /// Why not; then nothing has changed.
    pub async fn reload(&self, config: Config) -> Result<Reloaded, NotReloaded> {
        let (answer, answered) = oneshot::channel();
        let wish = reload::Wish { config: Box::new(config), answer };
        self.reloads.send(wish).await.map_err(|_| NotReloaded::Absent)?;
        answered.await.unwrap_or(Err(NotReloaded::Absent))
    }

    async fn wish(
        &self,
        handler: &str,
        wish: impl FnOnce(oneshot::Sender<Result<Swapped, Refusal>>) -> Wish,
    ) -> Result<Swapped, Refusal> {
        let known = self.all().into_iter().find(|known| known.name == handler);
        let steering = known.ok_or_else(|| UnknownHandler(handler.to_owned()))?;
        let (answer, answered) = oneshot::channel();
        steering.wishes.send(wish(answer)).await.map_err(|_| Refusal::Absent)?;
        answered.await.unwrap_or(Err(Refusal::Absent))
    }

    fn set(&self, handlers: Option<&[String]>, paused: bool) -> Result<(), UnknownHandler> {
        let all = self.all();
        let named = |wanted: &String| {
            let known = all.iter().find(|handler| handler.name == *wanted);
            known.ok_or_else(|| UnknownHandler(wanted.clone()))
        };
        let chosen: Vec<&Arc<Steering>> = match handlers {
            Some(names) => names.iter().map(named).collect::<Result<_, _>>()?,
            None => all.iter().collect(),
        };
        for handler in chosen {
            handler.paused.send_if_modified(|now| std::mem::replace(now, paused) != paused);
        }
        Ok(())
    }

    /// The side of the handler at this place of the configuration; one of its own if the handle is of another.
    pub(super) fn steering(&self, name: &str) -> Arc<Steering> {
        let known = self.all().into_iter().find(|handler| handler.name == name);
        known.unwrap_or_else(|| Steering::new(name.to_owned()))
    }

    /// From here on these are the handlers, in this order. What is known of those that stay, stays.
    pub(super) fn steer(&self, names: impl IntoIterator<Item = String>) {
        let known = self.all();
        let steering = |name: String| {
            known.iter().find(|handler| handler.name == name).map_or_else(|| Steering::new(name), Arc::clone)
        };
        let now = names.into_iter().map(steering).collect();
        *self.handlers.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn all(&self) -> Vec<Arc<Steering>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Configurations to take over, for the host that runs.
    pub(super) fn take_reloads(&self) -> Option<mpsc::Receiver<reload::Wish>> {
        self.to_reload.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

// === impl Steering ===

impl Steering {
    fn new(name: String) -> Arc<Self> {
        let (wishes, to_grant) = mpsc::channel(WISHES);
        let to_grant = Mutex::new(Some(to_grant));
        Arc::new(Self { name, paused: watch::Sender::new(false), seen: Mutex::default(), wishes, to_grant })
    }

    /// The wishes of operators, for whoever is to grant them.
    pub(super) fn take_wishes(&self) -> Option<mpsc::Receiver<Wish>> {
        self.to_grant.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives them back, for the next one.
    pub(super) fn give_wishes(&self, wishes: Option<mpsc::Receiver<Wish>>) {
        *self.to_grant.lock().unwrap_or_else(PoisonError::into_inner) = wishes;
    }

    /// Told whether it is to be paused.
    pub(super) fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Shows what the loop does; `settled` events were settled since it did so last. Returns true if its state has
    /// changed.
    pub(super) fn show(&self, state: State, in_hand: usize, held_back: usize, settled: u64) -> bool {
        let mut seen = self.seen();
        (seen.in_hand, seen.held_back) = (in_hand, held_back);
        if settled > 0 {
            seen.meter.add(Instant::now(), settled);
        }
        std::mem::replace(&mut seen.state, state) != state
    }

    /// Shows which module is called.
    pub(super) fn show_module(&self, shown: Shown) {
        self.seen().shown = shown;
    }

    pub(super) fn report(&self) -> Report {
        let mut seen = self.seen();
        let (module_calls, module_failures) = seen.shown.calls.read();
        Report {
            handler: self.name.clone(),
            state: seen.state,
            in_hand: seen.in_hand,
            held_back: seen.held_back,
            rate: seen.meter.rate(Instant::now()),
            module: seen.shown.module.clone(),
            module_since_ms: seen.shown.since.map_or(0, unix_millis),
            module_calls,
            module_failures,
            module_trouble: seen.shown.trouble.clone(),
            pid: std::process::id(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// As people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::DeadLetters => "dead letters",
            Self::BreakerOpen => "breaker open",
            Self::BreakerHalfOpen => "breaker half-open",
            Self::Parked => "at parked_max",
        }
    }
}

// === impl Meter ===

impl Meter {
    fn add(&mut self, now: Instant, count: u64) {
        let at = self.turn_to(now);
        self.counts[at] += count;
    }

    /// Per second, over the last ten seconds or as long as it has counted.
    fn rate(&mut self, now: Instant) -> f64 {
        self.turn_to(now);
        let counted = self.since.map_or(Duration::ZERO, |since| now - since).as_secs_f64();
        let sum: u64 = self.counts.iter().sum();
        sum as f64 / counted.clamp(1.0, SECONDS as f64)
    }

    /// Empties what is older than ten seconds, and returns the place of this second.
    fn turn_to(&mut self, now: Instant) -> usize {
        let second = (now - *self.since.get_or_insert(now)).as_secs();
        for passed in (self.second + 1..=second).take(SECONDS) {
            self.counts[passed as usize % SECONDS] = 0;
        }
        if second > self.second + SECONDS as u64 {
            self.counts = [0; SECONDS];
        }
        self.second = second;
        second as usize % SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_ten_seconds() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rate(start), 0.0);
        for second in 0..30 {
            meter.add(start + Duration::from_secs(second), 7);
        }
        assert_eq!(meter.rate(start + Duration::from_secs(29)), 7.0);
        assert_eq!(meter.rate(start + Duration::from_secs(34)), 3.5, "half of them are older");
        assert_eq!(meter.rate(start + Duration::from_secs(40)), 0.0);
        meter.add(start + Duration::from_secs(1_000), 20);
        assert_eq!(meter.rate(start + Duration::from_secs(1_000)), 2.0, "nothing is left of long ago");
    }

    #[test]
    fn an_unknown_name_changes_nothing() {
        let control = Control::of(["a".to_owned(), "b".to_owned()]);
        let a = control.steering("a").paused();
        assert_eq!(control.pause(Some(&["a".into(), "x".into()])), Err(UnknownHandler("x".into())));
        assert!(!*a.borrow());
        control.pause(Some(&["a".into()])).unwrap();
        assert!(*a.borrow() && !*control.steering("b").paused().borrow());
        control.pause(None).unwrap();
        control.resume(Some(&["b".into()])).unwrap();
        assert!(*a.borrow() && !*control.steering("b").paused().borrow());
    }
}
