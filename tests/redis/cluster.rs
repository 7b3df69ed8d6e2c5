//! Redis Cluster: topics on several nodes, slots that move, nodes that die.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use sandbar::bus::{Bus, Durability, Error, Group, Needs, Settings, Settled, open};
use sandbar::event::{Effects, Settlement};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::failover::{Feed, all_done, effects, fanout, joined, said_once};
use crate::conformance::ordered::ordered;
use crate::conformance::{
    Fixture, LONG_LEASE, SHORT_LEASE, ack, cases, commit, conformance, consume, group, numbered, publish, settle, take,
};
use crate::support::cluster::Cluster;
use crate::support::events::{Draft, open as open_plain, progress, publish as publish_drafts};
use crate::support::host::{Bench, HandlerToml};
use crate::support::redis::Server;
use crate::support::{BOUND, bounded};

/// Topics of one case, on a cluster that cases share.
struct Topics {
    cluster: Arc<Cluster>,
    prefix: String,
}

// All topics in one slot: everything commits together, as on a single server.
conformance!(on_one_slot, Topics::start(true));

// Topics all over the cluster. What is left out keeps one handler's keys from two topics, which is refused.
mod on_all_slots {
    use super::*;
    cases! { Topics::start(false);
        reading: order_and_bytes_are_kept, ten_mebibytes_pass_in_one_batch, max_bounds_the_sum_over_topics,
            a_full_topic_does_not_starve_others, an_empty_list_ends_the_wait, a_publish_ends_the_wait,
            publishing_nothing_is_nothing, what_is_trimmed_unread_is_counted_as_lost;
        sharing: groups_do_not_see_each_other, consumers_share_without_overlap, thousands_are_each_acked_once,
            a_mixed_batch_answers_in_order, closing_gives_back_at_once, a_closed_consumer_is_gone, status_counts,
            probing_changes_nothing;
        leases: a_dropped_receipt_comes_back_uncounted, a_drop_ends_the_wait, a_dead_hosts_messages_are_inherited,
            a_begun_attempt_outlives_its_host, renewing_keeps_it, a_frozen_host_changes_nothing,
            an_old_receipt_is_void_when_the_message_comes_back, renewing_reports_the_lost, inherited_messages_come_in_order;
        retries: a_retry_waits_until_it_is_due, only_those_due_come_when_no_more_is_wanted,
            a_retry_outlives_hosts_and_its_message, a_dead_hosts_retry_is_inherited, a_retry_held_twice_commits_once;
        dead_letters: it_holds_the_bytes_and_the_cause, requeued_to_its_topic, requeued_to_its_handler, purged,
            listed_in_pages;
        effects: they_commit_with_the_ack, a_lost_ack_has_none, keys_list_by_prefix, writes_apply_in_order,
            effects_of_a_retry_commit_once, published_effects_end_a_wait;
        starting: with_what_is_new, at_the_beginning, after_a_position, the_start_is_used_once;
        telling: a_report_is_shown_until_its_consumer_leaves, the_oldest_is_what_is_not_settled,
            a_fetch_of_none_ends_a_read_and_takes_nothing;
        ordered: alone_one_has_every_slice_and_gets_all_in_order, two_share_the_slices_and_each_gets_its_own,
            a_dead_ones_slices_go_to_the_living_in_order, a_frozen_owner_changes_nothing,
            what_waits_for_a_retry_is_told_with_its_slice, slices_move_at_once_when_consumers_come_and_go,
            what_is_dropped_comes_again_in_order, a_group_may_take_order_up_and_give_it_up;
        history: it_is_read_in_pages_beside_every_group, it_ends_where_the_topic_ended, times_divide_it;
        cancelling: a_dropped_fetch_loses_nothing, a_dropped_settle_leaves_nothing_in_limbo;
    }
}

// === impl Topics ===

