//! Redis Streams: consumer groups, pending lists, and scripts for every change that is more than one command.
//!
//! Reads of new entries block on a connection of their own; everything else shares one ([`link`]). Beside the stream
//! of a topic lie, per group, the retry store, the dead letters and a few small keys ([`keys`]). What the server
//! promises and what it does not is written at each script: scripts do not roll back, so each looks first, then does
//! the write that can be refused for want of memory, and acknowledges last.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Pipeline, Value};

use self::durable::Durable;
use self::errors::Code;
use self::keys::Keys;
use self::link::Link;
use self::member::{GIVEN_BACK, Member, millis};
use self::trim::Trimmer;
use self::url::Target;
use super::durability::Trimming;
use super::{
    Applied, Bus, DeadLetter, Durability, Edge, Error, Group, GroupStatus, Guarantees, Ledger, LedgerEntry, LedgerName,
    Needs, Published, Requeue, Settings, Span, Start, Subscription,
};
use crate::event::{Effects, KeyList, Message, Outgoing, Position, Topic, Versioned, unix_millis};

mod admin;
mod ages;
mod cluster;
mod confirm;
mod connection;
mod direct;
mod durable;
mod effects;
mod errors;
mod fetch;
mod flight;
mod frame;
mod history;
mod hold;
mod housekeep;
mod keys;
mod lanes;
mod ledger;
mod link;
mod member;
mod needs;
mod ordered;
mod parse;
mod place;
mod publish;
mod record;
mod renew;
mod scripts;
mod sentinel;
mod settle;
mod slices;
mod slots;
mod survey;
mod trim;
mod turn;
mod url;

/// A consumer that is not ours counts as alive if it asked for something within this time: the Python consumer's
/// blocking read lasts 60 s.
const FOREIGN_IDLE: Duration = Duration::from_secs(120);

struct Redis {
    shared: Arc<Shared>,
}

/// What the bus and all its subscriptions share.
struct Shared {
    link: Link,
    prefix: Option<String>,
    trimming: Trimming,
    trimmer: Trimmer,
    durability: Durability,
    /// Connections of publishers that wait for their writes, while nobody uses them.
    publishers: Mutex<Vec<Durable>>,
    /// On a cluster: the keys of key spaces that lie beside a topic.
    places: RwLock<HashMap<String, String>>,
}

/// The files that a URL names.
pub(super) fn files(url: &str) -> Vec<PathBuf> {
    url::files(url)
}

/// Reads the settings. Connects when first used.
pub(super) async fn open(settings: &Settings) -> Result<Arc<dyn Bus>, Error> {
    let link = Link::new(Target::parse(&settings.url)?);
    let shared = Shared {
        link,
        prefix: settings.topic_prefix.clone(),
        trimming: Trimming::new(settings.trim, settings.stream_max_len),
        trimmer: Trimmer::default(),
        durability: settings.durability.unwrap_or(Durability::None),
        publishers: Mutex::default(),
        places: RwLock::default(),
    };
    shared.refuse_waits()?;
    Ok(Arc::new(Redis { shared: Arc::new(shared) }))
}

// === impl Redis ===

#[async_trait]
impl Bus for Redis {
    fn guarantees(&self) -> Guarantees {
        if self.shared.link.cluster().is_some() {
            return needs::ON_A_CLUSTER;
        }
        Guarantees {
            atomic_effects: true,
            ordered_groups: true,
            notes: &[
                "With durability = \"none\" Redis acknowledges a write before it is on disk or on a replica: a crash or a \
                 failover may lose the last moment. \"fsync\" and a number of replicas wait for it; a failover may lose \
                 what the replica that takes over has not received.",
                "Trimming by length (stream_max_len, and what other producers do) takes no regard of what a group has \
                 not read.",
                "With an eviction policy other than noeviction Redis may drop whole streams when memory runs out.",
            ],
        }
    }

    fn prepare(&self, needs: &Needs) -> Result<Vec<String>, Error> {
        self.shared.prepare(needs)
    }

