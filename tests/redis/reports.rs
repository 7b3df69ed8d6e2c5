//! What consumers tell of themselves: no key of Redis keeps it when they are gone.

use std::time::Duration;

use super::count;
use crate::conformance::{Fixture, LONG_LEASE, SHORT_LEASE, join, vanish};
use crate::support::bounded;
use crate::support::redis::Server;

const REPORTS: [&str; 2] = ["HLEN", "{dev-t}.reports.g"];

#[tokio::test]
async fn a_report_goes_with_its_consumer() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let one = join(&bus, LONG_LEASE).await;
    one.report("{}".into());
    one.renew().await.unwrap();
    assert_eq!(count(&server, &REPORTS).await, 1);
    one.close().await.unwrap();
    assert_eq!(count(&server, &REPORTS).await, 0);
}

#[tokio::test]
async fn a_report_of_a_dead_consumer_is_swept() {
    let server = Server::start(&[]).await;
    let bus = server.host().await;
    let dead = join(&bus, SHORT_LEASE).await;
    dead.report("{}".into());
    dead.renew().await.unwrap();
    // As if it had been silent for long.
    let name = dead.consumer().to_owned();
    vanish(dead, Vec::new());
    server.run::<u64>(&["ZADD", "{dev-t}.hosts.g", "0", &name]).await;
    let other = join(&bus, SHORT_LEASE).await;
    bounded("it is swept", async {
        while count(&server, &REPORTS).await > 0 {
            other.fetch(1, Duration::from_millis(50)).await.unwrap();
        }
    })
    .await;
}
