//! Renewing: leases, signs of life, the mark, and the rescue of what was trimmed while in hand.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::super::{DeliveryId, Error};
use super::hold::RESCUES;
use super::member::{Held, Member, millis};
use super::settle::record;
use super::{before, errors, parse, position_parts, scripts};

/// Ids in one call of the script: bounds how long it holds the server up, and fits the Lua stack several times.
const CHUNK: usize = 500;

/// Noting a mark takes the server a microsecond for each group of the topic, since it can only be asked about all of them.
/// With many, each notes its mark no more often than once in so long a time for each of them: a thousand take a few
/// hundredths of the server instead of all of it. A mark that is older starts a group that vanished earlier, nothing else.
const MARK_PER_GROUP: Duration = Duration::from_millis(20);
/// Up to so many groups are not many.
const FEW_GROUPS: u64 = 32;

type Named = (Option<DeliveryId>, Held);

/// When each topic's mark may be noted again.
pub(super) struct Marks(Mutex<Vec<Instant>>);

// === impl Marks ===

impl Marks {
    /// All are due.
    pub(super) fn new(topics: usize) -> Self {
        Self(Mutex::new(vec![Instant::now(); topics]))
    }

    fn is_due(&self, topic: usize, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[topic] <= now
    }

    /// It was noted, on a topic of so many groups.
    fn noted(&self, topic: usize, groups: u64, now: Instant) {
        let pause =
            if groups > FEW_GROUPS { MARK_PER_GROUP * groups.try_into().unwrap_or(u32::MAX) } else { Duration::ZERO };
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[topic] = now + pause;
    }
}

// === impl Member ===

