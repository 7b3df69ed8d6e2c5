//! The connection to the server: refused, broken, or answering nothing.

use std::time::{Duration, Instant};

use sandbar::bus::{Error, Fetched, Origin, Settled};

use super::trouble::effects;
use super::{count, host};
use crate::conformance::{
    Fixture, LONG_LEASE, SHORT_LEASE, ack, commit, join, numbers, publish, retry, settle, take, take_nothing, take_one,
};
use crate::support::bounded;
use crate::support::proxy::{Proxy, Rule};
use crate::support::redis::{Server, free_port};

#[tokio::test]
async fn a_wrong_password_says_so_and_shows_none() {
    let server = Server::start(&["requirepass", "right"]).await;
    for (url, secret) in [(server.url(), "right"), (server.url().replace("redis://", "redis://:hunter2@"), "hunter2")] {
        let error = bounded("probe", host(&url).await.probe(&[])).await.unwrap_err();
        assert!(matches!(error, Error::Credentials { .. }) && !error.is_transient(), "{error}");
        assert!(!error.to_string().contains(secret), "{error}");
    }
    let good = host(&server.url().replace("redis://", "redis://:right@")).await;
    assert!(good.probe(&[]).await.unwrap().is_empty());
    assert!(host(&format!("{}?password=right", server.url())).await.probe(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_at_once() {
    let url = format!("redis://127.0.0.1:{}/0", free_port());
    let start = Instant::now();
    let error = host(&url).await.probe(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().contains(&url), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_unix_socket_serves_too() {
    let server = Server::start(&[]).await;
    let bus = host(&format!("unix://{}?db=3", server.socket().display())).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    commit(&subscription, take_one(&subscription).await, effects(&["out"])).await;
    assert_eq!(count(&server, &["EXISTS", "dev-t"]).await, 0, "another database");
}

#[tokio::test]
async fn a_server_killed_in_the_middle_loses_nothing() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let bus = server.host().await;
    publish(&bus, "t", 20).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let mut held = take(&subscription, 10).await;
    server.kill();
    let answer = settle(&subscription, held.remove(0), effects(&["out"])).await;
    let Settled::Failed(delivery, settlement, error) = answer else { panic!("{answer:?}") };
    assert!(error.is_transient(), "{error}");
    let error = bounded("fetch", subscription.fetch(4, Duration::from_secs(1))).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.revive().await;
    // What was in hand is still in hand.
    bounded("settling after the outage", async {
        let mut again = Some((delivery, settlement));
        while let Some((delivery, settlement)) = again.take() {
            match settle(&subscription, delivery, settlement).await {
                Settled::Committed => {}
                Settled::Failed(delivery, settlement, error) if error.is_transient() => {
                    again = Some((delivery, settlement));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    for delivery in held {
        commit(&subscription, delivery, ack()).await;
    }
    assert_eq!(numbers(&take(&subscription, 10).await), (10..20).collect::<Vec<_>>());
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 1);
}

#[tokio::test]
async fn nobody_claims_for_one_lease_after_an_outage() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let holder = join(&bus, SHORT_LEASE).await;
    let held = take_one(&holder).await;
    let other = join(&server.host().await, SHORT_LEASE).await;
    take_nothing(&other, Duration::from_millis(10)).await;
    server.kill();
    tokio::time::sleep(SHORT_LEASE * 3 / 2).await;
    server.revive().await;
    // The other is back first; the holder's lease ran out while nobody could renew it.
    let start = Instant::now();
    while start.elapsed() < SHORT_LEASE / 2 {
        match bounded("fetch", other.fetch(1, Duration::from_millis(20))).await {
            Ok(Fetched::Deliveries(some)) => assert!(some.is_empty(), "claimed at once after the outage"),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    while holder.renew().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    commit(&holder, held, effects(&["out"])).await;
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, LONG_LEASE).await;
    for delivery in take(&subscription, 3).await {
        let _: () = server.run(&["SCRIPT", "FLUSH"]).await;
        commit(&subscription, delivery, effects(&["out"])).await;
    }
    assert_eq!(count(&server, &["XLEN", "dev-out"]).await, 3);
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_given_up() {
    let server = Server::start(&[]).await;
    let bus = host(&format!("{}?socket_timeout=0.3", server.url())).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take_one(&subscription).await;
    server.signal("-STOP");
    let start = Instant::now();
    let answer = settle(&subscription, held, ack()).await;
    let waited = start.elapsed();
    server.signal("-CONT");
    let Settled::Failed(delivery, settlement, error) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("socket_timeout") && waited < Duration::from_secs(3), "{error}: {waited:?}");
    // It may have been stored, and sending it again is safe.
    commit(&subscription, delivery, settlement).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().pending, 0);
}

#[tokio::test]
async fn an_answer_lost_on_the_way_is_found_under_the_own_name() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 3).await;
    let subscription = join(&bus, SHORT_LEASE).await;
    // As if the consumer had read, and the connection had broken before the answer came.
    let read = ["XREADGROUP", "GROUP", "g", subscription.consumer(), "COUNT", "2", "STREAMS", "dev-t", ">"];
    let _: redis::Value = server.run(&read).await;
    let mut found = take(&subscription, 3).await;
    assert_eq!(numbers(&found), [2, 0, 1]);
    let origins: Vec<Origin> = found.iter().map(|delivery| delivery.origin).collect();
    assert_eq!(origins, [Origin::New, Origin::Dropped, Origin::Dropped]);
    commit(&subscription, found.remove(1), effects(&["out"])).await;
}

#[tokio::test]
async fn a_retry_whose_answer_was_lost_is_stored_and_not_lost() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port()).await;
    let bus = host(&format!("redis://127.0.0.1:{}/0?socket_timeout=0.3", proxy.port())).await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take_one(&subscription).await;
    proxy.rule(Rule::Pass, Rule::Swallow);
    let answer = settle(&subscription, held, retry(1, LONG_LEASE)).await;
    let Settled::Failed(delivery, settlement, error) = answer else { panic!("{answer:?}") };
    assert!(error.is_transient(), "{error}");
    proxy.heal();
    // Told that another has it, the consumer would let the events behind it go first.
    let answer = bounded("sending it again", async {
        let mut again = (delivery, settlement);
        loop {
            match settle(&subscription, again.0, again.1).await {
                Settled::Failed(delivery, settlement, error) if error.is_transient() => again = (delivery, settlement),
                answer => break answer,
            }
        }
    })
    .await;
    assert!(matches!(answer, Settled::Committed), "{answer:?}");
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying), (0, 1));
}

#[tokio::test]
async fn a_retry_of_ones_own_ends_a_wait_that_has_begun() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    publish(&bus, "t", 1).await;
    let subscription = join(&bus, LONG_LEASE).await;
    let held = take_one(&subscription).await;
    let start = Instant::now();
    let waiting = subscription.fetch(1, Duration::from_secs(5));
    let settling = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        settle(&subscription, held, retry(1, Duration::from_millis(20))).await
    };
    let (found, _) = bounded("both", async { tokio::join!(waiting, settling) }).await;
    let Ok(Fetched::Deliveries(found)) = found else { panic!("{found:?}") };
    assert_eq!(found.len(), 1);
    // A read blocks for a second.
    assert!(start.elapsed() < Duration::from_millis(800), "after {:?}", start.elapsed());
}
