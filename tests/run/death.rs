//! An event that kills its host is found out, and nothing else pays for it.

use super::*;

const NEIGHBOURS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    quarantined(&bench, &url, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_on_redis() {
    let server = Server::start(&[]).await;
    quarantined(&Bench::new(), &server.url(), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_hosts_is_quarantined_where_order_matters() {
    let bench = Bench::new();
    let url = embedded(&bench);
    quarantined(&bench, &url, "order = \"topic\"").await;
}

/// The event spins; the host is killed during each of its calls. The first call is of an event that is new, so its
/// start is not on record; the next two are.
async fn quarantined(bench: &Bench, url: &str, order: &str) {
    let bus = open(url).await;
    let killer = Draft::new("spin");
    let mut drafts: Vec<Draft> = (0..NEIGHBOURS).map(|_| Draft::new("ok")).collect();
    drafts.insert(NEIGHBOURS / 2, killer);
    publish(&bus, "in", &drafts).await;
    let handler = probe().with(order).with("[handler.limits]\ntime = \"10m\"");
    let config = bench.config(url, &[handler]);
    for _ in 0..3 {
        let host = bench.run(&config, &[]);
        spinning(&host).await;
        host.kill();
    }
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    assert_eq!(host.summary()["handlers"][0]["dead"], 1, "{}", host.log());
    let letters = bus.dead_letters(&"in".into(), "probe", None, 100).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].cause.code.as_str(), letters[0].cause.attempts), (code::HOST_DEATH, 2));
    assert_eq!(letters[0].fields, drafts[NEIGHBOURS / 2].fields());
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying), (Some(0), 0, 0), "the neighbours are handled");
}

/// Waits until a host computes: its lease on what the last one held has run out, and the call has begun.
async fn spinning(host: &Host) {
    let end = Instant::now() + BOUND;
    let mut before = host.cpu();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = host.cpu();
        // A guest that spins uses up most of the time; a host that starts does too, but not for long.
        if now - before > Duration::from_millis(200) && host.uptime() > Duration::from_millis(2_500) {
            return;
        }
        before = now;
        assert!(Instant::now() < end, "it does not run the event: {}", host.log());
    }
}