    async fn get_ready(&self) {
        // Nobody knows yet which nodes of a cluster will be asked for what.
        if self.shared.link.cluster().is_none() {
            drop(self.shared.link.get_ready().await);
        }
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<Published, Error> {
        if messages.is_empty() {
            return Ok(Published::default());
        }
        self.shared.publish(messages).await
    }

    async fn subscribe(&self, group: &Group) -> Result<Arc<dyn Subscription>, Error> {
        if group.topics.is_empty() {
            return Err(Error::Settings(format!("group {} reads no topic", group.name)));
        }
        self.shared.refuse_spread_order(&group.name, group.order.is_some(), &group.topics)?;
        let topics: Vec<Keys> = group.topics.iter().map(|topic| self.shared.keys(topic, &group.name)).collect();
        let mut troubles = self.shared.troubles(group, &topics).await?;
        if !troubles.is_empty() {
            return Err(troubles.swap_remove(0));
        }
        let mut starts = Vec::with_capacity(topics.len());
        for keys in &topics {
            let fresh = start(&group.start)?;
            starts.push(self.shared.marked(keys).await?.unwrap_or(fresh));
        }
        let member = Member::new(Arc::clone(&self.shared), group, topics);
        if let Some(durable) = &member.durable {
            durable.ready().await?;
        }
        for (keys, start) in member.topics.iter().zip(&starts) {
            self.shared.join(keys, &group.name, &member.consumer, start, member.life()).await?;
        }
        if group.order.is_none() {
            for keys in &member.topics {
                self.shared.link.value(housekeep::unite(keys)).await?;
            }
        }
        // Sets the mark: from here on a group that vanishes is made again where it was.
        member.renew_all().await?;
        Ok(Arc::new(member))
    }

    async fn read_key(&self, space: &str, key: &str) -> Result<Versioned, Error> {
        let hash = self.shared.space(space);
        let mut get = redis::cmd("HGET");
        get.arg(&hash).arg(keys::field(key));
        match parse::bytes(self.shared.key_value(&hash, get).await?) {
            None => Ok(Versioned::default()),
            Some(stored) => admin::versioned(stored)
                .ok_or_else(|| Error::Unexpected(format!("{hash} holds a value that Sandbar did not write: {key}"))),
        }
    }

    async fn list_keys(&self, space: &str, prefix: &str, limit: usize) -> Result<KeyList, Error> {
        let hash = self.shared.space(space);
        let mut list = scripts::LIST.call(&[&hash]);
        list.arg(keys::field(prefix));
        let mut found = parse::texts(self.shared.key_value(&hash, list).await?, "a list of keys")?.into_iter();
        let version = found.next().and_then(|version| version.parse().ok()).unwrap_or(0);
        // The first character is the mark of a key's field.
        let mut keys: Vec<String> = found.map(|field| field[1..].to_owned()).collect();
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(KeyList { keys, version })
    }

    async fn probe(&self, groups: &[Group]) -> Result<Vec<Error>, Error> {
        self.shared.link.value(redis::cmd("PING")).await?;
        let mut troubles = Vec::new();
        if let Some(durable) = self.shared.durable() {
            troubles.extend(durable.ready().await.err());
        }
        for group in groups {
            let topics: Vec<Keys> = group.topics.iter().map(|topic| self.shared.keys(topic, &group.name)).collect();
            troubles.extend(self.shared.troubles(group, &topics).await?);
            troubles.extend(start(&group.start).err());
        }
        Ok(troubles)
    }

    async fn history(&self, topic: &Topic, from: &Edge, to: Option<&Edge>) -> Result<Option<Span>, Error> {
        self.shared.span(topic, from, to).await
    }

    async fn read(&self, topic: &Topic, span: &Span, count: usize) -> Result<Vec<Message>, Error> {
        self.shared.read(topic, span, count).await
    }

    async fn apply(&self, effects: &Effects) -> Result<Applied, Error> {
        self.shared.apply(effects).await
    }

    async fn status(&self, topic: &Topic, group: &str) -> Result<GroupStatus, Error> {
        self.shared.status(topic, group).await
    }

    async fn dead_letters(
        &self,
        topic: &Topic,
        group: &str,
        after: Option<&Position>,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        self.shared.dead_letters(topic, group, after, count).await
    }

    async fn requeue(&self, topic: &Topic, group: &str, ids: &[Position], to: Requeue) -> Result<u64, Error> {
        self.shared.requeue(topic, group, ids, to).await
    }

    async fn purge(&self, topic: &Topic, group: &str, ids: &[Position]) -> Result<u64, Error> {
        self.shared.purge(topic, group, ids).await
    }

    async fn ledger(&self, name: &LedgerName) -> Result<Option<Ledger>, Error> {
        self.shared.ledger(name).await
    }

    async fn ledger_bytes(&self, name: &LedgerName, key: &str) -> Result<Option<Bytes>, Error> {
        self.shared.ledger_bytes(name, key).await
    }

    async fn write_ledger(&self, name: &LedgerName, before: u64, entry: &LedgerEntry) -> Result<Option<u64>, Error> {
        self.shared.write_ledger(name, before, entry).await
    }
}

// === impl Shared ===

impl Shared {
    fn keys(&self, topic: &Topic, group: &str) -> Keys {
        Keys::new(self.prefix.as_deref(), topic, group)
    }

    /// Reads from a key space; a key of the wrong type is an error that names it.
    async fn key_value(&self, hash: &str, command: redis::Cmd) -> Result<Value, Error> {
        match self.link.one(command).await? {
            Ok(value) => Ok(value),
            Err(error) if errors::code(&error) == Code::WrongType => {
                let found = self.types(&[hash]).await?.pop().unwrap_or_default();
                Err(Error::WrongType { key: hash.to_owned(), found, expected: "hash" })
            }
            Err(error) => Err(errors::answered(self.link.target(), &error)),
        }
    }

