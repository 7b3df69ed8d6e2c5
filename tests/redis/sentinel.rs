//! Redis behind sentinels: the master is replaced, and the hosts follow.

use std::time::Duration;

use redis::Value;
use sandbar::bus::{Durability, Error, Settings, Settled};

use super::failover::{Feed, all_done, effects, fanout, joined, said_once};
use super::{host, host_with, trouble};
use crate::conformance::{LONG_LEASE, SHORT_LEASE, ack, commit, join, publish, settle, take};
use crate::support::bounded;
use crate::support::events::open;
use crate::support::host::Bench;
use crate::support::redis::Server;
use crate::support::sentinel::{MASTER, Watched};

/// A connection to the server that says it is the master.
async fn master(ports: [u16; 2]) -> Option<redis::aio::MultiplexedConnection> {
    for port in ports {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).ok()?;
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
        let role: redis::RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(&mut connection).await;
        if role.is_ok_and(|role| role.first() == Some(&Value::BulkString(b"master".to_vec()))) {
            return Some(connection);
        }
    }
    None
}

fn feed(watched: &Watched) -> Feed {
    let ports = [watched.servers[0].port(), watched.servers[1].port()];
    Feed::start(move || master(ports))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_replaced_and_nothing_is_lost() {
    let watched = Watched::start(&[]).await;
    let bench = Bench::new();
    let config = bench.config(&watched.url(), &[fanout()]);
    let bus = open(&watched.url()).await;
    let mut feed = feed(&watched);
    feed.more(200).await;
    let hosts = [bench.run(&config, &[]), bench.run(&config, &[])];
    for host in &hosts {
        joined(host).await;
    }
    feed.more(200).await;

    watched.servers[0].kill();
    watched.agreed_on(1).await;
    // The old master comes back and is made a replica: only then is anything confirmed by one again.
    watched.servers[0].revive().await;
    watched.servers[0].in_sync().await;
    feed.more(400).await;

    let sent = feed.end().await;
    all_done(&bus).await;
    let repeats = effects(&bus, &sent).await;
    assert_eq!(repeats, 0, "effects are there once");
    hosts.iter().for_each(said_once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_demoted_is_left_and_found_again() {
    let watched = Watched::start(&[]).await;
    let bench = Bench::new();
    let config = bench.config(&watched.url(), &[fanout()]);
    let bus = open(&watched.url()).await;
    let mut feed = feed(&watched);
    let running = bench.run(&config, &[]);
    joined(&running).await;
    feed.more(200).await;
    for server in [1, 0] {
        watched.fail_over().await;
        watched.agreed_on(server).await;
        watched.servers[1 - server].in_sync().await;
        feed.more(200).await;
    }
    let sent = feed.end().await;
    all_done(&bus).await;
    assert_eq!(effects(&bus, &sent).await, 0, "effects are there once");
    drop(running);
}

#[tokio::test]
async fn a_readonly_answer_makes_it_look_for_the_master() {
    let watched = Watched::start(&[]).await;
    let bus = host(&watched.url()).await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 3).await;
    let [old, new] = &watched.servers;
    bounded("the replica has it all", async {
        while new.run::<u64>(&["XLEN", "dev-t"]).await < 3
            || new.run::<Vec<Value>>(&["XPENDING", "dev-t", "g", "-", "+", "9"]).await.len() < 3
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // By hand, so that nobody closes our connections for us.
    for sentinel in 0..3 {
        let _: Value = watched.ask(sentinel, &["SENTINEL", "REMOVE", MASTER]).await.unwrap();
    }
    let _: () = new.run(&["REPLICAOF", "NO", "ONE"]).await;
    let _: () = old.run(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]).await;
    for sentinel in 0..3 {
        let words = ["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &new.port().to_string(), "2"];
        let _: Value = watched.ask(sentinel, &words).await.unwrap();
    }
    let answer = settle(&subscription, held.remove(0), trouble::effects(&["out"])).await;
    let Settled::Failed(delivery, settlement, error) = answer else { panic!("{answer:?}") };
    assert!(error.is_transient() && error.to_string().contains("READONLY"), "{error}");
    commit(&subscription, delivery, settlement).await;
    assert_eq!(new.run::<u64>(&["XLEN", "dev-out"]).await, 1);
    // What was in hand still is; and what is new comes from the new master, not from the old one's connection.
    for delivery in held {
        commit(&subscription, delivery, ack()).await;
    }
    publish(&bus, "t", 1).await;
    bounded("reading from the new master", async {
        loop {
            match subscription.fetch(1, SHORT_LEASE).await {
                Ok(sandbar::bus::Fetched::Deliveries(some)) if some.len() == 1 => break,
                Ok(_) => {}
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_passed_over() {
    let watched = Watched::start(&[]).await;
    let port = watched.servers[1].port().to_string();
    let _: Value = watched.ask(0, &["SENTINEL", "REMOVE", MASTER]).await.unwrap();
    let _: Value = watched.ask(0, &["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "2"]).await.unwrap();
    let bus = host(&watched.url()).await;
    publish(&bus, "t", 1).await;
    assert_eq!(watched.servers[0].run::<u64>(&["XLEN", "dev-t"]).await, 1);
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_refused() {
    let watched = Watched::start(&[]).await;
    let url = watched.url().replace(&format!("/{MASTER}/"), "/nobody/");
    let error = host(&url).await.probe(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Settings(_)) && error.to_string().contains("\"nobody\""), "{error}");
}

#[tokio::test]
async fn a_sentinel_that_is_down_is_passed_over_and_no_password_is_shown() {
    let watched = Watched::start(&["requirepass", "right", "masterauth", "right"]).await;
    let down = format!("redis+sentinel://127.0.0.1:{},", crate::support::redis::free_port());
    let url = watched.url().replace("redis+sentinel://", &down);
    let with = |user: &str, more: &str| format!("{}{more}", url.replace("//", &format!("//{user}@")));
    assert!(host(&with(":right", "")).await.probe(&[]).await.unwrap().is_empty());
    for (url, secret) in [(with(":hunter2", ""), "hunter2"), (with(":right", "?sentinel_password=hunter2"), "hunter2")]
    {
        let error = host(&url).await.probe(&[]).await.unwrap_err();
        assert!(!error.to_string().contains(secret) && !error.to_string().contains("right@"), "{error}");
    }
    let error = host(&with(":hunter2", "")).await.probe(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Credentials { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_sentinel_is_an_error_that_says_so() {
    let server = Server::start(&[]).await;
    let url = format!("redis+sentinel://127.0.0.1:{}/{MASTER}", server.port());
    let error = host(&url).await.probe(&[]).await.unwrap_err();
    assert!(error.to_string().contains("SENTINEL"), "{error}");
}

#[tokio::test]
async fn writes_are_waited_for_behind_sentinels_and_after_a_failover() {
    let watched = Watched::start(&[]).await;
    let settings = Settings { durability: Some(Durability::Replicas(1)), ..Settings::default() };
    let bus = host_with(&watched.url(), settings).await;
    publish(&bus, "t", 2).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 2).await;
    commit(&subscription, held.remove(0), trouble::effects(&["out"])).await;
    watched.fail_over().await;
    watched.agreed_on(1).await;
    watched.servers[0].in_sync().await;
    let mut next = Some((held.remove(0), trouble::effects(&["out"])));
    bounded("settling at the new master", async {
        while let Some((delivery, settlement)) = next.take() {
            match settle(&subscription, delivery, settlement).await {
                Settled::Committed => {}
                Settled::Failed(delivery, settlement, error) => {
                    assert!(error.is_transient(), "{error}");
                    next = Some((delivery, settlement));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(watched.servers[1].run::<u64>(&["XLEN", "dev-out"]).await, 2);
}
