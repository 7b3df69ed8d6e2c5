//! How a host ends: by a signal, by its grace, by too many failures.

use super::*;

/// Rounds of the probe's `busy` that take some tens of milliseconds.
const ROUNDS: u64 = 20_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_raises_no_attempt() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let drafts: Vec<Draft> = (0..100).map(|_| Draft::new("busy").header("rounds", ROUNDS)).collect();
    publish(&bus, "in", &drafts).await;
    let config = bench.config(&url, &[probe().with("[handler.limits]\ntime = \"10s\"")]);
    let (mut acked, mut tries) = (0, 0);
    while acked < 100 {
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
        // Long enough that some calls end; far too short for all.
        tokio::time::sleep(Duration::from_millis(300) * (1 + tries / 10)).await;
        host.terminate();
        let status = host.wait(BOUND);
        assert_eq!(status.code(), Some(0), "{}", host.log());
        assert!(before.elapsed() < BOUND);
        let summary = host.summary();
        let tally = &summary["handlers"][0];
        acked += tally["acked"].as_u64().unwrap();
        assert_eq!((&tally["retried"], &tally["dead"]), (&0.into(), &0.into()), "a drain is no attempt");
        let status = bus.status(&"in".into(), "probe").await.unwrap();
        assert_eq!(status.consumers, [""; 0], "the consumer has left");
    }
    assert_eq!(acked, 100, "each event once");
    assert!(tries > 1, "the host was stopped on the way");
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying, status.dead_letters), (Some(0), 0, 0, 0));
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
