//! The embedded bus: one SQLite file, any number of processes, no server.
//!
//! Every promise of [`Bus`] is a transaction on one file in WAL mode. What is acknowledged has been synced to disk, unless
//! `bus.durability` is "none".
//! SQLite's calls block, so two threads of the bus's own make them: one writes, and gathers whatever waits into one
//! transaction with one sync; one reads, beside it. See `worker`.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::durability::Trimming;
use super::{
    Applied, Bus, DeadLetter, Durability, Edge, Error, Group, GroupStatus, Guarantees, Ledger, LedgerEntry, LedgerName,
    Published, Requeue, Settings, Span, Subscription, stream_name,
};
use crate::event::{Effects, KeyList, Message, Outgoing, Position, Topic, Versioned};
use fault::Fault;
use schema::Syncs;
use store::{Store, Synced};
use subscription::Consumer;

mod dead_letters;
mod divide;
mod fault;
mod history;
mod keys;
mod lease;
mod ledger;
mod look;
mod member;
mod ordered;
mod place;
mod probe;
mod schema;
mod settle;
mod slices;
mod status;
mod store;
mod subscription;
mod take;
mod topics;
mod trim;
mod worker;

struct Sqlite {
    store: Arc<Store>,
    names: Names,
    trimming: Trimming,
    durability: Durability,
}

/// How topics are called in the file.
#[derive(Clone)]
struct Names {
    prefix: Option<String>,
}

pub(super) async fn open(settings: &Settings) -> Result<Arc<dyn Bus>, Error> {
    let path = path(&settings.url)?;
    let names = Names { prefix: settings.topic_prefix.clone() };
    let durability = settings.durability.unwrap_or(Durability::Fsync);
    let syncs = match durability {
        Durability::None => Syncs::Checkpoints,
        Durability::Fsync => Syncs::Commits,
        Durability::Replicas(_) => {
            let reason = "the embedded bus has no replicas; take \"fsync\" or \"none\"";
            return Err(Error::Settings(format!("bus.durability is a number of replicas, and {reason}")));
        }
    };
    let trimming = Trimming::new(settings.trim, settings.stream_max_len);
    Ok(Arc::new(Sqlite { store: Store::start(path, syncs)?, names, trimming, durability }))
}

/// The file that a URL names: `sqlite:PATH`, where an absolute path may have two slashes before it.
pub(super) fn path(url: &str) -> Result<PathBuf, Error> {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        let reason = "names no file: write sqlite:PATH, for example sqlite:events.db";
        return Err(Error::Settings(format!("bus.url = {url:?} {reason}")));
    }
    Ok(PathBuf::from(path))
}

// === impl Sqlite ===

