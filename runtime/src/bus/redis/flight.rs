//! Reads that block, on a connection of their own: started, waited for, and ended when the consumer leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::super::Error;
use super::fetch::Reading;
use super::link::Answer;
use super::member::Member;
use super::parse;

/// A read under way.
pub(super) type Flight = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// The connection for reads that block.
#[derive(Clone)]
pub(super) struct Blocking {
    connection: MultiplexedConnection,
    id: i64,
}

// === impl Member ===

impl Member {
    /// Starts a read that blocks.
    pub(super) async fn take_off(&self, reading: &mut Reading, read: Cmd, block: Duration) -> Result<(), Error> {
        let mut blocking = match &reading.connection {
            Some(blocking) => blocking.clone(),
            None => {
                let blocking = self.connect().await?;
                reading.connection.insert(blocking).clone()
            }
        };
        let shared = Arc::clone(&self.shared);
        reading.flight =
            Some(Box::pin(async move { shared.link.send_blocking(&mut blocking.connection, &read, block).await }));
        Ok(())
    }

    /// Waits for the read under way, or until there is something else to do.
    pub(super) async fn land(&self, reading: &mut Reading, deadline: Instant) -> Option<Result<Answer, Error>> {
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

    async fn connect(&self) -> Result<Blocking, Error> {
        let mut connection = self.shared.link.connect().await?;
        let mut id = redis::cmd("CLIENT");
        id.arg("ID");
        // Only serves to end a blocked read at closing; without the right to ask, closing takes a moment longer.
        let answer = self.shared.link.send_blocking(&mut connection, &id, Duration::ZERO).await?;
        let id = answer.ok().as_ref().and_then(parse::int).unwrap_or(0);
        Ok(Blocking { connection, id })
    }

    /// Ends a read under way, so that nothing is taken after this consumer has left.
    pub(super) async fn stop_reading(&self) {
        let mut reading = self.reading.lock().await;
        self.ground(&mut reading).await;
        reading.connection = None;
    }

    /// Ends a read under way. What it has taken is put in line.
    pub(super) async fn ground(&self, reading: &mut Reading) {
        // Should the caller give up meanwhile, what was read is looked for.
        let adopt_at = std::mem::replace(&mut reading.adopt_at, Instant::now());
        if let (Some(blocking), Some(flight)) = (reading.connection.clone(), reading.flight.take()) {
            let mut unblock = redis::cmd("CLIENT");
            unblock.arg("UNBLOCK").arg(blocking.id);
            let (_, landed) = tokio::join!(self.shared.link.one(unblock), flight);
            match landed {
                Ok(Ok(found)) if self.group.order.is_none() => {
                    let _ = self.take_new(found);
                }
                Ok(Ok(_)) => {}
                // What it took is looked for.
                Ok(Err(_)) | Err(_) => {
                    reading.connection = None;
                    return reading.suspect();
                }
            }
        }
        reading.adopt_at = adopt_at;
    }
}
