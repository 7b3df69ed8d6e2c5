//! Groups with order: what is this consumer's, what lies there, what changes hands.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Error, Origin, Turnover, Waiting};
use super::connection::Answer;
use super::fetch::Reading;
use super::member::{Held, Member, millis};
use super::ordered::Ordered;
use super::slices::{Change, Owned, Place};
use super::turn::Turn;
use super::{errors, keys, parse, position_parts, scripts};
use crate::bus::Slice;
use crate::event::{Lane, Position, SLICES, Topic};

/// Retries listed at once when slices are gained.
const PAGE: usize = 1_000;

/// What a look at one topic found.
struct Found {
    topic: usize,
    asked: usize,
    turn: String,
    wake: String,
    version: String,
    owned: Option<Vec<Owned>>,
    listed: Vec<Listed>,
}

/// What lies in one slice.
struct Listed {
    slice: u16,
    cursor: String,
    back: String,
    more: bool,
    entries: Vec<Value>,
}

// === impl Member ===

impl Member {
    /// Looks at all topics, and takes at most `room` entries. Returns what changed hands, if anything did.
    pub(super) async fn look(&self, reading: &mut Reading, room: usize) -> Result<Option<Turnover>, Error> {
        let mut commands = Pipeline::with_capacity(self.topics.len());
        let mut asked = Vec::with_capacity(self.topics.len());
        for (topic, portion) in reading.portions(self.topics.len(), room).into_iter().enumerate() {
            commands.add_command(self.looking(&mut reading.ordered, topic, portion));
            asked.push(portion);
        }
        let answers = self.shared.link.send(commands).await?;
        let mut all = Vec::with_capacity(answers.len());
        for ((topic, asked), answer) in asked.into_iter().enumerate().zip(answers) {
            match self.looked(topic, asked, answer).await? {
                Some(found) => all.push(found),
                None => return Ok(None),
            }
        }
        let mut changes: Vec<(usize, Change)> = Vec::new();
        let mut waiting = Vec::new();
        for found in &all {
            if let Some(owned) = &found.owned {
                let change = reading.ordered.shares[found.topic].change(owned);
                waiting.extend(self.waiting(found.topic, &change.gained).await?);
                changes.push((found.topic, change));
            }
        }
        // From here on nothing waits: what is told is what is known.
        let ordered = &mut reading.ordered;
        ordered.look_at = Instant::now() + self.tick();
        for found in all {
            let Found { topic, asked, turn, wake, version, owned, listed } = found;
            ordered.wakes[topic] = wake;
            if ordered.turns[topic].as_ref().is_none_or(|known| known.word != turn) {
                ordered.turns[topic] = (!turn.is_empty()).then(|| Turn::new(turn));
            }
            match owned {
                Some(owned) => {
                    ordered.shares[topic].apply(version, &owned);
                    // Nothing was listed.
                    ordered.look_now();
                }
                None => self.list(ordered, topic, asked, listed)?,
            }
        }
        let mut turnover = Turnover { waiting, ..Turnover::default() };
        for (topic, change) in changes {
            self.let_go(topic, &change.lost);
            self.set_aside(topic, &change.wanted);
            if !change.gained.is_empty() {
                self.due_by(Instant::now());
            }
            change.tell(&self.topics[topic].topic, &mut turnover);
        }
        Ok((turnover != Turnover::default()).then_some(turnover))
    }

    fn looking(&self, ordered: &mut Ordered, topic: usize, room: usize) -> Cmd {
        let keys = &self.topics[topic];
        let named = [&*keys.stream, &keys.reader, &keys.slices, &keys.alive, &keys.placed, &keys.wake, &keys.attempts];
        let mut look = scripts::LOOK.call(&named);
        let share = &mut ordered.shares[topic];
        look.arg(&self.group.name).arg(&self.consumer).arg(millis(self.group.lease)).arg(SLICES);
        look.arg(share.version()).arg(room);
        if room > 0 {
            for request in share.requests() {
                look.arg(request.slice).arg(request.cursor).arg(request.back);
            }
        }
        look
    }

