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
    let told = |now: &Value| now[0]["state"] == "running" && now[0]["hosts"][0]["in_hand"] == 1;
    while !told(&status()) {
        assert!(Instant::now() < end, "{}", status());
    }
    let now = status();
    let (ages, rate) = (["oldest_seconds", "oldest_dead_letter_seconds"], now[0]["rate"].as_f64().unwrap());
    let expected = json!({
        "handler": "probe", "enabled": true, "topic": "in", "group": "probe", "isolation": "none", "exists": true, "lag": 0, "pending": 1,
        "retrying": 2, "dead_letters": 3, "lost": 0, "consumers": now[0]["consumers"], "state": "running",
        "held_back": 0, "held_up_by": "probe", "rate": rate, "modules": now[0]["modules"], "hosts": now[0]["hosts"],
        ages[0]: now[0][ages[0]], ages[1]: now[0][ages[1]],
    });
    assert_eq!(now[0], expected);
    assert!(ages.iter().all(|age| (0.0..120.0).contains(&now[0][age].as_f64().unwrap())), "{now}");
    assert!(rate > 0.0 && rate <= 10.0, "ten are settled: {rate}");
    let module = now[0]["modules"][0].as_str().unwrap();
    assert!(module.len() == 12 && now[0]["hosts"][0]["module"].as_str().unwrap().starts_with(module), "{now}");
    let consumers = now[0]["consumers"].as_array().unwrap();
    assert!(consumers.len() == 1 && consumers[0].as_str().unwrap().starts_with("sandbar"), "{consumers:?}");
    assert_eq!(
        (&now[1]["handler"], &now[1]["enabled"], &now[1]["exists"]),
        (&"idle".into(), &false.into(), &false.into())
    );
    assert_eq!((&now[1]["state"], &now[1]["oldest_seconds"]), (&Value::Null, &Value::Null));

    host.kill();
    publish("ok", json!({}), 4);
    let now = &status()[0];
    assert_eq!((&now["lag"], &now["pending"], &now["retrying"]), (&4.into(), &1.into(), &2.into()));
    let table = bench.ok(&["status"], b"");
    let cells: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
    let header = ["HANDLER", "TOPIC", "GROUP", "LAG", "PENDING", "RETRYING", "DEAD LETTERS", "LOST", "CONSUMERS"];
    assert_eq!(cells[0][..9], header);
    assert_eq!(cells[0][9..], ["STATE", "HELD BACK", "OLDEST", "RATE", "MODULE", "SINCE", "HELD UP BY"]);
    assert_eq!(cells[1][..8], ["probe", "in", "probe", "4", "1", "2", "3", "0"]);
    assert_eq!(cells[2][..3], ["idle (disabled)", "in", "idle (not made yet)"]);
    assert_eq!(cells.len(), 3);
}

#[test]
fn it_says_when_parked_max_is_reached_and_what_is_held_back() {
    let bench = Bench::new();
    let probe =
        HandlerToml::new("probe", "probe", "in").with("order = \"topic\"\nparked_max = 5\nretry_first = \"5m\"");
    let config = bench.config(&format!("sqlite:{}", bench.path("bus.db").display()), &[probe]);
    let retry = json!({ "topic": "in", "type": "retry", "content_type": "application/json", "data": {} });
    let ok = json!({ "topic": "in", "type": "ok", "content_type": "application/json", "data": {} });
    bench.ok(&["publish"], format!("{retry}\n{}", format!("{ok}\n").repeat(8)).as_bytes());
    let _host = bench.run(&config, &[]);
    let end = Instant::now() + BOUND;
    loop {
        let now = bench.json(&["status", "--json"], b"")["handlers"][0].clone();
        if now["state"] == "at parked_max" && now["held_back"] == 8 {
            break;
        }
        assert!(Instant::now() < end, "{now}");
    }
    assert!(bench.ok(&["status"], b"").contains("at parked_max"));
}

#[test]
fn watching_prints_a_picture_every_second_and_no_escapes_into_a_pipe() {
    let bench = embedded();
    for (args, pictures) in
        [(&["status", "--watch"][..], "HANDLER"), (&["status", "--watch", "--json"], "{\"handlers\":")]
    {
        let mut child = bench.command(args).spawn().unwrap();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        let begun = Instant::now();
        let mut text = String::new();
        while text.matches(pictures).count() < 3 {
            assert!(std::io::BufRead::read_line(&mut reader, &mut text).unwrap() > 0, "it ended: {text}");
        }
        assert!(begun.elapsed() >= std::time::Duration::from_millis(1_900), "a second lies between them");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        if args.contains(&"--json") {
            assert!(
                text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
                "one document a line: {text}"
            );
        }
    }
}
