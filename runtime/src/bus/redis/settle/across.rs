//! Effects across slots of a cluster: messages to topics that no script of the event's own topic can name.
//!
//! They are appended first, once the acknowledgement is known to be welcome, and the acknowledgement follows with what
//! lies in its own slot. So none is missing; but an end in between publishes them again, under the same derived ids.

use redis::Pipeline;

use super::super::connection::Answer;
use super::super::effects::{push_reads, unfit};
use super::super::errors::copy;
use super::super::hold::CHECKS;
use super::super::slots::slot;
use super::super::{errors, parse};
use super::{Held, Member, Part};
use crate::bus::{Settled, stream_name};
use crate::event::{Effects, Outgoing, Settlement, Topic};

// === impl Member ===

impl Member {
    /// Whether a topic lies on the cluster where the delivery's own does not.
    pub(super) fn is_across(&self, held: &Held, topic: &Topic) -> bool {
        self.shared.link.cluster().is_some() && {
            let stream = stream_name(self.shared.prefix.as_deref(), topic);
            slot(stream.as_bytes()) != slot(self.topics[held.topic].stream.as_bytes())
        }
    }

    /// Whether a handler's keys lie on the cluster where the delivery's own topic does not.
    pub(super) fn is_space_across(&self, held: &Held, effects: &Effects) -> bool {
        self.shared.link.cluster().is_some() && !(effects.reads.is_empty() && effects.writes.is_empty()) && {
            let space = self.shared.space(&effects.key_space);
            slot(space.as_bytes()) != slot(self.topics[held.topic].stream.as_bytes())
        }
    }

    /// The key space of an acknowledgement, for a script's keys.
    fn space_for(&self, held: &Held, effects: &Effects) -> String {
        match effects.key_space.as_str() {
            // Not touched: any key of the same slot serves.
            "" => self.topics[held.topic].stream.clone(),
            space => self.shared.space(space),
        }
    }

    /// Appends what has to go to other slots. A part that goes no further has its answer afterwards.
    pub(super) async fn append_across(&self, parts: &mut [&mut Part]) {
        if self.shared.link.cluster().is_none() {
            return;
        }
        let mut some: Vec<&mut Part> = Vec::new();
        for part in parts.iter_mut().filter(|part| !part.held.appended) {
            let Some(Settlement::Ack(effects)) = &part.settlement else { continue };
            let is_across = effects.publish.iter().any(|message| self.is_across(&part.held, &message.topic));
            if is_across && unfit(effects).is_none() && !self.is_space_across(&part.held, effects) {
                some.push(part);
            }
        }
        if some.is_empty() {
            return;
        }
        self.look_before(&mut some).await;
        some.retain(|part| part.answer.is_none());
        self.append_now(&mut some).await;
    }

    /// Answers parts whose acknowledgement would not be taken.
    async fn look_before(&self, parts: &mut [&mut Part]) {
        let mut commands = Pipeline::new();
        let mut counts = Vec::with_capacity(parts.len());
        for part in parts.iter() {
            let streams = self.streams_across(part);
            let effects = part.effects();
            let space = self.space_for(&part.held, effects);
            let mut check = self.held_call(&CHECKS, &part.held, &[&space]);
            push_reads(&mut check, effects);
            commands.add_command(check);
            for stream in &streams {
                commands.cmd("TYPE").arg(stream);
            }
            counts.push(streams);
        }
        let answers = match self.shared.link.send(commands).await {
            Ok(answers) => answers,
            Err(error) => return parts.iter_mut().for_each(|part| part.fail(copy(&error))),
        };
        let mut answers = answers.into_iter();
        for (part, streams) in parts.iter_mut().zip(counts) {
            if let Some(answer) = answers.next() {
                self.read_answer(part, answer);
            }
            let types: Vec<(String, Answer)> = streams.into_iter().zip(answers.by_ref()).collect();
            // Committed means here: it would be.
            if !matches!(part.answer.take_if(|answer| matches!(answer, Settled::Committed)), Some(Settled::Committed)) {
                continue;
            }
            for (stream, found) in types {
                match found.map(parse::text) {
                    Ok(Some(found)) if found != "none" && found != "stream" => {
                        part.refuse(format!("{stream} is a {found}, not a stream: rename the topic or remove the key"));
                    }
                    Ok(_) => {}
                    Err(error) => part.fail(errors::answered(self.shared.link.target(), &error)),
                }
            }
        }
    }

    async fn append_now(&self, parts: &mut [&mut Part]) {
        let mut commands = Pipeline::new();
        let mut counts = Vec::with_capacity(parts.len());
        for part in parts.iter() {
            let before = commands.len();
            for message in self.messages_across(part) {
                commands.add_command(self.shared.add(message));
            }
            counts.push(commands.len() - before);
        }
        let answers = match self.shared.link.send(commands).await {
            Ok(answers) => answers,
            Err(error) => return parts.iter_mut().for_each(|part| part.fail(copy(&error))),
        };
        let mut answers = answers.into_iter();
        for (part, count) in parts.iter_mut().zip(counts) {
            let id = part.delivery.as_ref().map(super::Delivery::id);
            let own: Vec<Answer> = answers.by_ref().take(count).collect();
            match own.into_iter().find_map(Result::err) {
                None => self.hand.with(|hand| {
                    if let Some(held) = id.and_then(|id| hand.get_mut(&id)) {
                        held.appended = true;
                    }
                }),
                Some(error) => self.read_answer(part, Err(error)),
            }
        }
    }

    fn messages_across<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = &'a Outgoing> {
        part.effects().publish.iter().filter(|message| self.is_across(&part.held, &message.topic))
    }

    fn streams_across(&self, part: &Part) -> Vec<String> {
        let prefix = self.shared.prefix.as_deref();
        let mut streams: Vec<String> =
            self.messages_across(part).map(|message| stream_name(prefix, &message.topic)).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }
}

// === impl Part ===

impl Part {
    /// What it commits; only called for parts that commit something.
    fn effects(&self) -> &Effects {
        static NONE: std::sync::LazyLock<Effects> = std::sync::LazyLock::new(Effects::default);
        match &self.settlement {
            Some(Settlement::Ack(effects)) => effects,
            _ => &NONE,
        }
    }
}
