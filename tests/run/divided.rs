//! `order = "key"` over several hosts that come, go, freeze and lose their connections.

use std::collections::VecDeque;

use super::*;

const KEYS: usize = 12;
const ROUNDS: usize = 50;
/// What each key gets in a round.
const EACH: usize = 2;
/// Three hosts at any time.
const HOSTS: usize = 3;
/// As [`HandlerToml::new`] has it.
const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_whatever_happens_to_three_hosts_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    fifty_rounds(&bench, &url, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_whatever_happens_to_three_hosts_on_redis() {
    let server = Server::start(&[]).await;
    fifty_rounds(&Bench::new(), &server.url(), Some(&server)).await;
}

/// In each round numbered events arrive while a host is frozen beyond its lease, is killed, stops, or (on a server) all
/// hosts lose their connections. Every fifth event fails once.
async fn fifty_rounds(bench: &Bench, url: &str, server: Option<&Server>) {
    let mut bus = open(url).await;
    let handler = HandlerToml::new("sequence", "sequence", "in")
        .with("order = \"key\"\nkey = \"/course/key\"\nretry_first = \"20ms\"")
        .with("[handler.grants]\npublish = [\"out\"]");
    let config = bench.config(url, &[handler]);
    let mut hosts: VecDeque<Host> = (0..HOSTS).map(|_| bench.run(&config, &[])).collect();
    for round in 0..ROUNDS {
        publish_round(&bus, round).await;
        let mut host = hosts.pop_front().unwrap();
        match round % 5 {
            0 | 3 => {
                host.signal("-STOP");
                tokio::time::sleep(LEASE * 3 / 2).await;
                host.signal("-CONT");
                hosts.push_back(host);
            }
            1 => {
                host.kill();
                hosts.push_back(bench.run(&config, &[]));
            }
            2 => {
                host.terminate();
                host.finish();
                hosts.push_back(bench.run(&config, &[]));
            }
            _ => {
                if let Some(server) = server {
                    let _killed: i64 = server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
                    // The test's own is gone with them.
                    bus = open(url).await;
                }
                hosts.push_back(host);
            }
        }
    }
    let all = ROUNDS * KEYS * EACH;
    let end = Instant::now() + BOUND;
    while handled(&bus).await < all {
        assert!(Instant::now() < end, "{} of {all} were handled", handled(&bus).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(hosts);
    let numbers = read_all(&bus, "out").await;
    assert_eq!(numbers.len(), all, "each effect once");
    let mut last = BTreeMap::new();
    for fields in &numbers {
        let number = String::from_utf8(fields.get("number").unwrap().to_vec()).unwrap();
        let (key, n) = number.split_once('-').unwrap();
        let n: usize = n.parse().unwrap();
        let before = last.insert(key.to_owned(), n);
        assert_eq!(before.map_or(0, |before| before + 1), n, "of key {key}, {n} came after {before:?}");
    }
}

async fn publish_round(bus: &std::sync::Arc<dyn sandbar::bus::Bus>, round: usize) {
    let mut drafts = Vec::new();
    for n in round * EACH..(round + 1) * EACH {
        for key in 0..KEYS {
            let fail = usize::from((n + key) % 5 == 0);
            let draft = Draft::new("test.sequence.v1").header("number", format!("{key}-{n}")).header("fail", fail);
            drafts.push(draft.json(&format!("{{\"course\": {{\"key\": \"course-{key}\"}}}}")));
        }
    }
    publish(bus, "in", &drafts).await;
}

/// How many effects there are.
async fn handled(bus: &std::sync::Arc<dyn sandbar::bus::Bus>) -> usize {
    read_all(bus, "out").await.len()
}
