//! Groups with order: reading for all, and placing what was read.

use std::collections::{BTreeSet, HashSet};

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Error, Origin};
use super::connection::Answer;
use super::fetch::{Reading, TICK};
use super::member::{Held, Member, millis};
use super::slices::{Place, Plan};
use super::{errors, parse, scripts};
use crate::event::Message;

/// Entries read at once at least when others are to have some: a place is a script, whatever it places.
pub(super) const READ_MIN: usize = 256;
/// Entries read at once at most: bounds how long placing them holds the server up.
const READ_MAX: usize = 1_024;
/// Of so many that are pending for the whole group nothing more is read: consumers that cannot follow get no further
/// ahead of themselves than this, and the server's memory for what is pending (some 100 bytes each) stays small.
const PENDING_MAX: usize = 100_000;
/// One entry to be placed.
struct Entry {
    id: String,
    message: Message,
    slice: u16,
}

/// A batch on its way to its slices.
pub(super) struct Batch {
    topic: usize,
    entries: Vec<Entry>,
    plan: Plan,
}

// === impl Reading ===

impl Reading {
    /// Divides the room among `count` topics, another one first each time.
    pub(super) fn portions(&mut self, count: usize, room: usize) -> Vec<usize> {
        let first = self.rotation % count.max(1);
        self.rotation = self.rotation.wrapping_add(1);
        let extra = |n: usize| usize::from((n + count - first) % count < room % count);
        (0..count).map(|n| room / count + extra(n)).collect()
    }
}

// === impl Member ===

impl Member {
    /// Reads where it is this consumer's turn, and places what it finds; what is its own goes in line at once as far as
    /// there is room.
    pub(super) async fn read_in_turn(&self, reading: &mut Reading, room: usize) -> Result<(), Error> {
        let now = Instant::now();
        let reads = |reading: &Reading, topic: usize| match &reading.ordered.turns[topic] {
            Some(turn) => {
                let share = &reading.ordered.shares[topic];
                // Who has everything reads no more than it takes at once, and first takes what lies there.
                let has_use = !share.is_sole() || (room > 0 && !share.is_behind());
                has_use && turn.is_ready(share.version(), now)
            }
            None => false,
        };
        let topics: Vec<usize> = (0..self.topics.len()).filter(|topic| reads(reading, *topic)).collect();
        let portions = reading.portions(topics.len(), room);
        let mut commands = Pipeline::new();
        let mut asked = Vec::with_capacity(topics.len());
        for (topic, portion) in topics.into_iter().zip(portions) {
            let is_sole = reading.ordered.shares[topic].is_sole();
            let count = if is_sole { portion } else { portion.max(READ_MIN) }.min(READ_MAX);
            if count > 0 {
                commands.add_command(self.reading_of(reading, topic, count, is_sole));
                asked.push((topic, portion));
            }
        }
        let answers = self.shared.link.send(commands).await?;
        let mut batches = Vec::new();
        for ((topic, portion), answer) in asked.into_iter().zip(answers) {
            if let Some(found) = self.was_read(reading, topic, answer).await? {
                batches.push(self.batch(reading, topic, found, portion)?);
            }
        }
        if batches.is_empty() { Ok(()) } else { self.place(reading, batches).await }
    }

    fn reading_of(&self, reading: &Reading, topic: usize, count: usize, is_sole: bool) -> Cmd {
        let keys = &self.topics[topic];
        let mut read = scripts::READ.call(&[&keys.stream, &keys.reader, &keys.slices]);
        let word = reading.ordered.turns[topic].as_ref().map_or("", |turn| &turn.word);
        read.arg(&self.group.name).arg(word).arg(reading.ordered.shares[topic].version());
        read.arg(millis(self.group.lease)).arg(count).arg(if is_sole { 0 } else { PENDING_MAX });
        read
    }

    async fn was_read(&self, reading: &mut Reading, topic: usize, answer: Answer) -> Result<Option<Value>, Error> {
        let said = self.said(answer, "a read").await?;
        let turn = &mut reading.ordered.turns[topic];
        match (said, turn) {
            (Some((word, mut rest)), Some(turn)) => match (word.as_str(), rest.next()) {
                ("read", Some(found)) => return Ok(Some(found)),
                ("empty", Some(last)) => turn.end = parse::text(last),
                ("full", _) => turn.rest_until = Instant::now() + TICK,
                ("changed", _) => reading.ordered.look_now(),
                ("standby", _) => reading.end_turn(topic),
                _ => return Err(errors::unexpected("a read")),
            },
            _ => reading.end_turn(topic),
        }
        Ok(None)
    }

