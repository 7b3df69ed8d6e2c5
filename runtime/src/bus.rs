//! The bus: where an event ENTERS and where it is ACKNOWLEDGED.
//!
//! [`Bus`] and [`Subscription`] are the whole seam between the line and a message broker. Their doc comments are the
//! contract; `tests` holds one conformance suite that every backend passes against the real server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::{Effects, KeyList, Message, Outgoing, Position, Settlement, Topic, Versioned};

mod durability;
mod error;
mod first;
mod history;
mod in_hand;
mod ledger;
#[cfg(feature = "redis")]
mod redis;
mod report;
mod slices;
#[cfg(feature = "sqlite")]
mod sqlite;
mod surroundings;

pub use durability::{Durability, Published, Trim};
pub use error::Error;
pub use history::{Applied, Edge, Pace, Span};
pub use ledger::{Ledger, LedgerEntry, LedgerName};
pub use report::{DeadLetter, GroupStatus, Requeue};
pub use slices::{LaneOf, Slice, Turnover, Waiting};
pub use surroundings::{Surroundings, surroundings};

pub(crate) use in_hand::InHand;

/// Where the bus is and how its topics are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `sqlite:PATH`, `redis://…`, `rediss://…`, `unix://…`, `redis+sentinel://…` or `redis+cluster://…`.
    pub url: String,
    /// Put before every topic, with a dash, to name the stream.
    pub topic_prefix: Option<String>,
    /// Trim streams to about this many entries when publishing, as the Python bus does. Trimming takes no regard of
    /// what some group has not read, so the default is not to trim.
    pub stream_max_len: Option<u64>,
    /// What is trimmed. `None`: what exceeds `stream_max_len`, if that is set.
    pub trim: Option<Trim>,
    /// How safe a write must be before it counts. `None`: [`Durability::Fsync`] on SQLite, [`Durability::None`] on
    /// Redis.
    pub durability: Option<Durability>,
}

/// A message broker, or the embedded log, behind one URL.
///
/// Every promise holds across processes: any number of hosts may open the same bus.
#[async_trait]
pub trait Bus: Send + Sync {
    /// What this backend can and cannot promise. The conformance suite checks that it is so.
    fn guarantees(&self) -> Guarantees;

    /// Looks at what a handler needs, without connecting, before it joins its group: returns, in sentences, what is
    /// kept less strictly for it than [`Guarantees`] promises in general.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] if this bus cannot give it what it needs: it is refused, not given less.
    fn prepare(&self, needs: &Needs) -> Result<Vec<String>, Error> {
        let _ = needs;
        Ok(Vec::new())
    }

    /// Connects, for whoever has something else to do before it is asked for anything. It is as well asked without this, and
    /// tells what goes wrong then.
    async fn get_ready(&self) {}

    /// Appends messages, each to its topic, in the order given, and returns where each lies.
    ///
    /// When it returns `Ok`, all are stored as durably as the bus was set up to ([`Settings::durability`]); the answer
    /// says what was reached. On an error some may have been stored. Not cancel safe in that sense.
    ///
    /// # Errors
    ///
    /// [`Error::NotDurable`] if the messages were taken and the level was not reached in time.
    async fn publish(&self, messages: &[Outgoing]) -> Result<Published, Error>;

    /// Joins a consumer group on all its topics, creating topics and group where they are missing.
    ///
    /// [`Group::start`] is used when the group is created and never again. The consumer's name is unique to this
    /// call: a process that comes back is a new consumer.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] if consumers that are not Sandbar's are alive in the group, unless the group allows it;
    /// [`Error::WrongType`] if a topic's key holds something else.
    async fn subscribe(&self, group: &Group) -> Result<Arc<dyn Subscription>, Error>;

    /// Reads one key of a key space, with the version to check at commit.
    async fn read_key(&self, space: &str, key: &str) -> Result<Versioned, Error>;

