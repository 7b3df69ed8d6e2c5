//! One thread that looks after running calls: it moves the epoch on and tells the workers that time has passed.
//! While no call runs and nothing is left to look after it sleeps without a time-out: an idle host costs nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::{limits, scheduling};

/// Wants to know every [`limits::TICK`] while calls run.
pub(super) trait Watch: Send + Sync {
    fn tick(&self, now: Instant);

    /// Told when no call runs and there will be no more ticks: wants to be told again after so long, if at all.
    fn rest(&self, _now: Instant) -> Option<Duration> {
        None
    }
}

/// The thread's owner: it ends with it.
pub(super) struct Monitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A call is running as long as this lives.
pub(super) struct Running<'a>(&'a Shared);

struct Shared {
    engine: Engine,
    running: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
    watches: Mutex<Vec<Weak<dyn Watch>>>,
}

// === impl Monitor ===

impl Monitor {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            watches: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("sandbar-monitor".into()).spawn(move || of_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Counts a call as running. The epoch moves on at least until the answer is dropped.
    pub(super) fn enter(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        // Either this sees that the monitor lies down, or the monitor sees the call before it does.
        // Looking comes first: writing what others read would cost every call.
        if self.shared.asleep.load(Ordering::SeqCst)
            && self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread()
        {
            thread.unpark();
        }
        Running(&self.shared)
    }

    /// Tells `watch` of every tick for as long as it lives.
    pub(super) fn watch(&self, watch: Weak<dyn Watch>) {
        let mut watches = self.shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|other| other.strong_count() > 0);
        watches.push(watch);
    }

    fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The last owner can be a watch that the monitor itself just told: it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

// === impl Running ===

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self) {
        scheduling::go_before_others();
        let mut busy = Instant::now();
        while !self.ended.load(Ordering::SeqCst) {
            let now = Instant::now();
            if self.running.load(Ordering::SeqCst) > 0 {
                busy = now;
            }
            if now.duration_since(busy) > limits::LINGER && self.lie_down() {
                busy = Instant::now();
                continue;
            }
            thread::park_timeout(limits::TICK);
            self.engine.increment_epoch();
            let now = Instant::now();
            for watch in self.watches() {
                watch.tick(now);
            }
        }
    }

    fn watches(&self) -> impl Iterator<Item = Arc<dyn Watch>> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        watches.into_iter().filter_map(|watch| watch.upgrade())
    }

    /// Sleeps until a call begins; false if one had begun already.
    fn lie_down(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let idle = || self.running.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst);
        if !idle() {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        while self.asleep.load(Ordering::SeqCst) && !self.ended.load(Ordering::SeqCst) {
            let now = Instant::now();
            match self.watches().filter_map(|watch| watch.rest(now)).min() {
                Some(time) => thread::park_timeout(time),
                None => thread::park(),
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Watch for Count {
        fn tick(&self, _now: Instant) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A monitor, and what it watches.
    fn watched<W: Watch + Default + 'static>() -> (Monitor, Arc<W>) {
        let monitor = Monitor::start(Engine::default()).unwrap();
        let watch = Arc::new(W::default());
        let weak: Weak<dyn Watch> = Arc::downgrade(&(Arc::clone(&watch) as Arc<dyn Watch>));
        monitor.watch(weak);
        (monitor, watch)
    }

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Keeps the slice of the thread that tells it.
    #[derive(Default)]
    struct Slice(Mutex<Option<u64>>);

    impl Watch for Slice {
        fn tick(&self, _now: Instant) {
            *self.0.lock().unwrap() = scheduling::slice();
        }
    }

    #[test]
    fn it_goes_before_others() {
        let (monitor, slice) = watched::<Slice>();
        let running = monitor.enter();
        wait_until("it ticks", || slice.0.lock().unwrap().is_some());
        drop(running);
        let short = thread::spawn(|| {
            scheduling::go_before_others();
            scheduling::slice()
        });
        assert_eq!(*slice.0.lock().unwrap(), short.join().unwrap());
    }

    #[test]
    fn it_ticks_while_a_call_runs_and_sleeps_when_none_does() {
        let (monitor, count) = watched::<Count>();
        for _ in 0..3 {
            wait_until("it falls asleep", || monitor.shared.asleep.load(Ordering::SeqCst));
            let before = count.0.load(Ordering::SeqCst);
            thread::park_timeout(Duration::from_millis(20));
            assert_eq!(count.0.load(Ordering::SeqCst), before, "no tick while asleep");
            let running = monitor.enter();
            wait_until("it ticks", || count.0.load(Ordering::SeqCst) >= before + 5);
            drop(running);
        }
    }
}
