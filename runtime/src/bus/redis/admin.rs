//! What operators ask: how far a group is, who is in it, what was given up.

use redis::{Pipeline, Value};

use super::super::{DeadLetter, Error, GroupStatus, Requeue};
use super::errors::Code;
use super::keys::{Keys, is_virtual};
use super::record::{OURS, PLAIN_FIELDS_MAX, Record, dead_letter};
use super::{FOREIGN_IDLE, GIVEN_BACK, Shared, errors, millis, parse, position_parts, scripts};
use crate::event::{Position, SLICES, Topic, Versioned};

/// Entries counted in one call, where the server cannot tell the lag itself.
const COUNT_PAGE: u64 = 1_000;
/// Pages counted at most; beyond, the lag is not known.
const COUNT_PAGES: usize = 20;
/// Dead letters moved by one call of the script: bounds how long it holds the server up.
const REQUEUE: usize = 100;

/// Who is in a group.
pub(super) struct Consumers {
    /// Alive, ours and others.
    pub(super) alive: Vec<String>,
    /// Alive and not ours.
    pub(super) foreign: Vec<String>,
}

/// What `XINFO GROUPS` says of one group.
struct Info {
    pending: u64,
    delivered: String,
    /// Of all that was ever added, as far as the server knows.
    read: Option<u64>,
    lag: Option<u64>,
}

/// What `XINFO STREAM` says.
struct Extent {
    length: u64,
    /// Entries ever added; not before 7.0.
    added: Option<u64>,
    first: Option<String>,
    last: String,
    /// The highest id that was deleted otherwise than by trimming.
    deleted: Option<String>,
}

// === impl Shared ===

impl Shared {
    pub(super) async fn status(&self, topic: &Topic, group: &str) -> Result<GroupStatus, Error> {
        let keys = self.keys(topic, group);
        if let Some(wrong) = self.wrong_type(&[&keys.stream]).await? {
            return Err(wrong);
        }
        // Before the stores: what goes there meanwhile is counted twice, and not left out.
        let info = self.info(&keys, group).await?;
        let mut commands = Pipeline::new();
        commands.cmd("ZCARD").arg(&keys.due).cmd("XLEN").arg(&keys.dead).cmd("GET").arg(&keys.lost);
        // With order each slice has its own.
        for slice in 0..SLICES {
            commands.cmd("ZCARD").arg(keys.due_of(slice));
        }
        let oldest_dead_letter = self.first_dead_letter(&keys).await?;
        let mut counts = Vec::with_capacity(commands.len());
        for answer in self.link.send(commands).await? {
            counts.push(parse::count(&answer.map_err(|error| errors::answered(self.link.target(), &error))?));
        }
        let [in_store, dead_letters, lost, in_slices @ ..] = counts.as_slice() else {
            return Err(errors::unexpected("a pipeline"));
        };
        let (retrying, dead_letters, lost) = (in_store + in_slices.iter().sum::<u64>(), *dead_letters, *lost);
        let stores = GroupStatus { retrying, dead_letters, lost, oldest_dead_letter, ..GroupStatus::default() };
        let Some(mut info) = info else { return Ok(stores) };
        if self.was_restarted(&keys).await? {
            info.read = None;
        }
        let extent = self.extent(&keys).await?;
        let lag = match (extent.unread(&info), info.lag) {
            (Some(unread), _) => Some(unread),
            (None, Some(lag)) if lag <= extent.length => Some(lag),
            // Unknown, or with what was trimmed unread: Redis 7.0 takes that for still to be read.
            (None, _) => self.count_after(&keys, &info.delivered).await?,
        };
        let lost = stores.lost + extent.unread_and_gone(&info);
        let consumers = self.consumers(&keys, group).await?.alive;
        let oldest = self.oldest(&keys, group, &info.delivered).await?;
        let reports = self.reports(&keys, &consumers).await?;
        let pending = info.pending;
        let held_up_by = self.holder(&keys, &extent.last).await?;
        Ok(GroupStatus { exists: true, lag, pending, lost, oldest, held_up_by, consumers, reports, ..stores })
    }

