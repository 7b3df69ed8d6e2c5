//! Instances that serve several events of their handler, where the operator set `reuse`.
//!
//! An instance stays if its call *returned*, whatever it answered: a wish to retry and a rejection are answers that the
//! guest gave with its state in order. After a trap, a limit that was hit or a bug of the host's nobody knows that, and
//! the instance goes. So does one that has served as many events as it may, that has taken half of the memory there was
//! for its calls, or that piles up handles.
//!
//! An event that has failed before always gets a fresh instance: what an earlier event left behind can cost an attempt,
//! and no more than one.
//!
//! A thread keeps the instance in hand for the events of one batch ([`Hand`]) and lays it on the handler's [`Shelf`]
//! then. What lies on shelves holds slots of the pool that calls do not count on, so no handler finds the pool full.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime::component::Func;

use super::handler::Handling;
use super::host::State;
use super::limits;
use super::modules::Contract;
use super::monitor::Watch;
use crate::event::{Event, Metadata, Payload, Verdict};

/// One instance, or the store that it will be made in by its first call.
pub(super) struct Guest {
    pub(super) store: Store<State>,
    handle: Option<Func>,
    served: u32,
    /// Stands in for the event between two calls. Each instance has its own, as counting references to a shared one
    /// would cost every call.
    nothing: Option<Arc<Event>>,
}

/// One thread's hold on a handler: the instance that served the last event, for the next. Nothing if there is no reuse.
pub(super) struct Hand<'a> {
    pub(super) handling: &'a Arc<Handling>,
    shelf: &'a Shelf,
    guest: Option<Guest>,
}

/// A call that is over, with its instance if that stays.
#[expect(clippy::large_enum_variant, reason = "lives for a moment on the stack; a box would cost every call")]
pub(super) enum Over {
    Gone(State),
    Stays(Guest),
}

/// The instances of one handler that wait for its next events.
pub(super) struct Shelf {
    reuse: u32,
    /// More than can be called at once are of no use.
    most: usize,
    /// The last one first: it is the warmest.
    waiting: Mutex<Vec<Waiting>>,
    room: Arc<Room>,
    shut: Arc<AtomicBool>,
    closed: AtomicBool,
}

/// The shelves of all handlers, and how much room they have together.
pub(super) struct Shelves {
    room: Arc<Room>,
    shelves: Mutex<Vec<Weak<Shelf>>>,
    looked: Mutex<Instant>,
}

struct Waiting {
    guest: Guest,
    since: Instant,
    /// After the guest, so that its slot is free when this is.
    _place: Place,
}

/// Slots of the pool that waiting instances may hold.
struct Room {
    taken: AtomicUsize,
    most: usize,
}

struct Place(Arc<Room>);

// === impl Guest ===

impl Guest {
    pub(super) fn new(store: Store<State>) -> Self {
        Self { store, handle: None, served: 0, nothing: None }
    }

    /// Calls it with an event; the first call makes the instance.
    pub(super) fn call(&mut self, handling: &Handling, event: &Event) -> wasmtime::Result<Verdict> {
        let Contract::V0_1(contract) = handling.module.contract();
        let handle = match self.handle {
            Some(handle) => handle,
            None => {
                let handle = contract.instantiate(&mut self.store)?;
                self.store.data_mut().meter.made();
                *self.handle.insert(handle)
            }
        };
        self.served = self.served.saturating_add(1);
        contract.call(&mut self.store, handle, handling, event)
    }

    fn may_stay(&self, reuse: u32) -> bool {
        let state = self.store.data();
        self.served < reuse && state.meter.has_room() && state.wasi.handles() <= limits::KEPT_HANDLES
    }

    /// Lets go of the event and of whoever waited for the call.
    fn rest(&mut self) {
        let nothing = Arc::clone(self.nothing.get_or_insert_with(|| Arc::new(nothing())));
        self.store.data_mut().rest(nothing);
    }
}

fn nothing() -> Event {
    Event {
        topic: "".into(),
        position: "".into(),
        first: "".into(),
        metadata: Metadata::default(),
        content_type: String::new(),
        payload: Payload::Json(String::new()),
    }
}

// === impl Hand ===

impl<'a> Hand<'a> {
    pub(super) fn new(handling: &'a Arc<Handling>, shelf: &'a Shelf) -> Self {
        Self { handling, shelf, guest: None }
    }

    /// An instance for the call of which this is the state; the state back if it has to be a fresh one.
    #[expect(clippy::result_large_err, reason = "both ways are the ordinary one, and neither goes far")]
    pub(super) fn take(&mut self, state: State) -> Result<Guest, State> {
        if self.shelf.reuse <= 1 {
            return Err(state);
        }
        if state.attempt > 1 {
            // A thread has one slot of the pool to itself: what is in hand goes where it has another.
            self.lay_down();
            return Err(state);
        }
        match self.guest.take().or_else(|| self.shelf.take()) {
            Some(mut guest) => {
                guest.store.data_mut().renew(state);
                Ok(guest)
            }
            None => Err(state),
        }
    }

