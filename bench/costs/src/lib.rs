//! What an event costs at each step of the line, with nothing around it.
//!
//! [`STEPS`] names the steps. Each works on fixed data through the host's public library, so that two programs can use
//! the same ones: `benches/micro.rs` times them, `sandbar-costs` counts what they do and compares it with a baseline.
//!
//! - [`events`]: the events all steps work on.
//! - [`words`]: headers, Avro and JSON; filter and lanes.
//! - [`guests`]: an instance made, called and dropped.
//! - [`buses`]: reading, acknowledging and committing, on a real Redis and on SQLite.

pub mod buses;
pub mod events;
pub mod guests;
pub mod server;
pub mod words;

use std::path::Path;

use anyhow::Result;

/// A step of the line that can be done again and again.
pub trait Step {
    /// Makes ready what one [`Step::run`] uses up. It is not measured.
    ///
    /// # Errors
    ///
    /// What went wrong; then there is nothing to measure.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does the step for as many events as [`Named::events`] says.
    ///
    /// # Errors
    ///
    /// What went wrong: a step that fails is not worth measuring.
    fn run(&mut self) -> Result<()>;
}

/// A step with its name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// How figures name it.
    pub name: &'static str,
    /// What it does, for the table.
    pub what: &'static str,
    /// How many events one run is for.
    pub events: u64,
    /// On which thread the work is done.
    pub place: Place,
    make: fn() -> Result<Box<dyn Step>>,
}

/// Where a step's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the calling thread, in memory.
    Here,
    /// The same, in guests: what it costs depends on how the kernel tells which pages were written.
    HereInGuests,
    /// On the calling thread, with a Redis server at the other end of a connection.
    HereWithRedis,
    /// On a thread of the bus: only a clock sees it.
    Elsewhere,
}

/// Every step that is measured, in the order an event goes through them.
pub const STEPS: &[Named] = &[
    here("decode_enrollment", "headers and Avro to JSON: an enrollment, 0.3 KB", || words::decode(events::ENROLLMENT)),
    here("decode_notices", "the same: a notification with a map of lists", || words::decode(events::NOTICES)),
    here("decode_tracking", "the same: a tracking event of 1.1 KB", || words::decode(events::TRACKING)),
    here("encode_enrollment", "JSON to Avro, and headers", || words::encode(events::ENROLLMENT)),
    here("encode_notices", "the same", || words::encode(events::NOTICES)),
    here("encode_tracking", "the same", || words::encode(events::TRACKING)),
    Named {
        name: "dispatch",
        what: "filter, lane by a pointer into the data, through the lanes and out",
        events: words::LANES_EVENTS,
        place: Place::Here,
        make: words::dispatch,
    },
    guest("call_noop", "an instance made, called and dropped: the handler that does nothing", guests::noop),
    guest("call_xapi", "the same: JSON parsed, a statement published", guests::xapi),
    redis("redis_read", "a delivery out of a batch of 32 read", || buses::redis(buses::Work::Read)),
    redis("redis_ack", "a bare acknowledgement in a batch of 32", || buses::redis(buses::Work::Acknowledge)),
    redis("redis_commit", "the commit script: an event published, a key written, in a batch of 32", || {
        buses::redis(buses::Work::Commit)
    }),
    Named {
        name: "sqlite_commit",
        what: "the same in one transaction of its own, synced",
        events: 1,
        place: Place::Elsewhere,
        make: buses::sqlite,
    },
];

/// Looks a step up.
#[must_use]
pub fn step(name: &str) -> Option<Named> {
    STEPS.iter().find(|step| step.name == name).copied()
}

/// The repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

const fn here(name: &'static str, what: &'static str, make: fn() -> Result<Box<dyn Step>>) -> Named {
    Named { name, what, events: 1, place: Place::Here, make }
}

const fn guest(name: &'static str, what: &'static str, make: fn() -> Result<Box<dyn Step>>) -> Named {
    Named { name, what, events: 1, place: Place::HereInGuests, make }
}

const fn redis(name: &'static str, what: &'static str, make: fn() -> Result<Box<dyn Step>>) -> Named {
    Named { name, what, events: buses::BATCH, place: Place::HereWithRedis, make }
}

// === impl Named ===

impl Named {
    /// Sets the step up.
    ///
    /// # Errors
    ///
    /// Whatever it needs is not there.
    pub fn make(&self) -> Result<Box<dyn Step>> {
        (self.make)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_can_be_done_again_and_again() {
        for named in STEPS {
            let mut step = named.make().unwrap_or_else(|error| panic!("{}: {error:#}", named.name));
            for _ in 0..3 {
                step.prepare().and_then(|()| step.run()).unwrap_or_else(|error| panic!("{}: {error:#}", named.name));
            }
        }
    }
}
