//! Events as a user writes them: one JSON document, an array of them, or one per line; bare data or with an envelope.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Bytes asked of the input at once.
const PIECE: usize = 256 << 10;

/// One event to publish, not checked yet.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) topic: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) id: Option<String>,
    pub(super) time: Option<String>,
    pub(super) source: Option<String>,
    pub(super) key: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) headers: BTreeMap<String, String>,
    /// The data to the byte: numbers keep every digit.
    pub(super) data: String,
}

/// A document with an envelope. No schema has a field `data` at its root, so that is what tells the two apart; JSON
/// without a schema that does have one needs the envelope.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Enveloped {
    topic: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    time: Option<String>,
    source: Option<String>,
    key: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    data: Box<RawValue>,
}

/// What kind of document it is: found in the one pass that also finds its end.
enum Shape {
    Array,
    Other { has_data: bool },
}

/// Input that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It is no JSON.
    #[error("{what} at line {line} column {column}")]
    Syntax { what: String, line: usize, column: usize },
    /// JSON that is no event.
    #[error(transparent)]
    Document(#[from] serde_json::Error),
    /// It does not come.
    #[error(transparent)]
    Input(#[from] io::Error),
}

/// Reads documents one after the other, so that a long file takes no more memory than its largest document.
///
/// Whole pieces of the input are parsed where they lie: a parser that asks for one byte after the other takes several
/// times as long.
pub(super) struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// What lies before is done.
    start: usize,
    /// Up to here it is certain that no number is cut in two: the end of a line, or of the input.
    whole: usize,
    /// Nothing is parsed before there are so many bytes: what was cut short is not looked at again for every piece.
    wanted: usize,
    ended: bool,
    failed: bool,
    /// Lines before the buffer, and bytes of its first line.
    at: (usize, usize),
    /// Of an array.
    waiting: std::vec::IntoIter<Result<Document, Error>>,
}

/// Reads documents.
pub(super) fn read<R: Read>(input: R) -> Reader<R> {
    let (buffer, waiting) = (Vec::new(), Vec::new().into_iter());
    Reader { input, buffer, start: 0, whole: 0, wanted: 0, ended: false, failed: false, at: (0, 0), waiting }
}

// === impl Reader ===

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.waiting.next() {
                return Some(document);
            }
            if self.failed {
                return None;
            }
            let unread = &self.buffer[self.start..self.whole];
            let mut values = serde_json::Deserializer::from_slice(unread).into_iter::<Shape>();
            let value = if unread.len() < self.wanted && !self.ended { None } else { values.next() };
            let end = values.byte_offset();
            match value {
                Some(Ok(shape)) => {
                    let text = str::from_utf8(&unread[..end]).map(str::trim_ascii_start);
                    self.start += end;
                    self.wanted = 0;
                    match (text, shape) {
                        (Err(error), _) => {
                            self.failed = true;
                            let (line, column) = self.place(self.start - end + error.valid_up_to());
                            let what = "bytes that are no UTF-8".to_owned();
                            return Some(Err(Error::Syntax { what, line, column: column + 1 }));
                        }
                        (Ok(text), Shape::Array) => {
                            let items = serde_json::from_str::<Vec<&RawValue>>(text);
                            let read =
                                |items: Vec<&RawValue>| items.into_iter().map(|item| item_of(item.get())).collect();
                            self.waiting = items.map_or_else(|error| vec![Err(error.into())], read).into_iter();
                        }
                        (Ok(text), Shape::Other { has_data }) => return Some(document(text, has_data)),
                    }
                }
                Some(Err(error)) if !error.is_eof() || self.ended => {
                    self.failed = true;
                    return Some(Err(self.told(&error)));
                }
                None if self.ended => return None,
                cut_short => {
                    if cut_short.is_some() {
                        self.wanted = unread.len() * 2;
                    }
                    if let Err(error) = self.more() {
                        self.failed = true;
                        return Some(Err(error.into()));
                    }
                }
            }
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads on.
    fn more(&mut self) -> io::Result<()> {
        let (line, column) = self.place(self.start);
        self.at = (line - 1, column);
        self.buffer.drain(..self.start);
        (self.whole, self.start) = (self.whole - self.start, 0);
        let before = self.buffer.len();
        self.buffer.resize(before + PIECE, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        self.ended = read? == 0;
        let line = self.buffer[before..].iter().rposition(|byte| *byte == b'\n');
        self.whole = if self.ended { self.buffer.len() } else { line.map_or(self.whole, |at| before + at + 1) };
        Ok(())
    }

    /// Line and column, from 1 and after 0 bytes, of a place in the buffer.
    fn place(&self, end: usize) -> (usize, usize) {
        let before = &self.buffer[..end];
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        match before.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => (self.at.0 + lines + 1, end - last - 1),
            None => (self.at.0 + 1, self.at.1 + end),
        }
    }

    /// An error, placed in the whole of the input.
    fn told(&self, error: &serde_json::Error) -> Error {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = text.strip_suffix(&place).unwrap_or(&text).to_owned();
        let (line, column) = self.place(self.start);
        let before = if error.line() <= 1 { column } else { 0 };
        Error::Syntax { what, line: line - 1 + error.line(), column: before + error.column() }
    }
}

