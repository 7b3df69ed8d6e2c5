//! What is done with a value once serde_json has said what it is.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed as _, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};

use super::super::plan::{Branch, Field, Node};
use super::super::text;
use super::names::{Expected, FieldName, Key, Tag, tags};
use super::{Slot, Step, put_size};

// === impl Slot ===

impl<'p> Slot<'_, 'p> {
    fn record<'de, A: MapAccess<'de>>(self, fields: &'p [Field], mut map: A) -> Result<(), A::Error> {
        let Self { encoder, depth, .. } = self;
        let depth = encoder.deeper(depth)?;
        let start = encoder.out.len();
        let mut spans = vec![None; fields.len()];
        let (mut next, mut in_order) = (0, true);
        while let Some(index) = map.next_key_seed(FieldName { encoder, fields, next })? {
            let Field { name, node, .. } = &fields[index];
            if spans[index].is_some() {
                return Err(encoder.refuse(format!("field {name} stands there twice")));
            }
            let from = encoder.out.len();
            encoder.path.push(Step::Name(name));
            map.next_value_seed(Slot { encoder, node: *node, depth })?;
            encoder.path.pop();
            spans[index] = Some(from - start..encoder.out.len() - start);
            in_order &= index == next;
            next = index + 1;
        }
        if in_order && next == fields.len() {
            return Ok(());
        }
        let written = encoder.out.split_off(start);
        for (field, span) in fields.iter().zip(spans) {
            let value = match (span, &field.default) {
                (Some(span), _) => &written[span],
                (None, Some(default)) => default,
                (None, None) => return Err(encoder.refuse(format!("field {} is missing", field.name))),
            };
            encoder.out.extend_from_slice(value);
        }
        Ok(())
    }

    fn map<'de, A: MapAccess<'de>>(self, values: usize, mut map: A) -> Result<(), A::Error> {
        let Self { encoder, depth, .. } = self;
        let depth = encoder.deeper(depth)?;
        let start = encoder.out.len();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let from = encoder.out.len() - start;
            encoder.sized(key.as_bytes());
            encoder.path.push(Step::Key(key));
            map.next_value_seed(Slot { encoder, node: values, depth })?;
            if let Some(Step::Key(key)) = encoder.path.pop() {
                entries.push((key, from..encoder.out.len() - start));
            }
        }
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let key = text::cut(&twice[0].0);
            return Err(encoder.refuse(format!("key {key:?} stands there twice")));
        }
        let written = encoder.out.split_off(start);
        if !entries.is_empty() {
            put_size(&mut encoder.out, entries.len());
        }
        for (_, span) in entries {
            encoder.out.extend_from_slice(&written[span]);
        }
        encoder.out.push(0);
        Ok(())
    }

    fn tagged<'de, A: MapAccess<'de>>(self, branches: &'p [Branch], mut map: A) -> Result<(), A::Error> {
        let Self { encoder, depth, .. } = self;
        let depth = encoder.deeper(depth)?;
        let Some(index) = map.next_key_seed(Tag { encoder, branches })? else {
            return Err(encoder.refuse(format!("expected one of {}, found {{}}", tags(branches))));
        };
        put_size(&mut encoder.out, index);
        encoder.path.push(Step::Name(&branches[index].tag));
        map.next_value_seed(Slot { encoder, node: branches[index].node, depth })?;
        encoder.path.pop();
        if map.next_key_seed(Key)?.is_some() {
            return Err(encoder.refuse("a value of a union is an object with one name, this one has more"));
        }
        Ok(())
    }

    fn null(self, branches: &[Branch]) -> Option<()> {
        let nodes = &self.encoder.plan.nodes;
        let index = branches.iter().position(|branch| matches!(nodes[branch.node], Node::Null))?;
        put_size(&mut self.encoder.out, index);
        Some(())
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Expected(self.node()), f)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let encoder = &mut *self.encoder;
        match &encoder.plan.nodes[self.node] {
            Node::String => encoder.sized(text.as_bytes()),
            Node::Enum(symbols) => match symbols.iter().position(|symbol| symbol == text) {
                Some(index) => put_size(&mut encoder.out, index),
                None => {
                    let shown = text::cut(text);
                    return Err(encoder.refuse(format!("expected one of {}, found {shown:?}", symbols.join(", "))));
                }
            },
            node @ (Node::Bytes | Node::Fixed(_)) => {
                let bytes = STANDARD.decode(text).map_err(|error| encoder.refuse(format!("not base64: {error}")))?;
                match node {
                    Node::Fixed(size) if *size == bytes.len() => encoder.out.extend(bytes),
                    Node::Fixed(size) => {
                        return Err(encoder.refuse(format!("expected {size} bytes, found {}", bytes.len())));
                    }
                    _ => encoder.sized(&bytes),
                }
            }
            _ => return Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let &Node::Array(items) = self.node() else {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        };
        let Self { encoder, depth, .. } = self;
        let depth = encoder.deeper(depth)?;
        let start = encoder.out.len();
        let mut count = 0;
        encoder.path.push(Step::Index(0));
        while seq.next_element_seed(Slot { encoder, node: items, depth })?.is_some() {
            count += 1;
            encoder.path.pop();
            encoder.path.push(Step::Index(count));
        }
        encoder.path.pop();
        if count > 0 {
            let mut head = Vec::new();
            put_size(&mut head, count);
            encoder.out.splice(start..start, head);
        }
        encoder.out.push(0);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self.node() {
            Node::Record(fields) => self.record(fields, map),
            Node::Map(values) => self.map(*values, map),
            Node::Union(branches) => self.tagged(branches, map),
            _ => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        match self.node() {
            Node::Nullable { null, .. } => {
                self.encoder.out.push(null * 2);
                Ok(())
            }
            node @ Node::Union(branches) => {
                let expected = Expected(node);
                self.null(branches).ok_or_else(|| E::invalid_type(Unexpected::Unit, &expected))
            }
            _ => Err(E::invalid_type(Unexpected::Unit, &self)),
        }
    }

    fn visit_some<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        let &Node::Nullable { null, value } = self.node() else {
            return Err(D::Error::invalid_type(Unexpected::Option, &self));
        };
        self.encoder.out.push((1 - null) * 2);
        Slot { node: value, ..self }.deserialize(document)
    }
}
