//! Redis Cluster: one link to each node, and commands sent to the node that serves their slot.
//!
//! What is sent together is divided by node; the order within a node, and so within a topic, stays. Each command gets
//! an answer of its own: a redirection is followed, a node that cannot be reached is the answer to its own commands
//! only. The map of slots is read again when anything says that it may have changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, ServerError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Error;
use super::connection::{Answer, Own};
use super::link::Link;
use super::slots::{self, Range};
use super::url::{Address, Reach, Target};
use super::{errors, scripts};

/// How often a command is sent on. While a slot moves, a command may be sent from the old node to the new one and back.
const HOPS: usize = 6;
/// The map is read no more often: while nodes agree on a new master, all of them give the old one.
const REFRESH: Duration = Duration::from_millis(100);

/// The nodes of a cluster and who serves what.
pub(super) struct Cluster {
    target: Target,
    epoch: Arc<AtomicU64>,
    map: RwLock<Map>,
    stale: AtomicBool,
    refreshed: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Map {
    ranges: Vec<Range>,
    nodes: HashMap<Address, Arc<Link>>,
}

/// Where one node sends the asker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is served there.
    Moved(Address),
    /// The slot is on its way there, and this key has gone already.
    Ask(Address),
}

/// A node, and the commands that go to it: their places among all, and whether each is to be asked for.
type Part = (Arc<Link>, Vec<(usize, bool)>);

/// Which node a command goes to.
#[derive(Clone)]
enum Way {
    Owner,
    To { address: Address, asking: bool },
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(target: &Target, epoch: Arc<AtomicU64>) -> Self {
        let (stale, refreshed) = (AtomicBool::new(true), Mutex::new(None));
        Self { target: target.clone(), epoch, map: RwLock::default(), stale, refreshed }
    }

