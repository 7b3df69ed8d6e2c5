//! How old the oldest is: by the times that ids begin with.

use std::collections::BTreeMap;
use std::time::SystemTime;

use redis::{Pipeline, Value};

use super::super::Error;
use super::errors::Code;
use super::keys::Keys;
use super::{Shared, errors, parse, position_parts};
use crate::event::{SLICES, from_unix_millis};

/// Ids of the retry store in one answer.
const PAGE: usize = 1_000;
/// Pages at most: those due first are looked at first.
const PAGES: usize = 100;

// === impl Shared ===

impl Shared {
    /// When the oldest of what is unread, in hand or waiting for a retry was published.
    pub(super) async fn oldest(&self, keys: &Keys, group: &str, delivered: &str) -> Result<Option<SystemTime>, Error> {
        let mut commands = Pipeline::new();
        commands.cmd("XPENDING").arg(&keys.stream).arg(group);
        commands.cmd("XRANGE").arg(&keys.stream).arg(format!("({delivered}")).arg("+").arg("COUNT").arg(1);
        let mut oldest: Option<u64> = None;
        let mut add = |id: Option<String>| {
            if let Some((millis, _)) = id.as_deref().and_then(position_parts) {
                oldest = Some(oldest.map_or(millis, |oldest| oldest.min(millis)));
            }
        };
        let mut answers = self.link.send(commands).await?.into_iter();
        match answers.next() {
            Some(Ok(summary)) => add(parse::array(summary, "XPENDING")?.into_iter().nth(1).and_then(parse::text)),
            // The group went away between two questions: then nothing is pending.
            Some(Err(error)) if errors::code(&error) == Code::NoGroup => {}
            Some(Err(error)) => return Err(errors::answered(self.link.target(), &error)),
            None => return Err(errors::unexpected("a pipeline")),
        }
        let unread = answers.next().ok_or_else(|| errors::unexpected("a pipeline"))?;
        add(first_id(unread.map_err(|error| errors::answered(self.link.target(), &error))?)?);
        for page in 0..PAGES {
            let mut list = redis::cmd("ZRANGE");
            list.arg(&keys.due).arg(page * PAGE).arg((page + 1) * PAGE - 1);
            let ids = parse::texts(self.link.value(list).await?, "ZRANGE")?;
            let last = ids.len() < PAGE;
            ids.into_iter().for_each(|id| add(Some(id)));
            if last {
                break;
            }
        }
        // With order each slice has its own.
        let mut commands = Pipeline::new();
        for slice in 0..SLICES {
            commands.cmd("ZRANGE").arg(keys.due_of(slice)).arg(0).arg(PAGE - 1);
        }
        for answer in self.link.send(commands).await? {
            let ids = answer.map_err(|error| errors::answered(self.link.target(), &error))?;
            parse::texts(ids, "ZRANGE")?.into_iter().for_each(|id| add(Some(id)));
        }
        Ok(oldest.map(from_unix_millis))
    }

    /// When the oldest dead letter was given up.
    pub(super) async fn first_dead_letter(&self, keys: &Keys) -> Result<Option<SystemTime>, Error> {
        let mut range = redis::cmd("XRANGE");
        range.arg(&keys.dead).arg("-").arg("+").arg("COUNT").arg(1);
        let id = first_id(self.link.value(range).await?)?;
        Ok(id.as_deref().and_then(position_parts).map(|(millis, _)| from_unix_millis(millis)))
    }

    /// What these consumers tell of themselves.
    pub(super) async fn reports(&self, keys: &Keys, consumers: &[String]) -> Result<BTreeMap<String, String>, Error> {
        if consumers.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut get = redis::cmd("HMGET");
        get.arg(&keys.reports).arg(consumers);
        let told = parse::array(self.link.value(get).await?, "HMGET")?;
        Ok(consumers.iter().zip(told).filter_map(|(name, text)| Some((name.clone(), parse::text(text)?))).collect())
    }
}

fn first_id(found: Value) -> Result<Option<String>, Error> {
    match parse::array(found, "XRANGE")?.into_iter().next() {
        Some(entry) => Ok(parse::array(entry, "XRANGE")?.into_iter().next().and_then(parse::text)),
        None => Ok(None),
    }
}
