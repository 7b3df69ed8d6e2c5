//! Settling: plain acknowledgements in bulk, everything else by a script each, all in one write.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Delivery, DeliveryId, Error, Settled};
use super::connection::Answer;
use super::hold::{COMMITS, DEADS, RETRIES};
use super::link::Link;
use super::member::{Held, Member, millis};
use super::record::{Record, dead_fields};
use super::{effects, errors, parse};
use crate::event::{Effects, Fields, Message, RetryEntry, Settlement};

mod across;

/// Ids in one command. Keeps one command's work on the server well under a millisecond.
const ACKS: usize = 1_000;

/// One delivery of a batch.
pub(super) struct Part {
    pub(super) delivery: Option<Delivery>,
    pub(super) settlement: Option<Settlement>,
    pub(super) held: Held,
    pub(super) answer: Option<Settled>,
}

/// Marks deliveries as being settled, until it is dropped: also when the caller gives the whole settlement up.
struct Settling<'a> {
    member: &'a Member,
    ids: Vec<DeliveryId>,
}

// === impl Member ===

impl Member {
    pub(super) async fn settle_all(&self, batch: Vec<(Delivery, Settlement)>) -> Vec<Settled> {
        // A receipt is never dropped under the table's lock: its drop takes the same lock.
        let (settling, held) = Settling::of(self, batch.iter().map(|(delivery, _)| delivery.id()).collect());
        let mut answers: Vec<Option<Settled>> = Vec::with_capacity(batch.len());
        let mut parts: Vec<(usize, Part)> = Vec::with_capacity(batch.len());
        for (index, ((delivery, settlement), held)) in batch.into_iter().zip(held).enumerate() {
            answers.push(held.is_none().then_some(Settled::Lost));
            if let Some(held) = held {
                let (delivery, settlement) = (Some(delivery), Some(settlement));
                parts.push((index, Part { delivery, settlement, held, answer: None }));
            }
        }
        let mut all: Vec<&mut Part> = parts.iter_mut().map(|(_, part)| part).collect();
        match &self.durable {
            None => self.send_parts(&self.shared.link, &mut all).await,
            Some(durable) => self.settle_durably(durable, all).await,
        }
        // What is over leaves the table before its receipt is dropped, so that nobody takes the drop for a return.
        self.hand.with(|hand| {
            for (_, part) in &parts {
                match (&part.delivery, &part.answer) {
                    (Some(delivery), Some(Settled::Committed | Settled::Lost)) => drop(hand.remove(&delivery.id())),
                    // The next settlement may publish something else.
                    (_, Some(Settled::Conflict(delivery) | Settled::Refused(delivery, _))) => {
                        if let Some(held) = hand.get_mut(&delivery.id()) {
                            held.appended = false;
                        }
                    }
                    _ => {}
                }
            }
        });
        drop(settling);
        self.settled_some();
        for (index, part) in parts {
            answers[index] = part.answer;
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Settled::Lost)).collect()
    }

    pub(super) async fn send_parts(&self, link: &Link, parts: &mut [&mut Part]) {
        self.append_across(parts).await;
        let mut commands = Pipeline::with_capacity(parts.len());
        let mut plain: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut scripted = Vec::new();
        let is_ordered = self.group.order.is_some();
        for (index, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.answer.is_none()) {
            if part.is_plain(is_ordered) {
                plain.entry(part.held.topic).or_default().push(index);
                continue;
            }
            match self.command(part) {
                Ok(command) => {
                    commands.add_command(command);
                    scripted.push(index);
                }
                Err(reason) => part.refuse(reason),
            }
        }
        let mut acks: Vec<Vec<usize>> = Vec::new();
        for (topic, indices) in plain {
            for some in indices.chunks(ACKS) {
                let all: Vec<&Held> = some.iter().map(|index| &parts[*index].held).collect();
                commands.add_command(if is_ordered { self.acks(topic, &all) } else { self.ack(topic, &all) });
                acks.push(some.to_vec());
            }
        }
        let answers = match link.send(commands).await {
            Ok(answers) => answers,
            Err(error) => {
                for part in parts.iter_mut().filter(|part| part.answer.is_none()) {
                    part.fail(errors::copy(&error));
                }
                return;
            }
        };
        let mut answers = answers.into_iter();
        for index in scripted {
            if let Some(answer) = answers.next() {
                self.read_answer(parts[index], answer);
            }
        }
        let mut again = Vec::new();
        for some in acks {
            match answers.next() {
                Some(Ok(Value::Array(each))) => {
                    for (index, answer) in some.into_iter().zip(each) {
                        let done = parse::count(&answer) == 1;
                        parts[index].answer = Some(if done { Settled::Committed } else { Settled::Lost });
                    }
                }
                Some(Ok(answer)) if parse::count(&answer) == some.len() as u64 => {
                    some.into_iter().for_each(|index| parts[index].answer = Some(Settled::Committed));
                }
                // Some were not pending: settled before, taken over, or moved to the retry store by a renewal that
                // found them trimmed. The script knows.
                Some(Ok(_)) => again.extend(some),
                Some(Err(error)) if errors::code(&error) == errors::Code::NoGroup => again.extend(some),
                Some(Err(error)) => {
                    for index in some {
                        parts[index].fail(errors::answered(self.shared.link.target(), &error));
                    }
                }
                None => {}
            }
        }
        self.ack_singly(link, parts, &again).await;
    }

    async fn ack_singly(&self, link: &Link, parts: &mut [&mut Part], again: &[usize]) {
        if again.is_empty() {
            return;
        }
        let mut commands = Pipeline::with_capacity(again.len());
        for index in again {
            commands.add_command(self.commit(&parts[*index].held, &Effects::default()));
        }
        match link.send(commands).await {
            Ok(answers) => {
                for (index, answer) in again.iter().zip(answers) {
                    self.read_answer(parts[*index], answer);
                    // Acknowledged by the command before, or by somebody else: either way it is.
                    if matches!(parts[*index].answer, Some(Settled::Lost)) {
                        parts[*index].answer = Some(Settled::Committed);
                    }
                }
            }
            Err(error) => again.iter().for_each(|index| parts[*index].fail(errors::copy(&error))),
        }
    }

    fn command(&self, part: &Part) -> Result<Cmd, String> {
        let held = &part.held;
        match &part.settlement {
            Some(Settlement::Ack(effects)) => {
                if let Some(reason) = effects::unfit(effects) {
                    return Err(reason);
                }
                if self.is_space_across(held, effects) {
                    let space = self.shared.space(&effects.key_space);
                    return Err(format!("{space} lies in another slot of the cluster than the event's topic"));
                }
                Ok(self.commit(held, effects))
            }
            Some(Settlement::Retry(entry)) => Ok(self.retry(held, entry)),
            Some(Settlement::Dead(cause)) => {
                let mut dead = self.held_call(&DEADS, held, &[&self.topics[held.topic].dead]);
                for (name, value) in dead_fields(&held.message, cause) {
                    dead.arg(name).arg(value);
                }
                Ok(dead)
            }
            None => Err("nothing to settle".to_owned()),
        }
    }

    fn retry(&self, held: &Held, entry: &RetryEntry) -> Cmd {
        let delay = entry.due.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        self.due_by(Instant::now() + delay);
        let record = record(&held.message, entry.attempts, &entry.code, &entry.reason);
        let mut retry = self.held_call(&RETRIES, held, &[]);
        retry.arg(millis(delay)).arg(record.pack()).arg(self.lane_of(held, entry.lane));
        retry
    }

    fn commit(&self, held: &Held, effects: &Effects) -> Cmd {
        let placed = effects::Placed::of(&self.shared, effects, |topic| !self.is_across(held, topic));
        let more: Vec<&str> = placed.keys(&self.topics[held.topic].stream).collect();
        let mut commit = self.held_call(&COMMITS, held, &more);
        for stream in placed.streams() {
            self.shared.trimmer.wrote(self.shared.trimming, stream);
        }
        placed.push(&mut commit, self.shared.trimming.max_len, effects);
        commit
    }

    fn read_answer(&self, part: &mut Part, answer: Answer) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return match effects::refusal(&error) {
                    Some(reason) => part.refuse(reason),
                    None => part.fail(errors::answered(self.shared.link.target(), &error)),
                };
            }
        };
        let words = match &answer {
            Value::Array(words) => words.first().cloned().and_then(parse::text),
            _ => None,
        };
        match words.as_deref() {
            Some("done") => part.answer = Some(Settled::Committed),
            Some("lost") => part.answer = Some(Settled::Lost),
            Some("conflict") => part.answer = part.delivery.take().map(Settled::Conflict),
            Some("refused") => {
                let reason = parse::texts(answer, "a settlement").ok().and_then(|mut words| words.pop());
                part.refuse(reason.unwrap_or_default());
            }
            _ => part.fail(self.misused(answer)),
        }
    }

    /// The error in a script's answer that names a key of the wrong type.
    pub(super) fn misused(&self, answer: Value) -> Error {
        super::misused(answer).unwrap_or_else(|| errors::unexpected("a script"))
    }
}

