//! Groups with order: reading for all, by turns.

use std::collections::{BTreeSet, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Error, Origin};
use super::fetch::{Reading, TICK};
use super::link::Answer;
use super::member::{Held, Member, millis};
use super::record::Record;
use super::slices::{Place, Plan};
use super::{errors, keys, parse, scripts};
use crate::event::{Lane, Message, SLICES};

/// Entries read at once at least when others are to have some: a place is a script, whatever it places.
const READ_MIN: usize = 256;
/// Entries read at once at most: bounds how long placing them holds the server up.
const READ_MAX: usize = 1_024;
/// Of so many that are pending for the whole group nothing more is read: consumers that cannot follow get no further
/// ahead of themselves than this, and the server's memory for what is pending (some 100 bytes each) stays small.
const PENDING_MAX: usize = 100_000;
/// Entries of the retry store that are put into their slices at once, and of others' that are gathered.
const LODGE: usize = 100;

/// This consumer's turn to read a topic.
pub(super) struct Turn {
    /// What stands on the bus while it lasts.
    pub(super) word: String,
    /// What was pending under other names is gathered.
    gathered: bool,
    /// There may be entries that were read and not placed.
    pub(super) unplaced: bool,
    /// The version of the slices when they were last divided.
    divided: String,
    divide_at: Instant,
    /// Everything is read; the last entry there is.
    pub(super) end: Option<String>,
    /// Nothing is read before.
    pub(super) rest_until: Instant,
}

/// One entry to be placed.
struct Entry {
    id: String,
    message: Message,
    slice: u16,
}

/// A batch on its way to its slices.
struct Batch {
    topic: usize,
    entries: Vec<Entry>,
    plan: Plan,
}

// === impl Turn ===

impl Turn {
    pub(super) fn new(word: String) -> Self {
        let now = Instant::now();
        Self {
            word,
            gathered: false,
            unplaced: true,
            divided: String::new(),
            divide_at: now,
            end: None,
            rest_until: now,
        }
    }

    /// When there is something to do even if nothing comes.
    pub(super) fn next(&self) -> Instant {
        self.divide_at
    }
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
    /// What a reader does before it reads: it takes what was left, places what was read, and divides the slices.
    pub(super) async fn begin_turns(&self, reading: &mut Reading) -> Result<(), Error> {
        for topic in 0..self.topics.len() {
            while let Some(turn) = &mut reading.ordered.turns[topic] {
                let version = reading.ordered.shares[topic].version();
                let divide = Instant::now() >= turn.divide_at || turn.divided != version;
                let went_on = if !turn.gathered || divide {
                    let idle = if turn.gathered { millis(self.group.lease) } else { 0 };
                    self.gather(reading, topic, idle).await? && self.lodge(reading, topic).await?
                        && self.divide(reading, topic).await?
                } else if turn.unplaced {
                    self.place_left(reading, topic).await?
                } else {
                    break;
                };
                if !went_on {
                    reading.ordered.look_now();
                    break;
                }
            }
        }
        Ok(())
    }

    /// True if it is still this consumer's turn; else it is noted that it is not.
    fn goes_on(&self, reading: &mut Reading, topic: usize, word: Option<&str>) -> bool {
        if matches!(word, None | Some("standby")) {
            reading.ordered.turns[topic] = None;
            reading.ordered.look_now();
        }
        reading.ordered.turns[topic].is_some()
    }

    /// Gathers what is pending under names that are not of this kind of group.
    async fn gather(&self, reading: &mut Reading, topic: usize, idle: u64) -> Result<bool, Error> {
        let keys = &self.topics[topic];
        loop {
            let Some(turn) = &mut reading.ordered.turns[topic] else { return Ok(false) };
            let mut gather = scripts::GATHER.call(&[&keys.stream, &keys.reader, &keys.attempts, &keys.lost]);
            gather.arg(&self.group.name).arg(&turn.word).arg(idle).arg(LODGE);
            let said = self.said(self.shared.link.one(gather).await?, "gather")?;
            let moved = match said {
                Some((word, mut rest)) if word == "gathered" => {
                    let moved = rest.next().as_ref().map_or(0, parse::count);
                    self.say_lost(topic, &parse::texts(rest.next().unwrap_or(Value::Nil), "gather")?);
                    moved
                }
                said => return Ok(self.goes_on(reading, topic, said.as_ref().map(|(word, _)| word.as_str()))),
            };
            turn.unplaced |= moved > 0;
            if moved < LODGE as u64 {
                turn.gathered = true;
                return Ok(true);
            }
        }
    }

