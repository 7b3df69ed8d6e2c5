//! The clock and the seeded random numbers of one call.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::event::Event;
use crate::sandbox::http::{Exchange, Side};
use crate::sandbox::limits;

/// What WASI shows of the world: the event's time and numbers derived from the delivery; with the grant `clock` the
/// host's time.
///
/// An instance that serves several events keeps its handles and its monotonic clock, which must not go back; wall clock
/// and random numbers are each call's own.
#[derive(Default)]
pub(in crate::sandbox) struct Context {
    /// Seeded when the first of them is asked for: most calls ask for none.
    random: Option<Random>,
    /// Whether time is the host's.
    real: bool,
    /// When the guest first asked for the host's time: its monotonic clock begins there.
    origin: Option<Instant>,
    /// Nanoseconds since the instance was made, as the guest sees them.
    clock: u64,
    /// The same when the call began.
    began: u64,
    /// When the guest believes that the call began, in nanoseconds since the Unix epoch.
    wall: Option<u64>,
    /// For each pollable what it waits for; `None` for a free place.
    pollables: Vec<Option<Awaited>>,
    /// Resources that the guest holds.
    handles: usize,
}

/// What a pollable waits for.
enum Awaited {
    /// That the clock has reached this.
    Clock(u64),
    /// That something has come of a request.
    Exchange(Arc<Exchange>, Side),
}

/// SHA-256 of a seed and a counter, block after block.
struct Random {
    seed: [u8; 32],
    blocks: u64,
    block: [u8; 32],
    used: usize,
}

// === impl Context ===

impl Context {
    /// For a new instance; `real`: with the host's time.
    pub(in crate::sandbox) fn new(real: bool) -> Self {
        Self { real, ..Self::default() }
    }

    /// The same instance's next call.
    pub(in crate::sandbox) fn next_call(self) -> Self {
        let Self { real, origin, clock, pollables, handles, .. } = self;
        Self { real, origin, clock, began: clock, pollables, handles, ..Self::default() }
    }

    /// How many resources the guest holds.
    pub(in crate::sandbox) fn handles(&self) -> usize {
        self.handles
    }

    /// The guest gets a resource.
    pub(in crate::sandbox) fn hand_out(&mut self) {
        self.handles += 1;
    }

    /// The guest has dropped a resource.
    pub(in crate::sandbox) fn take_back(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }

    /// The monotonic clock. Each reading moves the virtual one on a little.
    pub(super) fn now(&mut self) -> u64 {
        if self.real {
            self.tick();
            return self.clock;
        }
        self.clock = self.clock.saturating_add(u64::from(limits::CLOCK_STEP_NANOS));
        self.clock
    }

    /// Sets a real clock.
    fn tick(&mut self) {
        let passed = self.origin.get_or_insert_with(Instant::now).elapsed();
        self.clock = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
    }

    /// How fine the clocks are, in nanoseconds.
    pub(super) fn resolution(&self) -> u32 {
        if self.real { 1 } else { limits::CLOCK_STEP_NANOS }
    }

    /// The wall clock: the event's time, and what has passed of the virtual clock since. An event whose time cannot
    /// be read happened at the Unix epoch.
    pub(super) fn wall(&mut self, event: &Event) -> (u64, u32) {
        if self.real {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return (now.as_secs(), now.subsec_nanos());
        }
        let start = *self.wall.get_or_insert_with(|| {
            let time: Option<Timestamp> = event.metadata.time.parse().ok();
            time.and_then(|time| u64::try_from(time.as_nanosecond()).ok()).unwrap_or(0)
        });
        let nanos = start.saturating_add(self.now() - self.began);
        let below = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
        (nanos / 1_000_000_000, below)
    }

