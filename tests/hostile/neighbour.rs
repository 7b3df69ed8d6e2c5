//! A well-behaved handler beside one whose calls never end and whose backlog never empties.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::{Event, Verdict};
use sandbar::sandbox::{Finished, Handler, Job, Limits, Ran, Sandbox, Services, Settings, Spec, Workers};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::sandbox::support::{Remembering, event, guest, isolator, sandbox, spec};
use crate::support::BOUND;
use crate::support::beside::{children, signal};
use crate::support::process::processor;

type Chunk = Vec<Finished<Instant>>;

/// One handler and what comes back from its calls.
struct Side {
    handler: Arc<Handler>,
    event: Arc<Event>,
    done: UnboundedSender<Chunk>,
    back: UnboundedReceiver<Chunk>,
    under_way: usize,
}

/// How long a well-behaved event took, from when it was given to the workers to when it was back.
struct Latencies(Vec<Duration>);

// === impl Side ===

impl Side {
    fn new(sandbox: &Arc<Sandbox>, kind: &str, arguments: &[(&str, &str)], time: Duration, isolated: bool) -> Self {
        let module = sandbox.load(&guest("probe")).unwrap();
        let services: Arc<dyn Services> = Arc::new(Remembering::default());
        let limits = Limits { time, ..Limits::default() };
        let handler = sandbox.handler(&module, Spec { limits, isolated, ..spec() }, services).unwrap();
        let (done, back) = unbounded_channel();
        Self { handler, event: Arc::new(event(kind, arguments)), done, back, under_way: 0 }
    }

    fn submit(&mut self, workers: &Workers<Instant>, count: usize) {
        let now = Instant::now();
        let job = || Job { event: Arc::clone(&self.event), attempt: 1, replayed: false, tag: now };
        workers.submit(Arc::clone(&self.handler), (0..count).map(|_| job()).collect(), self.done.clone());
        self.under_way += count;
    }

    fn collect(&mut self, mut each: impl FnMut(Finished<Instant>)) -> usize {
        let mut count = 0;
        while let Ok(chunk) = self.back.try_recv() {
            count += chunk.len();
            chunk.into_iter().for_each(&mut each);
        }
        self.under_way -= count;
        count
    }
}

// === impl Latencies ===