    /// Puts entries of the retry store into their slices that lie in none.
    async fn lodge(&self, reading: &mut Reading, topic: usize) -> Result<bool, Error> {
        let (Some(order), keys) = (&self.group.order, &self.topics[topic]) else { return Ok(true) };
        loop {
            let Some(turn) = &reading.ordered.turns[topic] else { return Ok(false) };
            let mut range = redis::cmd("ZRANGE");
            range.arg(&keys.due).arg(0).arg(LODGE - 1);
            let ids = parse::texts(self.shared.link.value(range).await?, "ZRANGE")?;
            if ids.is_empty() {
                return Ok(true);
            }
            let mut get = redis::cmd("HMGET");
            get.arg(&keys.retry).arg(&ids);
            let records = parse::array(self.shared.link.value(get).await?, "HMGET")?;
            let mut lodge = scripts::LODGE.call(&[&keys.reader, &keys.retry, &keys.due, &keys.wake]);
            lodge.arg(&turn.word);
            for (id, record) in ids.iter().zip(records) {
                let record = parse::bytes(record).and_then(|record| Record::unpack(record.into()));
                let message = record.map(|record| record.message(&keys.topic, id.clone()));
                let lane = message.as_ref().map(|message| order.lane(message));
                // What cannot be read lies somewhere: its owner says so.
                lodge.arg(id).arg(lane.map_or(0, Lane::slice)).arg(lane_text(lane, message.as_ref()));
            }
            let said = self.said(self.shared.link.one(lodge).await?, "lodge")?;
            self.due_by(Instant::now());
            if !self.goes_on(reading, topic, said.as_ref().map(|(word, _)| word.as_str())) {
                return Ok(false);
            }
        }
    }

    async fn divide(&self, reading: &mut Reading, topic: usize) -> Result<bool, Error> {
        let keys = &self.topics[topic];
        let Some(turn) = &reading.ordered.turns[topic] else { return Ok(false) };
        let mut divide =
            scripts::DIVIDE.call(&[&keys.reader, &keys.slices, &keys.alive, &keys.retry, &keys.due, &keys.wake]);
        // After an outage nobody is dead yet: the others may not have had time to show that they live.
        let burying = u8::from(Instant::now() >= reading.claim_from);
        divide.arg(&turn.word).arg(&self.consumer).arg(SLICES).arg(burying);
        let said = self.said(self.shared.link.one(divide).await?, "divide")?;
        match (said, &mut reading.ordered.turns[topic]) {
            (Some((word, mut rest)), Some(turn)) if word == "divided" => {
                turn.divided = rest.next().and_then(parse::text).unwrap_or_default();
                turn.divide_at = Instant::now() + self.tick();
                if turn.divided != reading.ordered.shares[topic].version() {
                    reading.ordered.look_now();
                    // What is to be read comes after that look.
                    return Ok(false);
                }
                Ok(true)
            }
            (said, _) => Ok(self.goes_on(reading, topic, said.as_ref().map(|(word, _)| word.as_str()))),
        }
    }

