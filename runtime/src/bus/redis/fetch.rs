//! Fetching: what is due, what was dropped or left behind, what is new. In that order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Delivery, Error, Fetched, Origin};
use super::errors;
use super::flight::{Blocking, Flight};
use super::frame::Frame;
use super::lanes::Lane;
use super::member::{Held, Member, millis};
use super::ordered::Ordered;

/// How long one read blocks, and so how late a retry that another host has put in the store can be noticed.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How long a read blocks that covers only some of the topics, because fewer deliveries are wanted than there are
/// topics: the others must not wait for long.
pub(super) const PART_TICK: Duration = Duration::from_millis(20);
/// A wait of none still gives the server time to answer.
const LEAST_WAIT: Duration = Duration::from_millis(5);

/// What the caller of a fetch can take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    All,
    /// Retries that are due.
    Due,
}

/// What the one caller of `fetch` keeps between calls.
pub(super) struct Reading {
    /// The link's epoch when this consumer last renewed what it has.
    pub(super) epoch: u64,
    /// The bus was lost since.
    pub(super) outage: bool,
    /// After an outage nobody claims for one lease: the others may not have had time to renew.
    pub(super) claim_from: Instant,
    pub(super) next_claim: Instant,
    /// Where claiming goes on, by topic.
    pub(super) cursors: Vec<String>,
    pub(super) next_take: Instant,
    pub(super) next_sweep: Instant,
    /// When to look for what is pending under this name and not in hand.
    pub(super) adopt_at: Instant,
    /// Until then a read that broke may still take entries on the server.
    pub(super) suspect_until: Instant,
    /// Groups with order.
    pub(super) ordered: Ordered,
    pub(super) rotation: usize,
    pub(super) connection: Option<Blocking>,
    /// A read under way. It outlives the call that started it, so that a caller who gives up loses nothing.
    pub(super) flight: Option<Flight>,
    /// On a cluster: reads under way, one for the topics of each slot.
    pub(super) lanes: Vec<Lane>,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(epoch: u64, topics: usize, lease: Duration, lanes: Vec<Lane>) -> Self {
        let now = Instant::now();
        Self {
            epoch,
            outage: false,
            claim_from: now,
            next_claim: now,
            cursors: vec!["-".to_owned(); topics],
            next_take: now,
            next_sweep: now + lease,
            adopt_at: now + lease,
            suspect_until: now,
            ordered: Ordered::new(topics),
            rotation: 0,
            connection: None,
            flight: None,
            lanes,
        }
    }

    pub(super) fn is_reading(&self) -> bool {
        self.flight.is_some() || self.lanes.iter().any(|lane| lane.flight.is_some())
    }

    /// What was read may not have arrived: look for it, now and once the server has surely noticed.
    pub(super) fn suspect(&mut self) {
        let now = Instant::now();
        self.adopt_at = now;
        self.suspect_until = now + TICK + TICK / 2;
    }
}

// === impl Member ===

impl Member {
    pub(super) async fn fetch_some(&self, max: usize, wait: Duration, want: Want) -> Result<Fetched, Error> {
        let deadline = Instant::now() + wait.max(LEAST_WAIT);
        let mut reading = self.reading.lock().await;
        let found = if self.group.order.is_some() {
            self.look_in_order(&mut reading, max, deadline, want).await
        } else {
            self.look_around(&mut reading, max, deadline, want).await
        };
        if found.as_ref().is_err_and(Error::is_transient) {
            reading.outage = true;
        }
        found
    }

