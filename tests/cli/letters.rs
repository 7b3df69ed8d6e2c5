//! `sandbar dlq`: dead letters, listed, shown, sent again, deleted.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sandbar::bus::{self, Fetched, Settings};
use sandbar::event::{Cause, Settlement};

use super::*;
use crate::support::host::HandlerToml;
use crate::support::redis::Server;

/// Gives up all that waits on the bench's bus, with these codes and times in turn.
async fn give_up(bench: &Bench, codes: &[&str], times: &[SystemTime]) -> Vec<sandbar::event::Message> {
    let url = format!("sqlite:{}", bench.path("events.db").display());
    let settings = Settings { url, topic_prefix: Some("dev".to_owned()), ..Settings::default() };
    let bus = bus::open(&settings).await.unwrap();
    let group = bus::Group {
        name: "mirror".to_owned(),
        topics: vec!["catalog".into()],
        start: bus::Start::Beginning,
        lease: Duration::from_secs(30),
        consumer: "test".to_owned(),
        order: None,
        join_foreign: false,
    };
    let subscription = bus.subscribe(&group).await.unwrap();
    let Fetched::Deliveries(deliveries) = subscription.fetch(100, Duration::from_secs(5)).await.unwrap() else {
        panic!("deliveries")
    };
    let messages = deliveries.iter().map(|delivery| delivery.message.clone()).collect();
    let cause = |code: &str, at| Cause {
        code: code.to_owned(),
        reason: format!("\u{1b}[31mbecause of {code}"),
        attempts: 5,
        handler: "mirror".to_owned(),
        module: "abc".to_owned(),
        at,
    };
    let batch = deliveries
        .into_iter()
        .zip(codes.iter().cycle().zip(times.iter().cycle()))
        .map(|(delivery, (code, at))| (delivery, Settlement::Dead(cause(code, *at))));
    let settled = subscription.settle(batch.collect()).await;
    assert!(settled.iter().all(|settled| matches!(settled, bus::Settled::Committed)), "{settled:?}");
    subscription.close().await.unwrap();
    messages
}

#[test]
fn dead_letters_are_listed_shown_sent_again_and_deleted() {
    let bench = embedded();
    let vector = catalog();
    let publish = ["publish", "--topic", "catalog", "--type", KIND];
    for _ in 0..3 {
        bench.ok(&publish, vector.data.to_string().as_bytes());
    }
    bench.ok(&[&publish[..], &["--raw"]].concat(), b"\xff\xff");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let messages = runtime.block_on(give_up(&bench, &["trap", "unknown-course"], &[SystemTime::now()]));
    assert_eq!(messages.len(), 4);

    let list = bench.json(&["dlq", "list", "--json"], b"");
    assert_eq!(list["count"], 4);
    let groups: Vec<_> = list["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| (g["code"].as_str().unwrap(), g["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(groups, [("trap", 2), ("unknown-course", 2)]);
    let ids: Vec<&str> =
        list["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| id.starts_with("mirror/catalog/")), "{ids:?}");

    let text = bench.ok(&["dlq", "list", "--limit", "1"], b"");
    assert!(text.contains("because of trap") && text.contains("… and 3 more"), "{text}");
    assert!(!text.contains('\u{1b}'), "a handler's words reach no terminal as escapes");
    assert_eq!(bench.json(&["dlq", "list", "--json", "--code", "trap"], b"")["count"], 2);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--since", "1h"], b"")["count"], 4);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--since", "2999-01-01T00:00:00Z"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--until", "1h"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--type", "org.other.*"], b"")["count"], 0);
    assert_eq!(bench.json(&["dlq", "list", "--json", "--topic", "other"], b"")["count"], 0);
    assert_eq!(bench.call(&["dlq", "list", "--handler", "other"], b"").code, 2);

    let shown = bench.json(&["dlq", "show", ids[0], "--json"], b"");
    assert_eq!((&shown["data"], &shown["code"]), (&vector.data, &Value::from("trap")));
    assert_eq!(BASE64.decode(shown["payload_base64"].as_str().unwrap()).unwrap(), vector.datum());
    let raw = bench.json(&["dlq", "show", ids[3], "--json"], b"");
    assert_eq!((&raw["data"], raw["payload_base64"].as_str()), (&Value::Null, Some("//8=")));
    let text = bench.ok(&["dlq", "show", ids[3]], b"");
    assert!(text.contains("code: unknown-course") && text.contains("payload (base64):\n//8="), "{text}");

    let absent = bench.call(&["dlq", "requeue", ids[0], "mirror/catalog/999999"], b"");
    assert_eq!(absent.code, 2, "{}", absent.stderr);
    assert_eq!(bench.json(&["dlq", "list", "--json"], b"")["count"], 4, "one wrong id changes nothing");
    assert_eq!(bench.json(&["dlq", "requeue", ids[0], "--json"], b"")["requeued"], 1);
    let status = &bench.json(&["status", "--json"], b"")["handlers"][0];
    assert_eq!((&status["dead_letters"], &status["retrying"], &status["lag"]), (&3.into(), &1.into(), &0.into()));
    let moved = bench.json(&["dlq", "requeue", "--all", "--code", "trap", "--to", "topic", "--json"], b"");
    assert_eq!((&moved["requeued"], &moved["asked"]), (&1.into(), &1.into()));
    let status = &bench.json(&["status", "--json"], b"")["handlers"][0];
    assert_eq!((&status["dead_letters"], &status["retrying"], &status["lag"]), (&2.into(), &1.into(), &1.into()));

    let refused = bench.call(&["dlq", "purge", "--all"], b"");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(bench.json(&["dlq", "list", "--json"], b"")["count"], 2);
    assert_eq!(bench.ok(&["dlq", "purge", ids[1]], b""), "purged 1 of 1\n");
    assert_eq!(bench.json(&["dlq", "purge", "--all", "--yes", "--json"], b"")["purged"], 1);
    assert_eq!(bench.ok(&["dlq", "list"], b""), "no dead letters\n");
}

