//! `limits.events_per_second`: what is too much is not read.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_is_given_so_many_in_a_second_and_the_rest_waits_on_the_bus() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &(0..300).map(|_| Draft::new("ok")).collect::<Vec<_>>()).await;
    let paced = probe().with("[handler.limits]\nevents_per_second = 100");
    let free = HandlerToml::new("free", "probe", "in");
    let config = bench.config(&url, &[paced, free]);
    let begun = Instant::now();
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    progress(&bus, "free", |lag| lag == 0).await;
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(1) || status.lag > Some(0), "{status:?}");
    host.finish();
    // The first hundred at once, the others in two seconds.
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
    let summary = host.summary();
    for handler in summary["handlers"].as_array().unwrap() {
        assert_eq!((&handler["acked"], &handler["retried"], &handler["dead"]), (&300.into(), &0.into(), &0.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paced_handler_with_order_gets_everything_too() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &(0..60).map(|_| Draft::new("ok")).collect::<Vec<_>>()).await;
    let paced = probe().with("order = \"topic\"\n[handler.limits]\nevents_per_second = 20");
    let config = bench.config(&url, &[paced]);
    let begun = Instant::now();
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
    assert_eq!(host.summary()["handlers"][0]["acked"], 60);
}
