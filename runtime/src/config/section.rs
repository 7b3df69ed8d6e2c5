//! Reads the keys of one table: takes what is known, refuses what is not.

use std::fmt::Display;
use std::time::Duration;

use super::keys::{self, Keys};
use super::problem::{Collector, Place};
use super::tree::{Node, Table, Value};
use super::units;

/// One table being read. Whatever is wrong with a value becomes a problem and the default stands in, so that the rest
/// of the file is checked too.
pub(super) struct Section<'a> {
    label: String,
    keys: &'static Keys,
    table: Table,
    place: Place,
    problems: &'a mut Collector,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

// === impl Section ===

impl<'a> Section<'a> {
    /// `label` says which table it is, in messages.
    pub(super) fn new(
        label: impl Into<String>,
        keys: &'static Keys,
        table: Table,
        place: Place,
        problems: &'a mut Collector,
    ) -> Self {
        Self { label: label.into(), keys, table, place, problems }
    }

    /// The table under `key` of `table`; empty if there is none.
    pub(super) fn below(parent: &mut Table, key: &str, keys: &'static Keys, problems: &'a mut Collector) -> Self {
        let (table, place) = open(parent.take(key), &format!("{key} takes a table: write {}", keys.header), problems);
        Self::new(keys.header, keys, table, place, problems)
    }

    /// A table within this one.
    pub(super) fn inner(&mut self, key: &'static str, keys: &'static Keys) -> Section<'_> {
        let node = self.take(key);
        let wrong = format!("`{key}` in {} takes a table: write {}", self.label, keys.header);
        let (table, place) = open(node, &wrong, self.problems);
        let label = match self.label.split_once(' ') {
            Some((_, name)) => format!("{} of {name}", keys.header),
            None => keys.header.to_owned(),
        };
        Section::new(label, keys, table, place, self.problems)
    }

    /// Whether there is a value under `key`, of whatever kind.
    pub(super) fn holds(&mut self, key: &str) -> bool {
        self.table.get_mut(key).is_some()
    }

    /// Where the table starts.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Which table it is, for messages.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// A table that stands in a list within this one.
    pub(super) fn child(&mut self, label: String, keys: &'static Keys, table: Table, place: Place) -> Section<'_> {
        Section::new(label, keys, table, place, self.problems)
    }

    /// Says something about the table or one of its values.
    pub(super) fn problem(&mut self, place: &Place, message: impl Display) {
        self.problems.add(place, message.to_string());
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        debug_assert!(self.keys.keys.contains(&key), "{key} is missing from the list of {}", self.keys.header);
        self.table.take(key)
    }

    /// The value under `key`, if there is one that `read` takes; else a problem that says what the key takes.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        takes: &str,
        read: impl FnOnce(&Node) -> Option<T>,
    ) -> Option<Found<T>> {
        let node = self.take(key)?;
        match read(&node) {
            Some(value) => Some(Found { value, place: node.place }),
            None => {
                let message = format!("`{key}` in {} is {}: it takes {takes}", self.label, node.shown());
                self.problems.add(&node.place, message);
                None
            }
        }
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<Found<String>> {
        self.get(key, "a string in quotes", |node| node.as_string().map(str::to_owned))
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.get(key, "true or false", Node::as_boolean).map_or(default, |found| found.value)
    }

    /// What a key that takes a table says if it is only switched on or off; the table stays to be read.
    pub(super) fn switch(&mut self, key: &'static str) -> Option<bool> {
        let switched = self.table.get_mut(key)?.as_boolean()?;
        drop(self.take(key));
        Some(switched)
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let takes = match most {
            u64::MAX => format!("a whole number, {least} or more"),
            _ => format!("a whole number from {least} to {most}"),
        };
        let read = |node: &Node| {
            let number = u64::try_from(node.as_integer()?).ok()?;
            (least..=most).contains(&number).then_some(number)
        };
        self.get(key, &takes, read).map(|found| found.value)
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&mut self, key: &'static str, least: &str) -> Option<Found<Duration>> {
        let takes = format!("a duration of {least} or more, such as \"500ms\", \"30s\", \"5m\" or \"1h30m\"");
        let floor = units::duration(least).unwrap_or_default();
        let read = |node: &Node| node.as_string().and_then(units::duration).filter(|found| *found >= floor);
        self.get(key, &takes, read)
    }

    /// A number of bytes within bounds.
    pub(super) fn size(&mut self, key: &'static str, least: u64, most: u64, bounds: &str) -> Option<u64> {
        let takes = format!("a size {bounds}, such as \"64MiB\", \"1MB\" or a number of bytes");
        let read = |node: &Node| {
            let size = match &node.value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                _ => units::size(node.as_string()?)?,
            };
            (least..=most).contains(&size).then_some(size)
        };
        self.get(key, &takes, read).map(|found| found.value)
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<Found<Vec<Found<String>>>> {
        let read = |node: &Node| {
            node.as_items()?
                .into_iter()
                .map(|item| Some(Found { value: item.as_string()?.to_owned(), place: item.place }))
                .collect()
        };
        self.get(key, "a list of strings, such as [\"one\", \"two\"]", read)
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let listed: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let takes = listed.join(" or ");
        let read = |node: &Node| {
            let text = node.as_string()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        };
        self.get(key, &takes, read).map_or(default, |found| found.value)
    }

    /// Refuses whatever was not taken.
    pub(super) fn finish(self) {
        for (key, node) in self.table.0 {
            let hint = keys::hint(&key, self.keys);
            let within = if self.label.is_empty() { String::new() } else { format!(" in {}", self.label) };
            self.problems.add(&node.place, format!("unknown key `{key}`{within}; {hint}"));
        }
    }
}

fn open(node: Option<Node>, wrong: &str, problems: &mut Collector) -> (Table, Place) {
    let Some(node) = node else { return (Table::default(), Place::File) };
    let place = node.place.clone();
    match node.into_table() {
        Ok(table) => (table, place),
        Err(_) => {
            problems.add(&place, wrong);
            (Table::default(), place)
        }
    }
}
