//! What `bus.durability` asks for is reached before anything is reported as done, or it is said.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandbar::bus::{Bus, Durability, Error, Settings, Settled, Subscription};
use sandbar::event::Settlement;

use super::trouble::effects;
use super::{count, host_with};
use crate::conformance::dead_letters::cause;
use crate::conformance::{
    Fixture, LONG_LEASE, ack, commit, conformance, consume, group, join, number_in, numbered, publish, retry, settle,
    take, take_one,
};
use crate::support::bounded;
use crate::support::redis::Server;

/// Seconds that a level may take: short, because the tests wait for it to pass.
const PATIENCE: &str = "1.5";
const ALWAYS: [&str; 4] = ["appendonly", "yes", "appendfsync", "always"];
const EVERYSEC: [&str; 4] = ["appendonly", "yes", "appendfsync", "everysec"];

/// A server whose hosts wait for its disk: everything that a bus promises is so then too.
struct Synced(Server);

conformance!(conforms, async { Synced(Server::start_other("SANDBAR_REDIS_82", &ALWAYS).await) });

#[async_trait]
impl Fixture for Synced {
    async fn host(&self) -> Arc<dyn Bus> {
        host_with(&self.0.url(), Settings { durability: Some(Durability::Fsync), ..Settings::default() }).await
    }

    async fn lose_messages(&self, topic: &str) {
        self.0.lose_messages(topic).await;
    }
}

async fn waiting(server: &Server, durability: Durability) -> Arc<dyn Bus> {
    let url = format!("{}?socket_timeout={PATIENCE}", server.url());
    host_with(&url, Settings { durability: Some(durability), ..Settings::default() }).await
}

