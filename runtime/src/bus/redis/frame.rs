//! Answers as they came over the wire (RESP2), read where they lie.
//!
//! Of what a host reads nearly all is events, and for those a tree of values, with an allocation for every field, costs a
//! good part of what is done with them afterwards.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use redis::{ServerError, Value};

use super::super::{Error, first};
use super::errors::unexpected;
use crate::event::{Fields, Message, Position, Topic};

/// Digits of the largest number there is.
const LONGEST_NUMBER: usize = 20;

/// One whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame(Bytes);

/// Finds the end of an answer that comes in pieces. Looks at nothing twice.
#[derive(Debug)]
pub(super) struct Scan {
    at: usize,
    /// Elements that have not ended yet.
    open: usize,
}

/// The bytes are no RESP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How much of an answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it, and it ends here.
    Whole(usize),
    /// It goes on at least until here.
    Until(usize),
}

/// Goes over the elements of an answer.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Scan ===

impl Default for Scan {
    fn default() -> Self {
        Self { at: 0, open: 1 }
    }
}

impl Scan {
    /// Goes on with what has come so far, from its beginning.
    ///
    /// # Errors
    ///
    /// If it is no RESP2.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        while self.open > 0 {
            let mut cursor = Cursor { bytes, at: self.at };
            let Some(line) = cursor.line() else {
                // A number is short; only an error or a status may be long, and those come alone.
                return Ok(Progress::Until(bytes.len() + 1));
            };
            match line.split_first() {
                Some((b'$', length)) => {
                    if let Some(length) = number(length)? {
                        let end = cursor.at.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(Malformed)?;
                        if end > bytes.len() {
                            return Ok(Progress::Until(end));
                        }
                        cursor.at = end;
                    }
                }
                Some((b'*', count)) => {
                    self.open = self.open.checked_add(number(count)?.unwrap_or(0)).ok_or(Malformed)?;
                }
                Some((b'+' | b'-' | b':', _)) => {}
                _ => return Err(Malformed),
            }
            self.open -= 1;
            self.at = cursor.at;
        }
        Ok(Progress::Whole(self.at))
    }
}

// === impl Frame ===

impl Frame {
    /// One answer whose end was found.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// An answer that a library has read.
    pub(super) fn of(value: &Value) -> Self {
        let mut bytes = BytesMut::new();
        write(&mut bytes, value);
        Self(bytes.freeze())
    }

    /// As a tree of values.
    pub(super) fn value(&self) -> Result<Result<Value, ServerError>, Error> {
        match redis::parse_redis_value(&self.0) {
            Ok(Value::ServerError(error)) => Ok(Err(error)),
            Ok(value) => Ok(Ok(value)),
            Err(_) => Err(unexpected("an answer")),
        }
    }

    /// True if the server refused.
    pub(super) fn is_refusal(&self) -> bool {
        self.0.first() == Some(&b'-')
    }

    /// The keys of the streams in what `XREAD` and `XREADGROUP` answer, each with its entries.
    pub(super) fn streams(&self) -> Result<Vec<(&str, Entries<'_>)>, Error> {
        let mut cursor = Cursor { bytes: &self.0, at: 0 };
        cursor.streams().ok_or_else(|| unexpected("a read"))
    }
}

/// The entries of one stream; deleted ones are left out.
pub(super) struct Entries<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

// === impl Entries ===

