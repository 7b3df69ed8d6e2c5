//! The bus's steps: read, acknowledge, commit. One thread does all that the client does, so that it can be counted.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandbar::bus::{self, Bus, Delivery, Fetched, Group, Settings, Settled, Start, Subscription};
use sandbar::event::{Effects, Fields, KeyWrite, Outgoing, Settlement};
use tokio::runtime::{Builder, Runtime};

use crate::Step;
use crate::events::{TRACKING, Vector};
use crate::server::Server;

/// Deliveries in one batch. Fewer than the host's, so that a batch comes in one piece whatever the machine does
/// meanwhile: the server writes no more than one segment of the loopback.
pub const BATCH: u64 = 32;

/// Longer than any measurement takes: nobody claims, nothing is renewed.
const LEASE: Duration = Duration::from_secs(600);
/// Far above what an answer takes.
const WAIT: Duration = Duration::from_secs(60);

const TOPIC: &str = "events";
const OUT: &str = "out";
const GROUP: &str = "costs";

/// What is measured of a batch's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Read it.
    Read,
    /// Acknowledge it, no more.
    Acknowledge,
    /// Publish an event and write a key with each acknowledgement.
    Commit,
}

/// One consumer of a bus that nobody else uses.
struct Consumer {
    work: Work,
    batch: u64,
    fields: Fields,
    /// Settled with the next `run` or, if reading is measured, before it.
    in_hand: Vec<Delivery>,
    subscription: Arc<dyn Subscription>,
    bus: Arc<dyn Bus>,
    runtime: Runtime,
    /// A server or a folder, gone with it.
    _storage: Box<dyn Any>,
}

/// A Redis server, and batches of 1 KiB events.
///
/// # Errors
///
/// There is no server.
pub fn redis(work: Work) -> Result<Box<dyn Step>> {
    let server = Server::start()?;
    let url = server.url();
    Ok(Box::new(Consumer::new(work, BATCH, &url, Box::new(server))?))
}

/// A file, and one event at a time.
///
/// # Errors
///
/// The file cannot be made.
pub fn sqlite() -> Result<Box<dyn Step>> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("events.db").display());
    Ok(Box::new(Consumer::new(Work::Commit, 1, &url, Box::new(directory))?))
}

// === impl Consumer ===

impl Consumer {
    fn new(work: Work, batch: u64, url: &str, storage: Box<dyn Any>) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let settings = Settings { url: url.to_owned(), ..Settings::default() };
        let group = Group {
            name: GROUP.into(),
            topics: vec![TOPIC.into()],
            start: Start::Beginning,
            lease: LEASE,
            consumer: "costs".into(),
            order: None,
            join_foreign: false,
        };
        let (bus, subscription) = runtime.block_on(async {
            let bus = bus::open(&settings).await?;
            let subscription = bus.subscribe(&group).await?;
            Ok::<_, bus::Error>((bus, subscription))
        })?;
        let fields = Vector::read(TRACKING)?.fields()?;
        Ok(Self { work, batch, fields, in_hand: Vec::new(), subscription, bus, runtime, _storage: storage })
    }

    fn publish(&self) -> Result<()> {
        let one = Outgoing { topic: TOPIC.into(), fields: self.fields.clone() };
        let all: Vec<Outgoing> = (0..self.batch).map(|_| one.clone()).collect();
        self.runtime.block_on(self.bus.publish(&all))?;
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let wanted = usize::try_from(self.batch)?;
        while self.in_hand.len() < wanted {
            let left = wanted - self.in_hand.len();
            let fetched = self.runtime.block_on(self.subscription.fetch(left, WAIT))?;
            let Fetched::Deliveries(some) = fetched else { bail!("a group without order has slices") };
            ensure!(!some.is_empty(), "what was published does not come");
            self.in_hand.extend(some);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        if self.in_hand.is_empty() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(self.in_hand.len());
        for delivery in std::mem::take(&mut self.in_hand) {
            let effects = if self.work == Work::Commit { self.effects(&delivery) } else { Effects::default() };
            batch.push((delivery, Settlement::Ack(effects)));
        }
        let answers = self.runtime.block_on(self.subscription.settle(batch));
        match answers.into_iter().find(|answer| !matches!(answer, Settled::Committed)) {
            None => Ok(()),
            Some(other) => bail!("a settlement ended otherwise: {other:?}"),
        }
    }

    fn effects(&self, delivery: &Delivery) -> Effects {
        let value = delivery.message.position.as_str().as_bytes().to_vec();
        Effects {
            publish: vec![Outgoing { topic: OUT.into(), fields: self.fields.clone() }],
            key_space: GROUP.into(),
            writes: vec![KeyWrite { key: "last".into(), value: Some(value.into()) }],
            ..Effects::default()
        }
    }
}

impl Step for Consumer {
    fn prepare(&mut self) -> Result<()> {
        self.settle()?;
        self.publish().context("publish")?;
        if self.work == Work::Read { Ok(()) } else { self.read() }
    }

    fn run(&mut self) -> Result<()> {
        if self.work == Work::Read { self.read() } else { self.settle() }
    }
}