/// Makes one server a replica of another and waits until it is.
async fn follow(replica: &Server, primary: &Server) {
    let address = primary.url().replace("redis://", "").replace("/0", "");
    let (host, port) = address.split_once(':').unwrap();
    let _: () = replica.run(&["REPLICAOF", host, port]).await;
    bounded("replicating", async {
        loop {
            let info: String = replica.run(&["INFO", "replication"]).await;
            let is_known = count(primary, &["WAIT", "1", "10"]).await > 0;
            if info.contains("master_link_status:up") && is_known {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Settles until it is committed. What is not known to be safe may be said any number of times before.
async fn settle_at_last(subscription: &Arc<dyn Subscription>, answer: Settled) {
    let mut answer = answer;
    bounded("settling", async {
        loop {
            match answer {
                Settled::Committed => return,
                Settled::Failed(delivery, settlement, error) if error.is_transient() => {
                    answer = settle(subscription, delivery, settlement).await;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

fn not_durable(answer: &Settled) -> bool {
    matches!(answer, Settled::Failed(_, _, Error::NotDurable { .. }))
}

#[tokio::test]
async fn a_publish_waits_for_the_replica_and_says_if_it_does_not_come() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    let published = bus.publish(&[numbered("t", 0), numbered("t", 1)]).await.unwrap();
    assert_eq!((published.positions.len(), published.durability), (2, Durability::Replicas(1)));
    assert_eq!(count(&replica, &["XLEN", "dev-t"]).await, 2);
    replica.signal("-STOP");
    let error = bus.publish(&[numbered("t", 2)]).await.unwrap_err();
    assert!(matches!(error, Error::NotDurable { .. }) && error.is_transient(), "{error}");
    let said = error.to_string();
    assert!(said.contains("replicas=1 is wanted, and 0 have it") && said.contains("may be stored"), "{said}");
    assert_eq!(count(&primary, &["XLEN", "dev-t"]).await, 3, "it was stored all the same");
    replica.signal("-CONT");
    assert_eq!(bus.publish(&[numbered("t", 3)]).await.unwrap().durability, Durability::Replicas(1));
    // Without a replica too, and it works again when there is one.
    replica.kill();
    assert!(matches!(bus.publish(&[numbered("t", 4)]).await, Err(Error::NotDurable { .. })));
    replica.revive().await;
    follow(&replica, &primary).await;
    bus.publish(&[numbered("t", 5)]).await.unwrap();
    assert_eq!(count(&replica, &["XLEN", "dev-t"]).await, 6);
}

#[tokio::test]
async fn a_settlement_counts_when_the_replica_has_it_and_is_done_once() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    publish(&bus, "t", 5).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take(&subscription, 4).await;
    replica.signal("-STOP");
    let settlements = [effects(&["out"]), retry(1, Duration::from_secs(600)), Settlement::Dead(cause("bad")), ack()];
    let batch = held.into_iter().zip(settlements).collect();
    // What else goes on is not held up by the wait.
    let settling = subscription.settle(batch);
    tokio::pin!(settling);
    tokio::select! {
        biased;
        _ = &mut settling => panic!("nothing is safe and it is settled"),
        renewed = async {
            let one = take_one(&subscription).await;
            (subscription.renew().await.unwrap(), one)
        } => {
            assert!(renewed.0.is_empty(), "what is being settled is not lost");
            drop(renewed.1);
        }
    }
    let answers = settling.await;
    assert!(answers.iter().all(not_durable), "{answers:?}");
    assert_eq!(count(&primary, &["XLEN", "dev-out"]).await, 1, "it was done");
    assert!(subscription.renew().await.unwrap().is_empty(), "what is done and not safe is not lost");
    let again = answers.into_iter().map(|answer| match answer {
        Settled::Failed(delivery, settlement, _) => (delivery, settlement),
        other => panic!("{other:?}"),
    });
    let answers = subscription.settle(again.collect()).await;
    assert!(answers.iter().all(not_durable), "{answers:?}");
    replica.signal("-CONT");
    for answer in answers {
        settle_at_last(&subscription, answer).await;
    }
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.retrying, status.dead_letters, status.lost), (1, 1, 0));
    assert_eq!(count(&primary, &["XLEN", "dev-out"]).await, 1);
    assert_eq!(consume(&subscription, 1).await, [4]);
}

#[tokio::test]
async fn a_connection_that_is_lost_before_it_is_known_changes_nothing() {
    // A newer server: it takes only what the same connection wrote for something to wait for.
    let (primary, replica) =
        (Server::start_other("SANDBAR_REDIS_82", &[]).await, Server::start_other("SANDBAR_REDIS_82", &[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take(&subscription, 2).await;
    replica.signal("-STOP");
    let batch = held.into_iter().zip([effects(&["out"]), ack()]).collect();
    let answers = subscription.settle(batch).await;
    assert!(answers.iter().all(not_durable), "{answers:?}");
    let killed: u64 = primary.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    assert!(killed > 0);
    let mut later = Vec::new();
    for answer in answers {
        let Settled::Failed(delivery, settlement, _) = answer else { panic!("{answer:?}") };
        // The first attempt may find the connection broken.
        let mut answer = settle(&subscription, delivery, settlement).await;
        while let Settled::Failed(delivery, settlement, Error::Unreachable { .. }) = answer {
            answer = settle(&subscription, delivery, settlement).await;
        }
        assert!(not_durable(&answer), "no replica has it: {answer:?}");
        later.push(answer);
    }
    replica.signal("-CONT");
    for answer in later {
        settle_at_last(&subscription, answer).await;
    }
    assert_eq!((count(&primary, &["XLEN", "dev-out"]).await, count(&replica, &["XLEN", "dev-out"]).await), (1, 1));
    let pending: Vec<Vec<String>> = primary.run(&["XPENDING", "dev-t", "g", "-", "+", "9"]).await;
    assert_eq!(pending.len(), 0);
}

#[tokio::test]
async fn what_was_done_without_an_answer_is_waited_for_too() {
    let (primary, replica) =
        (Server::start_other("SANDBAR_REDIS_82", &[]).await, Server::start_other("SANDBAR_REDIS_82", &[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take_one(&subscription).await;
    replica.signal("-STOP");
    primary.signal("-STOP");
    let answer = settle(&subscription, held, effects(&["out"])).await;
    assert!(matches!(&answer, Settled::Failed(_, _, Error::Unreachable { .. })), "{answer:?}");
    primary.signal("-CONT");
    bounded("doing what was sent", async {
        while count(&primary, &["XLEN", "dev-out"]).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let Settled::Failed(delivery, settlement, _) = answer else { unreachable!() };
    let answer = settle(&subscription, delivery, settlement).await;
    assert!(not_durable(&answer), "no replica has it: {answer:?}");
    replica.signal("-CONT");
    settle_at_last(&subscription, answer).await;
    assert_eq!((count(&primary, &["XLEN", "dev-out"]).await, count(&replica, &["XLEN", "dev-out"]).await), (1, 1));
}

#[tokio::test]
async fn what_a_failover_undid_is_done_again() {
    let (primary, replica, other) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take_one(&subscription).await;
    // One has all there is so far, and goes on as a primary of its own.
    follow(&other, &primary).await;
    let _: () = other.run(&["REPLICAOF", "NO", "ONE"]).await;
    replica.signal("-STOP");
    let answer = settle(&subscription, held, effects(&["out"])).await;
    assert!(not_durable(&answer), "{answer:?}");
    // Its history becomes that of the server we talk to, over a connection that stays.
    let address = other.url().replace("redis://", "").replace("/0", "");
    let (at, port) = address.split_once(':').unwrap();
    let _: () = primary.run(&["REPLICAOF", at, port]).await;
    bounded("following", async {
        while !primary.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let _: () = primary.run(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(count(&primary, &["XLEN", "dev-out"]).await, 0, "it is undone");
    follow(&other, &primary).await;
    settle_at_last(&subscription, answer).await;
    assert_eq!((count(&primary, &["XLEN", "dev-out"]).await, count(&other, &["XLEN", "dev-out"]).await), (1, 1));
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 0);
}

#[tokio::test]
async fn one_wait_pays_for_a_whole_flush() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    follow(&replica, &primary).await;
    let bus = waiting(&primary, Durability::Replicas(1)).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let _: () = primary.run(&["CONFIG", "RESETSTAT"]).await;
    publish(&bus, "t", 1_200).await;
    let held = take(&subscription, 300).await;
    let settle_all = held
        .into_iter()
        .enumerate()
        .map(|(n, delivery)| (delivery, if n % 2 == 0 { ack() } else { effects(&["out"]) }));
    let answers = subscription.settle(settle_all.collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)));
    let stats: String = primary.run(&["INFO", "commandstats"]).await;
    assert!(stats.contains("cmdstat_wait:calls=2,"), "{stats}");
}

/// Publishes and settles with "fsync", kills the server at once, and sees that all is there.
async fn fsync_outlives_kills(server: Server) {
    for round in 0..5 {
        let bus = waiting(&server, Durability::Fsync).await;
        let batch: Vec<_> = (20 * round..20 * (round + 1)).map(|n| numbered("t", n)).collect();
        let published = bus.publish(&batch).await.unwrap();
        assert_eq!(published.durability, Durability::Fsync);
        server.kill();
        server.revive().await;
        let bus = waiting(&server, Durability::Fsync).await;
        let subscription = join(&bus, LONG_LEASE).await;
        let held = take_one(&subscription).await;
        let answer = settle(&subscription, held, effects(&["out"])).await;
        settle_at_last(&subscription, answer).await;
        server.kill();
        server.revive().await;
        assert_eq!(count(&server, &["XLEN", "dev-out"]).await, round as u64 + 1);
    }
    let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", "dev-t", "-", "+"]).await;
    let numbers: Vec<usize> = entries.iter().map(|(_, fields)| fields[1].parse().unwrap()).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_redis_8_2_has_synced_outlives_kills() {
    fsync_outlives_kills(Server::start_other("SANDBAR_REDIS_82", &EVERYSEC).await).await;
}

#[tokio::test]
async fn what_valkey_has_synced_outlives_kills() {
    fsync_outlives_kills(Server::start_other("SANDBAR_VALKEY_81", &EVERYSEC).await).await;
}

#[tokio::test]
async fn what_an_old_server_syncs_at_once_outlives_kills() {
    fsync_outlives_kills(Server::start(&ALWAYS).await).await;
}

#[tokio::test]
async fn a_sync_that_does_not_come_is_said() {
    let server = Server::start_other("SANDBAR_REDIS_82", &EVERYSEC).await;
    let bus = waiting(&server, Durability::Fsync).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let _: () = server.run(&["CONFIG", "SET", "appendfsync", "no"]).await;
    let error = bus.publish(&[numbered("t", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("fsync is wanted, and it is not on disk after 1.5s"), "{error}");
    let answer = settle(&subscription, take_one(&subscription).await, effects(&["out"])).await;
    assert!(not_durable(&answer), "{answer:?}");
    let _: () = server.run(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    settle_at_last(&subscription, answer).await;
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 1);
    // The same where each write is synced before its answer, as soon as that is so no more.
    let server = Server::start(&ALWAYS).await;
    let bus = waiting(&server, Durability::Fsync).await;
    publish(&bus, "t", 1).await;
    let _: () = server.run(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let error = bus.publish(&[numbered("t", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("does not sync each write any more"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_keep_it_is_refused_with_a_way_out() {
    let no_file = ["appendonly", "no"];
    let no_sync = ["appendonly", "yes", "appendfsync", "no"];
    let cases: [(Server, &str); 5] = [
        (Server::start(&EVERYSEC).await, "older than Redis 7.2"),
        (Server::start(&EVERYSEC).await, "set appendonly yes and appendfsync always there"),
        (Server::start(&no_file).await, "it has appendonly no"),
        (Server::start_other("SANDBAR_REDIS_82", &no_file).await, "it has no append-only file; set appendonly yes"),
        (Server::start_other("SANDBAR_VALKEY_81", &no_sync).await, "set appendfsync everysec or always"),
    ];
    for (server, expected) in cases {
        let bus = waiting(&server, Durability::Fsync).await;
        for error in [
            bus.subscribe(&group("g", &["t"], LONG_LEASE)).await.err().unwrap(),
            bus.publish(&[numbered("t", 0)]).await.unwrap_err(),
            bus.probe(&[]).await.unwrap().remove(0),
        ] {
            assert!(matches!(&error, Error::Settings(_)) && !error.is_transient(), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("or set durability = \"none\""), "{error}");
        }
        assert_eq!(count(&server, &["EXISTS", "dev-t"]).await, 0, "nothing was written");
    }
    // A server that hides its settings is not believed.
    let server = Server::start(&ALWAYS).await;
    let _: () = server.run(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config"]).await;
    let url = server.url().replace("redis://", "redis://app:secret@");
    let bus = host_with(&url, Settings { durability: Some(Durability::Fsync), ..Settings::default() }).await;
    let error = bus.publish(&[numbered("t", 0)]).await.unwrap_err();
    assert!(error.to_string().contains("CONFIG GET does not tell"), "{error}");
}

#[tokio::test]
async fn nothing_is_waited_for_unless_asked() {
    let server = Server::start(&[]).await;
    let bus = host_with(&server.url(), Settings::default()).await;
    let published = bus.publish(&[numbered("t", 7)]).await.unwrap();
    assert_eq!(published.durability, Durability::None);
    let subscription = join(&bus, LONG_LEASE).await;
    let one = take_one(&subscription).await;
    assert_eq!(number_in(&one.message.fields), 7);
    commit(&subscription, one, effects(&["out"])).await;
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    assert!(!stats.contains("cmdstat_wait"), "{stats}");
}