    async fn types(&self, keys: &[&str]) -> Result<Vec<String>, Error> {
        let mut commands = Pipeline::with_capacity(keys.len());
        for key in keys {
            commands.cmd("TYPE").arg(*key);
        }
        let answers = self.link.send(commands).await?.into_iter();
        answers
            .map(|answer| {
                let answer = answer.map_err(|error| errors::answered(self.link.target(), &error))?;
                parse::text(answer).ok_or_else(|| errors::unexpected("TYPE"))
            })
            .collect()
    }

    /// The first of these keys that is there and no stream.
    async fn wrong_type(&self, streams: &[&str]) -> Result<Option<Error>, Error> {
        let types = self.types(streams).await?.into_iter();
        Ok(streams
            .iter()
            .zip(types)
            .find(|(_, found)| found != "none" && found != "stream")
            .map(|(key, found)| Error::WrongType { key: (*key).to_owned(), found, expected: "stream" }))
    }

    /// What stands in the way of joining.
    async fn troubles(&self, group: &Group, topics: &[Keys]) -> Result<Vec<Error>, Error> {
        let mut troubles = Vec::new();
        for keys in topics {
            if let Some(wrong) = self.wrong_type(&[&keys.stream]).await? {
                troubles.push(wrong);
                continue;
            }
            if group.join_foreign {
                continue;
            }
            let foreign = self.consumers(keys, &group.name).await?.foreign;
            if !foreign.is_empty() {
                troubles.push(Error::Foreign {
                    group: group.name.clone(),
                    topic: keys.topic.to_string(),
                    consumers: foreign.join(", "),
                });
            }
        }
        Ok(troubles)
    }

    /// Makes stream and group where they are missing, registers the consumer, and returns whether the group was made.
    async fn join(&self, keys: &Keys, group: &str, consumer: &str, start: &str, life: u64) -> Result<bool, Error> {
        let mut join = scripts::JOIN.call(&[&keys.stream, &keys.hosts]);
        join.arg(group).arg(consumer).arg(start).arg(life);
        let answer = self.link.value(join).await?;
        let word = match &answer {
            Value::Array(words) => words.first().cloned().and_then(parse::text),
            _ => None,
        };
        match word.as_deref() {
            Some("made") => Ok(true),
            Some("joined") => Ok(false),
            _ => Err(misused(answer).unwrap_or_else(|| errors::unexpected("join"))),
        }
    }

    /// Where a group that was there before has to start.
    async fn marked(&self, keys: &Keys) -> Result<Option<String>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(&keys.mark);
        Ok(parse::text(self.link.value(get).await?).and_then(|mark| renew::start_of(&mark)))
    }
}

/// The position after which a new group starts.
fn start(start: &Start) -> Result<String, Error> {
    match start {
        Start::New => Ok("$".to_owned()),
        Start::Beginning => Ok("0".to_owned()),
        Start::After(position) if position_parts(position.as_str()).is_some() => Ok(position.to_string()),
        Start::After(position) => {
            Err(Error::Settings(format!("{position} is no position on Redis: write milliseconds-number")))
        }
        Start::At(time) => Ok(before(&format!("{}-0", unix_millis(*time))).unwrap_or_else(|| "0".to_owned())),
    }
}

/// Milliseconds and number of an entry's id.
fn position_parts(id: &str) -> Option<(u64, u64)> {
    match id.split_once('-') {
        Some((millis, number)) => Some((millis.parse().ok()?, number.parse().ok()?)),
        None => Some((id.parse().ok()?, 0)),
    }
}

/// The last id before this one.
fn before(id: &str) -> Option<String> {
    let (millis, number) = position_parts(id)?;
    Some(match (millis, number) {
        (0, 0) => "0".to_owned(),
        (_, 0) => format!("{}-{}", millis - 1, u64::MAX),
        _ => format!("{millis}-{}", number - 1),
    })
}

/// The error in a script's answer that names a key of the wrong type.
fn misused(answer: Value) -> Option<Error> {
    let words = parse::texts(answer, "a script").ok()?;
    let [word, key, found, expected] = <[String; 4]>::try_from(words).ok()?;
    let expected = ["stream", "hash", "zset"].into_iter().find(|known| *known == expected)?;
    (word == "wrongtype").then_some(Error::WrongType { key, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_before_an_id() {
        assert_eq!(before("5-3").as_deref(), Some("5-2"));
        assert_eq!(before("5-0").as_deref(), Some("4-18446744073709551615"));
        assert_eq!(before("0-0").as_deref(), Some("0"));
        assert_eq!(before("soon"), None);
        assert_eq!(renew::start_of("p5-3").as_deref(), Some("5-2"));
        assert_eq!(renew::start_of("d5-3").as_deref(), Some("5-3"));
        assert_eq!(renew::start_of("p5-3 7-0 0badcafe").as_deref(), Some("5-2"));
        assert_eq!(renew::start_of("d5-3 7-0").as_deref(), Some("5-3"));
        assert_eq!(renew::start_of(""), None);
    }
}