    /// Fills `out` with numbers that depend on the host's secret, the group and the event, and not on the attempt.
    pub(super) fn random(&mut self, secret: &[u8], group: &str, event: &Event, out: &mut [u8]) {
        let random = self.random.get_or_insert_with(|| {
            let mut hash = Sha256::new();
            // Lengths first, so that no two deliveries run together into the same bytes.
            for part in [secret, group.as_bytes(), event.topic.as_bytes(), event.first.as_str().as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            Random { seed: hash.finalize().into(), blocks: 0, block: [0; 32], used: 32 }
        });
        out.iter_mut().for_each(|byte| *byte = random.next());
    }

    /// A pollable that is ready once the clock has reached `at`.
    pub(super) fn add_pollable(&mut self, at: u64) -> u32 {
        self.add(Awaited::Clock(at))
    }

    /// One that is ready once something has come of a request.
    pub(super) fn add_exchange(&mut self, exchange: Arc<Exchange>, side: Side) -> u32 {
        self.add(Awaited::Exchange(exchange, side))
    }

    fn add(&mut self, awaited: Awaited) -> u32 {
        let free = self.pollables.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.pollables.push(None);
            self.pollables.len() - 1
        });
        self.pollables[place] = Some(awaited);
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// One that is ready after `nanos` more.
    pub(super) fn add_sleep(&mut self, nanos: u64) -> u32 {
        if self.real {
            self.tick();
        }
        self.add_pollable(self.clock.saturating_add(nanos))
    }

    pub(in crate::sandbox) fn drop_pollable(&mut self, rep: u32) {
        if let Some(place) = self.pollables.get_mut(rep as usize) {
            *place = None;
        }
    }

    pub(super) fn ready(&mut self, rep: u32) -> bool {
        let at = self.ready_at(rep);
        if self.real && at > self.clock {
            self.tick();
        }
        at <= self.clock
    }

    /// How long the guest has to wait until one of `reps` is ready. Never, on a virtual clock: that moves on to the first
    /// that will be, as nothing else can happen while the guest waits. Unless it waits for an answer too: then time passes.
    pub(in crate::sandbox) fn wait(&mut self, reps: &[u32]) -> Duration {
        let first = reps.iter().map(|rep| self.ready_at(*rep)).min().unwrap_or(0);
        if self.real && first > self.clock {
            self.tick();
            return Duration::from_nanos(first.saturating_sub(self.clock));
        }
        if first > self.clock && reps.iter().any(|rep| self.awaits_answer(*rep)) {
            return Duration::from_nanos(first - self.clock);
        }
        self.clock = self.clock.max(first);
        Duration::ZERO
    }

    /// Whether something has come of a request that one of `reps` waits for.
    pub(in crate::sandbox) fn answered(&self, reps: &[u32]) -> bool {
        reps.iter().any(|rep| self.awaits_answer(*rep) && self.ready_at(*rep) == 0)
    }

