//! `order`: what must wait for what, with many events in flight, failures, and hosts that die.

use super::*;

const KEYS: usize = 5;
const PER_KEY: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_key_stay_in_order_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    in_order(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_key_stay_in_order_on_redis() {
    let server = Server::start(&[]).await;
    in_order(&Bench::new(), &server.url()).await;
}

/// Every third event fails once or twice before it succeeds; the active host is killed twice, with another standing by.
async fn in_order(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let mut drafts = Vec::new();
    for n in 0..PER_KEY {
        for key in 0..KEYS {
            let fail = if (n + key) % 3 == 0 { 1 + n % 2 } else { 0 };
            let draft = Draft::new("test.sequence.v1").header("number", format!("{key}-{n}")).header("fail", fail);
            drafts.push(draft.json(&format!("{{\"course\": {{\"key\": \"course-{key}\"}}}}")));
        }
    }
    publish(&bus, "in", &drafts).await;
    let handler = HandlerToml::new("sequence", "sequence", "in")
        .with("order = \"key\"\nkey = \"/course/key\"\nretry_first = \"20ms\"")
        .with("[handler.grants]\npublish = [\"out\"]");
    let config = bench.config(url, &[handler]);
    let mut hosts = vec![bench.run(&config, &[]), bench.run(&config, &[])];
    for kill in 1..=2 {
        let end = Instant::now() + BOUND;
        while read_all(&bus, "out").await.len() < kill * 30 {
            assert!(Instant::now() < end, "no progress");
        }
        // Either may be the active one: over both rounds an active one dies at least once.
        hosts.remove(0).kill();
        hosts.push(bench.run(&config, &[]));
    }
    let end = Instant::now() + BOUND;
    while read_all(&bus, "out").await.len() < drafts.len() {
        assert!(Instant::now() < end, "not all came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(hosts);

    let handled = read_all(&bus, "out").await;
    assert_eq!(handled.len(), drafts.len(), "each effect once");
    let mut last = BTreeMap::new();
    for fields in &handled {
        let number = String::from_utf8(fields.get("number").unwrap().to_vec()).unwrap();
        let (key, n) = number.split_once('-').unwrap();
        let n: usize = n.parse().unwrap();
        let before = last.insert(key.to_owned(), n);
        assert_eq!(before.map_or(0, |before| before + 1), n, "of key {key}, {n} came after {before:?}");
    }
    let letters = bus.dead_letters(&"in".into(), "sequence", None, 10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
}
