//! `sandbar status`: its figures while a host runs and after it died, on both buses.

use super::*;
use crate::support::host::HandlerToml;
use crate::support::redis::Server;

#[test]
fn the_figures_are_right_on_sqlite() {
    let bench = Bench::new();
    figures(&bench, &format!("sqlite:{}", bench.path("bus.db").display()), "1s");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_right_on_redis() {
    let server = Server::start(&[]).await;
    let url = server.url();
    tokio::task::spawn_blocking(move || figures(&Bench::new(), &url, "1s")).await.unwrap();
}

/// Events that end in every way there is, one that never ends, and some that nobody reads.
fn figures(bench: &Bench, url: &str, first: &str) {
    let probe = HandlerToml::new("probe", "probe", "in").with(&format!("retry_first = \"{first}\""));
    let idle = HandlerToml::new("idle", "noop", "in").with("enabled = false");
    let config = bench.config(url, &[probe.with("[handler.limits]\ntime = \"60s\""), idle]);
    let publish = |kind: &str, headers: Value, times: usize| {
        let event =
            json!({ "topic": "in", "type": kind, "content_type": "application/json", "headers": headers, "data": {} });
        bench.ok(&["publish"], format!("{event}\n").repeat(times).as_bytes());
    };
    let status = || bench.json(&["status", "--json"], b"")["handlers"].clone();
    assert_eq!(status()[0]["exists"], false);
    publish("ok", json!({}), 5);
    publish("reject", json!({ "code": "bad" }), 3);
    publish("retry", json!({ "after": "3600000" }), 2);
    publish("spin", json!({}), 1);

    let host = bench.run(&config, &[]);
    let settled = |now: &Value| {
        (&now["lag"], &now["pending"], &now["retrying"], &now["dead_letters"])
            == (&0.into(), &1.into(), &2.into(), &3.into())
    };
    let end = Instant::now() + BOUND;
    while !settled(&status()[0]) {
        assert!(Instant::now() < end, "{}", status());
    }
    let now = status();
    let expected = json!({
        "handler": "probe", "enabled": true, "topic": "in", "group": "probe", "exists": true, "lag": 0, "pending": 1,
        "retrying": 2, "dead_letters": 3, "lost": 0, "consumers": now[0]["consumers"], "held_up_by": "probe",
    });
    assert_eq!(now[0], expected);
    let consumers = now[0]["consumers"].as_array().unwrap();
    assert!(consumers.len() == 1 && consumers[0].as_str().unwrap().starts_with("sandbar"), "{consumers:?}");
    assert_eq!(
        (&now[1]["handler"], &now[1]["enabled"], &now[1]["exists"]),
        (&"idle".into(), &false.into(), &false.into())
    );

    host.kill();
    publish("ok", json!({}), 4);
    let now = &status()[0];
    assert_eq!((&now["lag"], &now["pending"], &now["retrying"]), (&4.into(), &1.into(), &2.into()));
    let table = bench.ok(&["status"], b"");
    let cells: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
    let header =
        ["HANDLER", "TOPIC", "GROUP", "LAG", "PENDING", "RETRYING", "DEAD LETTERS", "LOST", "CONSUMERS", "HELD UP BY"];
    assert_eq!(cells[0], header);
    assert_eq!(cells[1][..8], ["probe", "in", "probe", "4", "1", "2", "3", "0"]);
    assert_eq!(cells[2][..3], ["idle (disabled)", "in", "idle (not made yet)"]);
    assert_eq!(cells.len(), 3);
}