impl Entries<'_> {
    /// Makes messages of them.
    pub(super) fn messages(mut self, topic: &Topic) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::with_capacity(self.left);
        let mut ranges = Vec::new();
        while self.left > 0 {
            self.left -= 1;
            let message = self.cursor.message(topic, &mut ranges).ok_or_else(|| unexpected("an entry"))?;
            messages.extend(message);
        }
        Ok(messages)
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    /// Up to the end of a line, which is left out.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\r').filter(|end| rest.get(end + 1) == Some(&b'\n'))?;
        self.at += end + 2;
        Some(&rest[..end])
    }

    /// What stands behind the sign of an element's kind.
    fn header(&mut self, kind: u8) -> Option<Option<usize>> {
        let (found, length) = self.line()?.split_first()?;
        if *found == kind { number(length).ok() } else { None }
    }

    /// How many elements an array has; nothing if there is none.
    fn array(&mut self) -> Option<Option<usize>> {
        self.header(b'*')
    }

    fn bulk(&mut self) -> Option<Range<usize>> {
        let length = self.header(b'$')??;
        let start = self.at;
        self.at = start.checked_add(length)?.checked_add(2)?;
        (self.at <= self.bytes.len()).then_some(start..start + length)
    }

    fn text(&mut self) -> Option<&'a str> {
        let range = self.bulk()?;
        std::str::from_utf8(&self.bytes[range]).ok()
    }

    fn streams(&mut self) -> Option<Vec<(&'a str, Entries<'a>)>> {
        let count = self.array()?.unwrap_or(0);
        let mut streams = Vec::new();
        for _ in 0..count {
            (self.array()? == Some(2)).then_some(())?;
            let key = self.text()?;
            let left = self.array()?.unwrap_or(0);
            streams.push((key, Entries { cursor: Cursor { bytes: self.bytes, at: self.at }, left }));
            if streams.len() < count {
                self.skip(left)?;
            }
        }
        Some(streams)
    }

    /// Passes over so many elements.
    fn skip(&mut self, elements: usize) -> Option<()> {
        let mut scan = Scan { at: self.at, open: elements };
        match scan.advance(self.bytes) {
            Ok(Progress::Whole(end)) => self.at = end,
            _ => return None,
        }
        Some(())
    }

    /// The next entry, unless it was deleted. It takes a block of just its own size: a message may be kept for long, and
    /// what was read with it must not be kept with it.
    fn message(&mut self, topic: &Topic, ranges: &mut Vec<(Range<usize>, Range<usize>)>) -> Option<Option<Message>> {
        (self.array()? == Some(2)).then_some(())?;
        let position = self.text()?;
        let Some(count) = self.array()? else { return Some(None) };
        count.is_multiple_of(2).then_some(())?;
        let start = self.at;
        ranges.clear();
        for _ in 0..count / 2 {
            let (name, value) = (self.bulk()?, self.bulk()?);
            ranges.push((name.start - start..name.end - start, value.start - start..value.end - start));
        }
        let block = Bytes::copy_from_slice(&self.bytes[start..self.at]);
        let fields = Fields::in_block(block, ranges.drain(..));
        Some(Some(first::message(topic.clone(), Position::from(position), fields)))
    }
}

/// A length or a count; nothing for that of what is not there.
fn number(digits: &[u8]) -> Result<Option<usize>, Malformed> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > LONGEST_NUMBER {
        return Err(Malformed);
    }
    let mut number = 0_usize;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return Err(Malformed);
        }
        number = number.checked_mul(10).and_then(|tens| tens.checked_add(usize::from(value))).ok_or(Malformed)?;
    }
    Ok(Some(number))
}

/// Writes what a server without RESP3 can answer.
fn write(bytes: &mut BytesMut, value: &Value) {
    let line = |bytes: &mut BytesMut, sign: u8, text: &str| {
        bytes.put_u8(sign);
        bytes.put_slice(text.as_bytes());
        bytes.put_slice(b"\r\n");
    };
    match value {
        Value::BulkString(string) => {
            line(bytes, b'$', &string.len().to_string());
            bytes.put_slice(string);
            bytes.put_slice(b"\r\n");
        }
        Value::Array(elements) => {
            line(bytes, b'*', &elements.len().to_string());
            elements.iter().for_each(|element| write(bytes, element));
        }
        Value::Int(number) => line(bytes, b':', &number.to_string()),
        Value::SimpleString(text) => line(bytes, b'+', text),
        Value::Okay => line(bytes, b'+', "OK"),
        _ => bytes.put_slice(b"*-1\r\n"),
    }
}

#[cfg(test)]
mod tests;