    /// Lists at most `limit` keys of a space that start with `prefix`, with the version of the space.
    async fn list_keys(&self, space: &str, prefix: &str, limit: usize) -> Result<KeyList, Error>;

    /// Connects and looks at the topics without changing anything: what would `subscribe` trip over?
    ///
    /// An unreachable bus is an `Err`; a topic of the wrong type or a group with foreign consumers is in the list.
    async fn probe(&self, groups: &[Group]) -> Result<Vec<Error>, Error>;

    /// Where a stretch of a topic's history lies, as the topic is now; `None` if there is nothing in it. Both ends belong
    /// to it, except that a time at its end does not; without `to` it ends with the newest message there is.
    async fn history(&self, topic: &Topic, from: &Edge, to: Option<&Edge>) -> Result<Option<Span>, Error>;

    /// The first messages of a stretch, at most `count`, in order, of those that are kept. No group takes notice.
    async fn read(&self, topic: &Topic, span: &Span, count: usize) -> Result<Vec<Message>, Error>;

    /// Commits effects without a delivery: all of them or none, if no key that the call read has moved. On an error it is
    /// unknown whether they are stored.
    async fn apply(&self, effects: &Effects) -> Result<Applied, Error>;

    /// How far a group is on one topic.
    async fn status(&self, topic: &Topic, group: &str) -> Result<GroupStatus, Error>;

    /// At most `count` dead letters of a group on one topic, oldest first, those after `after`.
    async fn dead_letters(
        &self,
        topic: &Topic,
        group: &str,
        after: Option<&Position>,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Error>;

    /// Moves dead letters back to their topic, or into the group's own retry store, each in one transaction, and
    /// returns how many were moved. Ids that are not there (any more) are passed over. Never trims the topic.
    async fn requeue(&self, topic: &Topic, group: &str, ids: &[Position], to: Requeue) -> Result<u64, Error>;

    /// Deletes dead letters for good and returns how many there were.
    async fn purge(&self, topic: &Topic, group: &str, ids: &[Position]) -> Result<u64, Error>;

    /// A handler's ledger; `None` if nothing was ever written into it.
    async fn ledger(&self, name: &LedgerName) -> Result<Option<Ledger>, Error>;

    /// Bytes that are kept with a ledger.
    async fn ledger_bytes(&self, name: &LedgerName, key: &str) -> Result<Option<Bytes>, Error>;

    /// Writes into a ledger that has revision `before` (0 if it is not there), all of the entry or nothing, and returns its
    /// new revision; `None` if somebody else has written meanwhile. On an error it is unknown whether it is written.
    async fn write_ledger(&self, name: &LedgerName, before: u64, entry: &LedgerEntry) -> Result<Option<u64>, Error>;
}

/// One consumer's membership of a group.
///
/// `fetch` and `fetch_due` have one caller at a time; `settle`, `begin` and `renew` may run beside it and each other. Trouble with the
/// bus comes back as a transient [`Error`]: the caller waits a little and calls again, the backend reconnects. After an
/// outage a backend renews what is in hand before anything else and claims nothing for one lease.
#[async_trait]
pub trait Subscription: Send + Sync {
    /// The name under which this consumer is known to the group.
    fn consumer(&self) -> &str;

    /// Waits until there is something to do, at most `wait`, and returns at most `max` deliveries.
    ///
    /// First come retries that are due, then deliveries that were dropped here or left behind by hosts that died
    /// ([`Origin::Inherited`]; taken over once their lease has run out), then new messages in the order of each topic.
    /// Whatever is returned is *in hand*: leased to this consumer until settled or dropped. An empty list means the
    /// wait is over. With `max` 0 a read under way is ended and nothing is taken: for a consumer that
    /// pauses. In a group with order it is for one that has no room, and reads for the others.
    ///
    /// A group with order adds [`Fetched::Turnover`]; of what a slice holds, n+1 is never handed out before n.
    ///
    /// Cancel safe: a message that was read but not returned is found again, by this consumer within a lease.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Fetched, Error>;

