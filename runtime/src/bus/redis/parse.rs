//! Reads the server's answers.

use bytes::{BufMut, BytesMut};
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

/// Fields to the byte, in a block of just their size: this runs once for every message there is.
pub(super) fn fields(pairs: &[Value]) -> Result<Fields, Error> {
    let mut size = 0;
    for value in pairs {
        match value {
            Value::BulkString(bytes) => size += bytes.len(),
            _ => return Err(unexpected("fields")),
        }
    }
    if !pairs.len().is_multiple_of(2) {
        return Err(unexpected("fields"));
    }
    let mut block = BytesMut::with_capacity(size);
    for value in pairs {
        if let Value::BulkString(bytes) = value {
            block.put_slice(bytes);
        }
    }
    let mut at = 0;
    let mut next = |value: &Value| {
        let start = at;
        if let Value::BulkString(bytes) = value {
            at += bytes.len();
        }
        start..at
    };
    Ok(Fields::in_block(block.freeze(), pairs.chunks_exact(2).map(|pair| (next(&pair[0]), next(&pair[1])))))
}

/// A message out of an entry.
pub(super) fn message(topic: &Topic, id: String, pairs: &[Value]) -> Result<Message, Error> {
    let position = Position::from(id);
    Ok(first::message(topic.clone(), position, fields(pairs)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(bytes: &[u8]) -> Value {
        Value::BulkString(bytes.to_vec())
    }

    #[test]
    fn fields_are_read_to_the_byte_and_nothing_else_is() {
        let pairs = [bulk(b"type"), bulk(b"\xff\0"), bulk(b""), bulk(b""), bulk(b"type"), bulk(b"b")];
        let expected = [(&b"type"[..], &b"\xff\0"[..]), (b"", b""), (b"type", b"b")];
        assert_eq!(fields(&pairs).unwrap(), Fields::from_pairs(expected));
        assert_eq!(fields(&[]).unwrap(), Fields::default());
        assert!(fields(&pairs[..3]).is_err(), "a name without a value");
        assert!(fields(&[bulk(b"n"), Value::Int(1)]).is_err(), "no string");
    }
}
