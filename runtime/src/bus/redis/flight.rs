//! Reads that block, on a connection of their own: started, waited for, and ended when the consumer leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ServerError};
use tokio::time::Instant;

use super::super::Error;
use super::connection::Own;
use super::fetch::Reading;
use super::frame::Frame;
use super::member::Member;
use super::parse;

/// What came of a read.
pub(super) type Landed = Result<Result<Frame, ServerError>, Error>;

/// A read under way.
pub(super) type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// The connection for reads that block.
#[derive(Clone)]
pub(super) struct Blocking {
    pub(super) own: Own,
    id: i64,
}

// === impl Member ===

impl Member {
    /// Starts a read that blocks.
    pub(super) async fn take_off(&self, reading: &mut Reading, read: Cmd, block: Duration) -> Result<(), Error> {
        let blocking = match &reading.connection {
            Some(blocking) => blocking.clone(),
            None => {
                let blocking = self.connect(&self.topics[0].stream).await?;
                reading.connection.insert(blocking).clone()
            }
        };
        let shared = Arc::clone(&self.shared);
        reading.flight =
            Some(Box::pin(async move { blocking.own.connection.ask(shared.link.target(), &read, block).await }));
        Ok(())
    }

    /// Waits for the read under way, or until there is something else to do.
    pub(super) async fn land(&self, reading: &mut Reading, deadline: Instant) -> Option<Landed> {
        let until = self.look_again(reading, deadline);
        let flight = reading.flight.as_mut()?;
        let landed = tokio::select! {
            biased;
            answer = flight => Some(answer),
            () = self.hand.returned() => None,
            () = self.closing.notified() => None,
            () = self.sooner.notified() => None,
            () = tokio::time::sleep_until(until) => None,
        };
        if landed.is_some() {
            reading.flight = None;
        }
        landed
    }

    /// Connects to where a key lies.
    pub(super) async fn connect(&self, key: &str) -> Result<Blocking, Error> {
        self.introduce(self.shared.link.connect(key).await?).await
    }

    /// Learns the connection's number.
    pub(super) async fn introduce(&self, own: Own) -> Result<Blocking, Error> {
        let mut id = redis::cmd("CLIENT");
        id.arg("ID");
        // Only serves to end a blocked read at closing; without the right to ask, closing takes a moment longer.
        let answer = own.connection.ask(self.shared.link.target(), &id, Duration::ZERO).await?;
        let id = answer.ok().and_then(|answer| answer.value().ok()?.ok());
        let id = id.as_ref().and_then(parse::int).unwrap_or(0);
        Ok(Blocking { own, id })
    }

    /// Drops connections for reads that lead to where the topics no longer are; whoever is there may never answer.
    pub(super) fn leave_former(&self, reading: &mut Reading) {
        let link = &self.shared.link;
        let is_former =
            |blocking: &Blocking, topic: usize| !link.is_current(blocking.own.at.as_ref(), &self.topics[topic].stream);
        if reading.connection.as_ref().is_some_and(|blocking| is_former(blocking, 0)) {
            (reading.connection, reading.flight) = (None, None);
        }
        for lane in &mut reading.lanes {
            let topic = lane.topics[0];
            lane.leave_if(|blocking| is_former(blocking, topic));
        }
    }

    /// Ends a read under way, so that nothing is taken after this consumer has left.
    pub(super) async fn stop_reading(&self) {
        let mut reading = self.reading.lock().await;
        self.ground(&mut reading).await;
        reading.connection = None;
        reading.lanes.iter_mut().for_each(|lane| lane.blocking = None);
    }

    /// Ends reads under way. What they have taken is put in line.
    pub(super) async fn ground(&self, reading: &mut Reading) {
        if !reading.is_reading() {
            return;
        }
        // Should the caller give up meanwhile, what was read is looked for.
        let adopt_at = std::mem::replace(&mut reading.adopt_at, Instant::now());
        let mut ended = self.end_read(&mut reading.connection, &mut reading.flight).await;
        let lanes = join_all(reading.lanes.iter_mut().map(|lane| self.end_lane(lane))).await;
        ended &= lanes.into_iter().all(|ended| ended);
        // What it took is looked for.
        if ended { reading.adopt_at = adopt_at } else { reading.suspect() }
    }

    /// True unless it may have taken something that has not arrived.
    pub(super) async fn end_read(&self, connection: &mut Option<Blocking>, flight: &mut Option<Flight>) -> bool {
        let (Some(blocking), Some(flight)) = (connection.clone(), flight.take()) else { return true };
        let mut unblock = redis::cmd("CLIENT");
        unblock.arg("UNBLOCK").arg(blocking.id);
        let (_, landed) = tokio::join!(self.shared.link.one_at(blocking.own.at.as_ref(), unblock), flight);
        let refused = match landed {
            Ok(Ok(found)) => {
                if self.group.order.is_none() {
                    let _ = self.take_new(&found);
                }
                return true;
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        *connection = None;
        if let Some(cluster) = self.shared.link.cluster() {
            refused.map_or_else(|| cluster.doubt(), |error| drop(cluster.heed(&error)));
        }
        false
    }
}
