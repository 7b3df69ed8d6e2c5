//! How a host ends: by a signal, by its grace, by too many failures.

use super::*;

/// Rounds of the probe's `busy` that take some tens of milliseconds.
const ROUNDS: u64 = 20_000_000;

/// How often the host is ended on the way.
const ENDED: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_raises_no_attempt() {
    let bench = Bench::new();
    let url = embedded(&bench);
    ended_ten_times(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_raises_no_attempt_on_redis() {
    let server = Server::start(&[]).await;
    ended_ten_times(&Bench::new(), &server.url()).await;
}

async fn ended_ten_times(bench: &Bench, url: &str) {
    const CALLS: u64 = 150;
    const LAST: u64 = 20;
    let bus = open(url).await;
    let mut drafts: Vec<Draft> = (0..CALLS).map(|_| Draft::new("busy").header("rounds", ROUNDS)).collect();
    // In hand from the first host on, called by the last one alone, and they say how often they were called.
    drafts.extend((0..LAST).map(|_| Draft::new("event")));
    publish(&bus, "in", &drafts).await;
    let config = bench.config(url, &[probe().with("[handler.limits]\ntime = \"10s\"")]);
    let (mut acked, mut dead, mut tries) = (0, 0, 0_u32);
    while acked + dead < CALLS + LAST {
        tries += 1;
        assert!(tries < 50, "no progress");
        let mut host = bench.run(&config, &["--json"]);
        let before = Instant::now();
        // What the host before gave back may count as pending, so the new one must have joined too.
        while {
            let status = bus.status(&"in".into(), "probe").await.unwrap();
            status.pending == 0 || status.consumers.is_empty()
        } {
            assert!(before.elapsed() < BOUND, "nothing is in hand: {}", host.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Long enough that some calls end; far too short for all, until the host has been ended often enough.
        let more = tries.saturating_sub(ENDED);
        tokio::time::sleep(Duration::from_millis(60) + Duration::from_millis(400) * more).await;
        host.terminate();
        let status = host.wait(BOUND);
        assert_eq!(status.code(), Some(0), "{}", host.log());
        assert!(before.elapsed() < BOUND);
        let summary = host.summary();
        let tally = &summary["handlers"][0];
        acked += tally["acked"].as_u64().unwrap();
        dead += tally["dead"].as_u64().unwrap();
        assert_eq!(tally["retried"], 0, "a drain is no attempt");
        let status = bus.status(&"in".into(), "probe").await.unwrap();
        assert_eq!(status.consumers, [""; 0], "the consumer has left");
    }
    assert_eq!((acked, dead), (CALLS, LAST), "each event once");
    assert!(tries > ENDED, "the host was stopped on the way: {tries}");
    let letters = bus.dead_letters(&"in".into(), "probe", None, 100).await.unwrap();
    assert!(letters.iter().all(|letter| letter.cause.attempts == 1), "{letters:?}");
    assert!(letters.iter().all(|letter| letter.cause.reason.contains("attempt: 1")), "the guest was told so");
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying), (Some(0), 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_exceeds_its_grace_says_so() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("spin")]).await;
    let config = bench.config(&url, &[probe().with("[handler.limits]\ntime = \"60s\"")]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[host]\ngrace = \"200ms\"\n{text}")).unwrap();
    let mut host = bench.run(&config, &[]);
    progress(&bus, "probe", |lag| lag == 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    host.terminate();
    assert_eq!(host.wait(BOUND).code(), Some(5));
    assert!(host.log().contains("delivered again"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_failures_in_a_row_end_the_host() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let drafts: Vec<Draft> = (0..20).map(|_| Draft::new("reject").header("code", "bad")).collect();
    publish(&bus, "in", &drafts).await;
    let config = bench.config(&url, &[probe().with("in_flight = 1")]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[host]\nconsecutive_errors_limit = 3\n{text}")).unwrap();
    let mut host = bench.run(&config, &[]);
    assert_eq!(host.wait(BOUND).code(), Some(6), "{}", host.log());
    assert!(host.log().contains("consecutive_errors_limit"));
    let dead = bus.status(&"in".into(), "probe").await.unwrap().dead_letters;
    assert!((3..20).contains(&dead), "{dead} events were tried");
}
