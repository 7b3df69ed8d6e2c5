//! Groups with order: fetching. Slices of lanes are divided among the consumers; one of them reads for all, in turn,
//! and places what it has read in the slices, each of which its owner empties in order.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Error, Fetched, Turnover};
use super::connection::Answer;
use super::fetch::{Reading, TICK, Want};
use super::frame::Frame;
use super::member::{Held, Member, millis};
use super::slices::Share;
use super::turn::Turn;
use super::{errors, parse};
use crate::event::Position;

/// What the one caller of `fetch` knows of a group with order, by topic.
pub(super) struct Ordered {
    pub(super) shares: Vec<Share>,
    /// Where it is this consumer's turn to read.
    pub(super) turns: Vec<Option<Turn>>,
    /// The last wake seen.
    pub(super) wakes: Vec<String>,
    /// When to look what is this consumer's and what lies there.
    pub(super) look_at: Instant,
    /// Listed, and trimmed from the topic: topic, name it is pending under, ids.
    pub(super) trimmed: Vec<(usize, String, Vec<String>)>,
    /// A step was begun and not ended: an answer may be lost.
    unsure: bool,
    /// The topics that the read under way waits for, beside the wakes.
    awaited: Vec<usize>,
}

// === impl Ordered ===

impl Ordered {
    pub(super) fn new(topics: usize) -> Self {
        Self {
            shares: std::iter::repeat_with(Share::default).take(topics).collect(),
            turns: std::iter::repeat_with(|| None).take(topics).collect(),
            wakes: vec!["0-0".to_owned(); topics],
            look_at: Instant::now(),
            trimmed: Vec::new(),
            unsure: false,
            awaited: Vec::new(),
        }
    }

    pub(super) fn look_now(&mut self) {
        self.look_at = Instant::now();
    }

    /// After an outage: the bus may have lost its last moments, and this consumer its turn.
    pub(super) fn rewind(&mut self) {
        self.shares.iter_mut().for_each(Share::rewind);
        self.turns.iter_mut().for_each(|turn| *turn = None);
        self.look_now();
    }

    fn doubt(&mut self) {
        self.shares.iter_mut().for_each(Share::doubt);
        self.turns.iter_mut().flatten().for_each(|turn| turn.unplaced = true);
        self.look_now();
    }
}

// === impl Member ===