    /// The same, but of deliveries it returns only retries that are due: for a consumer that holds back so much behind
    /// events that wait for a retry that it can take in nothing else.
    async fn fetch_due(&self, max: usize, wait: Duration) -> Result<Fetched, Error>;

    /// Settles a batch of deliveries and answers for each, in the order given.
    ///
    /// Each settlement is one transaction of its own and each checks first that the delivery is still this
    /// consumer's; only an acknowledgement without effects in a group without order may skip the check. They are sent
    /// together. A delivery whose settlement failed comes back in the answer. [`Settled::Committed`] means as durably as
    /// the bus was set up to.
    async fn settle(&self, batch: Vec<(Delivery, Settlement)>) -> Vec<Settled>;

    /// Records that a call for this delivery is about to start, so that the attempt counts even if the host dies
    /// during it. For deliveries that were inherited from a host that died; all others are counted when they settle.
    ///
    /// Returns false if the delivery is no longer this consumer's.
    async fn begin(&self, delivery: &Delivery) -> Result<bool, Error>;

    /// What this consumer tells those who ask for the group's status: stored with the next [`Subscription::renew`], shown
    /// in [`GroupStatus::reports`] while it is alive, and removed when it leaves.
    fn report(&self, text: String);

    /// Renews the lease of everything in hand and returns what has been lost to others meanwhile.
    ///
    /// To be called at least three times per lease. A message that was trimmed from its topic while in hand is moved
    /// to the retry store here, so that its call can still commit.
    async fn renew(&self) -> Result<Vec<DeliveryId>, Error>;

    /// Leaves: what is still in hand is given back at once, and the consumer is removed if nothing is pending for it.
    async fn close(&self) -> Result<(), Error>;
}

/// A consumer group as a handler asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The topics it reads, without prefix.
    pub topics: Vec<Topic>,
    /// Where it starts when it is created.
    pub start: Start,
    /// How long a delivery stays with a consumer that shows no sign of life.
    pub lease: Duration,
    /// Prefix of the consumer's name.
    pub consumer: String,
    /// Names the lane of a message, for a group that keeps order: see [`Fetched::Turnover`].
    pub order: Option<LaneOf>,
    /// Join although consumers that are not Sandbar's are alive in the group.
    pub join_foreign: bool,
}

/// What a handler is going to ask of the bus, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its name.
    pub handler: String,
    /// The topics it reads.
    pub topics: Vec<Topic>,
    /// The topics it may publish to.
    pub publish: Vec<Topic>,
    /// The space of its keys, if it may keep any.
    pub key_space: Option<String>,
    /// Whether its events have an order.
    pub ordered: bool,
}

/// Where a new group starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After what is there now.
    New,
    /// With the oldest message that is kept.
    Beginning,
    /// After the message at this position.
    After(Position),
    /// With the first message published at this time or later.
    At(SystemTime),
}

/// What [`Subscription::fetch`] found.
#[derive(Debug)]
pub enum Fetched {
    /// Deliveries to run, or none.
    Deliveries(Vec<Delivery>),
    /// Groups with [order](Group::order) only: slices have changed hands.
    Turnover(Turnover),
}

/// One message in hand. Settle it or drop it: dropped, it is delivered again, here or elsewhere, and no attempt is
/// counted.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Calls that were started for it before, as the bus knows.
    pub attempts: u32,
    /// How it came.
    pub origin: Origin,
    receipt: Receipt,
}

/// How a delivery came to this consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read for the first time.
    New,
    /// From the retry store, due.
    Retry,
    /// Given back unsettled by this very consumer.
    Dropped,
    /// Left behind by another consumer, whose lease ran out.
    Inherited,
}

/// Names one delivery within a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(u64);

