//! Groups with order: which consumer has which part of a topic.

use std::fmt;
use std::sync::Arc;

use crate::event::{Lane, Message, Position, Topic};

/// Which slices of which topics a consumer gets and loses.
///
/// In a group with order each topic is divided into [`SLICES`](crate::event::SLICES) slices by the lanes of its
/// messages, and each slice has one consumer at a time, by lease. It gets all messages of its slices that are not
/// settled, in the order of the topic; who loses a slice changes nothing of it any more. With one consumer all slices
/// are its own; when others come they get their share, and when one dies its slices go to the others within a lease.
///
/// A backend reads for the whole group by one consumer at a time, which names the lane of each message and hands it to
/// whoever has the slice: so `fetch` is to be called even with a `max` of 0, and a consumer that has not called it for a
/// lease and has nothing in hand is no longer reckoned with until it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// No longer this consumer's. Whatever it still holds of them is lost.
    pub lost: Vec<Slice>,
    /// This consumer's from now on: no delivery of theirs has come before.
    pub gained: Vec<Slice>,
    /// Messages of what is gained that wait for a retry, those of a slice in the order of their topic: each holds up its
    /// lane until it comes. One that is due at once may be missing: it comes before all others of its slice.
    pub waiting: Vec<Waiting>,
    /// Others are to have these. Drop what has not started; they are lost once nothing of them is in hand any more.
    pub wanted: Vec<Slice>,
}

/// One slice of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The topic, without prefix.
    pub topic: Topic,
    /// Its number, below [`SLICES`](crate::event::SLICES).
    pub number: u16,
}

/// A message that waits for a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its slice.
    pub slice: Slice,
    /// Its lane, as [`RetryEntry`](crate::event::RetryEntry) named it.
    pub lane: Lane,
    /// Where it was first published.
    pub first: Position,
}

/// Names the lane of a message. Called once by whoever reads it for the group, so it may cost something; two hosts that
/// answer differently for one message break the order.
#[derive(Clone)]
pub struct LaneOf(Arc<dyn Fn(&Message) -> Lane + Send + Sync>);

// === impl LaneOf ===

impl LaneOf {
    /// By this function.
    pub fn new(name: impl Fn(&Message) -> Lane + Send + Sync + 'static) -> Self {
        Self(Arc::new(name))
    }

    /// The lane of a message.
    #[must_use]
    pub fn lane(&self, message: &Message) -> Lane {
        (self.0)(message)
    }
}

impl PartialEq for LaneOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LaneOf {}

impl fmt::Debug for LaneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneOf(…)")
    }
}