#[test]
fn since_and_until_divide_dead_letters_at_their_time() {
    let bench = embedded();
    let data = catalog().data;
    bench.ok(&["publish", "--topic", "catalog", "--type", KIND], format!("{data}\n{data}\n{data}").as_bytes());
    // 2026-01-31T00:00:00Z, an hour later, and now.
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_817_600);
    let times = [first, first + Duration::from_secs(3600), SystemTime::now()];
    tokio::runtime::Runtime::new().unwrap().block_on(give_up(&bench, &["a", "b", "c"], &times));
    for (filter, expected) in [
        (&["--since", "2026-01-31T01:00:00Z"][..], &["b", "c"][..]),
        (&["--since", "2026-01-31T01:00:01Z"], &["c"]),
        (&["--until", "2026-01-31T01:00:00Z"], &["a"]),
        (&["--until", "2026-01-31T02:00:01+01:00"], &["a", "b"]),
        (&["--since", "2026-01-31T00:00:00Z", "--until", "2026-01-31T00:00:01Z"], &["a"]),
        (&["--since", "2h"], &["c"]),
        (&["--until", "2h"], &["a", "b"]),
    ] {
        let list = bench.json(&[&["dlq", "list", "--json"], filter].concat(), b"");
        let codes: Vec<_> = list["letters"].as_array().unwrap().iter().map(|l| l["code"].as_str().unwrap()).collect();
        assert_eq!(codes, expected, "{filter:?}");
    }
    for wrong in ["yesterday", "2026-01-31T01:00:00", "2"] {
        let ran = bench.call(&["dlq", "list", "--since", wrong], b"");
        assert_eq!(ran.code, 2, "{wrong}");
        assert!(ran.stderr.contains("2026-01-31T00:00:00Z") && ran.stderr.contains("2h"), "{}", ran.stderr);
    }
}

/// Each filter narrows each command, with ids and without.
#[test]
fn every_filter_narrows_requeue_and_purge() {
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_817_600);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (filter, matching) in [
        (&["--code", "b"][..], &[1][..]),
        (&["--handler", "mirror"], &[0, 1, 2]),
        (&["--topic", "other"], &[]),
        (&["--type", "*.changed.v1"], &[0, 1, 2]),
        (&["--type", "org.other.*"], &[]),
        (&["--since", "2026-01-31T01:00:00Z"], &[1, 2]),
        (&["--until", "2026-01-31T01:00:00Z"], &[0]),
        (&["--since", "2026-01-31T00:30:00Z", "--until", "2h", "--code", "b"], &[1]),
    ] {
        for deed in [&["requeue"][..], &["purge", "--yes"]] {
            let bench = embedded();
            let data = catalog().data;
            bench.ok(&["publish", "--topic", "catalog", "--type", KIND], format!("{data}\n{data}\n{data}").as_bytes());
            let times = [first, first + Duration::from_secs(3600), SystemTime::now()];
            runtime.block_on(give_up(&bench, &["a", "b", "c"], &times));
            let ids = || -> Vec<String> {
                let list = bench.json(&["dlq", "list", "--json"], b"");
                list["letters"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_owned()).collect()
            };
            let all = ids();
            assert_eq!(all.len(), 3);
            let command = |more: &[&str]| bench.call(&[&["dlq"], deed, filter, &["--json"], more].concat(), b"");
            // One that the filter does not let through is not there.
            for (n, id) in all.iter().enumerate().filter(|(n, _)| !matching.contains(n)) {
                assert_eq!(command(&[id]).code, 2, "{deed:?} {filter:?} {n}");
            }
            assert_eq!(ids(), all);
            let mut rest = matching.to_vec();
            if matching.len() > 1 {
                let one = command(&[&all[rest.remove(0)]]);
                assert_eq!(one.code, 0, "{}", one.stderr);
            }
            let bulk = command(&["--all"]);
            assert_eq!(bulk.code, 0, "{}", bulk.stderr);
            let told: Value = serde_json::from_slice(&bulk.stdout).unwrap();
            assert_eq!(told["asked"], rest.len(), "{deed:?} {filter:?}");
            let left: Vec<String> = (0..3).filter(|n| !matching.contains(n)).map(|n| all[n].clone()).collect();
            assert_eq!(ids(), left, "{deed:?} {filter:?}");
        }
    }
}

