//! What tests of fail-overs share: events that are known to be on a replica, and what became of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use redis::aio::MultiplexedConnection;
use sandbar::bus::Bus;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::BOUND;
use crate::support::events::{Draft, read_all};
use crate::support::host::{HandlerToml, Host};

/// Events sent together.
const TOGETHER: usize = 20;

/// Somebody who publishes to the topic `in` until told to end, and keeps account of what a replica has confirmed.
pub(super) struct Feed {
    stop: watch::Sender<bool>,
    task: JoinSet<HashSet<String>>,
    covered: watch::Receiver<usize>,
}

// === impl Feed ===

impl Feed {
    /// Starts to publish on connections that `connect` makes: to whoever is the master.
    pub(super) fn start<C, F>(connect: C) -> Self
    where
        C: Fn() -> F + Send + 'static,
        F: Future<Output = Option<MultiplexedConnection>> + Send,
    {
        let (stop, stopped) = watch::channel(false);
        let (tell, covered) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut known = HashSet::new();
            let mut connection = None;
            while !*stopped.borrow() {
                if connection.is_none() {
                    connection = connect().await;
                }
                let sent = match &mut connection {
                    Some(connection) => timeout(Duration::from_secs(3), send(connection)).await.ok().flatten(),
                    None => None,
                };
                match sent {
                    Some(ids) => known.extend(ids),
                    // Whether they are there is unknown: others are sent instead.
                    None => {
                        connection = None;
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                tell.send_replace(known.len());
                sleep(Duration::from_millis(5)).await;
            }
            known
        });
        Self { stop, task, covered }
    }

    /// Waits until so many more events are confirmed.
    pub(super) async fn more(&mut self, count: usize) {
        let enough = *self.covered.borrow() + count;
        let waiting = self.covered.wait_for(|covered| *covered >= enough);
        drop(timeout(BOUND, waiting).await.expect("no events get through").unwrap());
    }

    /// Ends it and returns the ids of what was confirmed.
    pub(super) async fn end(mut self) -> HashSet<String> {
        self.stop.send_replace(true);
        timeout(BOUND, self.task.join_next()).await.unwrap().unwrap().unwrap()
    }
}

/// Appends some events and waits for a replica to have them.
async fn send(connection: &mut MultiplexedConnection) -> Option<Vec<String>> {
    let drafts: Vec<Draft> = (0..TOGETHER).map(|_| Draft::new("test.numbered.v1")).collect();
    let mut commands = Pipeline::new();
    for draft in &drafts {
        commands.cmd("XADD").arg("in").arg("*");
        for (name, value) in draft.fields().iter() {
            commands.arg(name).arg(value);
        }
        commands.ignore();
    }
    commands.cmd("WAIT").arg(1).arg(1_000);
    let [replicas]: [u64; 1] = commands.query_async(connection).await.ok()?;
    (replicas > 0).then(|| drafts.into_iter().map(|draft| draft.id).collect())
}

/// A handler that publishes each event to two topics and writes one key.
pub(super) fn fanout() -> HandlerToml {
    HandlerToml::new("fanout", "fanout", "in").with("[handler.grants]\npublish = [\"out-a\", \"out-b\"]\nkeys = true")
}

/// Waits until a host has joined its group: one that cannot reach the bus when it starts ends.
pub(super) async fn joined(host: &Host) {
    let end = Instant::now() + BOUND;
    while !host.log().contains("has joined its group") {
        assert!(Instant::now() < end, "it does not join: {}", host.log());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the group has nothing left to do. Trouble with the bus on the way is none.
pub(super) async fn all_done(bus: &Arc<dyn Bus>) {
    let end = Instant::now() + BOUND;
    loop {
        match bus.status(&"in".into(), "fanout").await {
            Ok(status) if (status.lag, status.pending, status.retrying) == (Some(0), 0, 0) => {
                assert_eq!(status.lost, 0, "nothing was trimmed");
                return;
            }
            status => assert!(Instant::now() < end, "not done: {status:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Every event of `sent` has left something in each topic. Returns how many messages repeat the id of another.
pub(super) async fn effects(bus: &Arc<dyn Bus>, sent: &HashSet<String>) -> usize {
    let mut repeats = 0;
    for topic in ["out-a", "out-b"] {
        let published = read_all(bus, topic).await;
        let text = |name: &str| -> Vec<String> {
            let value = |fields: &sandbar::event::Fields| fields.get(name).unwrap().to_vec();
            published.iter().map(|fields| String::from_utf8(value(fields)).unwrap()).collect()
        };
        let causes: HashSet<String> = text("cause").into_iter().collect();
        let missing: Vec<&String> = sent.difference(&causes).collect();
        assert!(missing.is_empty(), "{topic} lacks {} of {}: {missing:?}", missing.len(), sent.len());
        let ids: HashSet<String> = text("id").into_iter().collect();
        assert_eq!(ids.len(), causes.len(), "{topic} has something of an event under two ids");
        repeats += published.len() - ids.len();
    }
    repeats
}

/// The bus was lost once and came back once, and each was said once; and nothing is said that is not so.
pub(super) fn said_once(host: &Host) {
    let log = host.log();
    assert!(!log.contains("trimmed before"), "nothing was trimmed: {log}");
    for words in ["the bus is lost", "the bus is back"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
        assert_eq!(lines.len(), 1, "{words}: {lines:#?}\n{log}");
    }
}
