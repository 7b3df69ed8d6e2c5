//! What is done for a bus before it is asked for anything.

use super::host;
use crate::conformance::{LONG_LEASE, join};
use crate::support::redis::Server;

/// How often the server was asked to load a script.
async fn loads(server: &Server) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_script|load:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_server_that_knows_no_script_is_told_them_once_and_beforehand() {
    let server = Server::start(&[]).await;
    let bus = host(&server.url()).await;
    bus.get_ready().await;
    let told = loads(&server).await;
    assert!(told > 1, "all of them");
    host(&server.url()).await.get_ready().await;
    join(&bus, LONG_LEASE).await.close().await.unwrap();
    assert_eq!(loads(&server).await, told);
}

#[tokio::test]
async fn who_got_ready_with_a_server_that_is_not_there_is_told_so_when_it_asks() {
    let server = Server::start(&[]).await;
    let bus = host(&server.url()).await;
    server.kill();
    bus.get_ready().await;
    assert!(bus.probe(&[]).await.is_err());
    server.revive().await;
    join(&bus, LONG_LEASE).await.close().await.unwrap();
}