    /// Whether the server runs since after the group was last renewed: then its count of what was read is too low, as
    /// `renew.lua` says.
    async fn was_restarted(&self, keys: &Keys) -> Result<bool, Error> {
        let mut commands = Pipeline::new();
        commands.cmd("INFO").arg("server").cmd("GET").arg(&keys.mark);
        // Who may not ask does not know.
        let mut words = self.link.send(commands).await?.into_iter().map(|answer| answer.ok().and_then(parse::text));
        let (Some(Some(info)), Some(Some(mark))) = (words.next(), words.next()) else { return Ok(false) };
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        Ok(run.is_some_and(|run| mark.split(' ').nth(2) != Some(run.trim())))
    }

    async fn info(&self, keys: &Keys, group: &str) -> Result<Option<Info>, Error> {
        for found in self.xinfo("GROUPS", keys, None).await? {
            let pairs = parse::array(found, "XINFO GROUPS")?;
            if parse::named(&pairs, "name").cloned().and_then(parse::text).as_deref() == Some(group) {
                let delivered = parse::named(&pairs, "last-delivered-id").cloned().and_then(parse::text);
                return Ok(Some(Info {
                    pending: parse::named(&pairs, "pending").map_or(0, parse::count),
                    delivered: delivered.ok_or_else(|| errors::unexpected("XINFO GROUPS"))?,
                    read: parse::named(&pairs, "entries-read").and_then(parse::unsigned),
                    lag: parse::named(&pairs, "lag").and_then(parse::unsigned),
                }));
            }
        }
        Ok(None)
    }

    async fn extent(&self, keys: &Keys) -> Result<Extent, Error> {
        let pairs = self.xinfo("STREAM", keys, None).await?;
        let text = |name: &str| parse::named(&pairs, name).cloned().and_then(parse::text);
        let first = match parse::named(&pairs, "first-entry").cloned() {
            Some(Value::Array(entry)) => entry.into_iter().next().and_then(parse::text),
            _ => None,
        };
        Ok(Extent {
            length: parse::named(&pairs, "length").map_or(0, parse::count),
            added: parse::named(&pairs, "entries-added").and_then(parse::unsigned),
            first,
            last: text("last-generated-id").ok_or_else(|| errors::unexpected("XINFO STREAM"))?,
            deleted: text("max-deleted-entry-id"),
        })
    }

    /// Counts what lies after a position, if that is not too much.
    async fn count_after(&self, keys: &Keys, delivered: &str) -> Result<Option<u64>, Error> {
        let mut from = format!("({delivered}");
        let mut counted = 0;
        for _ in 0..COUNT_PAGES {
            let mut count = scripts::COUNT.call(&[&keys.stream]);
            count.arg(&from).arg(COUNT_PAGE);
            let page = parse::array(self.link.value(count).await?, "a count")?;
            let found = page.first().map_or(0, parse::count);
            counted += found;
            match page.get(1).cloned().and_then(parse::text) {
                Some(last) if found == COUNT_PAGE => from = format!("({last}"),
                _ => return Ok(Some(counted)),
            }
        }
        Ok(None)
    }