    /// The guest has waited for an answer: so much has passed on a virtual clock too.
    pub(in crate::sandbox) fn passed(&mut self, time: Duration) {
        if !self.real {
            self.clock = self.clock.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Which of `reps` are ready, by their place in the list.
    pub(super) fn poll(&mut self, reps: &[u32]) -> Vec<u32> {
        if self.real {
            self.tick();
        }
        (0..).zip(reps).filter(|(_, rep)| self.ready_at(**rep) <= self.clock).map(|(place, _)| place).collect()
    }

    fn ready_at(&self, rep: u32) -> u64 {
        match self.pollables.get(rep as usize) {
            Some(Some(Awaited::Clock(at))) => *at,
            Some(Some(Awaited::Exchange(exchange, side))) if !exchange.ready(*side) => u64::MAX,
            _ => 0,
        }
    }

    fn awaits_answer(&self, rep: u32) -> bool {
        matches!(self.pollables.get(rep as usize), Some(Some(Awaited::Exchange(..))))
    }
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u8 {
        if self.used == self.block.len() {
            self.block =
                Sha256::new().chain_update(self.seed).chain_update(self.blocks.to_le_bytes()).finalize().into();
            self.blocks += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Metadata, Payload};

    fn event(topic: &str, first: &str, time: &str) -> Event {
        Event {
            topic: topic.into(),
            position: "9".into(),
            first: first.into(),
            metadata: Metadata { time: time.into(), ..Metadata::default() },
            content_type: String::new(),
            payload: Payload::Json("{}".into()),
        }
    }

    fn random(secret: &[u8], group: &str, event: &Event) -> [u8; 40] {
        let mut out = [0; 40];
        Context::default().random(secret, group, event, &mut out);
        out
    }

    #[test]
    fn random_numbers_depend_on_the_delivery_and_the_secret() {
        let here = event("t", "1-0", "");
        let numbers = random(b"s", "g", &here);
        assert_eq!(numbers, random(b"s", "g", &here));
        for other in [
            random(b"S", "g", &here),
            random(b"s", "G", &here),
            random(b"s", "g", &event("u", "1-0", "")),
            random(b"s", "g", &event("t", "2-0", "")),
            random(b"s", "gt", &event("", "1-0", "")),
        ] {
            assert_ne!(numbers, other);
        }
        let mut context = Context::default();
        let mut parts = [0; 40];
        let (left, right) = parts.split_at_mut(7);
        context.random(b"s", "g", &here, left);
        context.random(b"s", "g", &here, right);
        assert_eq!(parts, numbers, "one stream, however it is cut");
        assert_ne!(numbers[..8], numbers[32..], "blocks differ");
    }

    #[test]
    fn the_next_call_has_a_wall_clock_and_numbers_of_its_own() {
        let (one, two) = (event("t", "1-0", "2024-05-06T07:08:09.5+00:00"), event("t", "2-0", "1970-01-01T00:00:07Z"));
        let numbers = random(b"s", "g", &two);
        let mut context = Context::default();
        context.random(b"s", "g", &one, &mut [0; 3]);
        context.wall(&one);
        let sleep = context.add_sleep(5_000_000);
        let mut context = context.next_call();
        let mut again = [0; 40];
        context.random(b"s", "g", &two, &mut again);
        assert_eq!(again, numbers);
        assert_eq!(context.wall(&two), (7, 1_000));
        assert_eq!(context.now(), 3_000, "the monotonic clock has not gone back");
        assert!(!context.ready(sleep), "handles are the instance's");
    }

    #[test]
    fn the_clock_moves_with_readings_and_sleeps_only() {
        let mut context = Context::default();
        let at = event("t", "1", "2024-05-06T07:08:09.5+00:00");
        assert_eq!(context.wall(&at), (1_714_979_289, 500_001_000));
        assert_eq!(context.wall(&at), (1_714_979_289, 500_002_000));
        assert_eq!(Context::default().wall(&event("t", "1", "yesterday")), (0, 1_000));

        let mut context = Context::default();
        let (long, short) = (context.add_sleep(2_000_000), context.add_sleep(1_000_000));
        assert!(!context.ready(short));
        let mut poll = |reps: &[u32]| (context.wait(reps), context.poll(reps));
        assert_eq!(poll(&[long, short]), (Duration::ZERO, vec![1]), "only the first to come");
        assert_eq!(context.now(), 1_001_000);
        let mut poll = |reps: &[u32]| (context.wait(reps), context.poll(reps));
        assert_eq!(poll(&[long]), (Duration::ZERO, vec![0]));
        assert_eq!(context.now(), 2_001_000);
        context.drop_pollable(long);
        assert_eq!(context.add_sleep(u64::MAX), long, "its place is used again");
    }

    #[test]
    fn a_real_clock_shows_the_hosts_time_and_waits() {
        let event = event("t", "1", "2024-05-06T07:08:09Z");
        let mut context = Context::new(true);
        let (before, first) = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(), context.now());
        assert!(context.wall(&event).0 >= before);
        let (hour, now) = (context.add_sleep(3_600_000_000_000), context.add_pollable(0));
        let left = context.wait(&[hour]);
        assert!(left > Duration::from_secs(3_000) && left <= Duration::from_secs(3_600), "{left:?}");
        assert!(!context.ready(hour) && context.poll(&[hour]).is_empty(), "waiting is the caller's");
        assert_eq!((context.wait(&[hour, now]), context.poll(&[hour, now])), (Duration::ZERO, vec![1]));
        let short = context.add_sleep(1);
        while !context.ready(short) {}
        assert!(context.now() > first);
        let later = context.now();
        assert!(context.next_call().now() >= later, "it goes on in the instance's next call");
    }
}
