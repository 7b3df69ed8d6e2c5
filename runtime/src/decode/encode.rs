//! JSON to Avro: the reverse of [`super::avro`], as strict as a publisher could wish.
//!
//! serde_json reads the document; each value is written as it is met. Where Avro wants another order than the
//! document has (fields as the schema lists them, the keys of a map sorted by their bytes as the Python producer sorts
//! them, a count before the items) what was written is moved into place afterwards, so there is no tree here either.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, Error as _};
use serde_json::value::RawValue;

use super::plan::{Node, Plan};
use super::{MAX_DEPTH, MAX_NODES, TOO_MANY, text};

mod names;
mod values;

use names::Expected;

/// Why a document cannot be encoded.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A value is not what the schema wants, or the text is no JSON.
    Mismatch {
        /// JSON pointer to the value.
        pointer: String,
        /// What is wrong.
        what: String,
    },
    /// The datum would be too long.
    TooLarge,
}

struct Encoder<'p> {
    plan: &'p Plan,
    out: Vec<u8>,
    max: usize,
    nodes_left: usize,
    /// The way to the value at hand. After a failure it stays as it was.
    path: Vec<Step<'p>>,
    /// The reason of a failure of ours: serde's error can only carry text.
    refusal: Option<Refusal>,
}

enum Step<'p> {
    Name(&'p str),
    Key(String),
    Index(usize),
}

/// A value that is about to be read, and the type it must have.
struct Slot<'e, 'p> {
    encoder: &'e mut Encoder<'p>,
    node: usize,
    depth: usize,
}

/// Encodes a document as a datum of `max` bytes at most.
pub(super) fn to_avro(plan: &Plan, json: &str, max: usize) -> Result<Vec<u8>, Refusal> {
    let out = Vec::with_capacity(json.len().min(max));
    let mut encoder = Encoder { plan, out, max, nodes_left: MAX_NODES, path: Vec::new(), refusal: None };
    let mut document = serde_json::Deserializer::from_str(json);
    let read = Slot { encoder: &mut encoder, node: plan.root, depth: MAX_DEPTH }.deserialize(&mut document);
    match read.and_then(|()| document.end()) {
        Ok(()) => Ok(encoder.out),
        Err(error) => Err(encoder.refusal.take().unwrap_or_else(|| encoder.mismatch(text::cut(&error.to_string())))),
    }
}

/// Appends a zigzag number of variable length.
pub(super) fn put_long(out: &mut Vec<u8>, long: i64) {
    let mut zigzag = ((long << 1) ^ (long >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push(zigzag.to_le_bytes()[0] | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag.to_le_bytes()[0]);
}

/// Appends a length, a count or an index.
pub(super) fn put_size(out: &mut Vec<u8>, size: usize) {
    put_long(out, i64::try_from(size).unwrap_or(i64::MAX));
}

/// The doubles that JSON has no number for.
pub(super) fn non_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

// === impl Encoder ===

impl Encoder<'_> {
    fn mismatch(&self, what: String) -> Refusal {
        let mut pointer = String::new();
        let steps = self.path.iter().map(|step| match step {
            Step::Name(name) => Cow::Borrowed(*name),
            Step::Key(key) => Cow::Owned(text::cut(key)),
            Step::Index(index) => Cow::Owned(index.to_string()),
        });
        // Writing to a String cannot fail.
        let _ = text::write_pointer(&mut pointer, steps);
        Refusal::Mismatch { pointer, what }
    }

    #[cold]
    fn refuse<E: serde::de::Error>(&mut self, what: impl Into<String>) -> E {
        self.refusal = Some(self.mismatch(what.into()));
        E::custom("refused")
    }

    fn deeper<E: serde::de::Error>(&mut self, depth: usize) -> Result<usize, E> {
        depth.checked_sub(1).ok_or_else(|| self.refuse(format!("nested deeper than {MAX_DEPTH} levels")))
    }

    fn sized(&mut self, bytes: &[u8]) {
        put_size(&mut self.out, bytes.len());
        self.out.extend_from_slice(bytes);
    }

    /// Writes a number, a boolean or null from its text in JSON; none if it is not of that type.
    fn scalar(&mut self, node: &Node, raw: &str) -> Option<()> {
        let quoted = || raw.strip_prefix('"')?.strip_suffix('"').and_then(non_finite);
        match node {
            Node::Null if raw == "null" => {}
            Node::Boolean => self.out.push(match raw {
                "false" => 0,
                "true" => 1,
                _ => return None,
            }),
            Node::Int => put_long(&mut self.out, raw.parse::<i32>().ok()?.into()),
            Node::Long => put_long(&mut self.out, raw.parse().ok()?),
            Node::Float => {
                // Read as a float at once: by way of a double it could be rounded twice.
                let finite = raw.parse().ok().filter(|float: &f32| float.is_finite());
                #[expect(clippy::cast_possible_truncation, reason = "NaN and the infinities lose nothing")]
                let float = finite.or_else(|| quoted().map(|double| double as f32))?;
                self.out.extend_from_slice(&float.to_le_bytes());
            }
            Node::Double => {
                let finite = raw.parse().ok().filter(|double: &f64| double.is_finite());
                self.out.extend_from_slice(&finite.or_else(quoted)?.to_le_bytes());
            }
            _ => return None,
        }
        Some(())
    }
}

// === impl Slot ===

impl<'p> Slot<'_, 'p> {
    fn node(&self) -> &'p Node {
        let plan: &'p Plan = self.encoder.plan;
        &plan.nodes[self.node]
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        let node = self.node();
        if self.encoder.nodes_left == 0 {
            return Err(self.encoder.refuse(TOO_MANY));
        }
        self.encoder.nodes_left -= 1;
        let slot = Slot { encoder: &mut *self.encoder, ..self };
        match node {
            Node::Null | Node::Boolean | Node::Int | Node::Long | Node::Float | Node::Double => {
                // The text itself: serde_json's numbers would round, and take 1.0 for 1.
                let raw = <&RawValue as serde::Deserialize>::deserialize(document)?.get();
                slot.encoder.scalar(node, raw).ok_or_else(|| {
                    slot.encoder.refuse(format!("expected {}, found {}", Expected(node), text::cut(raw)))
                })
            }
            Node::String | Node::Bytes | Node::Fixed(_) | Node::Enum(_) => document.deserialize_str(slot),
            Node::Array(_) => document.deserialize_seq(slot),
            Node::Map(_) | Node::Record(_) => document.deserialize_map(slot),
            Node::Nullable { .. } => document.deserialize_option(slot),
            Node::Union(_) => document.deserialize_any(slot),
        }?;
        if self.encoder.out.len() > self.encoder.max {
            self.encoder.refusal = Some(Refusal::TooLarge);
            return Err(D::Error::custom("too large"));
        }
        Ok(())
    }
}
