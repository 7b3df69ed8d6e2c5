//! What operators see of a bus: how far a group is, what it gave up.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::event::{Cause, Fields, Position, Topic};

/// How far a group is on one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// Whether topic and group exist.
    pub exists: bool,
    /// Messages not read yet; `None` if the bus cannot tell.
    pub lag: Option<u64>,
    /// Messages in some consumer's hand.
    pub pending: u64,
    /// Messages waiting for a retry.
    pub retrying: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Messages that were trimmed before the group had handled them.
    pub lost: u64,
    /// When the oldest event that is not settled was published: unread, in hand or waiting for a retry. If its topic
    /// was trimmed since, it may be older than this.
    pub oldest: Option<SystemTime>,
    /// When the oldest dead letter was given up.
    pub oldest_dead_letter: Option<SystemTime>,
    /// The group of the topic, of any kind, that has the oldest message read or not but not acknowledged: what lies
    /// after it cannot be trimmed without loss. `None` if every group has acknowledged all there is.
    pub held_up_by: Option<String>,
    /// Consumers of the group that are alive, by name.
    pub consumers: Vec<String>,
    /// What those consumers tell of themselves. On some buses only the status of the group's first topic has it.
    pub reports: BTreeMap<String, String>,
}

/// A message that was given up, with its fields as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id among the dead letters of its group and topic.
    pub id: Position,
    /// Its topic.
    pub topic: Topic,
    /// Where it was first published.
    pub first: Position,
    /// Where it lay when it was given up.
    pub position: Position,
    /// The fields as they came.
    pub fields: Fields,
    /// Why.
    pub cause: Cause,
}

/// Where dead letters are moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// To the end of the topic, for every group that reads it.
    Topic,
    /// To the retry store of the group that gave it up, due at once, attempts counted anew.
    Handler,
}
