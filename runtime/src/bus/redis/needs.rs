//! What a cluster cannot give to a handler, and where it puts a handler's keys: said before anything is read.

use std::sync::PoisonError;

use super::super::{Durability, Error, Guarantees, Needs, stream_name};
use super::slots::slot;
use super::{Shared, keys};
use crate::event::Topic;

/// What Redis Cluster promises.
pub(super) const ON_A_CLUSTER: Guarantees = Guarantees {
    atomic_effects: false,
    ordered_groups: true,
    notes: &[
        "What a handler publishes to a topic in another slot is appended just before the acknowledgement, not with it: \
         if the host or a node ends in between, it is published again under the same id.",
        "A handler's keys lie in the slot of the one topic it reads and commit with the acknowledgement.",
        "With topic_prefix = \"{NAME}\" all topics and keys lie in one slot, on one node, and everything commits together.",
        "A cluster acknowledges a write before it is on a replica: a failover may lose the last moment.",
        "Trimming a stream (MAXLEN) takes no regard of what a group has not read.",
    ],
};

// === impl Shared ===

impl Shared {
    /// See [`super::super::Bus::prepare`]. Notes where the handler's keys lie.
    pub(super) fn prepare(&self, needs: &Needs) -> Result<Vec<String>, Error> {
        if self.link.cluster().is_none() {
            return Ok(Vec::new());
        }
        self.refuse_spread_order(&needs.handler, needs.ordered, &needs.topics)?;
        if let Some(space) = &needs.key_space {
            self.place(&needs.handler, space, &needs.topics)?;
        }
        let across: Vec<&str> = needs
            .publish
            .iter()
            .filter(|to| needs.topics.iter().any(|from| self.slot_of(from) != self.slot_of(to)))
            .map(|to| &**to)
            .collect();
        if across.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "what handler {:?} publishes to {} lies in another slot of the cluster than what it reads: it is published \
             before the acknowledgement, not with it, and perhaps more than once, under the same id; topic_prefix = \
             \"{{NAME}}\" puts all topics into one slot",
            needs.handler,
            across.join(", ")
        )])
    }

    /// A consumer with order waits by one read of all its topics, and a read names keys of one slot.
    pub(super) fn refuse_spread_order(&self, who: &str, ordered: bool, topics: &[Topic]) -> Result<(), Error> {
        if self.link.cluster().is_none() || !ordered || self.is_together(topics) {
            return Ok(());
        }
        Err(Error::Settings(format!(
            "{who:?} asks for order over several topics, which lie in different slots of the cluster: give each topic a \
             handler of its own, or put all topics into one slot with topic_prefix = \"{{NAME}}\""
        )))
    }

    /// A wait for disks or replicas speaks of one node, and what is written together may go to several.
    pub(super) fn refuse_waits(&self) -> Result<(), Error> {
        if self.link.cluster().is_none() || self.durability == Durability::None {
            return Ok(());
        }
        Err(Error::Settings(
            "bus.durability other than \"none\" cannot be kept on a Redis cluster: each of its nodes waits for its own \
             writes only, and Sandbar does not wait for several; set durability = \"none\""
                .to_owned(),
        ))
    }

    /// Effects without a delivery are stored by one script, which reaches one slot. Says why these are not.
    pub(super) fn spread_effects<'a>(&self, mut keys: impl Iterator<Item = &'a str>) -> Option<String> {
        self.link.cluster()?;
        let first = keys.next()?;
        let other = keys.find(|key| slot(key.as_bytes()) != slot(first.as_bytes()))?;
        Some(format!(
            "{first} and {other} lie in different slots of the cluster, so effects cannot be stored together in both: \
             put all topics into one slot with topic_prefix = \"{{NAME}}\""
        ))
    }

    /// The hash of a key space.
    pub(super) fn space(&self, space: &str) -> String {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.get(space).cloned().unwrap_or_else(|| keys::space(self.prefix.as_deref(), space))
    }

    /// Puts a key space where the handler's events are acknowledged.
    fn place(&self, handler: &str, space: &str, topics: &[Topic]) -> Result<(), Error> {
        let natural = keys::space(self.prefix.as_deref(), space);
        let is_near = |topic: &Topic| self.slot_of(topic) == slot(natural.as_bytes());
        let place = match topics {
            all if all.iter().all(is_near) => natural,
            [topic] => keys::space_beside(&stream_name(self.prefix.as_deref(), topic), space),
            _ => {
                return Err(Error::Settings(format!(
                    "handler {handler:?} keeps keys and reads several topics, which lie in different slots of the \
                     cluster, so its keys could not be written with the acknowledgement: give each topic a handler of \
                     its own, or put all topics into one slot with topic_prefix = \"{{NAME}}\""
                )));
            }
        };
        self.places.write().unwrap_or_else(PoisonError::into_inner).insert(space.to_owned(), place);
        Ok(())
    }

    fn is_together(&self, topics: &[Topic]) -> bool {
        topics.windows(2).all(|pair| self.slot_of(&pair[0]) == self.slot_of(&pair[1]))
    }

    fn slot_of(&self, topic: &Topic) -> u16 {
        slot(stream_name(self.prefix.as_deref(), topic).as_bytes())
    }
}
