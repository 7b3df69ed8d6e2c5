//! The worker threads: everything comes back, nobody holds up the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::Verdict;
use sandbar::sandbox::{Finished, Handler, Job, Limits, Ran, Sandbox, Services, Spec, Workers};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel};

use super::support::{Remembering, bounded, event, everything, guest, sandbox, spec};

struct Host {
    sandbox: Arc<Sandbox>,
    services: Arc<Remembering>,
    workers: Arc<Workers<usize>>,
    done: UnboundedSender<Vec<Finished<usize>>>,
    back: UnboundedReceiver<Vec<Finished<usize>>>,
}

impl Host {
    fn new(threads: usize) -> Self {
        let sandbox = sandbox(threads);
        let (done, back) = unbounded_channel();
        let workers = Arc::new(Workers::start(Arc::clone(&sandbox)));
        Self { sandbox, services: Arc::new(Remembering::default()), workers, done, back }
    }

    fn handler(&self, time: Duration) -> Arc<Handler> {
        let module = self.sandbox.load(&guest("probe")).unwrap();
        let spec = Spec { limits: Limits { time, ..Limits::default() }, grants: everything(), ..spec() };
        self.sandbox.handler(&module, spec, Arc::clone(&self.services) as Arc<dyn Services>).unwrap()
    }

    fn submit(&self, handler: &Arc<Handler>, jobs: impl IntoIterator<Item = Job<usize>>) {
        self.workers.submit(Arc::clone(handler), jobs.into_iter().collect(), self.done.clone());
    }

    fn shutdown(&self) {
        let workers = Arc::clone(&self.workers);
        bounded(move || workers.shutdown());
    }

    /// The next chunk, within ten seconds.
    fn chunk(&mut self) -> Vec<Finished<usize>> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.back.try_recv() {
                Ok(chunk) => return chunk,
                Err(TryRecvError::Empty) => assert!(Instant::now() < end, "nothing came back"),
                Err(TryRecvError::Disconnected) => panic!("disconnected"),
            }
            std::thread::park_timeout(Duration::from_micros(200));
        }
    }

    fn collect(&mut self, count: usize) -> Vec<Finished<usize>> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.chunk());
        }
        assert_eq!(all.len(), count);
        all
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Waiting for calls that nothing stops would hide that the test has failed.
            std::mem::forget(Arc::clone(&self.workers));
        } else {
            self.shutdown();
        }
    }
}

fn job(tag: usize, kind: &str, arguments: &[(&str, &str)]) -> Job<usize> {
    Job { event: event(kind, arguments).into(), attempt: 1, replayed: false, tag }
}

fn done(finished: &Finished<usize>) -> bool {
    matches!(&finished.ran, Ran::Called { verdict: Verdict::Done, .. })
}

#[test]
fn every_job_comes_back_once_with_its_event_and_tag() {
    let mut host = Host::new(2);
    let handler = host.handler(Duration::from_secs(10));
    let mut ids = Vec::new();
    for batch in 0..10 {
        let jobs: Vec<_> =
            (0..100).map(|n| job(batch * 100 + n, if n % 10 == 3 { "panic" } else { "ok" }, &[])).collect();
        ids.extend(jobs.iter().map(|job| job.event.metadata.id.clone()));
        host.submit(&handler, jobs);
    }
    let mut back = host.collect(1_000);
    back.sort_by_key(|finished| finished.tag);
    for (tag, finished) in back.iter().enumerate() {
        assert_eq!((finished.tag, &finished.event.metadata.id), (tag, &ids[tag]));
        assert_eq!(done(finished), tag % 10 != 3, "{:?}", finished.ran);
    }
}

#[test]
fn a_slow_call_holds_back_neither_its_batch_nor_what_is_finished() {
    let mut host = Host::new(1);
    let handler = host.handler(Duration::from_secs(2));
    let started = Instant::now();
    host.submit(&handler, [job(0, "ok", &[]), job(1, "spin", &[]), job(2, "ok", &[])]);
    let early = host.collect(1);
    assert_eq!(early[0].tag, 0, "the first is not kept until its batch is over");
    host.submit(&handler, [job(3, "ok", &[])]);
    // The only core slot is given up after 5 ms, but a handler with as many stuck calls as cores gets no other.
    let rest = host.collect(3);
    assert!(started.elapsed() >= Duration::from_secs(2));
    let mut tags: Vec<_> = rest.iter().map(|finished| finished.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [1, 2, 3]);
}

