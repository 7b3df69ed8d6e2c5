//! Settling when it has to be waited for: a settlement counts once it is as safe as `bus.durability` asks.
//!
//! A settlement that the server has done and that is not known to be safe comes back as failed, and is remembered as
//! done. Sent again over the same connection, only the wait is repeated. Over another one the settlement itself is
//! repeated, because a restart or a failover may have undone it; if it was not undone, the script finds the delivery
//! gone, and what is gone by our own hand is committed.

use redis::{Pipeline, Value};

use super::super::{DeliveryId, Error, Settled};
use super::durable::Durable;
use super::member::Member;
use super::settle::Part;
use super::{errors, parse};
use crate::event::Settlement;

/// How long the key that is written for the sake of the wait is kept.
const TOUCH_SECONDS: u64 = 60;

/// The name of no connection: the one over which it was sent is gone, perhaps before it was done.
const UNANSWERED: u64 = 0;

// === impl Member ===

impl Member {
    /// Sends settlements and waits once for all of them.
    pub(super) async fn settle_durably(&self, durable: &Durable, mut parts: Vec<&mut Part>) {
        let made = match durable.ready().await {
            Ok(made) => made,
            Err(error) => return parts.iter_mut().for_each(|part| part.fail(errors::copy(&error))),
        };
        let (waiting, mut sending): (Vec<&mut Part>, Vec<&mut Part>) =
            parts.into_iter().partition(|part| part.held.done == Some(made));
        self.send_parts(durable.link(), &mut sending).await;
        let mut done: Vec<&mut Part> = waiting;
        let (mut again, mut unanswered) = (Vec::new(), Vec::new());
        for part in sending {
            match (&part.answer, part.held.done) {
                (Some(Settled::Committed), None) => done.push(part),
                (Some(Settled::Committed | Settled::Lost), Some(_)) => again.push(part),
                (Some(Settled::Failed(delivery, _, Error::Unreachable { .. })), _) => unanswered.push(delivery.id()),
                _ => {}
            }
        }
        self.note_done(unanswered, UNANSWERED);
        if let Err(error) = self.find_again(durable, &mut again).await {
            again.into_iter().for_each(|part| part.fail(errors::copy(&error)));
        } else {
            done.extend(again.into_iter().filter(|part| matches!(part.answer, Some(Settled::Committed))));
        }
        if done.is_empty() {
            return;
        }
        match durable.confirm(made).await {
            Ok(_) => done.into_iter().for_each(|part| part.answer = Some(Settled::Committed)),
            Err(error) => {
                self.note_done(done.iter().filter_map(|part| Some(part.delivery.as_ref()?.id())), made);
                done.into_iter().for_each(|part| part.fail(errors::copy(&error)));
            }
        }
    }

    fn note_done(&self, ids: impl IntoIterator<Item = DeliveryId>, made: u64) {
        self.hand.with(|hand| {
            for id in ids {
                hand.get_mut(&id).into_iter().for_each(|held| held.done = Some(made));
            }
        });
    }

    /// Tells what was settled over an earlier connection, and is found so now, from what was undone and is another's by
    /// now.
    async fn find_again(&self, durable: &Durable, parts: &mut [&mut Part]) -> Result<(), Error> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut look = Pipeline::new();
        for part in parts.iter() {
            let keys = &self.topics[part.held.topic];
            let id = part.held.message.position.as_str();
            look.cmd("XPENDING").arg(&keys.stream).arg(&self.group.name).arg(id).arg(id).arg(1);
            look.cmd("HEXISTS").arg(&keys.retry).arg(id);
        }
        // The wait speaks of what this connection wrote, and what is found settled was written by another.
        let mark = &self.topics[0].touch;
        look.cmd("SET").arg(mark).arg(&self.consumer).arg("EX").arg(TOUCH_SECONDS);
        let mut answers = durable.link().send(look).await?.into_iter();
        for part in parts.iter_mut() {
            let (pending, retrying) = (answers.next(), answers.next());
            let is_pending = matches!(&pending, Some(Ok(Value::Array(found))) if !found.is_empty());
            let is_retrying = matches!(&retrying, Some(Ok(found)) if parse::count(found) > 0);
            let is_ours = matches!(part.settlement, Some(Settlement::Retry(_)));
            let undone = is_pending || (is_retrying && !is_ours);
            part.answer = Some(if undone { Settled::Lost } else { Settled::Committed });
        }
        match answers.next() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(errors::answered(durable.link().target(), &error)),
            None => Err(errors::unexpected("SET")),
        }
    }
}