    /// Who is in the group, by its own list and by ours.
    pub(super) async fn consumers(&self, keys: &Keys, group: &str) -> Result<Consumers, Error> {
        let mut who = scripts::WHO.call(&[&keys.stream, &keys.hosts]);
        who.arg(group);
        let answer = parse::array(self.link.value(who).await?, "who")?;
        let [time, hosts, all] = <[Value; 3]>::try_from(answer).map_err(|_| errors::unexpected("who"))?;
        let now = parse::text(time).and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or(0) * 1_000;
        let hosts = parse::texts(hosts, "who")?;
        // Each with the time until which its last sign of life counts.
        let ours: Vec<(&str, u64)> = hosts
            .chunks_exact(2)
            .map(|pair| (pair[0].as_str(), pair[1].parse::<f64>().map_or(0, |score| score.max(0.0) as u64)))
            .collect();
        // Those that renew are there, whatever the group's own list says: it forgets them when the group is made anew, and
        // has them again only when they next read something.
        let alive = ours.iter().filter(|(name, until)| *until >= now && !name.is_empty());
        let mut consumers =
            Consumers { alive: alive.map(|(name, _)| (*name).to_owned()).collect(), foreign: Vec::new() };
        for found in parse::array(all, "who")? {
            let mut found = parse::array(found, "who")?.into_iter();
            let (Some(name), Some(idle)) = (found.next().and_then(parse::text), found.next()) else {
                return Err(errors::unexpected("who"));
            };
            let is_ours = name == GIVEN_BACK || is_virtual(&name) || ours.iter().any(|(own, _)| *own == name);
            if !is_ours && parse::count(&idle) < millis(FOREIGN_IDLE) {
                consumers.alive.push(name.clone());
                consumers.foreign.push(name);
            }
        }
        Ok(consumers)
    }

    /// `XINFO` on a stream; what is not there has nothing.
    pub(super) async fn xinfo(&self, what: &str, keys: &Keys, group: Option<&str>) -> Result<Vec<Value>, Error> {
        let mut info = redis::cmd("XINFO");
        info.arg(what).arg(&keys.stream);
        if let Some(group) = group {
            info.arg(group);
        }
        match self.link.one(info).await? {
            Ok(found) => parse::array(found, "XINFO"),
            Err(error) if errors::code(&error) == Code::NoGroup || errors::words(&error).contains("no such key") => {
                Ok(Vec::new())
            }
            Err(error) => Err(errors::answered(self.link.target(), &error)),
        }
    }

    pub(super) async fn dead_letters(
        &self,
        topic: &Topic,
        group: &str,
        after: Option<&Position>,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let keys = self.keys(topic, group);
        let from = match after {
            Some(after) => format!("({}", known(after)?),
            None => "-".to_owned(),
        };
        let mut range = redis::cmd("XRANGE");
        range.arg(&keys.dead).arg(from).arg("+").arg("COUNT").arg(count);
        let found = match self.link.one(range).await? {
            Ok(found) => found,
            Err(error) if errors::code(&error) == Code::WrongType => {
                let wrong = self.wrong_type(&[&keys.dead]).await?;
                return Err(wrong.unwrap_or_else(|| errors::answered(self.link.target(), &error)));
            }
            Err(error) => return Err(errors::answered(self.link.target(), &error)),
        };
        let entries = parse::entries(found)?.into_iter();
        entries.map(|(id, pairs)| dead_letter(topic, id, &parse::fields(&pairs)?)).collect()
    }

    /// The dead letters of these ids that are there.
    async fn letters(&self, topic: &Topic, keys: &Keys, ids: &[Position]) -> Result<Vec<DeadLetter>, Error> {
        let mut commands = Pipeline::with_capacity(ids.len());
        for id in ids {
            let id = known(id)?;
            commands.cmd("XRANGE").arg(&keys.dead).arg(id).arg(id);
        }
        let mut letters = Vec::with_capacity(ids.len());
        for answer in self.link.send(commands).await? {
            let found = answer.map_err(|error| errors::answered(self.link.target(), &error))?;
            for (id, pairs) in parse::entries(found)? {
                letters.push(dead_letter(topic, id, &parse::fields(&pairs)?)?);
            }
        }
        Ok(letters)
    }

