//! What a replay is asked for, and what it tells.

use std::io;

use crate::bus::{self, Edge};
use crate::dispatch::Filter;
use crate::event::{Effects, Position, Topic};

/// What to run again.
#[derive(Clone, Debug)]
pub struct Request {
    /// Only this topic, or all that the handler reads, one after the other.
    pub topic: Option<Topic>,
    /// Where to begin.
    pub from: Edge,
    /// Where to end; `None` for the newest event there is at the start.
    pub to: Option<Edge>,
    /// Only events that this lets through too, besides the handler's own filter.
    pub types: Filter,
    /// Commit what the calls publish and write. Otherwise it is only told.
    pub effects: bool,
    /// Call the handler for so many events at most.
    pub limit: Option<u64>,
}

/// One event that was run again.
#[derive(Debug)]
pub struct Replayed {
    /// Its topic.
    pub topic: Topic,
    /// Where it lies.
    pub position: Position,
    /// Its id; empty if its headers cannot be read.
    pub id: String,
    /// Its type; empty if its headers cannot be read.
    pub kind: String,
    /// What became of it.
    pub became: Became,
}

/// What became of an event that was run again.
#[derive(Debug)]
pub enum Became {
    /// Handled. With [`Request::effects`] these are committed, otherwise nobody else learns of them.
    Done(Effects),
    /// Not handled, and it has no effects. Nothing is tried again.
    Failed {
        /// As a dead letter would have it.
        code: String,
        /// For people.
        reason: String,
    },
}

/// What a replay came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Handled.
    pub done: u64,
    /// Not handled.
    pub failed: u64,
    /// Passed over, for their types.
    pub skipped: u64,
    /// Messages that the calls published, or would have.
    pub published: u64,
    /// Keys that they wrote, or would have.
    pub written: u64,
    /// The first event that was not run, where there is one left.
    pub next: Option<(Topic, Position)>,
    /// Why it ended before the end.
    pub ended: Option<Ended>,
}

/// Why a replay ended early.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// The limit is reached.
    Limit,
    /// The bus is in trouble.
    Bus(bus::Error),
    /// What became of an event could not be told.
    Output(io::Error),
}