fn document(text: &str, has_data: bool) -> Result<Document, Error> {
    if !has_data {
        return Ok(Document { data: text.to_owned(), ..Document::default() });
    }
    let found: Enveloped = serde_json::from_str(text)?;
    Ok(Document {
        topic: found.topic,
        kind: found.kind,
        id: found.id,
        time: found.time,
        source: found.source,
        key: found.key,
        content_type: found.content_type,
        headers: found.headers,
        data: found.data.get().to_owned(),
    })
}

/// An item of an array. An array in there is bare data.
fn item_of(text: &str) -> Result<Document, Error> {
    let has_data = matches!(serde_json::from_str(text)?, Shape::Other { has_data: true });
    document(text, has_data)
}

// === impl Shape ===

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Looking)
    }
}

struct Looking;

impl<'de> Visitor<'de> for Looking {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut has_data = false;
        while let Some(IsData(is_data)) = map.next_key()? {
            has_data |= is_data;
            map.next_value::<IgnoredAny>()?;
        }
        Ok(Shape::Other { has_data })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::Array)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other { has_data: false })
    }
}

/// Whether a key is that of an envelope.
struct IsData(bool);

impl<'de> Deserialize<'de> for IsData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = IsData;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<IsData, E> {
                Ok(IsData(key == "data"))
            }
        }

        deserializer.deserialize_str(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(input: &str) -> Vec<String> {
        read(input.as_bytes()).map(|document| document.unwrap().data).collect()
    }

    #[test]
    fn one_document_an_array_and_lines_are_all_taken() {
        assert_eq!(data("{\"a\": 1.00}"), ["{\"a\": 1.00}"]);
        assert_eq!(data(" [ {\"a\":1}, {\"b\":2} ] "), ["{\"a\":1}", "{\"b\":2}"]);
        assert_eq!(data("{\"a\":1}\n\n{\"b\":2}\n"), ["{\"a\":1}", "{\"b\":2}"]);
        assert!(data(" \n").is_empty());
    }

    #[test]
    fn an_envelope_is_told_by_its_data() {
        let text =
            r#"{"topic":"t","type":"k","content_type":"c","headers":{"h":"v"},"data":{"n":12345678901234567890}}"#;
        let found = read(text.as_bytes()).next().unwrap().unwrap();
        assert_eq!((found.topic.as_deref(), found.kind.as_deref()), (Some("t"), Some("k")));
        assert_eq!((found.content_type.as_deref(), found.headers["h"].as_str()), (Some("c"), "v"));
        assert_eq!(found.data, r#"{"n":12345678901234567890}"#);
        let error = read(&br#"{"tpoic":"t","data":1}"#[..]).next().unwrap().unwrap_err();
        assert!(error.to_string().contains("tpoic"), "{error}");
    }

    #[test]
    fn broken_input_ends_with_its_error() {
        let found: Vec<_> = read(&b"{\"a\":1}\n{\"b\":"[..]).collect();
        assert_eq!(found.len(), 2);
        let error = found[1].as_ref().unwrap_err().to_string();
        assert_eq!(error, "EOF while parsing a value at line 2 column 5");
        let error = read(&b"{} \n {\"a\":1} x\n"[..]).nth(2).unwrap().unwrap_err().to_string();
        assert_eq!(error, "expected value at line 2 column 10");
    }

    /// Gives as few bytes at a time as it is told.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            let (now, later) = self.0.split_at(count);
            out[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    #[test]
    fn it_does_not_matter_in_which_pieces_the_input_comes() {
        let input = "{\"a\":\n 1}\n12345\n67 \"x\"\n[1,\n{\"b\":\"ü\"}]\n890";
        for piece in 1..input.len() {
            let found: Vec<String> = read(Slow(input.as_bytes(), piece)).map(|found| found.unwrap().data).collect();
            assert_eq!(found, ["{\"a\":\n 1}", "12345", "67", "\"x\"", "1", "{\"b\":\"ü\"}", "890"], "{piece}");
        }
        let broken = "{\"a\":1}\n{\"b\":1}\n{\"c\" 1}\n";
        for piece in 1..broken.len() {
            let last = read(Slow(broken.as_bytes(), piece)).last().unwrap().unwrap_err().to_string();
            assert_eq!(last, "expected `:` at line 3 column 6", "{piece}");
        }
    }

    #[test]
    fn a_document_may_be_far_larger_than_a_piece() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(5 * PIECE));
        let input = format!("{long}\n{{}}\n[{long},\n{long}]");
        assert_eq!(data(&input), [&long, "{}", &long, &long]);
    }
}
