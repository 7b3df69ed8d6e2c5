//! Settling: a batch in one transaction, a savepoint for each that writes more than one row.

use std::sync::Arc;

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::super::{Delivery, Disarmed, Settled};
use super::fault::Fault;
use super::member::{Member, Row, Slot};
use super::store::Store;
use super::worker::{Job, execute};
use super::{dead_letters, keys, topics};
use crate::event::{Effects, Lane, Message, RetryEntry, Settlement};

/// A batch of settlements on its way to the writer.
pub(super) struct Batch {
    store: Arc<Store>,
    member: Arc<Member>,
    orders: Vec<Order>,
    reply: oneshot::Sender<Vec<Settled>>,
}

struct Order {
    delivery: Disarmed,
    settlement: Settlement,
    /// `None` if it is not in hand any more.
    slot: Option<(Slot, i64)>,
    outcome: Outcome,
}

#[derive(Clone)]
enum Outcome {
    Committed,
    Lost,
    Conflict,
    Refused(String),
    Failed(Fault),
}

// === impl Batch ===

impl Batch {
    pub(super) fn new(
        store: &Arc<Store>,
        member: &Arc<Member>,
        batch: Vec<(Delivery, Settlement)>,
    ) -> (Box<Self>, oneshot::Receiver<Vec<Settled>>) {
        let order = |(delivery, settlement): (Delivery, Settlement)| {
            let delivery = delivery.disarm();
            let slot = member.in_hand.with(|held| held.get(&delivery.id).map(|item| (item.slot, item.seq)));
            Order { delivery, settlement, slot, outcome: Outcome::Lost }
        };
        let orders = batch.into_iter().map(order).collect();
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { store: Arc::clone(store), member: Arc::clone(member), orders, reply }), answer)
    }
}

impl Job for Batch {
    fn run(&mut self, db: &Connection) -> Result<(), Fault> {
        for order in &mut self.orders {
            let Some((slot, seq)) = order.slot else { continue };
            order.outcome = match settle(db, &self.member, slot, seq, &order.delivery.message, &order.settlement) {
                Ok(outcome) => outcome,
                // The transaction is gone, and what was settled in it before.
                Err(fault) if db.is_autocommit() => return Err(fault),
                Err(Fault::TooLarge(reason)) => Outcome::Refused(reason),
                Err(fault) => Outcome::Failed(fault),
            };
        }
        Ok(())
    }

    fn finish(self: Box<Self>, stored: Result<(), Fault>) {
        let Self { store, member, orders, reply } = *self;
        let mut wakes = member.is_wanted_from();
        let answer = |order: Order| {
            let outcome = stored.clone().map_or_else(Outcome::Failed, |()| order.outcome);
            if matches!(outcome, Outcome::Committed | Outcome::Lost) {
                member.in_hand.remove(order.delivery.id);
            }
            match outcome {
                Outcome::Committed => {
                    wakes |= !matches!(&order.settlement, Settlement::Ack(effects) if effects.publish.is_empty());
                    Settled::Committed
                }
                Outcome::Lost => Settled::Lost,
                Outcome::Conflict => Settled::Conflict(order.delivery.rearm()),
                Outcome::Refused(reason) => Settled::Refused(order.delivery.rearm(), reason),
                Outcome::Failed(fault) => {
                    Settled::Failed(order.delivery.rearm(), order.settlement, fault.error(store.path()))
                }
            }
        };
        let answers: Vec<Settled> = orders.into_iter().map(answer).collect();
        if wakes {
            store.wake();
        }
        // If nobody waits any more, deliveries among the answers are dropped with them, and come back.
        let _ = reply.send(answers);
    }
}

