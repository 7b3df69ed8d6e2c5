//! Groups with order: this consumer's turn to read for all, and what it does before it reads.

use redis::Value;
use tokio::time::Instant;

use super::super::Error;
use super::fetch::Reading;
use super::hold::lane_text;
use super::member::{Member, millis};
use super::place::READ_MIN;
use super::record::Record;
use super::{errors, keys, parse, scripts};
use crate::event::{Lane, SLICES};

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

    /// True if there is nothing to be done before reading.
    pub(super) fn is_ready(&self, version: &str, now: Instant) -> bool {
        self.gathered && !self.unplaced && self.divided == version && self.end.is_none() && now >= self.rest_until
    }

    /// When there is something to do even if nothing comes.
    pub(super) fn next(&self) -> Instant {
        self.divide_at
    }
}

// === impl Reading ===

impl Reading {
    /// It is another's turn, or the group is gone.
    pub(super) fn end_turn(&mut self, topic: usize) {
        self.ordered.turns[topic] = None;
        self.ordered.look_now();
    }
}

// === impl Member ===

impl Member {
    /// What a reader does before it reads: it takes what was left, places what was read, and divides the slices.
    pub(super) async fn begin_turns(&self, reading: &mut Reading) -> Result<(), Error> {
        for topic in 0..self.topics.len() {
            while let Some(turn) = &mut reading.ordered.turns[topic] {
                self.note_work();
                let version = reading.ordered.shares[topic].version();
                let divide = Instant::now() >= turn.divide_at || turn.divided != version;
                let went_on = if !turn.gathered || divide {
                    let idle = if turn.gathered { millis(self.group.lease) } else { 0 };
                    self.gather(reading, topic, idle).await?
                        && self.lodge(reading, topic).await?
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
            reading.end_turn(topic);
        }
        reading.ordered.turns[topic].is_some()
    }

    /// Gathers what is pending under names that are not of this kind of group.
    async fn gather(&self, reading: &mut Reading, topic: usize, idle: u64) -> Result<bool, Error> {
        let keys = &self.topics[topic];
        loop {
            self.note_work();
            let Some(turn) = &mut reading.ordered.turns[topic] else { return Ok(false) };
            let mut gather = scripts::GATHER.call(&[&keys.stream, &keys.reader, &keys.attempts, &keys.lost]);
            gather.arg(&self.group.name).arg(&turn.word).arg(idle).arg(LODGE);
            let said = self.said(self.shared.link.one(gather).await?, "gather").await?;
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
            let said = self.said(self.shared.link.one(lodge).await?, "lodge").await?;
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
        let said = self.said(self.shared.link.one(divide).await?, "divide").await?;
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
        let said = self.said(self.shared.link.one(list).await?, "a list").await?;
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
}
