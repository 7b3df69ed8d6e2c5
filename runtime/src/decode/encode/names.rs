//! Names in a document: of fields, of a union's branches, of a map's entries; and what to call what was expected.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};

use super::super::nearest;
use super::super::plan::{Branch, Field, Node};
use super::super::text;
use super::Encoder;

/// The name of a field that is about to be read; the next in the schema is the most likely one.
pub(super) struct FieldName<'e, 'p> {
    pub(super) encoder: &'e mut Encoder<'p>,
    pub(super) fields: &'p [Field],
    pub(super) next: usize,
}

/// The tag of a union's value that is about to be read.
pub(super) struct Tag<'e, 'p> {
    pub(super) encoder: &'e mut Encoder<'p>,
    pub(super) branches: &'p [Branch],
}

/// The key of a map that is about to be read.
pub(super) struct Key;

/// What a value should have been, for people.
pub(super) struct Expected<'p>(pub(super) &'p Node);

// === impl FieldName ===

impl<'de> DeserializeSeed<'de> for FieldName<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<usize, D::Error> {
        document.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<usize, E> {
        if self.fields.get(self.next).is_some_and(|field| field.name == name) {
            return Ok(self.next);
        }
        self.fields.iter().position(|field| field.name == name).ok_or_else(|| {
            let shown = text::cut(name);
            let hint = nearest(&shown, self.fields.iter().map(|field| field.name.as_str()));
            let hint = hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            self.encoder.refuse(format!("unknown field {shown:?}{hint}"))
        })
    }
}

// === impl Tag ===

impl<'de> DeserializeSeed<'de> for Tag<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<usize, D::Error> {
        document.deserialize_str(self)
    }
}

impl Visitor<'_> for Tag<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", tags(self.branches))
    }

    fn visit_str<E: serde::de::Error>(self, tag: &str) -> Result<usize, E> {
        self.branches.iter().position(|branch| branch.tag == tag).ok_or_else(|| {
            let shown = text::cut(tag);
            self.encoder.refuse(format!("expected one of {}, found {shown:?}", tags(self.branches)))
        })
    }
}

// === impl Key ===

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<String, D::Error> {
        serde::Deserialize::deserialize(document)
    }
}

// === impl Expected ===

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Node::Null => "null",
            Node::Boolean => "a boolean",
            Node::Int => "an int (whole, 32 bits)",
            Node::Long => "a long (whole, 64 bits)",
            Node::Float => "a float",
            Node::Double => "a double",
            Node::Bytes | Node::Fixed(_) => "a string of base64",
            Node::String => "a string",
            Node::Enum(_) => "a symbol of an enum",
            Node::Array(_) => "an array",
            Node::Map(_) | Node::Record(_) => "an object",
            Node::Nullable { .. } => "null or a value",
            Node::Union(branches) => return write!(f, "an object with one of {}", tags(branches)),
        })
    }
}

impl serde::de::Expected for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn tags(branches: &[Branch]) -> String {
    branches.iter().map(|branch| branch.tag.as_str()).collect::<Vec<_>>().join(", ")
}