#[test]
fn a_slow_handler_does_not_stall_a_fast_one() {
    let mut host = Host::new(2);
    let slow = host.handler(Duration::from_secs(4));
    let fast = host.handler(Duration::from_secs(4));
    let started = Instant::now();
    host.submit(&slow, (0..50).map(|tag| job(1_000 + tag, "spin", &[])));
    for round in 0..20 {
        host.submit(&fast, (0..5).map(|n| job(round * 5 + n, "ok", &[])));
    }
    let back = host.collect(100);
    assert!(back.iter().all(|finished| finished.tag < 1_000 && done(finished)));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn calls_that_wait_for_the_bus_do_not_hold_the_core() {
    let mut host = Host::new(1);
    *host.services.delay.lock().unwrap() = Duration::from_millis(400);
    let handler = host.handler(Duration::from_secs(10));
    let started = Instant::now();
    host.submit(&handler, (0..16).map(|tag| job(tag, "keys", &[("do", "get k"), ("then", "ok")])));
    let back = host.collect(16);
    assert!(back.iter().all(done));
    // One after the other they would take 6.4 s.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn handlers_take_turns() {
    let mut host = Host::new(1);
    let (one, other) = (host.handler(Duration::from_secs(10)), host.handler(Duration::from_secs(10)));
    // Enough work for a second or more, in calls that are not slow by themselves.
    host.submit(&one, (0..2_000).map(|tag| job(tag, "busy", &[("rounds", "200000")])));
    host.submit(&other, [job(9_999, "ok", &[])]);
    let mut before = 0;
    loop {
        let chunk = host.chunk();
        match chunk.iter().position(|finished| finished.tag == 9_999) {
            Some(_) => break,
            None => before += chunk.len(),
        }
    }
    // Less than the batch that it had taken: it gave the core away in the middle.
    assert!(before < 200, "{before} of 2000 came before the other handler's only one");
}

#[test]
fn one_that_overran_rests_while_others_have_work_and_its_time_stands_still_meanwhile() {
    let mut host = Host::new(2);
    let (late, other) = (host.handler(Duration::from_millis(400)), host.handler(Duration::from_secs(10)));
    host.submit(&late, [job(0, "spin", &[])]);
    let stopped = host.collect(1);
    assert!(
        matches!(&stopped[0].ran, Ran::Called { verdict: Verdict::Retry { code, .. }, .. } if code == "time-limit")
    );

    // It takes a quarter of its time, and resting most of it ten times as long as it may take.
    let begun = Instant::now();
    host.submit(&late, [job(1, "busy", &[("rounds", "40000000")])]);
    let (mut tag, mut back) = (2, None);
    while back.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not come back");
        host.submit(&other, [job(tag, "ok", &[])]);
        tag += 1;
        back = host.chunk().into_iter().find(|finished| finished.tag == 1);
    }
    let finished = back.unwrap();
    assert!(done(&finished), "{:?}", finished.ran);
    assert!(begun.elapsed() > Duration::from_millis(400), "it did not rest: {:?}", begun.elapsed());
}

#[test]
fn shutdown_returns_what_has_not_started() {
    let mut host = Host::new(1);
    let handler = host.handler(Duration::from_millis(300));
    host.submit(&handler, (0..300).map(|tag| job(tag, if tag == 0 { "spin" } else { "ok" }, &[])));
    host.submit(&handler, (300..400).map(|tag| job(tag, "ok", &[])));
    // The first runs: with one core, all others wait for it.
    std::thread::park_timeout(Duration::from_millis(50));
    let started = Instant::now();
    host.shutdown();
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut back = host.collect(400);
    back.sort_by_key(|finished| finished.tag);
    assert!(matches!(back[0].ran, Ran::Called { .. }), "{:?}", back[0].ran);
    for finished in &back[1..] {
        assert!(matches!(&finished.ran, Ran::NotCalled(why) if why.contains("shutting down")), "{:?}", finished.ran);
    }
    host.submit(&handler, [job(7, "ok", &[])]);
    assert!(matches!(host.collect(1)[0].ran, Ran::NotCalled(_)), "after a shutdown nothing runs");
    host.shutdown();
}

#[test]
fn shutdown_ends_a_batch_that_has_begun() {
    let mut host = Host::new(1);
    let handler = host.handler(Duration::from_secs(10));
    host.submit(&handler, (0..250).map(|tag| job(tag, "busy", &[("rounds", "300000")])));
    let first = host.chunk().len();
    host.shutdown();
    let rest = host.collect(250 - first);
    let not_called = rest.iter().filter(|finished| matches!(finished.ran, Ran::NotCalled(_))).count();
    assert!(not_called > 100, "{not_called} of 250, {first} in the first chunk");
}

#[test]
fn jobs_nobody_waits_for_are_dropped() {
    let mut host = Host::new(1);
    let handler = host.handler(Duration::from_secs(10));
    let (gone, receiver) = unbounded_channel();
    drop(receiver);
    host.workers.submit(Arc::clone(&handler), (0..10).map(|tag| job(tag, "keys", &[("do", "get k")])).collect(), gone);
    host.submit(&handler, [job(0, "ok", &[])]);
    assert!(done(&host.collect(1)[0]));
    assert_eq!(host.services.reads.load(std::sync::atomic::Ordering::SeqCst), 0);
}
