//! Reads the server's answers.

use redis::Value;

use super::super::{Error, first};
use super::errors::unexpected;
use crate::event::{Fields, Message, Position, Topic};

/// A string of any kind, as text.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A string's bytes.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// A number, or a string that is one.
pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// A number that is not negative.
pub(super) fn unsigned(value: &Value) -> Option<u64> {
    int(value).and_then(|number| u64::try_from(number).ok())
}

/// A count; what is none is 0.
pub(super) fn count(value: &Value) -> u64 {
    unsigned(value).unwrap_or(0)
}

/// An array's elements; nil is an empty one.
pub(super) fn array(value: Value, what: &str) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(elements) => Ok(elements),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected(what)),
    }
}

/// An array of strings.
pub(super) fn texts(value: Value, what: &str) -> Result<Vec<String>, Error> {
    array(value, what)?.into_iter().map(|element| text(element).ok_or_else(|| unexpected(what))).collect()
}

/// The value of a name in a flat array of names and values.
pub(super) fn named<'a>(pairs: &'a [Value], name: &str) -> Option<&'a Value> {
    pairs
        .chunks_exact(2)
        .find(|pair| matches!(&pair[0], Value::BulkString(found) if found == name.as_bytes()))
        .map(|pair| &pair[1])
}

/// The entries of one stream: id and fields. Deleted ones are left out.
pub(super) fn entries(value: Value) -> Result<Vec<(String, Vec<Value>)>, Error> {
    let mut read = Vec::new();
    for entry in array(value, "entries")? {
        let mut entry = array(entry, "an entry")?.into_iter();
        match (entry.next().and_then(text), entry.next()) {
            (Some(id), Some(Value::Array(fields))) => read.push((id, fields)),
            (Some(_), Some(Value::Nil)) => {}
            _ => return Err(unexpected("an entry")),
        }
    }
    Ok(read)
}

/// What `XREADGROUP` and `XREAD` answer: the streams' keys with their entries.
#[expect(clippy::type_complexity, reason = "a name for it would be used once")]
pub(super) fn streams(value: Value) -> Result<Vec<(String, Vec<(String, Vec<Value>)>)>, Error> {
    let mut read = Vec::new();
    for stream in array(value, "streams")? {
        let mut stream = array(stream, "a stream")?.into_iter();
        let (Some(key), Some(found)) = (stream.next().and_then(text), stream.next()) else {
            return Err(unexpected("a stream"));
        };
        read.push((key, entries(found)?));
    }
    Ok(read)
}

/// Fields to the byte.
pub(super) fn fields(pairs: &[Value]) -> Result<Fields, Error> {
    let mut read = Vec::with_capacity(pairs.len() / 2);
    for pair in pairs.chunks(2) {
        match pair {
            [Value::BulkString(name), Value::BulkString(value)] => read.push((name, value)),
            _ => return Err(unexpected("fields")),
        }
    }
    Ok(Fields::from_pairs(read))
}

/// A message out of an entry.
pub(super) fn message(topic: &Topic, id: String, pairs: &[Value]) -> Result<Message, Error> {
    let position = Position::from(id);
    Ok(first::message(topic.clone(), position, fields(pairs)?))
}
