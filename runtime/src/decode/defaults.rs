//! Defaults in schemas, as data.
//!
//! A schema writes a default in a notation of its own (Avro 1.12, "Schema Record"): the value of a union stands
//! without a tag, and bytes are a string in which every character is one byte.

use serde_json::Value;

use super::MAX_DEPTH;
use super::encode::{put_long, put_size};
use super::plan::Node;

/// Encodes `value` as the default of a field of type `node`. The error says what is wrong.
pub(super) fn encode(nodes: &[Node], node: usize, value: &Value) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    put(nodes, node, value, MAX_DEPTH, &mut out)?;
    Ok(out)
}

fn put(nodes: &[Node], node: usize, value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
    match (&nodes[node], value) {
        (Node::Null, Value::Null) => {}
        (Node::Boolean, Value::Bool(value)) => out.push(u8::from(*value)),
        (Node::Int, Value::Number(number)) => {
            let int = number.as_i64().and_then(|long| i32::try_from(long).ok());
            put_long(out, int.ok_or_else(|| format!("{number} is no int"))?.into());
        }
        (Node::Long, Value::Number(number)) => {
            put_long(out, number.as_i64().ok_or_else(|| format!("{number} is no long"))?);
        }
        (Node::Float, value) => {
            #[expect(clippy::cast_possible_truncation, reason = "the schema asks for a float")]
            let float = double(value)? as f32;
            out.extend_from_slice(&float.to_le_bytes());
        }
        (Node::Double, value) => out.extend_from_slice(&double(value)?.to_le_bytes()),
        (Node::Bytes, Value::String(text)) => {
            let bytes = bytes(text)?;
            put_size(out, bytes.len());
            out.extend(bytes);
        }
        (Node::Fixed(size), Value::String(text)) => {
            let bytes = bytes(text)?;
            if bytes.len() != *size {
                return Err(format!("{} bytes where {size} belong", bytes.len()));
            }
            out.extend(bytes);
        }
        (Node::String, Value::String(text)) => {
            put_size(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        (Node::Enum(symbols), Value::String(text)) => {
            let index = symbols.iter().position(|symbol| symbol == text);
            put_size(out, index.ok_or_else(|| format!("{text:?} is no symbol of the enum"))?);
        }
        (Node::Array(items), Value::Array(values)) => {
            if !values.is_empty() {
                put_size(out, values.len());
            }
            values.iter().try_for_each(|value| put(nodes, *items, value, depth, out))?;
            out.push(0);
        }
        (Node::Map(values), Value::Object(entries)) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            if !sorted.is_empty() {
                put_size(out, sorted.len());
            }
            for (key, value) in sorted {
                put_size(out, key.len());
                out.extend_from_slice(key.as_bytes());
                put(nodes, *values, value, depth, out)?;
            }
            out.push(0);
        }
        (Node::Nullable { null, .. }, Value::Null) => out.push(null * 2),
        (Node::Nullable { null, value: node }, value) => {
            out.push((1 - null) * 2);
            put(nodes, *node, value, depth, out)?;
        }
        (Node::Union(branches), value) => {
            // Up to Avro 1.11 a default belonged to the first branch, since then to the first that takes it.
            let start = out.len();
            let fits = branches.iter().enumerate().any(|(index, branch)| {
                out.truncate(start);
                put_size(out, index);
                put(nodes, branch.node, value, depth, out).is_ok()
            });
            if !fits {
                return Err("it fits no branch of the union".into());
            }
        }
        (Node::Record(fields), Value::Object(entries)) => {
            for field in fields {
                match (entries.get(&field.name), &field.default) {
                    (Some(value), _) => put(nodes, field.node, value, depth, out)?,
                    (None, Some(default)) => out.extend_from_slice(default),
                    (None, None) => return Err(format!("it lacks {}", field.name)),
                }
            }
        }
        (_, value) => return Err(format!("{value} is of another type")),
    }
    Ok(())
}

fn double(value: &Value) -> Result<f64, String> {
    match value {
        Value::String(text) => super::encode::non_finite(text),
        value => value.as_f64(),
    }
    .ok_or_else(|| format!("{value} is no number"))
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let byte = |c: char| u8::try_from(u32::from(c)).map_err(|_| format!("{c:?} is no byte"));
    text.chars().map(byte).collect()
}