impl Member {
    pub(super) async fn renew_all(&self) -> Result<Vec<DeliveryId>, Error> {
        let everything = self.everything();
        let mut commands = Pipeline::new();
        let mut asked: Vec<(usize, Vec<&Named>)> = Vec::new();
        for (topic, all) in everything.iter().enumerate() {
            // One call at least: it is the sign of life too.
            let mut rest: &[Named] = all;
            let marks = self.marks.is_due(topic, Instant::now());
            loop {
                let (chunk, tail) = rest.split_at(rest.len().min(CHUNK));
                commands.add_command(self.renewal(topic, chunk, marks));
                asked.push((topic, chunk.iter().collect()));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
        }
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !report.is_empty() {
            // Nothing hangs on its answer: a server that is out of memory takes no report, and renews all the same.
            commands.cmd("HSET").arg(&self.topics[0].reports).arg(&self.consumer).arg(report);
        }
        let answers = self.shared.link.send(commands).await?;
        let mut lost = Vec::new();
        let mut rescued: Vec<&Named> = Vec::new();
        for ((topic, chunk), answer) in asked.into_iter().zip(answers) {
            let answer = answer.map_err(|error| errors::answered(self.shared.link.target(), &error))?;
            let Ok([gone, cut, delivered, unread, more, first, groups]) =
                <[Value; 7]>::try_from(parse::array(answer, "renew")?)
            else {
                return Err(errors::unexpected("renew"));
            };
            if let Some(delivered) = parse::text(delivered) {
                self.marks.noted(topic, parse::count(&groups), Instant::now());
                self.say_unread(topic, parse::count(&unread), parse::count(&more) > 0, &delivered, parse::text(first));
                self.watch(topic, delivered);
            }
            let (gone, cut) = (parse::texts(gone, "renew")?, parse::texts(cut, "renew")?);
            for named in chunk {
                let position = named.1.message.position.as_str();
                let is_in = |ids: &[String]| ids.iter().any(|id| id == position);
                // What is pending no more may have been rescued, and the answer lost.
                if !named.1.stored && (is_in(&cut) || is_in(&gone)) {
                    rescued.push(named);
                } else if is_in(&gone) {
                    lost.push(named);
                }
            }
        }
        lost.extend(self.rescue(rescued).await?);
        let mut told = self.forget(&lost);
        told.append(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(told)
    }

    /// Keeps for the next caller of `renew` what a renewal of our own found lost.
    pub(super) fn note_lost(&self, lost: Vec<DeliveryId>) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
    }

    fn renewal(&self, topic: usize, chunk: &[Named], marks: bool) -> redis::Cmd {
        let keys = &self.topics[topic];
        let mut named = vec![&*keys.stream, &keys.retry, &keys.due, &keys.hosts, &keys.mark, &keys.lost];
        let is_ordered = self.group.order.is_some();
        let mut renew = if is_ordered {
            named.extend([&*keys.reader, &keys.slices, &keys.alive]);
            scripts::RENEW_OWNED.call(&named)
        } else {
            scripts::RENEW.call(&named)
        };
        let pending = chunk.iter().filter(|(_, held)| !held.stored);
        let stored = chunk.iter().filter(|(_, held)| held.stored);
        renew.arg(&self.group.name).arg(&self.consumer).arg(millis(self.group.lease));
        renew.arg(pending.clone().count()).arg(stored.clone().count()).arg(self.life());
        if is_ordered {
            renew.arg(u8::from(self.is_present()));
        }
        for (_, held) in pending.chain(stored) {
            renew.arg(held.message.position.as_str());
            if let Some(place) = held.place {
                renew.arg(place.slice).arg(self.token(place.generation));
            }
            if held.stored {
                renew.arg(self.token(held.token));
            }
        }
        renew.arg(u8::from(marks));
        renew
    }

    /// Moves what was trimmed to the retry store, still in the same hand, unless it is there. Returns what is lost.
    async fn rescue<'a>(&self, trimmed: Vec<&'a Named>) -> Result<Vec<&'a Named>, Error> {
        let mut commands = Pipeline::new();
        for (_, held) in &trimmed {
            let record = record(&held.message, held.attempts, "", "trimmed from its topic while in hand");
            let mut rescue = self.held_call(&RESCUES, held, &[]);
            rescue.arg(millis(self.group.lease)).arg(record.pack()).arg(self.lane_of(held, None));
            commands.add_command(rescue);
        }
        let mut lost = Vec::new();
        for (named, answer) in trimmed.into_iter().zip(self.shared.link.send(commands).await?) {
            let answer = answer.map_err(|error| errors::answered(self.shared.link.target(), &error))?;
            match &answer {
                Value::Array(words) => match words.first().cloned().and_then(parse::text).as_deref() {
                    Some("done") => self.mark_stored(&named.1),
                    Some("lost") => lost.push(named),
                    _ => return Err(self.misused(answer)),
                },
                _ => return Err(errors::unexpected("rescue")),
            }
        }
        Ok(lost)
    }

    fn mark_stored(&self, rescued: &Held) {
        let is = |held: &&mut Held| {
            held.topic == rescued.topic
                && held.token == rescued.token
                && held.message.position == rescued.message.position
        };
        self.hand.with(|hand| hand.values_mut().filter(is).for_each(|held| held.stored = true));
        self.backlog().iter_mut().filter(is).for_each(|held| held.stored = true);
    }

    /// Takes what is lost out of hand, unless it has been settled, moved or handed out anew meanwhile.
    fn forget(&self, lost: &[&Named]) -> Vec<DeliveryId> {
        let mut told = Vec::new();
        for (id, asked) in lost {
            if let Some(id) = id {
                self.hand.with(|hand| {
                    let is_over = |held: &Held| held.settling || held.done.is_some();
                    if hand.get(id).is_some_and(|held| !is_over(held) && held.stored == asked.stored) {
                        hand.remove(id);
                        told.push(*id);
                    }
                });
            }
            self.backlog().retain(|held| {
                held.token != asked.token
                    || held.message.position != asked.message.position
                    || held.topic != asked.topic
            });
        }
        told
    }

    /// Notices a group that is gone, and a position that somebody else moved back or forth.
    fn watch(&self, topic: usize, delivered: String) {
        if delivered.is_empty() {
            self.gone.store(true, Ordering::Release);
            return;
        }
        let mut all = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = &all[topic];
        if !before.is_empty() && position_parts(&delivered) < position_parts(before) {
            tracing::warn!(
                topic = %self.topics[topic].topic,
                group = %self.group.name,
                from = %before,
                to = %delivered,
                "somebody moved the group's position back: messages will be handled again"
            );
        }
        all[topic] = delivered;
    }

    /// Says what the script has just counted: nobody is told of the same messages twice.
    fn say_unread(&self, topic: usize, count: u64, more: bool, delivered: &str, first: Option<String>) {
        if count > 0 {
            // All that is gone lies between the last one read and the first one kept, unless that one is read already.
            let before = first.filter(|first| position_parts(first) > position_parts(delivered));
            tracing::warn!(
                topic = %self.topics[topic].topic,
                group = %self.group.name,
                at_least = more.then_some(count),
                count = (!more).then_some(count),
                after = before.as_ref().map(|_| tracing::field::display(delivered)),
                before = before.as_ref().map(tracing::field::display),
                "messages were trimmed before the group had read them; they are lost: trim less, or read faster"
            );
        }
    }

    /// Makes the group again where it is missing, just before the oldest message it had not settled.
    ///
    /// Whatever was pending is nobody's any more. Were its receipts good until it is read again, they would be good
    /// once more the moment it is, and a late hand-out could be settled before those that now come first.
    pub(super) async fn regroup(&self) -> Result<(), Error> {
        self.void_pending();
        for (topic, keys) in self.topics.iter().enumerate() {
            let start = self.shared.marked(keys).await?.unwrap_or_else(|| "0".to_owned());
            if self.shared.join(keys, &self.group.name, &self.consumer, &start, self.life()).await? {
                self.remade.store(true, Ordering::Release);
                self.marks.noted(topic, 0, Instant::now());
                self.delivered.lock().unwrap_or_else(PoisonError::into_inner)[topic].clear();
                tracing::warn!(
                    topic = %keys.topic,
                    group = %self.group.name,
                    start,
                    "the group was gone and is made again; messages may be handled again"
                );
            }
        }
        Ok(())
    }
}

/// The start that a mark stands for. What follows after a space serves the counting of what is lost.
pub(super) fn start_of(mark: &str) -> Option<String> {
    let (mark, _) = mark.split_once(' ').unwrap_or((mark, ""));
    if let Some(pending) = mark.strip_prefix('p') { before(pending) } else { mark.strip_prefix('d').map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_many_groups_are_noted_seldom() {
        let (marks, now) = (Marks::new(2), Instant::now());
        assert!(marks.is_due(0, now) && marks.is_due(1, now));
        marks.noted(0, FEW_GROUPS, now);
        marks.noted(1, 1_000, now);
        assert!(marks.is_due(0, now) && !marks.is_due(1, now + Duration::from_secs(19)));
        assert!(marks.is_due(1, now + Duration::from_secs(20)));
    }
}