impl Topics {
    async fn start(together: bool) -> Self {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // It ends with the last case that uses it.
        let mut shared = SHARED.lock().await;
        let cluster = match shared.upgrade() {
            Some(cluster) => cluster,
            None => Arc::new(Cluster::start(3, 0).await),
        };
        *shared = Arc::downgrade(&cluster);
        let name = format!("case{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { cluster, prefix: if together { format!("{{{name}}}") } else { name } }
    }
}

#[async_trait]
impl Fixture for Topics {
    async fn host(&self) -> Arc<dyn Bus> {
        let bus = prefixed(&self.cluster, &self.prefix).await;
        for space in ["handler/keys", "space"] {
            bus.prepare(&needs("h", &["t"], &[], Some(space))).unwrap();
        }
        bus
    }

    async fn lose_messages(&self, topic: &str) {
        let stream = format!("{}-{topic}", self.prefix);
        let trimmed: u64 = self.cluster.run(&stream, &["XTRIM", &stream, "MAXLEN", "0"]).await;
        assert!(trimmed > 0);
    }
}

async fn prefixed(cluster: &Cluster, prefix: &str) -> Arc<dyn Bus> {
    let settings = Settings { url: cluster.url(), topic_prefix: Some(prefix.into()), ..Settings::default() };
    open(&settings).await.unwrap()
}

fn needs(handler: &str, topics: &[&str], publish: &[&str], space: Option<&str>) -> Needs {
    Needs {
        handler: handler.into(),
        topics: topics.iter().map(|topic| (*topic).into()).collect(),
        publish: publish.iter().map(|topic| (*topic).into()).collect(),
        key_space: space.map(str::to_owned),
        ordered: false,
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_at_the_start() {
    let cluster = Cluster::start(2, 0).await;
    let (a, b) = (cluster.name_on(0, "a").await, cluster.name_on(1, "b").await);
    let bus = open_plain(&cluster.url()).await;
    let with_order = Needs { ordered: true, ..needs("h", &[&a, &b], &[], None) };
    for refused in [with_order, needs("h", &[&a, &b], &[], Some("h"))] {
        let error = bus.prepare(&refused).unwrap_err();
        assert!(matches!(&error, Error::Settings(text) if text.contains("topic_prefix") && text.contains("\"h\"")));
    }
    let spread = Group { topics: vec![(*a).into(), (*b).into()], ..ordered(LONG_LEASE) };
    assert!(matches!(bus.subscribe(&spread).await.err(), Some(Error::Settings(_))));
    for durability in [Durability::Fsync, Durability::Replicas(1)] {
        let settings = Settings { url: cluster.url(), durability: Some(durability), ..Settings::default() };
        let error = open(&settings).await.err().expect("refused");
        assert!(matches!(&error, Error::Settings(text) if text.contains("durability")), "{error}");
    }
    let said = bus.prepare(&needs("h", &[&a], &[&a, &b], Some("h"))).unwrap();
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(&b) && said[0].contains("more than once"), "{said:?}");
    let together = prefixed(&cluster, "{x}").await;
    assert!(together.prepare(&Needs { ordered: true, ..needs("h", &[&a, &b], &[&b], Some("h")) }).unwrap().is_empty());
    // `check` says the same, and where.
    let bench = Bench::new();
    let handler = |grants: &str| HandlerToml::new("probe", "probe", &a).with(&format!("[handler.grants]\n{grants}"));
    let config = bench.config(&cluster.url(), &[handler(&format!("publish = [{b:?}]"))]);
    let ran = bench.call(&["check", "--config", config.to_str().unwrap()], b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("another slot"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_url_of_the_wrong_kind_names_the_right_one() {
    let cluster = Cluster::start(2, 0).await;
    let topic = cluster.name_on(1, "t").await;
    let error = open_plain(&cluster.nodes[0].url()).await.publish(&[numbered(&topic, 1)]).await.unwrap_err();
    assert!(matches!(&error, Error::Settings(text) if text.contains("redis+cluster://")), "{error}");
    let server = Server::start(&[]).await;
    let url = format!("redis+cluster://127.0.0.1:{}", server.port());
    let error = open_plain(&url).await.probe(&[]).await.unwrap_err();
    assert!(matches!(&error, Error::Settings(text) if text.contains("write redis://")), "{error}");
}

#[tokio::test]
async fn what_was_appended_elsewhere_is_not_appended_again() {
    let cluster = Cluster::start(2, 0).await;
    let (from, to) = (cluster.name_on(0, "from").await, cluster.name_on(1, "to").await);
    let bus = open_plain(&cluster.url()).await;
    publish(&bus, &from, 3).await;
    let subscription = bus.subscribe(&group("g", &[&from], LONG_LEASE)).await.unwrap();
    let mut held = take(&subscription, 3).await;
    let publishing = |count: usize| {
        let publish = (0..count).map(|n| numbered(&to, n)).collect();
        Settlement::Ack(Effects { publish, ..Effects::default() })
    };
    let _: () = cluster.nodes[0].run(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let answer = settle(&subscription, held.remove(0), publishing(2)).await;
    let Settled::Failed(delivery, settlement, error) = answer else { panic!("{answer:?}") };
    assert!(error.is_transient(), "{error}");
    let length = || async { cluster.run::<u64>(&to, &["XLEN", &to]).await };
    assert_eq!(length().await, 2, "it comes before the acknowledgement");
    let _: () = cluster.nodes[0].run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    commit(&subscription, delivery, settlement).await;
    assert_eq!(length().await, 2);
    // What is lost or refused leaves nothing.
    let delivery = held.remove(0);
    let _: u64 = cluster.run(&from, &["XACK", &from, "g", delivery.message.position.as_str()]).await;
    let answer = settle(&subscription, delivery, publishing(1)).await;
    assert!(matches!(answer, Settled::Lost), "{answer:?}");
    let wrong = cluster.name_on(1, "wrong").await;
    let _: () = cluster.run(&wrong, &["SET", &wrong, "x"]).await;
    let publish = vec![numbered(&to, 1), numbered(&wrong, 1)];
    let refused = Settlement::Ack(Effects { publish, ..Effects::default() });
    let answer = settle(&subscription, held.remove(0), refused).await;
    let Settled::Refused(delivery, reason) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("is a string, not a stream"), "{reason}");
    assert_eq!(length().await, 2);
    commit(&subscription, delivery, ack()).await;
}

#[tokio::test]
async fn one_consumer_reads_from_all_nodes() {
    let cluster = Cluster::start(3, 0).await;
    let mut topics = Vec::new();
    for node in 0..3 {
        topics.push(cluster.name_on(node, "t").await);
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let bus = open_plain(&cluster.url()).await;
    let subscription = bus.subscribe(&group("g", &names, LONG_LEASE)).await.unwrap();
    for _ in 0..3 {
        for topic in &names {
            publish(&bus, topic, 5).await;
        }
        let mut seen = consume(&subscription, 15).await;
        seen.sort_unstable();
        assert_eq!(seen, (0..5).flat_map(|n| [n; 3]).collect::<Vec<_>>());
    }
    // The node that dies takes its own with it, and the answer says which.
    cluster.nodes[2].kill();
    let error = bounded("publish", bus.publish(&[numbered(names[2], 1)])).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains(&cluster.nodes[2].port().to_string()), "{error}");
    subscription.close().await.unwrap_err();
}

#[tokio::test]
async fn redirections_are_followed_at_once() {
    let cluster = Cluster::start(2, 0).await;
    let topic = cluster.name_on(0, "t").await;
    let slot = cluster.slot(&topic).await;
    let bus = open_plain(&cluster.url()).await;
    publish(&bus, &topic, 1).await;
    let subscription = bus.subscribe(&group("g", &[&topic], LONG_LEASE)).await.unwrap();
    assert_eq!(consume(&subscription, 1).await, [0]);
    cluster.begin_move(slot, 0, 1).await;
    cluster.move_keys(slot, 0, 1).await;
    // The stream is at the new node, the slot still the old one's.
    publish(&bus, &topic, 2).await;
    assert!(cluster.errors("ASK").await > 0);
    cluster.end_move(slot, 1).await;
    publish(&bus, &topic, 1).await;
    assert!(cluster.errors("MOVED").await > 0);
    assert_eq!(cluster.nodes[1].run::<u64>(&["XLEN", &topic]).await, 4);
    let mut found = Vec::new();
    bounded("reading from the new node", async {
        while found.len() < 3 {
            match subscription.fetch(3, Duration::from_secs(1)).await {
                Ok(sandbar::bus::Fetched::Deliveries(some)) => found.extend(some),
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_lost_on_the_way_is_found_although_others_are_awaited() {
    let cluster = Cluster::start(2, 0).await;
    let (a, b) = (cluster.name_on(0, "a").await, cluster.name_on(1, "b").await);
    let bus = open_plain(&cluster.url()).await;
    let subscription = bus.subscribe(&group("g", &[&a, &b], SHORT_LEASE)).await.unwrap();
    publish(&bus, &a, 1).await;
    let read = ["XREADGROUP", "GROUP", "g", subscription.consumer(), "STREAMS", &a, ">"];
    let _: Value = cluster.nodes[0].run(&read).await;
    // From here on the reads of the two nodes end at different times.
    let later = async {
        sleep(Duration::from_millis(300)).await;
        publish(&bus, &b, 1).await;
    };
    let (found, ()) = tokio::join!(take(&subscription, 2), later);
    let topics: Vec<&str> = found.iter().map(|delivery| &*delivery.message.topic).collect();
    assert_eq!(topics, [b.as_str(), a.as_str()]);
}

/// Events are published by the bus itself, which follows the slot; what is refused is sent again.
async fn feed_until(bus: &Arc<dyn Bus>, stop: tokio::sync::watch::Receiver<bool>) -> HashSet<String> {
    let mut sent = HashSet::new();
    while !*stop.borrow() {
        let draft = Draft::new("test.numbered.v1");
        let message = sandbar::event::Outgoing { topic: "in".into(), fields: draft.fields() };
        match bus.publish(&[message]).await {
            Ok(_) => drop(sent.insert(draft.id)),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_loses_nothing() {
    let cluster = Cluster::start(2, 0).await;
    let bench = Bench::new();
    let config = bench.config(&cluster.url(), &[fanout()]);
    let bus = open_plain(&cluster.url()).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut feeding = JoinSet::new();
    feeding.spawn({
        let bus = Arc::clone(&bus);
        async move { feed_until(&bus, stopped).await }
    });
    let hosts = [bench.run(&config, &[]), bench.run(&config, &[])];
    for host in &hosts {
        joined(host).await;
    }
    sleep(Duration::from_millis(500)).await;
    let slot = cluster.slot("in").await;
    let first = cluster.owner("in").await;
    for (from, to) in [(first, 1 - first), (1 - first, first)] {
        cluster.begin_move(slot, from, to).await;
        // Keys that are not there yet are asked for at the new node, those that are at the old one: scripts that name
        // both kinds are refused for now.
        sleep(Duration::from_millis(700)).await;
        assert!(cluster.move_keys(slot, from, to).await > 1);
        sleep(Duration::from_millis(700)).await;
        cluster.move_keys(slot, from, to).await;
        cluster.end_move(slot, to).await;
        sleep(Duration::from_millis(700)).await;
    }
    let (asked, again) = (cluster.errors("ASK").await, cluster.errors("TRYAGAIN").await);
    assert!(asked > 0 && again > 0, "ASK {asked}, TRYAGAIN {again}");
    stop.send_replace(true);
    let sent = bounded("the last event", feeding.join_next()).await.unwrap().unwrap();
    assert!(sent.len() > 100, "{}", sent.len());
    all_done(&bus).await;
    effects(&bus, &sent).await;
    drop(hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_replaced_and_nothing_confirmed_is_lost() {
    let cluster = Arc::new(Cluster::start(3, 3).await);
    let bench = Bench::new();
    let config = bench.config(&cluster.url(), &[fanout()]);
    let bus = open_plain(&cluster.url()).await;
    let owner = cluster.owner("in").await;
    // The master, and the replica that will take over.
    let ports = [cluster.nodes[owner].port(), cluster.nodes[owner + 3].port()];
    let mut feed = Feed::start(move || async move {
        for port in ports {
            let Ok(client) = redis::Client::open(format!("redis://127.0.0.1:{port}")) else { continue };
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
            let role: redis::RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(&mut connection).await;
            if role.is_ok_and(|role| role.first() == Some(&Value::BulkString(b"master".to_vec()))) {
                return Some(connection);
            }
        }
        None
    });
    feed.more(100).await;
    let host = bench.run(&config, &[]);
    joined(&host).await;
    feed.more(200).await;
    let own = Draft::new("test.numbered.v1");
    publish_drafts(&bus, "in", &[own]).await;
    cluster.nodes[owner].kill();
    let end = Instant::now() + BOUND;
    while cluster.owner("in").await == owner {
        assert!(Instant::now() < end);
    }
    cluster.settled().await;
    // Who only publishes finds the new master too, while the old one is gone.
    bounded("publishing to the new master", async {
        let own = Draft::new("test.numbered.v1");
        let message = sandbar::event::Outgoing { topic: "in".into(), fields: own.fields() };
        while let Err(error) = bus.publish(std::slice::from_ref(&message)).await {
            assert!(error.is_transient(), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The one that comes back follows the new master; only then is anything confirmed again.
    cluster.nodes[owner].revive().await;
    cluster.nodes[owner].in_sync().await;
    feed.more(300).await;
    let sent = feed.end().await;
    all_done(&bus).await;
    effects(&bus, &sent).await;
    said_once(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_goes_on_where_it_was() {
    const EVENTS: usize = 4_000;
    let cluster = Cluster::start(3, 0).await;
    let bench = Bench::new();
    let config = bench.config(&cluster.url(), &[fanout()]);
    let path = config.to_str().unwrap();
    let bus = open_plain(&cluster.url()).await;
    let drafts: Vec<Draft> = (0..EVENTS).map(|_| Draft::new("test.numbered.v1")).collect();
    publish_drafts(&bus, "in", &drafts).await;
    for kill in 1..=2 {
        let host = bench.run(&config, &[]);
        progress(&bus, "fanout", |lag| lag <= (EVENTS - EVENTS * kill / 3) as u64).await;
        host.kill();
    }
    bench.run(&config, &["--until-idle"]).finish();
    let sent = drafts.into_iter().map(|draft| draft.id).collect();
    effects(&bus, &sent).await;
    assert_eq!(bus.list_keys("fanout", "", 1).await.unwrap().keys.len(), 0, "it was not said where they lie");
    bus.prepare(&needs("fanout", &["in"], &[], Some("fanout"))).unwrap();
    assert_eq!(bus.list_keys("fanout", "", EVENTS + 1).await.unwrap().keys.len(), EVENTS);
    // The commands of an operator work as they do elsewhere.
    let status = bench.ok(&["status", "--config", path], b"");
    assert!(status.contains("fanout"), "{status}");
    bench.ok(&["dlq", "list", "--config", path], b"");
    bench.ok(
        &[
            "publish",
            "--config",
            path,
            "--topic",
            "in",
            "--type",
            "test.numbered.v1",
            "--content-type",
            "application/json",
        ],
        b"{}",
    );
    let left = bus.status(&"in".into(), "fanout").await.unwrap();
    assert_eq!(left.lag, Some(1));
}