/// Settles one delivery, or changes nothing.
fn settle(
    db: &Connection,
    member: &Member,
    slot: Slot,
    seq: i64,
    message: &Message,
    settlement: &Settlement,
) -> Result<Outcome, Fault> {
    if matches!(settlement, Settlement::Ack(effects) if effects.is_empty()) {
        let removed = remove(db, member.consumer, slot)?;
        return Ok(if removed { Outcome::Committed } else { Outcome::Lost });
    }
    execute(db, "SAVEPOINT settlement")?;
    let outcome = match settlement {
        Settlement::Ack(effects) => acknowledge(db, member, slot, effects),
        Settlement::Retry(entry) => retry(db, member, slot, seq, message, entry),
        Settlement::Dead(cause) => match remove(db, member.consumer, slot) {
            Ok(true) => dead_letters::store(db, slot.reader, seq, message, cause).map(|()| Outcome::Committed),
            Ok(false) => Ok(Outcome::Lost),
            Err(fault) => Err(fault),
        },
    };
    if !matches!(outcome, Ok(Outcome::Committed)) && !db.is_autocommit() {
        execute(db, "ROLLBACK TO settlement")?;
    }
    if !db.is_autocommit() {
        execute(db, "RELEASE settlement")?;
    }
    outcome
}

/// Removes the row if it is still this consumer's: the check that every settlement makes first.
fn remove(db: &Connection, consumer: i64, slot: Slot) -> Result<bool, Fault> {
    let removed = match slot.row {
        Row::Pending(seq) => db
            .prepare_cached("DELETE FROM pending WHERE reader = ?1 AND seq = ?2 AND consumer = ?3 AND token = ?4")?
            .execute([slot.reader, seq, consumer, slot.token])?,
        Row::Retry(id) => db
            .prepare_cached("DELETE FROM retry WHERE reader = ?1 AND id = ?2 AND consumer = ?3 AND token = ?4")?
            .execute([slot.reader, id, consumer, slot.token])?,
    };
    Ok(removed == 1)
}

fn acknowledge(db: &Connection, member: &Member, slot: Slot, effects: &Effects) -> Result<Outcome, Fault> {
    if !remove(db, member.consumer, slot)? {
        return Ok(Outcome::Lost);
    }
    if !keys::unmoved(db, effects)? {
        return Ok(Outcome::Conflict);
    }
    keys::apply(db, effects)?;
    for outgoing in &effects.publish {
        topics::append(db, &member.names.stored(&outgoing.topic), &outgoing.fields, member.stream_max_len)?;
    }
    Ok(Outcome::Committed)
}

fn retry(
    db: &Connection,
    member: &Member,
    slot: Slot,
    seq: i64,
    message: &Message,
    entry: &RetryEntry,
) -> Result<Outcome, Fault> {
    let (consumer, due) = (member.consumer, topics::stored_millis(entry.due));
    if let Row::Retry(id) = slot.row {
        let put_back = db
            .prepare_cached(
                "UPDATE retry SET consumer = NULL, inherited = 0, attempts = ?5, due_ms = ?6, code = ?7, reason = ?8
                 WHERE reader = ?1 AND id = ?2 AND consumer = ?3 AND token = ?4",
            )?
            .execute(params![slot.reader, id, consumer, slot.token, entry.attempts, due, entry.code, entry.reason])?;
        return Ok(if put_back == 1 { Outcome::Committed } else { Outcome::Lost });
    }
    if !remove(db, consumer, slot)? {
        return Ok(Outcome::Lost);
    }
    // Whoever has the slice after this consumer must know what its lane waits for.
    let lane = member.order.as_ref().map(|order| entry.lane.unwrap_or_else(|| order.lane(message)));
    db.prepare_cached(
        "INSERT INTO retry (reader, seq, first, fields, attempts, due_ms, code, reason, slice, lane)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        slot.reader,
        seq,
        message.first.as_str(),
        &message.fields.pack()[..],
        entry.attempts,
        due,
        entry.code,
        entry.reason,
        lane.map(Lane::slice),
        lane.map(|lane| lane.number().cast_signed()),
    ])?;
    Ok(Outcome::Committed)
}