    async fn looked(&self, topic: usize, asked: usize, answer: Answer) -> Result<Option<Found>, Error> {
        let Some((turn, mut answer)) = self.said(answer, "a look").await? else { return Ok(None) };
        let (Some(wake), Some(version), Some(owned)) =
            (answer.next().and_then(parse::text), answer.next().and_then(parse::text), answer.next())
        else {
            return Err(errors::unexpected("a look"));
        };
        let owned = match owned {
            Value::Nil => None,
            owned => Some(parse::array(owned, "a look")?.into_iter().map(owned_slice).collect::<Result<Vec<_>, _>>()?),
        };
        let listed = answer.map(listed_slice).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Found { topic, asked, turn, wake, version, owned, listed }))
    }

    /// Puts what was listed in line, unless it is there or in hand already.
    fn list(&self, ordered: &mut Ordered, topic: usize, asked: usize, listed: Vec<Listed>) -> Result<(), Error> {
        let share = &mut ordered.shares[topic];
        let count: usize = listed.iter().map(|listed| listed.entries.len()).sum();
        if asked > 0 && count < asked {
            share.looked_through(&listed.iter().map(|listed| listed.slice).collect());
        }
        let known = if count > 0 { self.known(topic) } else { HashSet::new() };
        let mut line = Vec::with_capacity(count);
        for Listed { slice, cursor, back, more, entries } in listed {
            let Some(place) = share.place(slice) else { continue };
            let mut trimmed = Vec::new();
            for entry in entries {
                let Ok([id, fields, how, attempts]) = <[Value; 4]>::try_from(parse::array(entry, "an entry")?) else {
                    return Err(errors::unexpected("an entry"));
                };
                let id = parse::text(id).ok_or_else(|| errors::unexpected("an entry"))?;
                if known.contains(&Position::from(id.as_str())) {
                    continue;
                }
                let Value::Array(fields) = fields else {
                    trimmed.push(id);
                    continue;
                };
                let origin = match parse::text(how).as_deref() {
                    Some("inherited") => Origin::Inherited,
                    Some("dropped") => Origin::Dropped,
                    _ => Origin::New,
                };
                let message = parse::message(&self.topics[topic].topic, id, &fields)?;
                let mut held = Held { place: Some(place), ..self.held(topic, message, origin) };
                if let Some(attempts) = parse::int(&attempts).and_then(|attempts| u32::try_from(attempts).ok()) {
                    (held.attempts, held.counted) = (attempts, true);
                }
                line.push(held);
            }
            share.listed(slice, cursor, back, more);
            if !trimmed.is_empty() {
                ordered.trimmed.push((topic, keys::slice_name(slice), trimmed));
            }
        }
        self.backlog().new.extend(line);
        Ok(())
    }

    pub(super) async fn let_trimmed_go(&self, topic: usize, name: &str, ids: &[String]) -> Result<(), Error> {
        let keys = &self.topics[topic];
        let mut gone = scripts::GONE.call(&[&keys.stream, &keys.attempts, &keys.lost]);
        gone.arg(&self.group.name).arg(name).arg(ids);
        let gone = parse::texts(self.shared.link.value(gone).await?, "a count of what is gone")?;
        self.say_lost(topic, &gone);
        Ok(())
    }

    /// What waits for a retry in slices that are gained. They are this consumer's already, so nobody else adds to it or
    /// takes of it.
    async fn waiting(&self, topic: usize, gained: &BTreeSet<u16>) -> Result<Vec<Waiting>, Error> {
        let keys = &self.topics[topic];
        let mut waiting = Vec::new();
        let mut counts = Pipeline::new();
        for slice in gained {
            counts.cmd("ZCARD").arg(keys.due_of(*slice));
        }
        for (slice, count) in gained.iter().zip(self.shared.link.send(counts).await?) {
            let count = parse::count(&count.map_err(|error| errors::answered(self.shared.link.target(), &error))?);
            let mut of_slice = Vec::new();
            for from in (0..count).step_by(PAGE) {
                let mut range = redis::cmd("ZRANGE");
                range.arg(keys.due_of(*slice)).arg(from).arg(from + PAGE as u64 - 1);
                let ids = parse::texts(self.shared.link.value(range).await?, "ZRANGE")?;
                if ids.is_empty() {
                    break;
                }
                let mut lanes = redis::cmd("HMGET");
                lanes.arg(&keys.retry);
                for id in &ids {
                    lanes.arg(format!("{id}:lane"));
                }
                let lanes = parse::array(self.shared.link.value(lanes).await?, "HMGET")?.into_iter();
                let lanes = ids.iter().map(|id| position_parts(id)).zip(lanes);
                of_slice.extend(lanes.filter_map(|(id, lane)| Some((id, waiting_in(&keys.topic, *slice, lane)?))));
            }
            // The store has them by when they are due.
            of_slice.sort_by_key(|(id, _)| *id);
            waiting.extend(of_slice.into_iter().map(|(_, waiting)| waiting));
        }
        Ok(waiting)
    }

    /// Gives up what others are to have, as soon as nothing of it is in hand.
    pub(super) async fn give_up(&self, ordered: &mut Ordered) -> Result<Option<Turnover>, Error> {
        let mut commands = Pipeline::new();
        let mut given: Vec<(usize, Vec<Place>)> = Vec::new();
        let mut giving = false;
        for (topic, keys) in self.topics.iter().enumerate() {
            let mut leaving: Vec<Place> = ordered.shares[topic].leaving().collect();
            if leaving.is_empty() {
                continue;
            }
            // What was dropped is in hand no more.
            let dropped = self.hand.take_dropped();
            self.backlog().dropped.extend(dropped);
            let busy: HashSet<u16> = self.hand.with(|hand| {
                let here = hand.values().filter(|held| held.topic == topic);
                here.filter_map(|held| held.place).map(|place| place.slice).collect()
            });
            let all = leaving.len();
            leaving.retain(|place| !busy.contains(&place.slice));
            giving |= leaving.len() < all;
            if !leaving.is_empty() {
                let mut give = scripts::GIVE.call(&[&keys.slices, &keys.alive, &keys.wake]);
                give.arg(&self.consumer);
                for place in &leaving {
                    give.arg(place.slice).arg(place.generation);
                }
                commands.add_command(give);
                given.push((topic, leaving));
            }
        }
        for answer in self.shared.link.send(commands).await? {
            answer.map_err(|error| errors::answered(self.shared.link.target(), &error))?;
        }
        self.giving.store(giving, Ordering::Release);
        let mut turnover = Turnover::default();
        for (topic, places) in given {
            let lost = places.iter().map(|place| place.slice).collect();
            places.iter().for_each(|place| ordered.shares[topic].give(place.slice));
            self.let_go(topic, &lost);
            Change { lost, ..Change::default() }.tell(&self.topics[topic].topic, &mut turnover);
            ordered.look_now();
        }
        Ok((!turnover.lost.is_empty()).then_some(turnover))
    }

    /// What is here of slices that are another's is nobody's business any more.
    fn let_go(&self, topic: usize, lost: &BTreeSet<u16>) {
        if lost.is_empty() {
            return;
        }
        let stays = |held: &Held| held.topic != topic || !held.place.is_some_and(|place| lost.contains(&place.slice));
        self.hand.with(|hand| hand.retain(|_, held| stays(held)));
        self.backlog().retain(stays);
    }

    /// Hands out nothing more of slices that others are to have.
    fn set_aside(&self, topic: usize, wanted: &BTreeSet<u16>) {
        if !wanted.is_empty() {
            self.giving.store(true, Ordering::Release);
            let stays =
                |held: &Held| held.topic != topic || !held.place.is_some_and(|place| wanted.contains(&place.slice));
            self.backlog().retain(stays);
        }
    }
}