    pub(super) async fn requeue(
        &self,
        topic: &Topic,
        group: &str,
        ids: &[Position],
        to: Requeue,
    ) -> Result<u64, Error> {
        let keys = self.keys(topic, group);
        let mut moved = 0;
        for ids in ids.chunks(REQUEUE) {
            let letters = self.letters(topic, &keys, ids).await?;
            let named = [&*keys.dead, &keys.stream, &keys.retry, &keys.due, &keys.attempts];
            let mut requeue = scripts::REQUEUE.call(&named);
            requeue.arg(if to == Requeue::Topic { "topic" } else { "handler" }).arg(OURS);
            for letter in letters {
                if to == Requeue::Topic {
                    if letter.fields.len() > PLAIN_FIELDS_MAX {
                        return Err(Error::Settings(format!(
                            "dead letter {} has {} fields, more than a script can publish: requeue it to its handler",
                            letter.id,
                            letter.fields.len()
                        )));
                    }
                    requeue.arg(letter.id.as_str()).arg(letter.first.as_str());
                } else {
                    let record = Record {
                        attempts: 0,
                        code: letter.cause.code,
                        reason: letter.cause.reason,
                        first: letter.first,
                        fields: letter.fields,
                    };
                    requeue.arg(letter.id.as_str()).arg(record.pack()).arg(letter.position.as_str());
                }
            }
            let answer = self.link.value(requeue).await?;
            match &answer {
                Value::Array(words) if words.first().cloned().and_then(parse::text).as_deref() == Some("done") => {
                    moved += words.get(1).map_or(0, parse::count);
                }
                _ => return Err(super::misused(answer).unwrap_or_else(|| errors::unexpected("requeue"))),
            }
        }
        Ok(moved)
    }

    pub(super) async fn purge(&self, topic: &Topic, group: &str, ids: &[Position]) -> Result<u64, Error> {
        let keys = self.keys(topic, group);
        let mut purged = 0;
        for ids in ids.chunks(REQUEUE) {
            let mut delete = redis::cmd("XDEL");
            delete.arg(&keys.dead);
            for id in ids {
                delete.arg(known(id)?);
            }
            purged += parse::count(&self.link.value(delete).await?);
        }
        Ok(purged)
    }
}

// === impl Extent ===

impl Extent {
    /// True if the group's position lies before everything that is kept.
    fn is_behind(&self, delivered: &str) -> bool {
        self.first.as_deref().is_none_or(|first| position_parts(delivered) < position_parts(first))
    }

    /// Messages to be read, where that is plain without counting.
    fn unread(&self, info: &Info) -> Option<u64> {
        if self.is_behind(&info.delivered) { Some(self.length) } else { (info.delivered == self.last).then_some(0) }
    }

    /// Messages that are gone unread, as far as the server knows, and that no renewal has counted yet: `renew.lua`
    /// says why.
    fn unread_and_gone(&self, info: &Info) -> u64 {
        let (Some(added), Some(read)) = (self.added, info.read) else { return 0 };
        let has_holes = match (&self.deleted, &self.first) {
            (Some(deleted), Some(first)) => position_parts(deleted) > position_parts(first),
            _ => false,
        };
        if info.delivered == self.last {
            added.saturating_sub(read)
        } else if self.is_behind(&info.delivered) && !has_holes {
            added.saturating_sub(self.length).saturating_sub(read)
        } else {
            0
        }
    }
}

/// A value as a key space keeps it: version, colon, bytes.
pub(super) fn versioned(stored: Vec<u8>) -> Option<Versioned> {
    let colon = stored.iter().position(|byte| *byte == b':')?;
    let version = std::str::from_utf8(&stored[..colon]).ok()?.parse().ok()?;
    Some(Versioned { value: Some(bytes::Bytes::from(stored).slice(colon + 1..)), version })
}

/// An id, if it can be one: anything else Redis would refuse in words of its own.
fn known(id: &Position) -> Result<&str, Error> {
    match position_parts(id.as_str()) {
        Some(_) => Ok(id.as_str()),
        None => Err(Error::Settings(format!("{id} is no id of a dead letter: take one that `dlq list` shows"))),
    }
}
