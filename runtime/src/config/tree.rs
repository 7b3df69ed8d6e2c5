//! The configuration before it is understood: values, and where each of them stands.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Collector, Place};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What TOML can say, and the text of an environment variable, which has no type until it is asked for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Variable(String),
    String(String),
    Integer(i128),
    Float(String),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// Keys in the order they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<(String, Node)>);

/// Reads a document; everything that is wrong with its syntax goes to `problems`.
pub(super) fn parse(text: &str, problems: &mut Collector) -> Table {
    let (document, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::new(text);
    for error in errors {
        let place = error.span().map_or(Place::File, |span| lines.place(span.start));
        let message = match error.span().and_then(|span| text.get(span)) {
            Some(key) if error.message() == "duplicate key" => format!("key `{key}` is set twice: remove one"),
            _ => error.message().to_owned(),
        };
        problems.add(&place, message);
    }
    table(document.get_ref(), &lines)
}

/// Reads one value as TOML, for environment variables that hold a list or a table.
pub(super) fn parse_value(text: &str, place: &Place) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let mut node = node(&value, &Lines::new(text));
    node.settle_at(place);
    Some(node)
}

struct Lines(Vec<usize>);

fn table(table: &DeTable<'_>, lines: &Lines) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        (key.get_ref().to_string(), node(value, lines))
    };
    Table(table.iter().map(entry).collect())
}

fn array(array: &DeArray<'_>, lines: &Lines) -> Vec<Node> {
    array.iter().map(|item| node(item, lines)).collect()
}

fn node(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let place = lines.place(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            // More than any setting takes: a float is refused wherever a whole number is asked for.
            Err(_) => Value::Float(number.to_string()),
        },
        DeValue::Float(number) => Value::Float(number.to_string()),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => Value::Array(array(items, lines)),
        DeValue::Table(entries) => Value::Table(table(entries, lines)),
    };
    Node { place, value }
}

// === impl Lines ===

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    fn place(&self, offset: usize) -> Place {
        Place::Line(self.0.partition_point(|end| *end < offset) + 1)
    }
}

// === impl Node ===

impl Node {
    /// The text of an environment variable.
    pub(super) fn variable(name: &str, text: String) -> Self {
        Self { place: Place::Environment(name.to_owned()), value: Value::Variable(text) }
    }

    /// What the value is, for a message: short, and without what a terminal would act on.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Variable(text) | Value::String(text) => shorten(text),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.clone(),
            Value::Boolean(flag) => flag.to_string(),
            Value::Datetime(time) => time.clone(),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    pub(super) fn as_string(&self) -> Option<&str> {
        match &self.value {
            Value::Variable(text) | Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i128> {
        match &self.value {
            Value::Integer(number) => Some(*number),
            Value::Variable(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn as_boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Boolean(flag) => Some(*flag),
            // Python writes `True`.
            Value::Variable(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// The items of a list; a variable is a list in TOML's notation or its parts between commas.
    pub(super) fn as_items(&self) -> Option<Vec<Self>> {
        match &self.value {
            Value::Array(items) => Some(items.clone()),
            Value::Variable(text) if text.trim_start().starts_with('[') => {
                parse_value(text.trim(), &self.place)?.as_items()
            }
            Value::Variable(text) => {
                let part =
                    |part: &str| Self { place: self.place.clone(), value: Value::Variable(part.trim().to_owned()) };
                Some(text.split(',').filter(|text| !text.trim().is_empty()).map(part).collect())
            }
            _ => None,
        }
    }

    /// A table; a variable holds one in TOML's inline notation.
    pub(super) fn into_table(self) -> Result<Table, Self> {
        match self.value {
            Value::Table(table) => Ok(table),
            Value::Variable(ref text) if text.trim_start().starts_with('{') => {
                match parse_value(text.trim(), &self.place) {
                    Some(Self { value: Value::Table(table), .. }) => Ok(table),
                    _ => Err(self),
                }
            }
            _ => Err(self),
        }
    }

    fn settle_at(&mut self, place: &Place) {
        self.place = place.clone();
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(|item| item.settle_at(place)),
            Value::Table(table) => table.0.iter_mut().for_each(|(_, node)| node.settle_at(place)),
            _ => {}
        }
    }
}

/// A message is one line on a terminal.
const SHOWN_CHARS: usize = 60;

/// Text in quotes, without the password that a URL may hold and without its end if it is long.
fn shorten(text: &str) -> String {
    let clean = match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://…{}", &text[..scheme], &text[at..]),
        _ => text.to_owned(),
    };
    // Passwords may stand among the parameters too.
    let clean = match clean.split_once('?') {
        Some((url, parameters)) if url.contains("://") && parameters.contains("password") => format!("{url}?…"),
        _ => clean,
    };
    let mut shown: String = clean.chars().take(SHOWN_CHARS).collect();
    if shown.len() < clean.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

// === impl Table ===

impl Table {
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        let index = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(index).1)
    }

    pub(super) fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(old) => *old = node,
            None => self.0.push((key.to_owned(), node)),
        }
    }

    /// The table under `key`, made if it is missing; `None` if something else stands there.
    pub(super) fn table_mut(&mut self, key: &str, place: &Place) -> Option<&mut Self> {
        if self.get_mut(key).is_none() {
            self.set(key, Node { place: place.clone(), value: Value::Table(Self::default()) });
        }
        match &mut self.get_mut(key)?.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }
}