// === impl Part ===

impl Part {
    /// True if a mere acknowledgement does. Without order it may skip the check, if nothing of ours has to be cleared
    /// up; with order the script for many checks each and clears up.
    fn is_plain(&self, is_ordered: bool) -> bool {
        let empty = matches!(&self.settlement, Some(Settlement::Ack(effects)) if effects.is_empty());
        empty && (is_ordered || !(self.held.stored || self.held.counted))
    }

    fn refuse(&mut self, reason: String) {
        self.answer = self.delivery.take().map(|delivery| Settled::Refused(delivery, reason));
    }

    pub(super) fn fail(&mut self, error: Error) {
        if let (Some(delivery), Some(settlement)) = (self.delivery.take(), self.settlement.take()) {
            self.answer = Some(Settled::Failed(delivery, settlement, error));
        }
    }
}

// === impl Settling ===

impl<'a> Settling<'a> {
    /// Marks what is still in hand, and returns what is known of each.
    fn of(member: &'a Member, ids: Vec<DeliveryId>) -> (Self, Vec<Option<Held>>) {
        let held = member.hand.with(|hand| {
            let mark = |id| {
                hand.get_mut(id).map(|held| {
                    held.settling = true;
                    held.clone()
                })
            };
            ids.iter().map(mark).collect()
        });
        (Self { member, ids }, held)
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.member.hand.with(|hand| {
            for id in &self.ids {
                if let Some(held) = hand.get_mut(id) {
                    held.settling = false;
                }
            }
        });
    }
}

/// What the retry store keeps of a message.
pub(super) fn record(message: &Message, attempts: u32, code: &str, reason: &str) -> Record {
    Record {
        attempts,
        code: code.to_owned(),
        reason: reason.to_owned(),
        first: message.first.clone(),
        fields: message.fields.clone(),
    }
}

/// Appends names and values.
pub(super) fn push_fields(command: &mut Cmd, fields: &Fields) {
    for (name, value) in fields.iter() {
        command.arg(name).arg(value);
    }
}
