//! `sandbar dlq` with very many dead letters, several commands at once, and commands that are killed, on both buses.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sandbar::bus::{self, Bus, Fetched, Settled};
use sandbar::event::{Cause, Settlement, Topic};

use super::store::Store;
use super::*;
use crate::support::events::{Draft, member, open, publish, read_all};
use crate::support::host::HandlerToml;

/// More than fit into the memory that the command may take.
const MANY: usize = 100_000;
/// Bytes of each.
const SIZE: usize = 1_000;
/// What a command may take. All of them together are more than twice as much.
const MOST_KIB: u64 = 80 << 10;

impl Store {
    /// Makes so many dead letters of one that was given up as they all are, and returns a host on this store.
    async fn bury(&self, count: usize) -> Arc<dyn Bus> {
        let url = self.url();
        self.bench().config(&url, &[HandlerToml::new("worker", "noop", "in")]);
        let bus = open(&url).await;
        publish(&bus, "in", &[Draft::new("ok").json(&format!("{:?}", "x".repeat(SIZE)))]).await;
        let member = member(&bus, "worker", "in").await;
        let Fetched::Deliveries(held) = member.fetch(1, BOUND).await.unwrap() else { panic!("not exclusive") };
        let cause = Cause {
            code: "bad".into(),
            reason: "no".into(),
            attempts: 1,
            handler: "worker".into(),
            module: String::new(),
            at: std::time::SystemTime::now(),
        };
        let batch = held.into_iter().map(|delivery| (delivery, Settlement::Dead(cause.clone()))).collect();
        assert!(matches!(member.settle(batch).await[..], [Settled::Committed]));
        member.close().await.unwrap();
        match self {
            Self::Sqlite(bench) => {
                let db = rusqlite::Connection::open(bench.path("bus.db")).unwrap();
                let copy = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                    INSERT INTO dead (reader, seq, first, fields, code, reason, attempts, handler, module, at_ms)
                    SELECT reader, n, n, fields, code, reason, attempts, handler, module, at_ms FROM dead, n WHERE id = 1";
                assert_eq!(db.execute(copy, [count]).unwrap(), count - 1);
            }
            Self::Redis(_, server) => {
                let copy = "local fields = redis.call('XRANGE', KEYS[1], '-', '+')[1][2]
                    local position
                    for at = 1, #fields, 2 do
                      if fields[at] == 'sandbar-position' or fields[at] == 'sandbar-first' then position = position or at + 1 end
                    end
                    for n = 2, tonumber(ARGV[1]) do
                      fields[position], fields[position + 2] = n .. '-1', n .. '-1'
                      redis.call('XADD', KEYS[1], '*', unpack(fields))
                    end";
                server.run::<()>(&["EVAL", copy, "1", "{in}.dlq.worker", &count.to_string()]).await;
            }
        }
        assert_eq!(figures(&bus).await, (0, count as u64));
        bus
    }
}

/// Retrying and dead.
async fn figures(bus: &Arc<dyn Bus>) -> (u64, u64) {
    let status = bus.status(&"in".into(), "worker").await.unwrap();
    (status.retrying, status.dead_letters)
}

/// The ids of all dead letters, read in pages.
async fn ids(bus: &Arc<dyn Bus>) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = bus.dead_letters(&Topic::from("in"), "worker", after.as_ref(), 1_000).await.unwrap();
        let Some(last) = page.last() else { return ids };
        after = Some(last.id.clone());
        ids.extend(page.iter().map(|letter| letter.first.to_string()));
    }
}

