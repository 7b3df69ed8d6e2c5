//! Exclusive groups: one consumer at a time has the turn, by a lease of its own.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Error, Fetched};
use super::fetch::{InTurn, Reading};
use super::member::{Backlog, Member, millis};
use super::record::Record;
use super::{errors, parse, scripts};
use crate::event::Message;

/// How often a consumer that stands by looks whether the turn is free.
const POLL: Duration = Duration::from_millis(100);
/// Entries claimed or listed at once when the turn changes.
const PAGE: usize = 500;

// === impl Member ===

impl Member {
    /// Stands by until it is this consumer's turn, or the wait is over.
    pub(super) async fn await_turn(&self, reading: &mut Reading, deadline: Instant) -> Result<Fetched, Error> {
        loop {
            let mut keys = vec![self.reader(0)];
            for topic in &self.topics {
                keys.extend([topic.retry.as_str(), &topic.due]);
            }
            let mut turn = scripts::TURN.call(&keys);
            turn.arg(&self.consumer).arg(millis(self.group.lease));
            let answer = parse::array(self.shared.link.value(turn).await?, "turn")?;
            let word = answer.first().cloned().and_then(parse::text);
            if word.as_deref() != Some("other") {
                return self.begin_turn(reading).await;
            }
            let now = Instant::now();
            if now >= deadline || self.closed.load(std::sync::atomic::Ordering::Acquire) {
                return Ok(Fetched::StandBy);
            }
            let free = Duration::from_millis(answer.get(1).map_or(0, parse::count)) + Duration::from_millis(1);
            tokio::select! {
                () = tokio::time::sleep_until(deadline.min(now + POLL.min(free))) => {}
                () = self.closing.notified() => {}
            }
        }
    }

    /// Takes over all that is pending, in order, before anything new is read.
    async fn begin_turn(&self, reading: &mut Reading) -> Result<Fetched, Error> {
        self.hand.with(HashMap::clear);
        *self.backlog() = Backlog::default();
        for topic in 0..self.topics.len() {
            let mut cursor = "-".to_owned();
            loop {
                let claim = self.claim(topic, Duration::ZERO, &cursor, PAGE);
                let answer = self.shared.link.one(claim).await?;
                match self.claimed(topic, answer)? {
                    None => break,
                    Some((next, _)) if next == "standby" => return Ok(Fetched::StandBy),
                    Some((next, _)) if next == "-" => break,
                    Some((next, _)) => cursor = next,
                }
            }
        }
        let retrying = self.retrying().await?;
        let now = Instant::now();
        reading.active = true;
        (reading.next_take, reading.adopt_at) = (now, now + self.group.lease);
        Ok(Fetched::Active { retrying })
    }

    pub(super) fn end_turn(&self, reading: &mut Reading) {
        reading.active = false;
        self.hand.with(HashMap::clear);
        *self.backlog() = Backlog::default();
    }

    pub(super) async fn read_once(&self, topics: &[usize], count: usize) -> Result<InTurn, Error> {
        let mut keys = vec![self.reader(0)];
        keys.extend(topics.iter().map(|index| self.topics[*index].stream.as_str()));
        let mut read = scripts::READ.call(&keys);
        read.arg(&self.group.name).arg(&self.consumer).arg(count);
        let answer = match self.shared.link.one(read).await? {
            Ok(answer) => answer,
            Err(error) if errors::code(&error) == errors::Code::NoGroup => return Ok(InTurn::Gone),
            Err(error) => return Err(errors::answered(self.shared.link.target(), &error)),
        };
        let mut answer = parse::array(answer, "a read")?.into_iter();
        match (answer.next().and_then(parse::text).as_deref(), answer.next()) {
            (Some("standby"), _) => Ok(InTurn::StandBy),
            (Some("read"), Some(found)) => Ok(InTurn::Read(found)),
            (Some("empty"), Some(last)) => Ok(InTurn::Empty(parse::texts(last, "a read")?)),
            _ => Err(errors::unexpected("a read")),
        }
    }

    /// Whether it is still this consumer's turn.
    pub(super) async fn has_turn(&self) -> Result<bool, Error> {
        let mut holder = redis::cmd("GET");
        holder.arg(self.reader(0));
        let holder = parse::text(self.shared.link.value(holder).await?);
        Ok(holder.is_some_and(|holder| holder == self.consumer))
    }

    async fn retrying(&self) -> Result<Vec<Message>, Error> {
        let mut retrying = Vec::new();
        for keys in &self.topics {
            let mut list = redis::cmd("ZRANGE");
            list.arg(&keys.due).arg(0).arg(-1);
            let ids = parse::texts(self.shared.link.value(list).await?, "ZRANGE")?;
            for ids in ids.chunks(PAGE) {
                let mut get = redis::cmd("HMGET");
                get.arg(&keys.retry).arg(ids);
                let records = parse::array(self.shared.link.value(get).await?, "HMGET")?;
                for (id, record) in ids.iter().zip(records) {
                    let record = parse::bytes(record).and_then(|record| Record::unpack(record.into()));
                    retrying.extend(record.map(|record| record.message(&keys.topic, id.clone())));
                }
            }
        }
        Ok(retrying)
    }
}
