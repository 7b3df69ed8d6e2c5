//! What is not new: retries that are due, entries that others left behind, entries of this consumer that got lost on
//! the way, consumers that died.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::super::{Error, Origin};
use super::connection::Answer;
use super::fetch::{Reading, TICK, Want};
use super::keys::Keys;
use super::member::{GIVEN_BACK, Held, Member, millis};
use super::record::Record;
use super::slices::Share;
use super::{errors, parse, scripts};
use crate::event::{Position, SLICES};

/// Entries looked at in one call of the claiming script: bounds how long it holds the server up.
const CLAIMS: usize = 100;
/// Entries listed at once when a consumer looks for what is pending under its own name.
const PAGE: usize = 1_000;
/// The longest time between two looks for what others left behind.
const CLAIM_MAX: Duration = TICK;
/// A consumer that has shown no sign of life for this many leases, and at least for [`SILENT_MIN`], is removed.
const SILENT_LEASES: u32 = 10;
/// See [`SILENT_LEASES`].
const SILENT_MIN: Duration = Duration::from_secs(60);

/// What one command of the pipeline is.
enum Asked {
    Take(usize, u64),
    Claim(usize),
    Sweep,
    Unite,
}

// === impl Member ===

impl Member {
    pub(super) async fn housekeep(&self, reading: &mut Reading, max: usize, want: Want) -> Result<(), Error> {
        let now = Instant::now();
        // While a read is under way, what it has taken is pending and not in hand: not to be adopted.
        // With order nothing is ever pending under this name.
        if now >= reading.adopt_at && !reading.is_reading() && self.group.order.is_none() {
            self.adopt().await?;
            let now = Instant::now();
            reading.adopt_at = if now < reading.suspect_until { reading.suspect_until } else { now + self.group.lease };
        }
        let waiting = if want == Want::Due { self.backlog().due.len() } else { self.backlog().len() };
        let room = max.saturating_sub(waiting);
        let mut commands = Pipeline::new();
        let mut asked = Vec::new();
        let is_due = now >= reading.next_take || self.next_due().is_some_and(|due| now >= due);
        if is_due && room > 0 {
            reading.next_take = now + TICK;
            *self.next_due() = None;
            for topic in 0..self.topics.len() {
                let token = self.held_token();
                commands.add_command(self.take_due(&reading.ordered.shares[topic], topic, token, room));
                asked.push(Asked::Take(topic, token));
            }
        }
        if want == Want::All
            && self.group.order.is_none()
            && now >= reading.next_claim
            && now >= reading.claim_from
            && room > 0
        {
            reading.next_claim = now + (self.group.lease / 4).min(CLAIM_MAX);
            for topic in 0..self.topics.len() {
                let count = room.min(CLAIMS);
                commands.add_command(self.claim(topic, self.group.lease, &reading.cursors[topic], count));
                asked.push(Asked::Claim(topic));
            }
        }
        if now >= reading.next_sweep {
            reading.next_sweep = now + self.group.lease;
            let silent = (self.group.lease * SILENT_LEASES).max(SILENT_MIN);
            for keys in &self.topics {
                let mut sweep = scripts::SWEEP.call(&[&keys.stream, &keys.hosts, &keys.reports]);
                sweep.arg(&self.group.name).arg(millis(silent));
                commands.add_command(sweep);
                asked.push(Asked::Sweep);
                if self.group.order.is_none() {
                    commands.add_command(unite(keys));
                    asked.push(Asked::Unite);
                }
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        // Should the caller give up now, what the scripts took is found again.
        let adopt_at = std::mem::replace(&mut reading.adopt_at, now);
        let answers = self.shared.link.send(commands).await?;
        reading.adopt_at = adopt_at;
        // What was taken of one topic is not to be lost over the trouble with another.
        let mut trouble = None;
        for (asked, answer) in asked.into_iter().zip(answers) {
            match asked {
                Asked::Take(topic, token) => {
                    let share = &reading.ordered.shares[topic];
                    trouble = self.taken(share, topic, token, room, answer).err().or(trouble);
                }
                Asked::Claim(topic) => match self.claimed(topic, answer) {
                    Ok(claimed) => {
                        let (cursor, _) = claimed.unwrap_or_else(|| ("-".to_owned(), 0));
                        if cursor != "-" {
                            reading.next_claim = now;
                        }
                        reading.cursors[topic] = cursor;
                    }
                    Err(error) => trouble = Some(error),
                },
                Asked::Sweep => self.swept(answer),
                // Nothing depends on it, and it is tried again.
                Asked::Unite => {}
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    fn take_due(&self, share: &Share, topic: usize, token: u64, count: usize) -> Cmd {
        let keys = &self.topics[topic];
        let named = [&*keys.retry, &keys.due, &keys.attempts, &keys.slices];
        let is_ordered = self.group.order.is_some();
        let mut take = if is_ordered { scripts::TAKE_OWNED.call(&named) } else { scripts::TAKE.call(&named[..3]) };
        take.arg(&self.consumer).arg(self.token(token)).arg(millis(self.group.lease)).arg(count);
        if is_ordered {
            take.arg(share.version());
            take.arg(share.taking().collect::<Vec<u16>>());
        }
        take
    }

    fn taken(&self, share: &Share, topic: usize, token: u64, room: usize, answer: Answer) -> Result<(), Error> {
        let answer = answer.map_err(|error| errors::answered(self.shared.link.target(), &error))?;
        let mut answer = parse::array(answer, "take")?.into_iter();
        let next = answer.next().as_ref().and_then(parse::int).unwrap_or(-1);
        if let Ok(next) = u64::try_from(next) {
            self.due_by(Instant::now() + Duration::from_millis(next));
        }
        if answer.len() >= room {
            self.due_by(Instant::now());
        }
        let mut taken = Vec::with_capacity(answer.len());
        for entry in answer {
            let mut entry = parse::array(entry, "a retry")?;
            // With order its slice stands at the end.
            let slice = if entry.len() == 5 { entry.pop() } else { None };
            let Ok([id, record, owner, attempts]) = <[Value; 4]>::try_from(entry) else {
                return Err(errors::unexpected("a retry"));
            };
            let (Some(id), Some(record), Some(owner)) = (parse::text(id), parse::bytes(record), parse::text(owner))
            else {
                return Err(errors::unexpected("a retry"));
            };
            let Some(record) = Record::unpack(record.into()) else {
                let key = &self.topics[topic].retry;
                tracing::error!(key = %key, id, "an entry of the retry store cannot be read; it stays there");
                continue;
            };
            let own = self.own_token(&owner);
            let origin = match (owner.is_empty(), own) {
                (true, _) => Origin::Retry,
                (false, None) => Origin::Inherited,
                (false, Some(own)) if self.holds(topic, &id, own) => continue,
                (false, Some(_)) => Origin::Dropped,
            };
            let counted = parse::int(&attempts).and_then(|attempts| u32::try_from(attempts).ok());
            let attempts = record.attempts.max(counted.unwrap_or(0));
            let mut held = self.held(topic, record.message(&self.topics[topic].topic, id), origin);
            let slice = slice.as_ref().and_then(parse::unsigned).and_then(|slice| u16::try_from(slice).ok());
            held.place = slice.and_then(|slice| share.place(slice));
            held.token = own.unwrap_or(token);
            (held.attempts, held.stored, held.counted) = (attempts, true, counted.is_some());
            taken.push(held);
        }
        self.void_older(&taken);
        self.backlog().due.extend(taken);
        Ok(())
    }

    fn holds(&self, topic: usize, id: &str, token: u64) -> bool {
        let is = |held: &Held| held.topic == topic && held.token == token && held.message.position.as_str() == id;
        self.hand.with(|hand| hand.values().any(is)) || self.backlog().iter().any(is)
    }

    fn claim(&self, topic: usize, idle: Duration, cursor: &str, count: usize) -> Cmd {
        let keys = &self.topics[topic];
        let mut claim = scripts::CLAIM.call(&[&keys.stream, &keys.attempts, &keys.lost]);
        claim.arg(&self.group.name).arg(&self.consumer).arg(millis(idle)).arg(cursor).arg(count).arg(GIVEN_BACK);
        claim
    }

    /// Puts what was claimed in line. Returns the next cursor and how many there were, or nothing if the group is
    /// gone.
    fn claimed(&self, topic: usize, answer: Answer) -> Result<Option<(String, usize)>, Error> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if errors::code(&error) == errors::Code::NoGroup => {
                self.gone.store(true, std::sync::atomic::Ordering::Release);
                return Ok(None);
            }
            Err(error) => return Err(errors::answered(self.shared.link.target(), &error)),
        };
        let mut answer = parse::array(answer, "claim")?.into_iter();
        let (Some(cursor), Some(lost)) = (answer.next().and_then(parse::text), answer.next()) else {
            return Err(errors::unexpected("claim"));
        };
        let lost = parse::texts(lost, "claim")?;
        self.say_lost(topic, &lost);
        let (mut inherited, mut given_back) = (Vec::new(), Vec::new());
        for entry in answer {
            let Ok([id, fields, attempts, back]) = <[Value; 4]>::try_from(parse::array(entry, "a claim")?) else {
                return Err(errors::unexpected("a claim"));
            };
            let back = parse::int(&back) == Some(1);
            let origin = if back { Origin::Dropped } else { Origin::Inherited };
            let held = self.found(topic, id, fields, &attempts, origin)?;
            if back { given_back.push(held) } else { inherited.push(held) }
        }
        let count = inherited.len() + given_back.len();
        self.void_older(&inherited);
        self.void_older(&given_back);
        let mut backlog = self.backlog();
        backlog.inherited.extend(inherited);
        backlog.dropped.extend(given_back);
        Ok(Some((cursor, count)))
    }

    fn found(&self, topic: usize, id: Value, fields: Value, attempts: &Value, origin: Origin) -> Result<Held, Error> {
        let id = parse::text(id).ok_or_else(|| errors::unexpected("an entry"))?;
        let fields = parse::array(fields, "an entry")?;
        let message = parse::message(&self.topics[topic].topic, id, &fields)?;
        let mut held = self.held(topic, message, origin);
        if let Some(attempts) = parse::int(attempts).and_then(|attempts| u32::try_from(attempts).ok()) {
            (held.attempts, held.counted) = (attempts, true);
        }
        Ok(held)
    }

    /// Takes in hand what is pending under this consumer's name and nowhere here: an answer of the server that was
    /// lost on the way.
    async fn adopt(&self) -> Result<(), Error> {
        let known: Vec<HashMap<Position, bool>> = self.positions();
        for (topic, known) in known.iter().enumerate() {
            let keys = &self.topics[topic];
            let mut cursor = "-".to_owned();
            loop {
                let mut list = redis::cmd("XPENDING");
                list.arg(&keys.stream).arg(&self.group.name).arg(&cursor).arg("+").arg(PAGE).arg(&self.consumer);
                let page = match self.shared.link.one(list).await? {
                    Ok(page) => parse::array(page, "XPENDING")?,
                    Err(error) if errors::code(&error) == errors::Code::NoGroup => {
                        self.gone.store(true, std::sync::atomic::Ordering::Release);
                        break;
                    }
                    Err(error) => return Err(errors::answered(self.shared.link.target(), &error)),
                };
                let mut ids = Vec::with_capacity(page.len());
                for entry in page {
                    let id = parse::array(entry, "XPENDING")?.into_iter().next().and_then(parse::text);
                    ids.push(id.ok_or_else(|| errors::unexpected("XPENDING"))?);
                }
                let Some(last) = ids.last() else { break };
                cursor = format!("({last}");
                let is_last = ids.len() < PAGE;
                ids.retain(|id| !known.contains_key(&Position::from(id.as_str())));
                self.adopt_these(topic, ids).await?;
                if is_last {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn adopt_these(&self, topic: usize, ids: Vec<String>) -> Result<(), Error> {
        let keys = &self.topics[topic];
        for ids in ids.chunks(CLAIMS) {
            let mut commands = Pipeline::with_capacity(2 * ids.len());
            for id in ids {
                commands.cmd("XRANGE").arg(&keys.stream).arg(id).arg(id);
                commands.cmd("HGET").arg(&keys.attempts).arg(id);
            }
            let mut answers = self.shared.link.send(commands).await?.into_iter();
            let mut trimmed = Vec::new();
            for id in ids {
                let (Some(entry), Some(attempts)) = (answers.next(), answers.next()) else {
                    return Err(errors::unexpected("XRANGE"));
                };
                let refused = |error| errors::answered(self.shared.link.target(), &error);
                let (entry, attempts) = (entry.map_err(refused)?, attempts.map_err(refused)?);
                match parse::array(entry, "XRANGE")?.pop() {
                    None => trimmed.push(id.clone()),
                    Some(entry) => {
                        let Ok([id, fields]) = <[Value; 2]>::try_from(parse::array(entry, "XRANGE")?) else {
                            return Err(errors::unexpected("XRANGE"));
                        };
                        let held = self.found(topic, id, fields, &attempts, Origin::Dropped)?;
                        self.backlog().dropped.push_back(held);
                    }
                }
            }
            if !trimmed.is_empty() {
                let mut commands = Pipeline::new();
                commands.cmd("XACK").arg(&keys.stream).arg(&self.group.name).arg(&trimmed);
                commands.cmd("INCRBY").arg(&keys.lost).arg(trimmed.len());
                self.shared.link.send(commands).await?;
                self.say_lost(topic, &trimmed);
            }
        }
        Ok(())
    }

    pub(super) fn say_lost(&self, topic: usize, ids: &[String]) {
        if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
            tracing::error!(
                topic = %self.topics[topic].topic,
                group = %self.group.name,
                count = ids.len(),
                first,
                last,
                "messages were trimmed before they were handled; they are lost"
            );
        }
    }

    fn swept(&self, answer: Answer) {
        // Nothing depends on it, and it is tried again.
        let removed = answer.ok().and_then(|answer| parse::texts(answer, "sweep").ok()).unwrap_or_default();
        if !removed.is_empty() {
            tracing::info!(group = %self.group.name, consumers = removed.join(", "), "removed consumers that died");
        }
    }
}

/// Takes over what a group with order left in the retry store of a group that has none now.
pub(super) fn unite(keys: &Keys) -> Cmd {
    let mut unite = scripts::UNITE.call(&[&keys.due, &keys.slices, &keys.alive]);
    unite.arg(SLICES);
    unite
}