/// The right to settle a delivery. Not `Clone`, and consumed by settling: settling twice does not compile.
pub(crate) struct Receipt {
    id: DeliveryId,
    returns: Option<Arc<dyn Returns>>,
}

/// Told when a receipt is dropped unsettled.
pub(crate) trait Returns: Send + Sync {
    /// Must not block: it is called from `Drop`.
    fn dropped(&self, id: DeliveryId);
}

/// What became of one settlement.
#[derive(Debug)]
pub enum Settled {
    /// It is stored.
    Committed,
    /// The delivery was no longer this consumer's; nothing was changed. Someone else has it, or it is settled.
    Lost,
    /// A key that the call had read was written meanwhile; nothing was changed. Run it again, uncounted.
    Conflict(Delivery),
    /// The bus refuses these effects whenever they are sent (a topic of the wrong type, say); nothing was changed.
    Refused(Delivery, String),
    /// The bus did not take it now. Whether it is stored is unknown; sending it again is safe.
    Failed(Delivery, Settlement, Error),
}

/// What a backend promises beyond the contract, for `check` to say and the suite to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarantees {
    /// Published messages and key writes commit in one transaction with the acknowledgement.
    pub atomic_effects: bool,
    /// A group can keep order across hosts: see [`Fetched::Turnover`].
    pub ordered_groups: bool,
    /// What an operator should know, in sentences.
    pub notes: &'static [&'static str],
}

/// Opens the bus that `settings.url` names. Connects lazily where the backend can: `probe` tells whether it is there.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Bus>, Error> {
    let scheme = settings.url.split(':').next().unwrap_or_default();
    match scheme {
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::open(settings).await,
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster" => {
            redis::open(settings).await
        }
        _ => Err(Error::Settings(format!(
            "bus.url starts with {scheme:?}; known are sqlite:PATH, redis://, rediss://, unix://, redis+sentinel:// and \
             redis+cluster://"
        ))),
    }
}

/// The name of a stream on the bus: prefix, dash, topic, as the Python bus names them.
#[must_use]
pub fn stream_name(prefix: Option<&str>, topic: &str) -> String {
    match prefix {
        Some(prefix) if !prefix.is_empty() => format!("{prefix}-{topic}"),
        _ => topic.to_owned(),
    }
}

/// A consumer's name: the group's prefix, then what makes it unique to this start of this process.
#[must_use]
pub fn unique_consumer(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed), &random[..8])
}

// === impl Delivery ===

impl Delivery {
    /// Puts a message in hand. For backends.
    pub(crate) fn new(message: Message, attempts: u32, origin: Origin, receipt: Receipt) -> Self {
        Self { message, attempts, origin, receipt }
    }

    /// Names it within its subscription.
    #[must_use]
    pub fn id(&self) -> DeliveryId {
        self.receipt.id
    }

    /// Takes the receipt's right away: from here on the caller settles it. For backends.
    pub(crate) fn disarm(mut self) -> Disarmed {
        let returns = self.receipt.returns.take();
        Disarmed { message: self.message.clone(), attempts: self.attempts, origin: self.origin, id: self.id(), returns }
    }
}

/// A delivery in the middle of being settled: dropping it tells nobody.
pub(crate) struct Disarmed {
    pub(crate) message: Message,
    pub(crate) attempts: u32,
    pub(crate) origin: Origin,
    pub(crate) id: DeliveryId,
    returns: Option<Arc<dyn Returns>>,
}

impl Disarmed {
    /// The delivery again, for an answer that gives it back.
    pub(crate) fn rearm(self) -> Delivery {
        let receipt = Receipt { id: self.id, returns: self.returns };
        Delivery { message: self.message, attempts: self.attempts, origin: self.origin, receipt }
    }
}

// === impl Receipt ===

impl Receipt {
    pub(crate) fn new(id: DeliveryId, returns: Arc<dyn Returns>) -> Self {
        Self { id, returns: Some(returns) }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            returns.dropped(self.id);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({})", self.id.0)
    }
}