    /// Places what was read and not placed: what this consumer has read and the answer was lost, or what a reader that
    /// died or froze has left.
    async fn place_left(&self, reading: &mut Reading, topic: usize) -> Result<bool, Error> {
        let keys = &self.topics[topic];
        let Some(turn) = &mut reading.ordered.turns[topic] else { return Ok(false) };
        let mut list = scripts::UNPLACED.call(&[&keys.stream, &keys.reader]);
        list.arg(&self.group.name).arg(&turn.word).arg(READ_MIN);
        let said = self.said(self.shared.link.one(list).await?, "a list")?;
        let found: Vec<Value> = match said {
            Some((word, rest)) if word == "found" => rest.collect(),
            said => return Ok(self.goes_on(reading, topic, said.as_ref().map(|(word, _)| word.as_str()))),
        };
        if found.is_empty() {
            turn.unplaced = false;
            return Ok(true);
        }
        let (mut left, mut trimmed) = (Vec::with_capacity(found.len()), Vec::new());
        for entry in found {
            match <[Value; 2]>::try_from(parse::array(entry, "an entry")?) {
                Ok([id, Value::Array(fields)]) => left.push(Value::Array(vec![id, Value::Array(fields)])),
                Ok([id, Value::Nil]) => trimmed.extend(parse::text(id)),
                _ => return Err(errors::unexpected("an entry")),
            }
        }
        if !trimmed.is_empty() {
            self.let_trimmed_go(topic, keys::READER, &trimmed).await?;
        }
        let batch = self.batch(reading, topic, Value::Array(left), 0)?;
        self.place(reading, vec![batch]).await?;
        Ok(reading.ordered.turns[topic].is_some())
    }

    /// Reads where it is this consumer's turn, and places what it finds; what is its own goes in line at once as far as
    /// there is room.
    pub(super) async fn read_in_turn(&self, reading: &mut Reading, room: usize) -> Result<(), Error> {
        let now = Instant::now();
        let reads = |reading: &Reading, topic: usize| match &reading.ordered.turns[topic] {
            Some(turn) => {
                let share = &reading.ordered.shares[topic];
                let is_ready = turn.gathered && !turn.unplaced && turn.divided == share.version();
                // Who has everything reads no more than it takes at once, and first takes what lies there.
                let has_use = !share.is_sole() || (room > 0 && !share.is_behind());
                is_ready && has_use && turn.end.is_none() && now >= turn.rest_until
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
            if let Some(found) = self.was_read(reading, topic, answer)? {
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

    fn was_read(&self, reading: &mut Reading, topic: usize, answer: Answer) -> Result<Option<Value>, Error> {
        let answer = match answer {
            Err(error) if errors::code(&error) == errors::Code::WrongType => {
                let keys = &self.topics[topic];
                return Err(Error::WrongType { key: keys.stream.clone(), found: "other type".into(), expected: "stream" });
            }
            answer => answer,
        };
        let said = self.said(answer, "a read")?;
        let turn = &mut reading.ordered.turns[topic];
        match (said, turn) {
            (Some((word, mut rest)), Some(turn)) => match (word.as_str(), rest.next()) {
                ("read", Some(found)) => return Ok(Some(found)),
                ("empty", Some(last)) => turn.end = parse::text(last),
                ("full", _) => turn.rest_until = Instant::now() + TICK,
                ("changed", _) => reading.ordered.look_now(),
                ("standby", _) => drop(self.goes_on(reading, topic, None)),
                _ => return Err(errors::unexpected("a read")),
            },
            _ => drop(self.goes_on(reading, topic, None)),
        }
        Ok(None)
    }

    /// Names the lanes of what was read.
    fn batch(&self, reading: &Reading, topic: usize, found: Value, room: usize) -> Result<Batch, Error> {
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
    async fn place(&self, reading: &mut Reading, batches: Vec<Batch>) -> Result<(), Error> {
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
            let said = self.said(answer, "place")?;
            let Some((word, mut rest)) = said.filter(|(word, _)| word == "placed") else {
                self.goes_on(reading, topic, None);
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

    /// True while this consumer has to be reckoned with: it fetches, or it has something in hand.
    pub(super) fn is_present(&self) -> bool {
        let fetched = *self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.elapsed() < self.group.lease || self.hand.holds_any()
    }

    /// After something has left the hand: a slice that others are to have may be free.
    pub(super) fn settled_some(&self) {
        if self.giving.load(Ordering::Acquire) {
            self.hand.nudge();
        }
    }
}

fn named(entries: &[Entry]) -> Vec<(&str, u16)> {
    entries.iter().map(|entry| (entry.id.as_str(), entry.slice)).collect()
}

/// What the retry store keeps of the lane that waits for a message.
pub(super) fn lane_text(lane: Option<Lane>, message: Option<&Message>) -> String {
    match (lane, message) {
        (Some(lane), Some(message)) => format!("{} {}", lane.number(), message.first),
        _ => String::new(),
    }
}