/// Runs a command and returns its last document and the most memory that it had, in KiB.
pub(super) fn measured(bench: &Bench, args: &[&str]) -> (Value, u64) {
    let out = bench.path("out");
    let mut child =
        bench.command(args).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit()).spawn().unwrap();
    let (end, mut most) = (Instant::now() + BOUND * 2, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{args:?} does not end");
        let told = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(most);
        #[expect(clippy::disallowed_methods, reason = "a test's own thread, and the wait is bounded")]
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{args:?}: {status}");
    let text = fs::read_to_string(out).unwrap();
    (serde_json::from_str(text.lines().last().unwrap()).unwrap(), most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_are_handled_in_little_memory_on_sqlite() {
    in_little_memory(Store::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_are_handled_in_little_memory_on_redis() {
    in_little_memory(Store::redis().await).await;
}

async fn in_little_memory(store: Store) {
    let bus = store.bury(MANY).await;
    let run = |args: &[&str]| {
        let (document, most) = measured(store.bench(), args);
        assert!(most > 0 && most < MOST_KIB, "{args:?} took {most} KiB");
        document
    };
    let list = run(&["dlq", "list", "--json"]);
    assert_eq!((&list["count"], list["letters"].as_array().unwrap().len()), (&MANY.into(), 100));
    assert_eq!(list["groups"], json!([{ "handler": "worker", "code": "bad", "count": MANY }]));
    assert_eq!(run(&["dlq", "requeue", "--all", "--json"]), json!({ "requeued": MANY, "asked": MANY }));
    assert_eq!(figures(&bus).await, (MANY as u64, 0));
    drop(bus);
    let store = match store {
        Store::Sqlite(_) => Store::sqlite(),
        Store::Redis(..) => Store::redis().await,
    };
    let bus = store.bury(MANY).await;
    let (document, most) = measured(store.bench(), &["dlq", "purge", "--all", "--yes", "--json"]);
    assert_eq!(document, json!({ "purged": MANY, "asked": MANY }));
    assert!(most < MOST_KIB, "purging took {most} KiB");
    assert_eq!(figures(&bus).await, (0, 0));
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    bench.command(args).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bulk_commands_at_once_move_each_letter_once_on_sqlite() {
    two_at_once(Store::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bulk_commands_at_once_move_each_letter_once_on_redis() {
    two_at_once(Store::redis().await).await;
}

async fn two_at_once(store: Store) {
    const COUNT: usize = 5_000;
    let bus = store.bury(COUNT).await;
    let expected: BTreeSet<String> = ids(&bus).await.into_iter().collect();
    assert_eq!(expected.len(), COUNT);
    let args = ["dlq", "requeue", "--all", "--to", "topic", "--json"];
    let both = [start(store.bench(), &args), start(store.bench(), &args)].map(|child| finish(child, b""));
    let moved: u64 = both
        .iter()
        .map(|ran| {
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            serde_json::from_slice::<Value>(&ran.stdout).unwrap()["requeued"].as_u64().unwrap()
        })
        .sum();
    assert_eq!((moved, figures(&bus).await), (COUNT as u64, (0, 0)));
    // The one that all are copies of, and all of them once: each says where it was first.
    assert_eq!(read_all(&bus, "in").await.len(), 1 + COUNT);
    assert_eq!(firsts(&bus).await, expected);
}

/// Where the requeued messages of the topic were first, each once.
async fn firsts(bus: &Arc<dyn Bus>) -> BTreeSet<String> {
    let topic = Topic::from("in");
    let mut span = bus.history(&topic, &bus::Edge::Beginning, None).await.unwrap().unwrap();
    let mut firsts = BTreeSet::new();
    loop {
        let page = bus.read(&topic, &span, 1_000).await.unwrap();
        let Some(last) = page.last() else { return firsts };
        span.advance(&last.position);
        for message in page.iter().filter(|message| message.first != message.position) {
            assert!(firsts.insert(message.first.to_string()), "{} is there twice", message.first);
            assert_eq!(message.fields.get("event_data").unwrap().len(), SIZE + 2, "the bytes as they came");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_command_that_is_killed_leaves_each_letter_in_one_place_on_sqlite() {
    killed(Store::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_command_that_is_killed_leaves_each_letter_in_one_place_on_redis() {
    killed(Store::redis().await).await;
}

async fn killed(store: Store) {
    const COUNT: usize = 20_000;
    let bus = store.bury(COUNT).await;
    let total = COUNT as u64;
    let mut halfway = 0;
    let mut expected: BTreeSet<String> = ids(&bus).await.into_iter().collect();
    while figures(&bus).await.1 > 0 {
        let before = figures(&bus).await;
        let to = if halfway % 2 == 0 { "handler" } else { "topic" };
        let mut child = start(store.bench(), &["dlq", "requeue", "--all", "--to", to]);
        let end = Instant::now() + BOUND;
        // As soon as something has moved: the rest has not.
        while figures(&bus).await.1 == before.1 {
            assert!(Instant::now() < end, "nothing moves");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let topic = firsts(&bus).await;
        let (retrying, dead) = figures(&bus).await;
        assert_eq!(retrying + dead + topic.len() as u64, total, "{retrying} retrying, {dead} dead");
        let left: BTreeSet<String> = ids(&bus).await.into_iter().collect();
        assert_eq!(left.len() as u64, dead);
        assert!(left.is_disjoint(&topic) && left.is_subset(&expected), "nothing is in two places");
        expected = left;
        halfway += u64::from(dead > 0);
        if halfway >= 4 {
            break;
        }
    }
    assert!(halfway > 0, "it was never killed on the way");
}

/// A host gives up again at once what is sent to it, and the command ends all the same: with those that were there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_requeue_beside_a_handler_that_gives_up_again_ends() {
    const COUNT: usize = 3_000;
    let store = Store::redis().await;
    let bus = store.bury(COUNT).await;
    let Store::Redis(bench, server) = &store else { panic!("it is one") };
    // The probe knows no such type, and rejects it.
    let config = bench.config(&server.url(), &[HandlerToml::new("worker", "probe", "in")]);
    publish(&bus, "in", &[Draft::new("unknown")]).await;
    server.run::<u64>(&["XTRIM", "{in}.dlq.worker", "MAXLEN", "0"]).await;
    let host = bench.run(&config, &[]);
    let dead = async |count: u64| {
        let end = Instant::now() + BOUND;
        while figures(&bus).await != (0, count) {
            assert!(Instant::now() < end, "{:?}: {}", figures(&bus).await, host.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    dead(1).await;
    let drafts: Vec<Draft> = (1..COUNT).map(|_| Draft::new("unknown")).collect();
    publish(&bus, "in", &drafts).await;
    dead(COUNT as u64).await;
    assert_eq!(bench.json(&["dlq", "requeue", "--all", "--json"], b""), json!({ "requeued": COUNT, "asked": COUNT }));
    dead(COUNT as u64).await;
}