impl Latencies {
    fn percentile(&mut self, percent: usize) -> Duration {
        self.0.sort_unstable();
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// Events in a second when there is nobody else.
fn solo_rate(workers: &Workers<Instant>, good: &mut Side, time: Duration) -> f64 {
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < time {
        if good.under_way < 1_024 {
            good.submit(workers, 512);
        }
        count += good.collect(|_| {});
        std::thread::park_timeout(Duration::from_micros(200));
    }
    let rate = f64::from(u32::try_from(count).unwrap()) / begun.elapsed().as_secs_f64();
    while good.under_way > 0 {
        good.collect(|_| {});
        std::thread::park_timeout(Duration::from_millis(1));
    }
    rate
}

/// Runs the good one at this rate, beside a bad one whose backlog is kept up if there is one.
fn paced(
    workers: &Workers<Instant>,
    good: &mut Side,
    mut bad: Option<&mut Side>,
    rate: f64,
    time: Duration,
) -> Latencies {
    let (begun, mut sent, mut latencies) = (Instant::now(), 0_usize, Vec::new());
    while begun.elapsed() < time || good.under_way > 0 {
        assert!(begun.elapsed() < time * 10, "{} events did not come back", good.under_way);
        if begun.elapsed() < time {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of events")]
            let due = (begun.elapsed().as_secs_f64() * rate) as usize;
            if due > sent {
                good.submit(workers, due - sent);
                sent = due;
            }
        }
        if let Some(bad) = bad.as_deref_mut() {
            if bad.under_way < 64 {
                bad.submit(workers, 64);
            }
            bad.collect(|finished| match finished.ran {
                Ran::Called { verdict: Verdict::Retry { code, .. }, .. } => assert_eq!(code, "time-limit"),
                ran => panic!("{ran:?}"),
            });
        }
        good.collect(|finished| {
            assert!(matches!(finished.ran, Ran::Called { verdict: Verdict::Done, .. }), "{:?}", finished.ran);
            latencies.push(finished.tag.elapsed());
        });
        std::thread::park_timeout(Duration::from_micros(500));
    }
    Latencies(latencies)
}

#[test]
fn it_is_served_almost_as_if_it_were_alone() {
    let strict = std::env::var_os("HOSTILE_NEIGHBOUR").is_some();
    let time = Duration::from_secs(if strict { 30 } else { 2 });
    let sandbox = sandbox(0);
    let workers = Workers::start(Arc::clone(&sandbox));
    let mut good = Side::new(&sandbox, "ok", &[], Duration::from_secs(10), false);
    let mut bad = Side::new(&sandbox, "spin", &[], Duration::from_millis(200), false);
    let rate = solo_rate(&workers, &mut good, time / 4) / 2.0;
    let mut alone = paced(&workers, &mut good, None, rate, time);
    let mut beside = paced(&workers, &mut good, Some(&mut bad), rate, time);
    let (p99, p99_beside) = (alone.percentile(99), beside.percentile(99));
    eprintln!(
        "hostile: neighbour at {rate:.0} events/s: p50 {:?} alone, {:?} beside; p99 {p99:?} alone, {p99_beside:?} beside",
        alone.percentile(50),
        beside.percentile(50),
    );
    let most = if strict { p99 * 2 } else { p99 * 20 + Duration::from_millis(200) };
    assert!(p99_beside <= most, "p99 is {p99:?} alone and {p99_beside:?} beside");
}

#[test]
fn one_whose_calls_have_a_process_of_their_own_leaves_the_processor_to_it_as_well() {
    let isolator = isolator();
    let settings = Settings { isolator: Some(isolator.clone()), ..Settings::default() };
    let sandbox = Sandbox::new(&settings).unwrap();
    let workers = Workers::start(Arc::clone(&sandbox));
    let mut good = Side::new(&sandbox, "ok", &[], Duration::from_secs(10), false);
    let mut bad = Side::new(&sandbox, "spin", &[], Duration::from_millis(200), true);
    // Its first call is stopped for its time.
    bad.submit(&workers, 1);
    let begun = Instant::now();
    while bad.collect(|_| {}) == 0 {
        assert!(begun.elapsed() < BOUND);
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let used = || children(isolator.id().unwrap()).into_iter().map(processor).sum::<Duration>();
    let (before, begun, mut called) = (used(), Instant::now(), 0);
    let time = Duration::from_secs(3);
    while begun.elapsed() < time {
        if good.under_way < 64 {
            good.submit(&workers, 64);
        }
        if bad.under_way < 4 {
            bad.submit(&workers, 4);
        }
        called += good.collect(|_| {});
        bad.collect(|_| {});
        std::thread::park_timeout(Duration::from_micros(500));
    }
    let took = used().saturating_sub(before);
    assert!(called > 0 && took < time / 4, "it took {took:?} of {time:?}");
}

#[test]
fn a_slow_call_in_a_process_of_its_own_keeps_no_core_from_it() {
    let isolator = isolator();
    let settings = Settings { threads: 1, isolator: Some(isolator.clone()), ..Settings::default() };
    let sandbox = Sandbox::new(&settings).unwrap();
    let workers = Workers::start(Arc::clone(&sandbox));
    let mut good = Side::new(&sandbox, "ok", &[], Duration::from_secs(10), false);
    let mut slow = Side::new(&sandbox, "spin", &[], BOUND, true);
    slow.submit(&workers, 1);
    // It is called.
    std::thread::park_timeout(Duration::from_millis(200));
    good.submit(&workers, 10);
    let (begun, mut back) = (Instant::now(), 0);
    while back < 10 {
        assert!(begun.elapsed() < BOUND / 2, "they wait for a call that takes {BOUND:?}");
        back += good.collect(|_| {});
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(slow.collect(|_| {}), 0, "it goes on");
    children(isolator.id().unwrap()).into_iter().for_each(|worker| signal(worker, "KILL"));
}
