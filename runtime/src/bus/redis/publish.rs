//! Publishing: in pieces that a slow network can carry, and with one wait for all of them.

use std::sync::PoisonError;

use redis::{Cmd, Pipeline};

use super::super::{Durability, Error, Published, stream_name};
use super::durable::Durable;
use super::errors::{self, Code};
use super::link::Link;
use super::{Shared, parse, settle};
use crate::event::{Outgoing, Position};

/// Messages sent in one write when publishing.
const PUBLISH_COUNT: usize = 500;
/// Bytes sent in one write when publishing, so that the answer comes within the time-out on a slow network.
const PUBLISH_BYTES: usize = 4 << 20;
/// Connections that are kept for publishers: more than that publish at once only now and then.
const PUBLISHERS: usize = 8;

// === impl Shared ===

impl Shared {
    /// Publishes, and waits once for all of it.
    pub(super) async fn publish(&self, messages: &[Outgoing]) -> Result<Published, Error> {
        let idle = self.publishers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(durable) = idle.or_else(|| self.durable()) else {
            let positions = self.append_all(&self.link, messages).await?;
            return Ok(Published { positions, durability: Durability::None });
        };
        let published = self.publish_over(&durable, messages).await;
        let mut idle = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < PUBLISHERS {
            idle.push(durable);
        }
        published
    }

    async fn publish_over(&self, durable: &Durable, messages: &[Outgoing]) -> Result<Published, Error> {
        let made = durable.ready().await?;
        let positions = self.append_all(durable.link(), messages).await?;
        let durability = durable.confirm(made).await?;
        Ok(Published { positions, durability })
    }

    async fn append_all(&self, link: &Link, messages: &[Outgoing]) -> Result<Vec<Position>, Error> {
        let mut positions = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(PUBLISH_COUNT).take_while(|message| {
                let fits = bytes < PUBLISH_BYTES;
                bytes += message.fields.byte_len();
                fits
            });
            let (chunk, tail) = rest.split_at(fits.count().max(1));
            self.append(link, chunk, &mut positions).await?;
            rest = tail;
        }
        Ok(positions)
    }

    /// A connection for writes that have to be waited for, if they have to.
    pub(super) fn durable(&self) -> Option<Durable> {
        Durable::new(self.link.target(), self.durability)
    }

    async fn append(&self, link: &Link, messages: &[Outgoing], positions: &mut Vec<Position>) -> Result<(), Error> {
        let mut commands = Pipeline::with_capacity(messages.len());
        let mut streams = Vec::with_capacity(messages.len());
        for message in messages {
            commands.add_command(self.add(message));
            streams.push(stream_name(self.prefix.as_deref(), &message.topic));
        }
        for (stream, answer) in streams.iter().zip(link.send(commands).await?) {
            match answer {
                Ok(id) => positions.push(parse::text(id).ok_or_else(|| errors::unexpected("XADD"))?.into()),
                Err(error) if errors::code(&error) == Code::WrongType => {
                    let wrong = self.wrong_type(&[stream]).await?;
                    return Err(wrong.unwrap_or_else(|| errors::answered(self.link.target(), &error)));
                }
                Err(error) => return Err(errors::answered(self.link.target(), &error)),
            }
        }
        Ok(())
    }

    /// A command that appends a message to its topic.
    pub(super) fn add(&self, message: &Outgoing) -> Cmd {
        let stream = stream_name(self.prefix.as_deref(), &message.topic);
        let mut add = redis::cmd("XADD");
        add.arg(&stream);
        if let Some(max_len) = self.trimming.max_len {
            add.arg("MAXLEN").arg("~").arg(max_len);
        }
        add.arg("*");
        settle::push_fields(&mut add, &message.fields);
        self.trimmer.wrote(self.trimming, &stream);
        add
    }
}
