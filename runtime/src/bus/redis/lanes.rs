//! Reading on a cluster: one read names keys of one slot only, so there is one under way for each slot that the topics
//! lie in, on a connection to the node that serves it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use tokio::time::Instant;

use super::super::Error;
use super::cluster::Redirect;
use super::errors;
use super::fetch::{PART_TICK, Reading, TICK};
use super::flight::Landed;
use super::flight::{Blocking, Flight};
use super::keys::Keys;
use super::member::{Member, millis};
use super::slots::slot;
use super::url::Address;

/// The topics of one slot, and the read of them that is under way.
pub(super) struct Lane {
    /// Their indices.
    pub(super) topics: Vec<usize>,
    pub(super) blocking: Option<Blocking>,
    /// It outlives the call that started it, so that a caller who gives up loses nothing.
    pub(super) flight: Option<Flight>,
    /// Where the next read goes: the slot is on its way there.
    asked: Option<Address>,
}

/// The lanes of these topics.
pub(super) fn of(topics: &[Keys]) -> Vec<Lane> {
    let mut lanes: Vec<(u16, Lane)> = Vec::new();
    for (index, keys) in topics.iter().enumerate() {
        let slot = slot(keys.stream.as_bytes());
        match lanes.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, lane)) => lane.topics.push(index),
            None => lanes.push((slot, Lane { topics: vec![index], blocking: None, flight: None, asked: None })),
        }
    }
    lanes.into_iter().map(|(_, lane)| lane).collect()
}

// === impl Lane ===

impl Lane {
    /// Drops its connection, and the read on it, if that is so.
    pub(super) fn leave_if(&mut self, leave: impl Fn(&Blocking) -> bool) {
        // One to where the slot is on its way is meant to lead elsewhere.
        if self.asked.is_none() && self.blocking.as_ref().is_some_and(leave) {
            (self.blocking, self.flight) = (None, None);
        }
    }
}

// === impl Member ===

impl Member {
    pub(super) async fn read_lanes(&self, reading: &mut Reading, max: usize, deadline: Instant) -> Result<(), Error> {
        let lanes = reading.lanes.len();
        // Of more lanes than deliveries are wanted, only so many are read at a time.
        let some = lanes.min(max);
        let mut free = some.saturating_sub(reading.lanes.iter().filter(|lane| lane.flight.is_some()).count());
        // What a read under way has taken looks lost until it lands: so when that is due to be looked at, none starts.
        if Instant::now() >= reading.adopt_at {
            if !reading.is_reading() {
                return Ok(());
            }
            free = 0;
        }
        for _ in 0..lanes {
            if free == 0 {
                break;
            }
            let index = reading.rotation % lanes;
            reading.rotation = (index + 1) % lanes;
            if reading.lanes[index].flight.is_none() {
                free -= 1;
                self.take_off_lane(reading, index, max / some, some < lanes).await?;
            }
        }
        let until = self.look_again(reading, deadline);
        let landed = tokio::select! {
            biased;
            landed = landed(&mut reading.lanes) => landed,
            () = self.hand.returned() => Vec::new(),
            () = self.closing.notified() => Vec::new(),
            () = self.sooner.notified() => Vec::new(),
            () = tokio::time::sleep_until(until) => Vec::new(),
        };
        let mut trouble = None;
        // What was read first: the rest waits, and a caller who gives up would lose it for a lease.
        let (read, other): (Vec<_>, Vec<_>) = landed.into_iter().partition(|(_, answer)| matches!(answer, Ok(Ok(_))));
        for (index, answer) in read.into_iter().chain(other) {
            trouble = self.land_lane(reading, index, answer).await.err().or(trouble);
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn take_off_lane(
        &self,
        reading: &mut Reading,
        index: usize,
        count: usize,
        is_part: bool,
    ) -> Result<(), Error> {
        let lane = &mut reading.lanes[index];
        let block = if is_part { PART_TICK } else { TICK };
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group.name).arg(&self.consumer);
        read.arg("COUNT").arg((count / lane.topics.len()).max(1)).arg("BLOCK").arg(millis(block)).arg("STREAMS");
        for topic in &lane.topics {
            read.arg(&self.topics[*topic].stream);
        }
        for _ in &lane.topics {
            read.arg(">");
        }
        let asking = lane.asked.is_some();
        let blocking = match (&lane.blocking, &lane.asked) {
            (Some(blocking), _) => blocking.clone(),
            (None, Some(address)) => {
                let Some(cluster) = self.shared.link.cluster() else { return Err(errors::unexpected("ASK")) };
                let own = cluster.node(address)?.connect_here().await.inspect_err(|_| cluster.doubt())?;
                lane.blocking.insert(self.introduce(own).await?).clone()
            }
            (None, None) => {
                let connected = self.connect(&self.topics[lane.topics[0]].stream).await;
                lane.blocking.insert(connected?).clone()
            }
        };
        let shared = Arc::clone(&self.shared);
        lane.flight = Some(Box::pin(async move {
            let target = shared.link.target();
            if asking {
                let word = redis::cmd("ASKING");
                blocking.own.connection.ask(target, &word, std::time::Duration::ZERO).await?.ok();
            }
            blocking.own.connection.ask(target, &read, block).await
        }));
        Ok(())
    }

    /// Ends the read under way on a lane; see [`Member::ground`].
    pub(super) async fn end_lane(&self, lane: &mut Lane) -> bool {
        if lane.flight.is_none() {
            return true;
        }
        let ended = self.end_read(&mut lane.blocking, &mut lane.flight).await;
        if lane.asked.take().is_some() {
            lane.blocking = None;
        }
        ended
    }

    async fn land_lane(&self, reading: &mut Reading, index: usize, answer: Landed) -> Result<(), Error> {
        let lane = &mut reading.lanes[index];
        if lane.asked.take().is_some() {
            // Whether the slot has arrived, its old node knows.
            lane.blocking = None;
        }
        match answer {
            // Without a pause in between: see above.
            Ok(Ok(found)) => self.take_new(&found),
            Ok(Err(error)) if errors::code(&error) == errors::Code::NoGroup => {
                self.gone.store(true, Ordering::Release);
                Ok(())
            }
            Ok(Err(error)) => {
                lane.blocking = None;
                match self.shared.link.cluster().and_then(|cluster| cluster.heed(&error)) {
                    Some(redirect) => {
                        if let Redirect::Ask(address) = redirect {
                            lane.asked = Some(address);
                        }
                        // Nodes that do not agree yet would be asked without pause.
                        tokio::time::sleep(PART_TICK).await;
                        Ok(())
                    }
                    None => Err(self.refused(&error).await),
                }
            }
            Err(error) => {
                lane.blocking = None;
                reading.suspect();
                if let Some(cluster) = self.shared.link.cluster() {
                    cluster.doubt();
                }
                Err(error)
            }
        }
    }
}

/// Waits for reads under way and returns those that have ended: at least one, unless none is under way.
async fn landed(lanes: &mut [Lane]) -> Vec<(usize, Landed)> {
    poll_fn(|context| {
        let mut landed = Vec::new();
        for (index, lane) in lanes.iter_mut().enumerate() {
            if let Some(flight) = &mut lane.flight
                && let Poll::Ready(answer) = flight.as_mut().poll(context)
            {
                lane.flight = None;
                landed.push((index, answer));
            }
        }
        if landed.is_empty() { Poll::Pending } else { Poll::Ready(landed) }
    })
    .await
}
