//! `sandbar replay` on both buses: what it runs, what it tells, and that no group notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sandbar::bus::{Bus, Edge, Fetched, Settled};
use sandbar::event::{Cause, RetryEntry, Settlement};

use super::store::Store;
use super::*;
use crate::support::events::{Draft, member, open, publish, read_all};
use crate::support::host::HandlerToml;

impl Store {
    /// What lies in it, to the byte.
    async fn contents(&self) -> BTreeMap<String, String> {
        match self {
            Self::Sqlite(bench) => {
                let db = rusqlite::Connection::open(bench.path("bus.db")).unwrap();
                let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
                let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
                let rows = |name: &String| {
                    let mut all = db.prepare(&format!("SELECT * FROM {name}")).unwrap();
                    let columns = all.column_count();
                    let row = |row: &rusqlite::Row<'_>| {
                        (0..columns).map(|at| row.get(at)).collect::<Result<Vec<rusqlite::types::Value>, _>>()
                    };
                    let rows: Vec<_> = all.query_map([], row).unwrap().map(Result::unwrap).collect();
                    (name.clone(), format!("{rows:?}"))
                };
                names.iter().map(rows).collect()
            }
            Self::Redis(_, server) => {
                let keys: Vec<String> = server.run(&["KEYS", "*"]).await;
                let mut contents = BTreeMap::new();
                for key in keys {
                    let dump: redis::Value = server.run(&["DUMP", &key]).await;
                    contents.insert(key, format!("{dump:?}"));
                }
                contents
            }
        }
    }
}

fn probe() -> HandlerToml {
    HandlerToml::new("probe", "probe", "in").with("[handler.grants]\npublish = [\"out\"]\nkeys = true")
}

/// Publishes to two topics and writes a key, whatever the event.
fn fanout() -> HandlerToml {
    let fanout = HandlerToml::new("fanout", "fanout", "in").with("types = [\"fan\", \"ok\"]");
    fanout.with("[handler.grants]\npublish = [\"out-a\", \"out-b\"]\nkeys = true")
}

fn uses_keys(lines: &str) -> Draft {
    Draft::new("keys").header("do", lines).header("then", "ok")
}

/// Each of the documents that a replay prints: the events', then the last.
fn replayed(bench: &Bench, args: &[&str], code: i32) -> (Vec<Value>, Value) {
    let handler = if args.contains(&"--handler") { &[][..] } else { &["--handler", "probe"] };
    let ran = bench.call(&[&["replay", "--json"], handler, args].concat(), b"");
    assert_eq!(ran.code, code, "{args:?}: {}{}", ran.stderr, ran.text());
    documents(&ran.text())
}

fn documents(text: &str) -> (Vec<Value>, Value) {
    let mut documents: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = documents.pop().unwrap();
    (documents, last)
}

async fn positions(bus: &std::sync::Arc<dyn Bus>) -> Vec<String> {
    let topic = "in".into();
    let span = bus.history(&topic, &Edge::Beginning, None).await.unwrap().unwrap();
    let messages = bus.read(&topic, &span, 10_000).await.unwrap();
    messages.into_iter().map(|message| message.position.to_string()).collect()
}