/// What a handler gave up is handled by its next version: by the handler alone, or by all that read the topic.
#[tokio::test(flavor = "multi_thread")]
async fn requeued_dead_letters_are_handled_by_the_next_run_on_redis() {
    let server = Server::start(&[]).await;
    let bench = Bench::new();
    let config = |module: &str| {
        let worker = HandlerToml::new("worker", module, "in");
        bench.config(&server.url(), &[worker, HandlerToml::new("other", "noop", "in")]);
    };
    let run = || {
        let summary = bench.json(&["run", "--until-idle", "--json"], b"");
        let of = |handler: usize, key: &str| summary["handlers"][handler][key].as_u64().unwrap();
        ((of(0, "acked"), of(0, "dead")), of(1, "acked"))
    };
    let ids = || -> Vec<String> {
        let list = bench.json(&["dlq", "list", "--json"], b"");
        list["letters"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_owned()).collect()
    };

    config("probe");
    let event = r#"{"topic": "in", "type": "reject", "content_type": "application/json", "headers": {"code": "bad"}, "data": {}}"#;
    bench.ok(&["publish"], [event; 4].join("\n").as_bytes());
    assert_eq!(run(), ((0, 4), 4));
    let letters = ids();
    assert_eq!(letters.len(), 4);
    let counts = |now: &Value| (now["retrying"].as_u64(), now["lag"].as_u64(), now["dead_letters"].as_u64());
    let status = || {
        let status = bench.json(&["status", "--json"], b"");
        [counts(&status["handlers"][0]), counts(&status["handlers"][1])]
    };

    config("noop");
    assert_eq!(bench.ok(&["dlq", "requeue", &letters[0]], b""), "requeued 1 of 1\n");
    assert_eq!(status(), [(Some(1), Some(0), Some(3)), (Some(0), Some(0), Some(0))]);
    assert_eq!(run(), ((1, 0), 0), "only the handler that gave it up");

    let moved = bench.json(&["dlq", "requeue", "--to", "topic", "--json", &letters[1]], b"");
    assert_eq!((&moved["requeued"], &moved["asked"]), (&1.into(), &1.into()));
    assert_eq!(status(), [(Some(0), Some(1), Some(2)), (Some(0), Some(1), Some(0))]);
    assert_eq!(run(), ((1, 0), 1), "every group");
    assert_eq!(server.run::<u64>(&["XLEN", "in"]).await, 5, "appended, and nothing is trimmed");

    assert_eq!(ids(), letters[2..]);
    assert_eq!(bench.ok(&["dlq", "purge", &letters[2]], b""), "purged 1 of 1\n");
    assert_eq!(ids(), letters[3..]);
    assert_eq!(bench.call(&["dlq", "purge", &letters[2]], b"").code, 2, "it is gone");
    let careless = bench.call(&["dlq", "purge", "--all"], b"");
    assert_eq!(careless.code, 2);
    assert!(careless.stderr.contains("--yes"), "{}", careless.stderr);
    assert_eq!(ids(), letters[3..]);
    assert_eq!(bench.ok(&["dlq", "purge", "--all", "--yes"], b""), "purged 1 of 1\n");
    assert_eq!(bench.ok(&["dlq", "list"], b""), "no dead letters\n");
    assert_eq!(run(), ((0, 0), 0), "what was purged comes no more");
}