    async fn look_around(
        &self,
        reading: &mut Reading,
        max: usize,
        deadline: Instant,
        want: Want,
    ) -> Result<Fetched, Error> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            self.recover(reading).await?;
            if max == 0 {
                self.ground(reading).await;
            }
            self.housekeep(reading, max, want).await?;
            let ready = self.hand_out(max, want);
            if !ready.is_empty() || Instant::now() >= deadline {
                return Ok(Fetched::Deliveries(ready));
            }
            if max == 0 {
                self.pause(deadline).await;
            } else if want == Want::Due {
                self.pause(self.look_again(reading, deadline)).await;
            } else {
                self.read_new(reading, max, deadline).await?;
            }
        }
    }

    /// After an outage, and after the group has gone: renew first, then make the group again.
    pub(super) async fn recover(&self, reading: &mut Reading) -> Result<(), Error> {
        if reading.outage || reading.epoch != self.shared.link.epoch() {
            reading.suspect();
            let lost = self.renew_all().await?;
            self.note_lost(lost);
            reading.claim_from = Instant::now() + self.group.lease;
            reading.epoch = self.shared.link.epoch();
            reading.outage = false;
            self.leave_former(reading);
            if self.group.order.is_some() {
                reading.ordered.rewind();
                // What has gone to the retry store is listed nowhere else, and what comes after it must not pass it.
                self.backlog().new.retain(|held| held.stored);
            }
        }
        if self.gone.load(Ordering::Acquire) {
            // Of the topics whose group is still there, what was in hand is found again.
            reading.adopt_at = Instant::now();
            self.regroup().await?;
            self.gone.store(false, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn hand_out(&self, max: usize, want: Want) -> Vec<Delivery> {
        let mut backlog = self.backlog();
        backlog.dropped.extend(self.hand.take_dropped().into_iter().map(Held::dropped));
        let mut ready = Vec::with_capacity(max.min(backlog.len()));
        while ready.len() < max {
            match backlog.pop(want) {
                Some(held) => ready.push(self.deliver(held)),
                None => break,
            }
        }
        ready
    }

    /// The latest moment at which something other than a new message has to be looked at.
    pub(super) fn look_again(&self, reading: &Reading, deadline: Instant) -> Instant {
        let due = self.next_due().unwrap_or(deadline);
        deadline.min(due).min(reading.next_take)
    }

    async fn pause(&self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = self.closing.notified() => {}
            () = self.sooner.notified() => {}
        }
    }

    async fn read_new(&self, reading: &mut Reading, max: usize, deadline: Instant) -> Result<(), Error> {
        if !reading.lanes.is_empty() {
            return self.read_lanes(reading, max, deadline).await;
        }
        if reading.flight.is_none() {
            // Of more topics than deliveries are wanted, only so many are read, and others the next time.
            let some = self.topics.len().min(max);
            let block = if some < self.topics.len() { PART_TICK } else { TICK };
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg(&self.group.name).arg(&self.consumer);
            read.arg("COUNT").arg(max / some).arg("BLOCK").arg(millis(block)).arg("STREAMS");
            for index in self.next_topics(reading, some) {
                read.arg(&self.topics[index].stream);
            }
            for _ in 0..some {
                read.arg(">");
            }
            self.take_off(reading, read, block).await?;
        }
        match self.land(reading, deadline).await {
            None => Ok(()),
            Some(Ok(Ok(found))) => self.take_new(&found),
            Some(Ok(Err(error))) if errors::code(&error) == errors::Code::NoGroup => {
                self.gone.store(true, Ordering::Release);
                Ok(())
            }
            Some(Ok(Err(error))) => {
                reading.connection = None;
                Err(self.refused(&error).await)
            }
            Some(Err(error)) => {
                reading.connection = None;
                reading.suspect();
                Err(error)
            }
        }
    }

    fn next_topics(&self, reading: &mut Reading, some: usize) -> Vec<usize> {
        let topics = (0..some).map(|n| (reading.rotation + n) % self.topics.len()).collect();
        reading.rotation = (reading.rotation + some) % self.topics.len();
        topics
    }

    /// Puts what was read in line to be handed out.
    pub(super) fn take_new(&self, found: &Frame) -> Result<(), Error> {
        let mut new = Vec::new();
        for (stream, entries) in found.streams()? {
            let Some(topic) = self.topics.iter().position(|keys| keys.stream == stream) else {
                return Err(errors::unexpected("a read"));
            };
            let messages = entries.messages(&self.topics[topic].topic)?;
            new.extend(messages.into_iter().map(|message| self.held(topic, message, Origin::New)));
        }
        if self.remade.load(Ordering::Acquire) {
            self.void_older(&new);
        }
        self.backlog().new.extend(new);
        Ok(())
    }

    /// The server refuses to read: by the key's type, if that is why.
    pub(super) async fn refused(&self, error: &redis::ServerError) -> Error {
        if let Some(cluster) = self.shared.link.cluster() {
            cluster.heed(error);
        }
        if errors::code(error) == errors::Code::WrongType {
            let streams: Vec<&str> = self.topics.iter().map(|keys| keys.stream.as_str()).collect();
            if let Ok(Some(wrong)) = self.shared.wrong_type(&streams).await {
                return wrong;
            }
        }
        errors::answered(self.shared.link.target(), error)
    }
}