    /// Sends commands, each to the node that serves its slot, and returns the answer to each.
    ///
    /// An `Err` means that no node could be reached and that what became of the commands is unknown. Where only some
    /// nodes could not, their commands have an answer that reads as [`Error::Unreachable`] and means the same.
    pub(super) async fn send(&self, commands: &Pipeline) -> Result<Vec<Answer>, Error> {
        self.refresh().await?;
        let commands: Vec<Cmd> = commands.cmd_iter().cloned().collect();
        let slots = slots::of_commands(&commands);
        let mut answers: Vec<Option<Answer>> = vec![None; commands.len()];
        let mut waiting: Vec<(usize, Way)> = (0..commands.len()).map(|index| (index, Way::Owner)).collect();
        let mut failed = None;
        let mut served = false;
        for _ in 0..HOPS {
            if waiting.is_empty() {
                break;
            }
            let mut parts: Vec<Part> = Vec::new();
            for (index, way) in waiting.drain(..) {
                let (node, asking) = match way {
                    Way::Owner => (self.owner(slots[index]), false),
                    Way::To { address, asking } => (Some(self.node(&address)?), asking),
                };
                let Some(node) = node else {
                    self.stale.store(true, Ordering::Release);
                    answers[index] = Some(Err(errors::unserved()));
                    continue;
                };
                match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &node)) {
                    Some((_, part)) => part.push((index, asking)),
                    None => parts.push((node, vec![(index, asking)])),
                }
            }
            let sent = join_all(parts.iter().map(|(node, part)| send_part(node, part, &commands))).await;
            for ((_, part), outcome) in parts.iter().zip(sent) {
                match outcome {
                    Ok(found) => {
                        served = true;
                        for ((index, _), answer) in part.iter().zip(found) {
                            if let Some(redirect) = answer.as_ref().err().and_then(|error| self.heed(error)) {
                                waiting.push((*index, redirect.way()));
                            }
                            answers[*index] = Some(answer);
                        }
                    }
                    Err(error) => {
                        self.stale.store(true, Ordering::Release);
                        for (index, _) in part {
                            answers[*index] = Some(Err(errors::unreached(&error)));
                        }
                        failed = Some(error);
                    }
                }
            }
            // Within a topic the order stays.
            waiting.sort_unstable_by_key(|(index, _)| *index);
        }
        match failed {
            Some(error) if !served => Err(error),
            _ => Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(errors::unserved()))).collect()),
        }
    }

    /// A connection of the caller's own to the node that serves a key.
    pub(super) async fn connect(&self, key: &str) -> Result<Own, Error> {
        self.refresh().await?;
        let Some(node) = self.owner(Some(slots::slot(key.as_bytes()))) else {
            self.stale.store(true, Ordering::Release);
            return Err(errors::answered(&self.target, &errors::unserved()));
        };
        node.connect_here().await.inspect_err(|_| self.stale.store(true, Ordering::Release))
    }

    /// Where a key lies, as far as is known.
    pub(super) fn address(&self, key: &str) -> Option<Address> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.owner(slots::slot(key.as_bytes())).cloned()
    }

    /// The link to a node, which may be one that was not known before.
    pub(super) fn node(&self, address: &Address) -> Result<Arc<Link>, Error> {
        if let Some(node) = self.map.read().unwrap_or_else(PoisonError::into_inner).nodes.get(address) {
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(Link::to_server(self.target.at(address)?, Arc::clone(&self.epoch)));
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(map.nodes.entry(address.clone()).or_insert(node)))
    }

    /// A connection broke, or a node said something that makes the map doubtful.
    pub(super) fn doubt(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Where an error sends the asker, if anywhere. Notes that the map is out of date.
    pub(super) fn heed(&self, error: &ServerError) -> Option<Redirect> {
        let moved = match error.code() {
            "MOVED" => true,
            "ASK" => false,
            "CLUSTERDOWN" | "UNBLOCKED" | "READONLY" | "MASTERDOWN" => {
                self.doubt();
                return None;
            }
            _ => return None,
        };
        // The slot, and `host:port`.
        let (host, port) = error.details()?.split_whitespace().nth(1)?.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = Address { host: host.to_owned(), port: port.parse().ok()? };
        if moved {
            self.doubt();
        }
        // A node that does not say its host is out of the ordinary: the map will tell.
        if address.host.is_empty() {
            return None;
        }
        Some(if moved { Redirect::Moved(address) } else { Redirect::Ask(address) })
    }

    fn owner(&self, slot: Option<u16>) -> Option<Arc<Link>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let address = match slot {
            Some(slot) => map.owner(slot),
            // Any node will do; better one that is there.
            None => {
                let alive = |range: &&Range| map.nodes.get(&range.2).is_some_and(|node| !node.is_lost());
                map.ranges.iter().find(alive).or(map.ranges.first()).map(|(.., address)| address)
            }
        };
        address.and_then(|address| map.nodes.get(address)).cloned()
    }

    /// Reads the map of slots again if it may be out of date.
    async fn refresh(&self) -> Result<(), Error> {
        if !self.stale.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut refreshed = self.refreshed.lock().await;
        if !self.stale.load(Ordering::Acquire) || refreshed.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        let mut found = None;
        for address in self.askable() {
            let node = self.node(&address)?;
            let mut question = Pipeline::new();
            question.cmd("CLUSTER").arg("SLOTS");
            let ranges = match node.send_here(question).await {
                Ok(mut answers) => match answers.pop() {
                    Some(Ok(answer)) => slots::ranges(answer, &address),
                    Some(Err(error)) if errors::words(&error).contains("cluster support disabled") => {
                        let reason = "is no cluster: write redis:// in bus.url";
                        Err(Error::Settings(format!("bus at {} {reason}", self.target.shown)))
                    }
                    Some(Err(error)) => Err(errors::answered(&self.target, &error)),
                    None => Err(errors::unexpected("CLUSTER SLOTS")),
                },
                Err(error) => Err(error),
            };
            match ranges {
                Ok(ranges) => {
                    self.adopt(ranges)?;
                    self.stale.store(false, Ordering::Release);
                    *refreshed = Some(Instant::now());
                    return Ok(());
                }
                Err(error) => found = Some(error),
            }
        }
        Err(found.unwrap_or_else(|| Error::Settings("bus.url names no node of a cluster".to_owned())))
    }

    /// Whom to ask for the map: nodes that were there last, then the others, then those of the URL.
    fn askable(&self) -> Vec<Address> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut known: Vec<(bool, Address)> =
            map.nodes.iter().map(|(address, node)| (node.is_lost(), address.clone())).collect();
        known.sort_unstable();
        let mut askable: Vec<Address> = known.into_iter().map(|(_, address)| address).collect();
        if let Reach::Cluster { seeds } = &self.target.reach {
            let more: Vec<Address> = seeds.iter().filter(|seed| !askable.contains(seed)).cloned().collect();
            askable.extend(more);
        }
        askable
    }

    fn adopt(&self, ranges: Vec<Range>) -> Result<(), Error> {
        for (.., address) in &ranges {
            self.node(address)?;
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let changed = !map.ranges.is_empty() && map.ranges != ranges;
        map.ranges = ranges;
        let Map { ranges, nodes } = &mut *map;
        nodes.retain(|address, node| {
            let serves = ranges.iter().any(|(.., owner)| owner == address);
            if !serves {
                node.replaced();
            }
            serves
        });
        if changed {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Sends its part of the commands to one node.
async fn send_part(node: &Link, part: &[(usize, bool)], commands: &[Cmd]) -> Result<Vec<Answer>, Error> {
    let mut pipeline = Pipeline::with_capacity(part.len());
    for (index, asking) in part {
        if *asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(commands[*index].clone());
    }
    if part.iter().any(|(_, asking)| *asking) {
        // A script that is missing is called again without the word before it: so it is not to be missing.
        let mut loads = scripts::load_all();
        let count = loads.len();
        for command in pipeline.cmd_iter() {
            loads.add_command(command.clone());
        }
        let mut answers = node.send_here(loads).await?.into_iter().skip(count);
        return Ok(part
            .iter()
            .filter_map(|(_, asking)| {
                if *asking {
                    answers.next();
                }
                answers.next()
            })
            .collect());
    }
    node.send_here(pipeline).await
}

// === impl Map ===

impl Map {
    fn owner(&self, slot: u16) -> Option<&Address> {
        let after = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, address) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(address)
    }
}

// === impl Redirect ===

impl Redirect {
    fn way(self) -> Way {
        match self {
            Self::Moved(address) => Way::To { address, asking: false },
            Self::Ask(address) => Way::To { address, asking: true },
        }
    }
}