fn owned_slice(owned: Value) -> Result<Owned, Error> {
    match parse::array(owned, "a slice")?.as_slice() {
        [slice, generation, wanted] => Ok(Owned {
            place: Place { slice: number(slice)?, generation: parse::count(generation) },
            wanted: parse::count(wanted) > 0,
        }),
        _ => Err(errors::unexpected("a slice")),
    }
}

fn listed_slice(listed: Value) -> Result<Listed, Error> {
    let mut listed = parse::array(listed, "a slice")?.into_iter();
    match (listed.next(), listed.next().and_then(parse::text), listed.next().and_then(parse::text), listed.next()) {
        (Some(slice), Some(cursor), Some(back), Some(more)) => Ok(Listed {
            slice: number(&slice)?,
            cursor,
            back,
            more: parse::count(&more) > 0,
            entries: listed.collect(),
        }),
        _ => Err(errors::unexpected("a slice")),
    }
}

fn number(value: &Value) -> Result<u16, Error> {
    let number = parse::unsigned(value).and_then(|number| u16::try_from(number).ok());
    number.filter(|number| *number < SLICES).ok_or_else(|| errors::unexpected("a slice"))
}

/// What the retry store says of the lane that waits for an entry: its number, a space, where the message was first.
fn waiting_in(topic: &Topic, number: u16, stored: Value) -> Option<Waiting> {
    let stored = parse::text(stored)?;
    let (lane, first) = stored.split_once(' ')?;
    let lane = Lane::from_number(lane.parse().ok()?);
    Some(Waiting { slice: Slice { topic: topic.clone(), number }, lane, first: first.into() })
}