    /// The call is over. `returned` says that the guest came back from it by itself.
    pub(super) fn end(&self, guest: Guest, returned: bool) -> Over {
        match returned && guest.may_stay(self.shelf.reuse) {
            true => Over::Stays(guest),
            false => Over::Gone(guest.store.into_data()),
        }
    }

    /// Keeps the instance for the next event, if there is one.
    pub(super) fn keep(&mut self, over: Over) {
        if let Over::Stays(mut guest) = over {
            guest.rest();
            self.guest = Some(guest);
        }
    }

    fn lay_down(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.shelf.put(guest, Instant::now());
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.lay_down();
    }
}

// === impl Over ===

impl Over {
    pub(super) fn state(&mut self) -> &mut State {
        match self {
            Self::Gone(state) => state,
            Self::Stays(guest) => guest.store.data_mut(),
        }
    }
}

// === impl Shelf ===

impl Shelf {
    fn take(&self) -> Option<Guest> {
        locked(&self.waiting).pop().map(|waiting| waiting.guest)
    }

    /// Keeps an instance, unless there is no room or the handler is shut or another has taken its place.
    fn put(&self, guest: Guest, now: Instant) {
        let Some(place) = Room::take(&self.room) else { return };
        let waiting = Waiting { guest, since: now, _place: place };
        // Dropping one takes a while: not under the lock.
        let one_too_many = {
            let mut all = locked(&self.waiting);
            let unwanted = self.shut.load(Ordering::Relaxed) || self.closed.load(Ordering::Relaxed);
            if unwanted || all.len() >= self.most {
                Some(waiting)
            } else {
                all.push(waiting);
                None
            }
        };
        drop(one_too_many);
    }

    /// Drops all that wait.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *locked(&self.waiting));
        drop(all);
    }

    /// Drops all that wait, and keeps none from here on.
    pub(super) fn close(&self) {
        // Before the lock is taken: whoever puts something down after it sees this.
        self.closed.store(true, Ordering::Relaxed);
        self.clear();
    }

    /// Drops what has waited too long; says whether anything still waits.
    fn sweep(&self, now: Instant) -> bool {
        let stale = |waiting: &Waiting| now.saturating_duration_since(waiting.since) >= limits::KEPT_IDLE;
        let (old, left) = {
            let mut all = locked(&self.waiting);
            // They were laid down one after the other.
            let end = all.iter().position(|waiting| !stale(waiting)).unwrap_or(all.len());
            (all.drain(..end).collect::<Vec<_>>(), !all.is_empty())
        };
        drop(old);
        left
    }
}

// === impl Shelves ===

impl Shelves {
    /// For so many instances of all handlers together.
    pub(super) fn new(most: usize) -> Self {
        let room = Arc::new(Room { taken: AtomicUsize::new(0), most });
        Self { room, shelves: Mutex::default(), looked: Mutex::new(Instant::now()) }
    }

    /// A handler's shelf. `slots` is how many calls run at once.
    pub(super) fn shelf(&self, reuse: u32, slots: usize, shut: &Arc<AtomicBool>) -> Arc<Shelf> {
        let (room, shut) = (Arc::clone(&self.room), Arc::clone(shut));
        let closed = AtomicBool::new(false);
        let shelf = Arc::new(Shelf { reuse, most: slots, waiting: Mutex::default(), room, shut, closed });
        if reuse > 1 {
            let mut shelves = locked(&self.shelves);
            shelves.retain(|shelf| shelf.strong_count() > 0);
            shelves.push(Arc::downgrade(&shelf));
        }
        shelf
    }

    fn sweep(&self, now: Instant) -> bool {
        *locked(&self.looked) = now;
        let shelves = locked(&self.shelves).clone();
        // Every one is looked at, whatever was found on those before.
        shelves.iter().filter_map(Weak::upgrade).filter(|shelf| shelf.sweep(now)).count() > 0
    }
}

impl Watch for Shelves {
    fn tick(&self, now: Instant) {
        let looked = *locked(&self.looked);
        if self.room.taken.load(Ordering::Relaxed) > 0 && now.saturating_duration_since(looked) >= limits::KEPT_LOOK {
            self.sweep(now);
        }
    }

    fn rest(&self, now: Instant) -> Option<Duration> {
        self.sweep(now).then_some(limits::KEPT_LOOK)
    }
}

// === impl Room ===

impl Room {
    fn take(room: &Arc<Self>) -> Option<Place> {
        let more = |taken| (taken < room.most).then_some(taken + 1);
        let taken = room.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Place(Arc::clone(room)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
