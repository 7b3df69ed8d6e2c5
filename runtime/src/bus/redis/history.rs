//! Reading what a stream holds, and effects without a delivery.

use redis::{Pipeline, Value};

use super::super::{Applied, Edge, Error, Span, stream_name};
use super::errors::Code;
use super::{Shared, before, effects, errors, parse, position_parts, scripts};
use crate::event::{Effects, Message, Position, Topic, unix_millis};

// === impl Shared ===

impl Shared {
    pub(super) async fn span(&self, topic: &Topic, from: &Edge, to: Option<&Edge>) -> Result<Option<Span>, Error> {
        let from = match from {
            Edge::Beginning => "0-0".to_owned(),
            Edge::Position(position) => known(position)?.to_owned(),
            Edge::Time(time) => format!("{}-0", unix_millis(*time)),
        };
        let after = before(&from).unwrap_or_else(|| "0-0".to_owned());
        let to = match to {
            None => None,
            Some(Edge::Beginning) => Some("0-0".to_owned()),
            // Without its second part an id stands for all of that millisecond.
            Some(Edge::Position(position)) => match position.as_str().contains('-') {
                true => Some(known(position)?.to_owned()),
                false => Some(format!("{}-{}", known(position)?, u64::MAX)),
            },
            Some(Edge::Time(time)) => Some(before(&format!("{}-0", unix_millis(*time))).unwrap_or_default()),
        };
        let stream = stream_name(self.prefix.as_deref(), topic);
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(&stream).arg("+").arg("-").arg("COUNT").arg(1);
        let Some((last, _)) = parse::entries(self.range(&stream, newest).await?)?.pop() else { return Ok(None) };
        let to = match to {
            Some(to) if position_parts(&to) < position_parts(&last) => to,
            _ => last,
        };
        let is_empty = position_parts(&after) >= position_parts(&to);
        Ok((!is_empty).then(|| Span { after: after.into(), to: to.into() }))
    }

    pub(super) async fn read(&self, topic: &Topic, span: &Span, count: usize) -> Result<Vec<Message>, Error> {
        let stream = stream_name(self.prefix.as_deref(), topic);
        let mut range = redis::cmd("XRANGE");
        range.arg(&stream).arg(format!("({}", span.after)).arg(span.to.as_str()).arg("COUNT").arg(count);
        let entries = parse::entries(self.range(&stream, range).await?)?.into_iter();
        entries.map(|(id, pairs)| parse::message(topic, id, &pairs)).collect()
    }

    /// Reads from a stream; a key of the wrong type is an error that names it.
    async fn range(&self, stream: &str, command: redis::Cmd) -> Result<Value, Error> {
        match self.link.one(command).await? {
            Ok(found) => Ok(found),
            Err(error) if errors::code(&error) == Code::WrongType => {
                let wrong = self.wrong_type(&[stream]).await?;
                Err(wrong.unwrap_or_else(|| errors::answered(self.link.target(), &error)))
            }
            Err(error) => Err(errors::answered(self.link.target(), &error)),
        }
    }

    pub(super) async fn apply(&self, effects: &Effects) -> Result<Applied, Error> {
        if effects.is_empty() {
            return Ok(Applied::Committed);
        }
        if let Some(reason) = effects::unfit(effects) {
            return Ok(Applied::Refused(reason));
        }
        let placed = effects::Placed::of(self, effects, |_| true);
        if let Some(reason) = self.spread_effects(placed.keys(placed.any())) {
            return Err(Error::Settings(reason));
        }
        // Where a delivery's keys would stand: nothing looks at them.
        let stand_in = placed.any();
        let keys: Vec<&str> = [stand_in; 4].into_iter().chain(placed.keys(stand_in)).collect();
        let mut apply = scripts::APPLY.call(&keys);
        apply.arg(&[""; 4]);
        placed.push(&mut apply, self.trimming.max_len, effects);
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(apply);
        let answer = match self.link.send(commands).await?.pop() {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => match effects::refusal(&error) {
                Some(reason) => return Ok(Applied::Refused(reason)),
                None => return Err(errors::answered(self.link.target(), &error)),
            },
            None => return Err(errors::unexpected("effects")),
        };
        let mut words = parse::texts(answer, "effects")?;
        match words.first().map(String::as_str) {
            Some("done") => Ok(Applied::Committed),
            Some("conflict") => Ok(Applied::Conflict),
            Some("refused") => Ok(Applied::Refused(words.pop().unwrap_or_default())),
            _ => Err(errors::unexpected("effects")),
        }
    }
}

fn known(position: &Position) -> Result<&str, Error> {
    match position_parts(position.as_str()) {
        Some(_) => Ok(position.as_str()),
        None => Err(Error::Settings(format!("{position} is no position on Redis: write milliseconds-number"))),
    }
}