#[async_trait]
impl Bus for Sqlite {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            atomic_effects: true,
            ordered_groups: true,
            notes: &[
                "All hosts must run on one machine and see the file on a local disk: SQLite's locks do not work over \
                 network file systems.",
                "One process writes at a time: a process that is frozen (SIGSTOP, a debugger) in the middle of a write \
                 blocks all others until it goes on or ends.",
                "Messages stay in the file until they are trimmed (trim, stream_max_len); deliveries in hand are never \
                 trimmed.",
                "With durability = \"none\" the last moments before a power cut may be gone; the file stays whole.",
            ],
        }
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<Published, Error> {
        if messages.is_empty() {
            return Ok(Published::default());
        }
        let (messages, names, max_len) = (messages.to_vec(), self.names.clone(), self.trimming.max_len);
        let positions = self
            .store
            .write(move |db| {
                let append = |message: &Outgoing| {
                    let seq = topics::append(db, &names.stored(&message.topic), &message.fields, max_len)?;
                    Ok(topics::position(seq))
                };
                messages.iter().map(append).collect::<Result<Vec<Position>, Fault>>()
            })
            .await?;
        self.store.wake();
        Ok(Published { positions, durability: self.durability })
    }

    async fn subscribe(&self, group: &Group) -> Result<Arc<dyn Subscription>, Error> {
        let consumer = Consumer::join(&self.store, &self.names, group, self.trimming).await?;
        Ok(Arc::new(consumer))
    }

    async fn read_key(&self, space: &str, key: &str) -> Result<Versioned, Error> {
        let (space, key) = (space.to_owned(), key.to_owned());
        self.store.read(move |db| keys::read(db, &space, &key)).await
    }

    async fn list_keys(&self, space: &str, prefix: &str, limit: usize) -> Result<KeyList, Error> {
        let (space, prefix) = (space.to_owned(), prefix.to_owned());
        self.store.read(move |db| keys::list(db, &space, &prefix, limit)).await
    }

    async fn probe(&self, groups: &[Group]) -> Result<Vec<Error>, Error> {
        self.store.probe(groups).await
    }

    async fn history(&self, topic: &Topic, from: &Edge, to: Option<&Edge>) -> Result<Option<Span>, Error> {
        let (topic, from, to) = (self.names.stored(topic), from.clone(), to.cloned());
        self.store.read(move |db| history::span(db, &topic, &from, to.as_ref())).await
    }

    async fn read(&self, topic: &Topic, span: &Span, count: usize) -> Result<Vec<Message>, Error> {
        let (topic, stored, span) = (topic.clone(), self.names.stored(topic), span.clone());
        self.store.read(move |db| history::read(db, &topic, &stored, (&span.after, &span.to), count)).await
    }

    async fn apply(&self, effects: &Effects) -> Result<Applied, Error> {
        let (effects, names, max_len) = (effects.clone(), self.names.clone(), self.trimming.max_len);
        let apply = move |db: &_| history::apply(db, &names, max_len, &effects);
        let applied = self.store.write_then(Synced::AtCommit, apply, history::applied).await?;
        self.store.wake();
        applied.map_err(|fault| fault.error(self.store.path()))
    }

    async fn status(&self, topic: &Topic, group: &str) -> Result<GroupStatus, Error> {
        let (topic, group) = (self.names.stored(topic), group.to_owned());
        self.store.read(move |db| status::read(db, &topic, &group)).await
    }

    async fn dead_letters(
        &self,
        topic: &Topic,
        group: &str,
        after: Option<&Position>,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let stored = self.names.stored(topic);
        let (topic, group, after) = (topic.clone(), group.to_owned(), after.cloned());
        self.store.read(move |db| dead_letters::list(db, &topic, &stored, &group, after.as_ref(), count)).await
    }

    async fn requeue(&self, topic: &Topic, group: &str, ids: &[Position], to: Requeue) -> Result<u64, Error> {
        let (topic, group, ids) = (self.names.stored(topic), group.to_owned(), ids.to_vec());
        let moved = self.store.write(move |db| dead_letters::requeue(db, &topic, &group, &ids, to)).await?;
        self.store.wake();
        Ok(moved)
    }

    async fn purge(&self, topic: &Topic, group: &str, ids: &[Position]) -> Result<u64, Error> {
        let (topic, group, ids) = (self.names.stored(topic), group.to_owned(), ids.to_vec());
        self.store.write(move |db| dead_letters::purge(db, &topic, &group, &ids)).await
    }

    async fn ledger(&self, name: &LedgerName) -> Result<Option<Ledger>, Error> {
        let (topic, group) = (self.names.stored(&name.topic), name.group.clone());
        self.store.read(move |db| ledger::read(db, &topic, &group)).await
    }

    async fn ledger_bytes(&self, name: &LedgerName, key: &str) -> Result<Option<Bytes>, Error> {
        let (topic, group, key) = (self.names.stored(&name.topic), name.group.clone(), key.to_owned());
        self.store.read(move |db| ledger::bytes(db, &topic, &group, &key)).await
    }

    async fn write_ledger(&self, name: &LedgerName, before: u64, entry: &LedgerEntry) -> Result<Option<u64>, Error> {
        let (topic, group, entry) = (self.names.stored(&name.topic), name.group.clone(), entry.clone());
        self.store.write(move |db| ledger::write(db, &topic, &group, before, &entry)).await
    }
}

// === impl Names ===

impl Names {
    fn stored(&self, topic: &str) -> String {
        stream_name(self.prefix.as_deref(), topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_files() {
        for (url, expected) in [
            ("sqlite:events.db", "events.db"),
            ("sqlite:./a/b.db", "./a/b.db"),
            ("sqlite:/var/lib/e.db", "/var/lib/e.db"),
            ("sqlite:///var/lib/e.db", "/var/lib/e.db"),
        ] {
            assert_eq!(path(url).unwrap(), PathBuf::from(expected), "{url}");
        }
        for url in ["sqlite:", "sqlite://", "sqlite::memory:"] {
            assert!(matches!(path(url), Err(Error::Settings(_))), "{url}");
        }
    }
}
