//! A Redis cluster that belongs to one test: masters and replicas as processes of their own, gone with it.

use std::time::Instant;

use redis::{FromRedisValue, Value};
use tokio::time::{Duration, sleep};

use super::BOUND;
use super::redis::{Server, command, free_port};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// How long a node may be silent before the others replace it, in milliseconds.
const NODE_TIMEOUT: &str = "2000";

/// Running nodes: masters first, then as many replicas as asked for, of the masters in their order.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
    masters: usize,
}

// === impl Cluster ===

impl Cluster {
    /// Starts a cluster whose slots are divided over the masters.
    pub(crate) async fn start(masters: usize, replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..masters + replicas {
            // The bus port of a node is not its port plus 10000, which may be in use or no port at all.
            let bus = free_port().to_string();
            let configuration = [
                ["cluster-enabled", "yes"],
                ["cluster-node-timeout", NODE_TIMEOUT],
                ["cluster-port", &bus],
                ["cluster-replica-validity-factor", "0"],
                ["repl-diskless-sync-delay", "0"],
                ["repl-timeout", "60"],
                ["appendonly", "yes"],
            ];
            nodes.push(Server::start(&configuration.concat()).await);
        }
        let cluster = Self { nodes, masters };
        cluster.form().await;
        cluster
    }

    /// `redis+cluster://`, naming two nodes.
    pub(crate) fn url(&self) -> String {
        let seeds: Vec<String> = self.nodes.iter().take(2).map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// The node that says it serves a key's slot now.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key).await;
        let end = Instant::now() + BOUND;
        loop {
            for index in 0..self.nodes.len() {
                if self.nodes[index].is_running() && self.serves(index, slot).await {
                    return index;
                }
            }
            assert!(Instant::now() < end, "nobody serves slot {slot}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The slot of a key.
    pub(crate) async fn slot(&self, key: &str) -> u16 {
        let alive = self.nodes.iter().find(|node| node.is_running()).unwrap();
        alive.run(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// A name that starts so and whose slot this node serves.
    pub(crate) async fn name_on(&self, node: usize, start: &str) -> String {
        for number in 0.. {
            let name = format!("{start}{number}");
            if self.serves(node, self.slot(&name).await).await {
                return name;
            }
        }
        unreachable!("every node serves some slots")
    }

    /// Runs one command at the node that serves a key.
    pub(crate) async fn run<T: FromRedisValue>(&self, key: &str, words: &[&str]) -> T {
        self.nodes[self.owner(key).await].run(words).await
    }

    /// The name by which nodes know a node.
    pub(crate) async fn id(&self, node: usize) -> String {
        self.nodes[node].run(&["CLUSTER", "MYID"]).await
    }

    /// Waits until every node that runs says that the cluster serves.
    pub(crate) async fn settled(&self) {
        let end = Instant::now() + BOUND;
        loop {
            let mut good = true;
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let info: String = node.run(&["CLUSTER", "INFO"]).await;
                good &= info.contains("cluster_state:ok");
            }
            if good {
                return;
            }
            assert!(Instant::now() < end, "the cluster does not come to serve");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Begins to move a slot: from here on the old node sends those who ask for keys that are gone to the new one.
    pub(crate) async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, old, new) = (slot.to_string(), self.id(from).await, self.id(to).await);
        let _: () = self.nodes[to].run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old]).await;
        let _: () = self.nodes[from].run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new]).await;
    }

    /// Moves the keys of a slot that are there now, one at a time.
    pub(crate) async fn move_keys(&self, slot: u16, from: usize, to: usize) -> usize {
        let port = self.nodes[to].port().to_string();
        let mut moved = 0;
        loop {
            let keys: Vec<String> = self.nodes[from].run(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"]).await;
            if keys.is_empty() {
                return moved;
            }
            for key in keys {
                let _: Value = self.nodes[from].run(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await;
                moved += 1;
            }
        }
    }

    /// Gives the slot to its new node for good.
    pub(crate) async fn end_move(&self, slot: u16, to: usize) {
        let (slot, new) = (slot.to_string(), self.id(to).await);
        // The new one first, as the specification has it; then every master, so that none has to hear of it.
        let others = (0..self.masters).filter(|index| *index != to);
        for index in std::iter::once(to).chain(others) {
            let _: () = self.nodes[index].run(&["CLUSTER", "SETSLOT", &slot, "NODE", &new]).await;
        }
    }

    /// How often all nodes together have answered with this error.
    pub(crate) async fn errors(&self, code: &str) -> u64 {
        let mut count = 0;
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let stats: String = node.run(&["INFO", "errorstats"]).await;
            let start = format!("errorstat_{code}:count=");
            let found = stats.lines().find_map(|line| line.strip_prefix(start.as_str()));
            count += found.map_or(0, |found| found.trim().parse::<u64>().unwrap());
        }
        count
    }

    async fn form(&self) {
        let share = SLOTS / u16::try_from(self.masters).unwrap();
        for (index, node) in self.nodes.iter().enumerate() {
            if index < self.masters {
                let first = share * u16::try_from(index).unwrap();
                let last = if index + 1 == self.masters { SLOTS - 1 } else { first + share - 1 };
                let words = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
                let _: () = node.run(&words).await;
                let _: () = node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            }
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.port().to_string(), node.setting("cluster-port"));
            let _: () = self.nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        self.settled().await;
        for index in self.masters..self.nodes.len() {
            let master = self.id(index - self.masters).await;
            let end = Instant::now() + BOUND;
            // It has to have heard of its master first.
            while command(&["CLUSTER", "REPLICATE", &master])
                .query_async::<Value>(&mut self.nodes[index].connection().await)
                .await
                .is_err()
            {
                assert!(Instant::now() < end, "a replica does not hear of its master");
                sleep(Duration::from_millis(50)).await;
            }
            self.nodes[index].in_sync().await;
        }
        // All must know all, or a client is sent to nobody.
        let end = Instant::now() + BOUND;
        loop {
            let mut good = true;
            for node in &self.nodes {
                let slots: Vec<Value> = node.run(&["CLUSTER", "SLOTS"]).await;
                let nodes: String = node.run(&["CLUSTER", "NODES"]).await;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                good &= slots.len() == self.masters && replicas == self.nodes.len() - self.masters;
            }
            if good {
                return self.settled().await;
            }
            assert!(Instant::now() < end, "the nodes do not get to know each other");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn serves(&self, node: usize, slot: u16) -> bool {
        let mut connection = self.nodes[node].connection().await;
        let info: String = command(&["CLUSTER", "NODES"]).query_async(&mut connection).await.unwrap();
        let Some(own) = info.lines().find(|line| line.contains("myself")) else { return false };
        own.contains("master")
            && own.split(' ').skip(8).any(|range| match range.split_once('-') {
                _ if range.starts_with('[') => false,
                Some((first, last)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&slot),
                None => range.parse() == Ok(slot),
            })
    }
}