impl Member {
    pub(super) async fn look_in_order(
        &self,
        reading: &mut Reading,
        max: usize,
        deadline: Instant,
        want: Want,
    ) -> Result<Fetched, Error> {
        // Others place what this consumer gets: what came since the last call shows only by looking.
        if reading.ordered.turns.iter().any(Option::is_none) {
            reading.ordered.look_now();
        }
        reading.ordered.turns.iter_mut().flatten().for_each(|turn| turn.end = None);
        loop {
            self.note_work();
            if self.closed.load(Ordering::Acquire) {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            self.recover(reading).await?;
            if std::mem::replace(&mut reading.ordered.unsure, true) {
                reading.ordered.doubt();
            }
            let turnover = self.attend(reading, max, want).await?;
            reading.ordered.unsure = false;
            if let Some(turnover) = turnover {
                return Ok(Fetched::Turnover(turnover));
            }
            self.sift_dropped(&reading.ordered);
            let ready = self.hand_out(max, want);
            if !ready.is_empty() || Instant::now() >= deadline {
                return Ok(Fetched::Deliveries(ready));
            }
            self.await_news(reading, max, want, deadline).await?;
        }
    }

    /// One round of all there is to do. Returns at once if slices have changed hands.
    async fn attend(&self, reading: &mut Reading, max: usize, want: Want) -> Result<Option<Turnover>, Error> {
        while let Some((topic, name, ids)) = reading.ordered.trimmed.pop() {
            self.let_trimmed_go(topic, &name, &ids).await?;
        }
        if let Some(turnover) = self.give_up(&mut reading.ordered).await? {
            return Ok(Some(turnover));
        }
        let room = |waiting: usize| if want == Want::All { max.saturating_sub(waiting) } else { 0 };
        let free = room(self.backlog().len());
        let behind = free > 0 && reading.ordered.shares.iter().any(Share::is_behind);
        if (behind || Instant::now() >= reading.ordered.look_at)
            && let Some(turnover) = self.look(reading, free).await?
        {
            return Ok(Some(turnover));
        }
        self.begin_turns(reading).await?;
        let free = room(self.backlog().len());
        self.read_in_turn(reading, free).await?;
        self.housekeep(reading, max, want).await?;
        Ok(None)
    }

    /// Fetching is under way: this consumer has to be reckoned with.
    pub(super) fn note_work(&self) {
        *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How often a consumer looks at least, so that a lease outlasts three looks.
    pub(super) fn tick(&self) -> Duration {
        (self.group.lease / 4).min(TICK)
    }

    /// What was dropped is handed out again in its order, and only if it is still for this consumer to hand out.
    fn sift_dropped(&self, ordered: &Ordered) {
        let mut dropped = self.hand.take_dropped();
        let mut backlog = self.backlog();
        dropped.extend(backlog.dropped.drain(..));
        dropped.retain(|held| self.is_own(ordered, held));
        dropped.sort_by_cached_key(|held| (held.topic, super::position_parts(held.message.position.as_str())));
        backlog.dropped.extend(dropped.into_iter().map(Held::dropped));
        backlog.retain(|held| self.is_own(ordered, held));
    }

    fn is_own(&self, ordered: &Ordered, held: &Held) -> bool {
        held.place.is_some_and(|place| ordered.shares[held.topic].may_hand_out(place))
    }

    /// Positions on one topic in hand or about to be handed out.
    pub(super) fn known(&self, topic: usize) -> HashSet<Position> {
        let of = |held: &Held| (held.topic == topic).then(|| held.message.position.clone());
        let mut known: HashSet<Position> = self.hand.with(|hand| hand.values().filter_map(of).collect());
        known.extend(self.backlog().iter().filter_map(of));
        known
    }

    /// Waits until there is something to do, by a read that takes nothing.
    async fn await_news(&self, reading: &mut Reading, max: usize, want: Want, deadline: Instant) -> Result<(), Error> {
        let ordered = &reading.ordered;
        let takes = want == Want::All && max > 0;
        let now = Instant::now();
        let mut until = self.look_again(reading, deadline).min(ordered.look_at);
        let mut awaited = Vec::new();
        for (topic, turn) in ordered.turns.iter().enumerate() {
            let Some(turn) = turn else { continue };
            until = until.min(turn.next());
            match &turn.end {
                // What is to come here is for this consumer alone, and it does not want it now.
                _ if !takes && ordered.shares[topic].is_sole() => {}
                Some(_) => awaited.push(topic),
                None => until = until.min(turn.rest_until),
            }
        }
        if until <= now || (takes && ordered.shares.iter().any(Share::is_behind)) {
            return Ok(());
        }
        if reading.flight.is_some() && awaited.iter().any(|topic| !ordered.awaited.contains(topic)) {
            // It does not wait for all of this. The server ends it when it sees that the connection is gone.
            (reading.flight, reading.connection) = (None, None);
        }
        if reading.flight.is_none() {
            let block = self.tick();
            let mut wake = redis::cmd("XREAD");
            wake.arg("COUNT").arg(1).arg("BLOCK").arg(millis(block)).arg("STREAMS");
            for keys in &self.topics {
                wake.arg(&keys.wake);
            }
            for topic in &awaited {
                wake.arg(&self.topics[*topic].stream);
            }
            wake.arg(&ordered.wakes);
            for turn in awaited.iter().filter_map(|topic| ordered.turns[*topic].as_ref()) {
                wake.arg(turn.end.as_deref().unwrap_or("$"));
            }
            self.take_off(reading, wake, block).await?;
            reading.ordered.awaited = awaited;
        }
        match self.land(reading, until).await {
            None => Ok(()),
            Some(Ok(Ok(found))) => self.wake_up(&mut reading.ordered, &found),
            Some(Ok(Err(error))) => {
                reading.connection = None;
                Err(self.refused(&error).await)
            }
            Some(Err(error)) => {
                reading.connection = None;
                Err(error)
            }
        }
    }

    fn wake_up(&self, ordered: &mut Ordered, found: &Frame) -> Result<(), Error> {
        for (key, _) in found.streams()? {
            match self.topics.iter().position(|keys| keys.stream == key) {
                Some(topic) => {
                    if let Some(turn) = &mut ordered.turns[topic] {
                        turn.end = None;
                    }
                }
                None => ordered.look_now(),
            }
        }
        Ok(())
    }

    /// A script's answer, and what it begins with. Nothing if the group is gone.
    pub(super) async fn said(
        &self,
        answer: Answer,
        what: &str,
    ) -> Result<Option<(String, std::vec::IntoIter<redis::Value>)>, Error> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if errors::code(&error) == errors::Code::NoGroup => {
                self.gone.store(true, Ordering::Release);
                return Ok(None);
            }
            Err(error) => return Err(self.refused(&error).await),
        };
        let mut answer = parse::array(answer, what)?.into_iter();
        match answer.next().and_then(parse::text) {
            Some(word) => Ok(Some((word, answer))),
            None => Err(errors::unexpected(what)),
        }
    }
}