    /// Names the lanes of what was read.
    pub(super) fn batch(&self, reading: &Reading, topic: usize, found: Value, room: usize) -> Result<Batch, Error> {
        let found = parse::entries(found)?;
        let mut entries = Vec::with_capacity(found.len());
        for (id, fields) in found {
            let message = parse::message(&self.topics[topic].topic, id.clone(), &fields)?;
            let slice = self.group.order.as_ref().map_or(0, |order| order.lane(&message).slice());
            entries.push(Entry { id, message, slice });
        }
        let plan = reading.ordered.shares[topic].plan(&named(&entries), room);
        Ok(Batch { topic, entries, plan })
    }

    /// Hands batches to their slices.
    pub(super) async fn place(&self, reading: &mut Reading, batches: Vec<Batch>) -> Result<(), Error> {
        let mut commands = Pipeline::with_capacity(batches.len());
        let mut sent = Vec::with_capacity(batches.len());
        for batch in batches {
            // A list may hold nothing but what was trimmed.
            if let (Some(turn), false) = (&reading.ordered.turns[batch.topic], batch.entries.is_empty()) {
                commands.add_command(self.placing(reading, &turn.word, &batch));
                sent.push(batch);
            }
        }
        let answers = self.shared.link.send(commands).await?;
        for (Batch { topic, entries, plan }, answer) in sent.into_iter().zip(answers) {
            let said = self.said(answer, "place").await?;
            let Some((word, mut rest)) = said.filter(|(word, _)| word == "placed") else {
                reading.end_turn(topic);
                continue;
            };
            drop(word);
            let (Some(version), Some(wake), Some(kept), Some(lost)) =
                (rest.next().and_then(parse::text), rest.next().and_then(parse::text), rest.next(), rest.next())
            else {
                return Err(errors::unexpected("place"));
            };
            let granted: BTreeSet<u16> = parse::array(kept, "place")?
                .iter()
                .filter_map(|slice| parse::unsigned(slice).and_then(|slice| u16::try_from(slice).ok()))
                .collect();
            let lost: HashSet<String> = parse::texts(lost, "place")?.into_iter().collect();
            let share = &mut reading.ordered.shares[topic];
            let is_kept = share.placed(&named(&entries), plan, &granted);
            let is_known = share.version() == version;
            let places: Vec<Option<Place>> = entries.iter().map(|entry| share.place(entry.slice)).collect();
            let line: Vec<Held> = entries
                .into_iter()
                .zip(is_kept)
                .zip(places)
                .filter(|((entry, is_kept), _)| *is_kept && !lost.contains(&entry.id))
                .map(|((entry, _), place)| Held { place, ..self.held(topic, entry.message, Origin::New) })
                .collect();
            self.backlog().new.extend(line);
            if !wake.is_empty() {
                reading.ordered.wakes[topic] = wake;
            }
            if !is_known {
                reading.ordered.look_now();
            }
        }
        Ok(())
    }

    fn placing(&self, reading: &Reading, word: &str, batch: &Batch) -> Cmd {
        let keys = &self.topics[batch.topic];
        let named = [&*keys.stream, &keys.reader, &keys.slices, &keys.placed, &keys.wake, &keys.lost];
        let mut place = scripts::PLACE.call(&named);
        place.arg(&self.group.name).arg(word).arg(&self.consumer);
        place.arg(reading.ordered.shares[batch.topic].version()).arg(&reading.ordered.wakes[batch.topic]);
        place.arg(batch.entries.len());
        for entry in &batch.entries {
            place.arg(&entry.id).arg(entry.slice);
        }
        for (slice, (taken, upto)) in &batch.plan.keep {
            place.arg(slice).arg(taken).arg(upto);
        }
        place
    }
}

fn named(entries: &[Entry]) -> Vec<(&str, u16)> {
    entries.iter().map(|entry| (entry.id.as_str(), entry.slice)).collect()
}