macro_rules! on_both_buses {
    ($case:ident, $on_sqlite:ident, $on_redis:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $on_sqlite() {
            $case(Store::sqlite()).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $on_redis() {
            $case(Store::redis().await).await;
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_without_effects_leaves_no_trace_on_sqlite() {
    no_trace(Store::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_without_effects_leaves_no_trace_on_redis() {
    no_trace(Store::redis().await).await;
}

async fn no_trace(store: Store) {
    let bus = open(&store.url()).await;
    let drafts = [
        Draft::new("event"),
        Draft::new("ok").json(r#"{"a": [1]}"#),
        Draft::new("retry").header("message", "not now").header("code", "busy"),
        Draft::new("reject").header("code", "bad"),
        uses_keys("get k\nset k new\nget k\ndelete gone"),
        Draft::new("ok").avro(b"\xff"),
        Draft::new("panic").header("message", "ouch"),
        Draft::new("keys").header("do", "get k"),
    ];
    publish(&bus, "in", &drafts).await;
    // The group has something in every place there is.
    let member = member(&bus, "probe", "in").await;
    let Fetched::Deliveries(mut held) = member.fetch(4, BOUND).await.unwrap() else { panic!("not exclusive") };
    let due = std::time::SystemTime::now() + Duration::from_secs(3600);
    let retry = RetryEntry { attempts: 1, due, code: "busy".into(), reason: String::new(), lane: None };
    let cause = Cause {
        code: "bad".into(),
        reason: String::new(),
        attempts: 1,
        handler: "probe".into(),
        module: String::new(),
        at: std::time::SystemTime::now(),
    };
    let batch = vec![(held.remove(0), Settlement::Retry(retry)), (held.remove(0), Settlement::Dead(cause))];
    assert!(member.settle(batch).await.iter().all(|answer| matches!(answer, Settled::Committed)));
    let old = sandbar::event::KeyWrite { key: "k".into(), value: Some("old".into()) };
    let written = sandbar::event::Effects { key_space: "probe".into(), writes: vec![old], ..Default::default() };
    bus.apply(&written).await.unwrap();

    let echo = HandlerToml::new("echo", "echo", "in").with("types = [\"ok\"]");
    let echo = echo.with("[handler.grants]\npublish = [\"echoed\"]");
    store.bench().config(&store.url(), &[probe(), fanout(), echo]);
    let before = store.contents().await;
    let status = bus.status(&"in".into(), "probe").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying, status.dead_letters), (Some(4), 2, 1, 1));
    let (events, last) = replayed(store.bench(), &["--from", "beginning"], 6);
    assert_eq!(store.contents().await, before, "something was written");

    let told: Vec<&str> = events.iter().map(|event| event["position"].as_str().unwrap()).collect();
    assert_eq!(told, positions(&bus).await, "in the order of history");
    let of = |n: usize, key: &str| events[n][key].as_str().unwrap_or_default().to_owned();
    let failed: Vec<(String, String)> =
        [0, 2, 3, 5, 6, 7].iter().map(|n| (of(*n, "outcome"), of(*n, "code"))).collect();
    let codes = ["said", "busy", "bad", "no-schema", "trap", "said"];
    assert_eq!(failed, codes.map(|code| ("failed".to_owned(), code.to_owned())));
    assert!(
        of(0, "reason").contains("replayed: true") && of(0, "reason").contains("attempt: 1"),
        "{}",
        of(0, "reason")
    );
    assert_eq!(of(7, "reason"), "Ok(Some(\"old\"))", "keys are read, and no write of the replay is there");
    assert_eq!(events[4]["keys"], json!([{ "key": "k", "value": "new" }, { "key": "gone", "value": null }]));
    let expected = json!({
        "handler": "probe", "done": 2, "failed": 6, "skipped": 0, "published": 0, "written": 2, "effects": false,
        "ended": null, "next": null,
    });
    assert_eq!(last, expected);
    let (events, last) = replayed(store.bench(), &["--handler", "fanout", "--from", "beginning"], 6);
    // The one that cannot be decoded is of this handler's types, too.
    let counts = [&last["skipped"], &last["published"], &last["written"]];
    assert_eq!((events.len(), counts), (2, [&6.into(), &2.into(), &1.into()]));
    let published = &events[0]["published"][1];
    assert_eq!((&published["topic"], &published["type"]), (&"out-b".into(), &"test.fanned.v1".into()));
    assert_eq!(published["id"].as_str().unwrap().len(), 36);
    let (events, _) = replayed(store.bench(), &["--handler", "echo", "--from", "beginning", "--limit", "1"], 0);
    assert_eq!(events[0]["published"][0]["data"], json!({ "a": [1] }), "as a consumer would get it");
    for handler in ["probe", "fanout"] {
        let text = store.bench().call(&["replay", "--handler", handler, "--from", "beginning"], b"").text();
        let says = match handler {
            "probe" => ["  writes the key k\n  deletes the key gone\n", "8 events: 2 done, 6 failed"],
            _ => ["  publishes test.fanned.v1 to out-a as ", "2 would have been published, 1 keys would have been"],
        };
        assert!(says.iter().all(|says| text.contains(says)), "{text}");
    }
    assert_eq!(store.contents().await, before);
    drop(held);
}

on_both_buses!(
    same_ids,
    replayed_effects_have_the_ids_of_the_first_run_on_sqlite,
    replayed_effects_have_the_ids_of_the_first_run_on_redis
);

async fn same_ids(store: Store) {
    let bus = open(&store.url()).await;
    let drafts: Vec<Draft> = (0..40).map(|_| Draft::new("fan")).collect();
    publish(&bus, "in", &drafts).await;
    let config = store.bench().config(&store.url(), &[fanout()]);
    store.bench().run(&config, &["--until-idle"]).finish();
    let ids = |all: &[sandbar::event::Fields]| -> Vec<String> {
        let id = |fields: &sandbar::event::Fields| String::from_utf8(fields.get("id").unwrap().to_vec()).unwrap();
        all.iter().map(id).collect()
    };
    let first: BTreeSet<String> = ids(&read_all(&bus, "out-a").await).into_iter().collect();
    assert_eq!(first.len(), 40);
    let before = bus.status(&"in".into(), "fanout").await.unwrap();
    // A host runs all the while.
    let host = store.bench().run(&config, &[]);
    let (events, last) = replayed(store.bench(), &["--handler", "fanout", "--from", "beginning", "--effects"], 0);
    drop(host);
    assert_eq!((&last["done"], &last["published"], &last["effects"]), (&40.into(), &80.into(), &true.into()));
    let all = ids(&read_all(&bus, "out-a").await);
    assert_eq!(all.len(), 80, "published again");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), first, "under the same ids");
    let told: BTreeSet<String> =
        events.iter().map(|event| event["published"][0]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, first);
    let after = bus.status(&"in".into(), "fanout").await.unwrap();
    assert_eq!((after.lag, after.pending, after.retrying), (before.lag, before.pending, before.retrying));
}

on_both_buses!(
    conflicts,
    calls_that_read_a_key_that_moved_run_again_on_sqlite,
    calls_that_read_a_key_that_moved_run_again_on_redis
);

async fn conflicts(store: Store) {
    let bus = open(&store.url()).await;
    let drafts: Vec<Draft> = (0..60).map(|n| uses_keys(&format!("get n\nset n {n}"))).collect();
    publish(&bus, "in", &drafts).await;
    store.bench().config(&store.url(), &[probe()]);
    let (_, last) = replayed(store.bench(), &["--from", "beginning", "--effects"], 0);
    assert_eq!((&last["done"], &last["written"]), (&60.into(), &60.into()));
    assert_eq!(bus.list_keys("probe", "", 10).await.unwrap().version, 60, "every call has written once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_effects_are_a_failure_and_nothing_of_them_is_stored() {
    let store = Store::redis().await;
    let Store::Redis(bench, server) = &store else { panic!("it is one") };
    let bus = open(&store.url()).await;
    publish(&bus, "in", &[Draft::new("fan"), Draft::new("fan")]).await;
    bench.config(&store.url(), &[fanout()]);
    server.run::<()>(&["SET", "out-b", "no stream"]).await;
    let (events, last) = replayed(bench, &["--handler", "fanout", "--from", "beginning", "--effects"], 6);
    assert_eq!((&events[0]["outcome"], &events[0]["code"]), (&"failed".into(), &"effects-refused".into()));
    assert!(events[0]["reason"].as_str().unwrap().contains("out-b is a string, not a stream"), "{}", events[0]);
    assert_eq!((&last["done"], &last["failed"], &last["written"]), (&0.into(), &2.into(), &0.into()));
    assert_eq!(server.run::<u64>(&["EXISTS", "out-a", "sandbar.keys.fanout"]).await, 0);
}

on_both_buses!(lanes, a_replay_keeps_the_order_of_lanes_on_sqlite, a_replay_keeps_the_order_of_lanes_on_redis);

async fn lanes(store: Store) {
    let bus = open(&store.url()).await;
    let drafts: Vec<Draft> = (0..200)
        .map(|n| {
            let draft = Draft::new("test.sequence.v1").header("number", n).header("fail", 0);
            draft.json(&format!("{{\"key\": \"{}\"}}", n % 3))
        })
        .collect();
    publish(&bus, "in", &drafts).await;
    for order in ["order = \"topic\"", "order = \"key\"\nkey = \"/key\""] {
        let sequence = HandlerToml::new("probe", "sequence", "in").with(order);
        store.bench().config(&store.url(), &[sequence.with("[handler.grants]\npublish = [\"out\"]")]);
        let before = read_all(&bus, "out").await.len();
        let (_, last) = replayed(store.bench(), &["--from", "beginning", "--effects"], 0);
        assert_eq!(last["done"], 200);
        let mut last = BTreeMap::new();
        let lanes = if order.contains("topic") { 1 } else { 3 };
        for fields in &read_all(&bus, "out").await[before..] {
            let n: usize = String::from_utf8(fields.get("number").unwrap().to_vec()).unwrap().parse().unwrap();
            let earlier = last.insert(n % lanes, n);
            assert!(earlier.is_none_or(|earlier| earlier < n), "{order}: {n} came after {earlier:?}");
        }
    }
}

on_both_buses!(choosing, a_replay_runs_what_was_chosen_on_sqlite, a_replay_runs_what_was_chosen_on_redis);

async fn choosing(store: Store) {
    let bus = open(&store.url()).await;
    let drafts: Vec<Draft> = (0..10).map(|n| Draft::new(if n % 2 == 0 { "ok" } else { "log" })).collect();
    publish(&bus, "in", &drafts).await;
    publish(&bus, "second", &[Draft::new("ok"), Draft::new("ok")]).await;
    let all = positions(&bus).await;
    let both = HandlerToml::of("probe", "probe", &["in", "second"]).with("enabled = false");
    store.bench().config(&store.url(), &[both]);
    let chosen = |args: &[&str]| -> (Vec<String>, Value) {
        let (events, last) = replayed(store.bench(), args, 0);
        let name =
            |event: &Value| format!("{} {}", event["topic"].as_str().unwrap(), event["position"].as_str().unwrap());
        (events.iter().map(name).collect(), last)
    };
    let of = |numbers: &[usize]| -> Vec<String> { numbers.iter().map(|n| format!("in {}", all[*n])).collect() };
    assert_eq!(chosen(&["--from", "beginning"]).0.len(), 12, "one topic after the other");
    assert_eq!(chosen(&["--from", "1h", "--topic", "second"]).0.len(), 2);
    assert_eq!(chosen(&["--topic", "in", "--from", &all[3], "--to", &all[5]]).0, of(&[3, 4, 5]));
    let (some, last) = chosen(&["--topic", "in", "--from", &all[1], "--types", "l*", "x", "--limit", "3"]);
    assert_eq!(some, of(&[1, 3, 5]));
    assert_eq!((&last["skipped"], &last["ended"]), (&2.into(), &"limit".into()));
    assert_eq!(last["next"], json!({ "topic": "in", "position": all[6] }));
    let (none, last) = chosen(&["--from", "2999-01-01T00:00:00Z"]);
    assert_eq!((none.len(), &last["ended"]), (0, &Value::Null));
    assert_eq!(chosen(&["--from", "beginning", "--to", "2026-01-01T00:00:00Z"]).0.len(), 0);
    let (all_of_it, last) = chosen(&["--topic", "second", "--from", "beginning", "--limit", "2"]);
    assert_eq!((all_of_it.len(), &last["ended"]), (2, &Value::Null), "the limit cut nothing off");
    for (wrong, says) in [
        (&["--from", "beginning", "--topic", "third"][..], "its topics are in, second"),
        (&["--from", "new"], "2h"),
        (&["--from", "yesterday"], "2h"),
        (&["--from", "beginning", "--types", "a b"], "type pattern"),
        (&[], "--from"),
    ] {
        let ran = store.bench().call(&[&["replay", "--handler", "probe"], wrong].concat(), b"");
        assert!(ran.code == 2 && ran.stderr.contains(says), "{wrong:?}: {}", ran.stderr);
    }
    let ran = store.bench().call(&["replay", "--handler", "other", "--from", "1h"], b"");
    assert!(ran.code == 2 && ran.stderr.contains("known are probe"), "{}", ran.stderr);
}

on_both_buses!(
    signal,
    a_signal_ends_a_replay_and_it_says_where_on_sqlite,
    a_signal_ends_a_replay_and_it_says_where_on_redis
);

async fn signal(store: Store) {
    const EVENTS: usize = 400;
    let bus = open(&store.url()).await;
    let drafts: Vec<Draft> = (0..EVENTS).map(|_| Draft::new("busy").header("rounds", 2_000_000)).collect();
    publish(&bus, "in", &drafts).await;
    let all = positions(&bus).await;
    let busy = HandlerToml::new("probe", "probe", "in").with("order = \"topic\"\n[handler.limits]\ntime = \"30s\"");
    // One at a time, so that what was run and what was not do not overlap.
    store.bench().config(&store.url(), &[busy]);
    let args = ["replay", "--handler", "probe", "--json", "--from", "beginning"];
    let mut child = store.bench().command(&args).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut text = lines.next().unwrap().unwrap() + "\n";
    // As `timeout` does: the process and then its group.
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    }
    lines.for_each(|line| text += &(line.unwrap() + "\n"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (events, last) = documents(&text);
    assert!(events.len() < EVENTS, "it was ended on the way");
    assert_eq!((&last["ended"], &last["done"]), (&"asked".into(), &events.len().into()));
    assert_eq!(last["next"]["position"], all[events.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_a_type_is_not_published() {
    let store = Store::sqlite();
    let bus = open(&store.url()).await;
    publish(&bus, "in", &[Draft::new("publish").header("topic", "out").header("untyped", "")]).await;
    store.bench().config(&store.url(), &[probe()]);
    let (events, _) = replayed(store.bench(), &["--from", "beginning"], 6);
    let reason = events[0]["reason"].as_str().unwrap();
    assert!(reason.contains("Invalid") && reason.contains("without a type"), "{reason}");
}

/// A stretch of history that is larger than what the command may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_replayed_in_little_memory() {
    const EVENTS: usize = 40_000;
    let store = Store::redis().await;
    let bus = open(&store.url()).await;
    let large = format!("{:?}", "x".repeat(10_000));
    for _ in 0..EVENTS / 1_000 {
        let drafts: Vec<Draft> = (0..1_000).map(|_| Draft::new("ok").json(&large)).collect();
        publish(&bus, "in", &drafts).await;
    }
    let noop = HandlerToml::new("noop", "noop", "in").with("in_flight = 64");
    store.bench().config(&store.url(), &[noop]);
    let (last, most) =
        many_letters::measured(store.bench(), &["replay", "--handler", "noop", "--from", "beginning", "--json"]);
    assert_eq!(last["done"], EVENTS);
    // The history has 400 MB; the pool of instances, without optimisation, is most of what is left.
    assert!(most > 0 && most < 200 << 10, "it took {most} KiB");
}
