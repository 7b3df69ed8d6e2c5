//! What came of a call, beside what was expected.

use serde_json::Value;

use super::fixture::{Bytes, Fixture, Published, Said};
use crate::decode::Decoder;
use crate::event::{Effects, Encoding, Event, KeyWrite, Message, Outgoing, Payload, Verdict};
use crate::wire::Profile;

/// As much of a value as a sentence shows.
const SHOWN: usize = 200;

/// All that is not as the fixture says, each in a sentence.
pub(super) fn differences(
    fixture: &Fixture,
    verdict: &Verdict,
    effects: &Effects,
    profile: Profile,
    decoder: &Decoder,
) -> Vec<String> {
    let expect = &fixture.expect;
    let (said, code, reason) = match verdict {
        Verdict::Done => (Said::Done, None, None),
        Verdict::Retry { code, reason, .. } => (Said::Retry, Some(code), Some(reason)),
        Verdict::Reject { code, reason } => (Said::Reject, Some(code), Some(reason)),
    };
    let told = match (code, reason) {
        (Some(code), Some(reason)) => format!("{} ({code}: {reason})", said.word()),
        _ => said.word().to_owned(),
    };
    if said != expect.verdict {
        return vec![format!("the verdict is {told}, expected is {}", expect.verdict.word())];
    }
    let mut found = Vec::new();
    if expect.code.is_some() && expect.code.as_ref() != code {
        found.push(format!(
            "the verdict is {told}, expected is the code {:?}",
            expect.code.as_deref().unwrap_or_default()
        ));
    }
    if let Some(part) = &expect.reason
        && !reason.is_some_and(|reason| reason.contains(part.as_str()))
    {
        found.push(format!("the verdict is {told}, expected is a reason with {part:?}"));
    }
    if said == Said::Done {
        published(&expect.published, &effects.publish, profile, decoder, &mut found);
        keys(fixture, &effects.writes, &mut found);
    }
    found
}

fn published(
    expected: &[Published],
    found: &[Outgoing],
    profile: Profile,
    decoder: &Decoder,
    differences: &mut Vec<String>,
) {
    if expected.len() != found.len() {
        let topics: Vec<&str> = found.iter().map(|outgoing| &*outgoing.topic).collect();
        let topics = if topics.is_empty() { String::new() } else { format!(" (to {})", topics.join(", ")) };
        differences.push(format!("{} events are published{topics}, expected are {}", found.len(), expected.len()));
        return;
    }
    for (n, (expected, outgoing)) in expected.iter().zip(found).enumerate() {
        match read(outgoing, profile, decoder) {
            Ok(event) => event_differs(&format!("published[{n}]"), expected, &event, differences),
            Err(why) => differences.push(format!("published[{n}] cannot be read again: {why}")),
        }
    }
}

/// What a handler would get of it.
fn read(outgoing: &Outgoing, profile: Profile, decoder: &Decoder) -> Result<Event, String> {
    let Outgoing { topic, fields } = outgoing.clone();
    let message = Message { topic, position: "1".into(), first: "1".into(), fields };
    let envelope = profile.read(&message).map_err(|error| error.to_string())?;
    let raw = matches!(envelope.encoding, Encoding::Other(_));
    decoder.decode(&message, envelope, raw).map_err(|error| error.to_string())
}

fn event_differs(what: &str, expected: &Published, event: &Event, differences: &mut Vec<String>) {
    if *expected.topic != *event.topic {
        differences.push(format!("{what} goes to {:?}, expected is {:?}", event.topic, expected.topic));
    }
    if let Some(kind) = &expected.kind
        && *kind != event.metadata.kind
    {
        differences.push(format!("{what} has the type {:?}, expected is {kind:?}", event.metadata.kind));
    }
    if let Some(key) = &expected.key
        && event.metadata.key.as_deref() != Some(key.as_bytes())
    {
        let is = event.metadata.key.as_deref().map(String::from_utf8_lossy);
        differences.push(format!("{what} has the key {is:?}, expected is {key:?}"));
    }
    for (name, value) in &expected.headers {
        let header = event.metadata.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &value[..]);
        if header != Some(value.as_bytes()) {
            let is = header.map(String::from_utf8_lossy);
            differences.push(format!("{what} has the header {name} {is:?}, expected is {value:?}"));
        }
    }
    let wanted = match (&expected.data, &expected.base64) {
        (Some(data), _) => Bytes::Json { json: data.clone() },
        (None, Some(base64)) => Bytes::Base64 { base64: base64.clone() },
        (None, None) => return,
    };
    let is = match &event.payload {
        Payload::Json(document) => document.as_bytes(),
        Payload::Raw(bytes) => bytes,
    };
    differences.extend(value_differs(&format!("{what}.data"), &wanted, is));
}

fn keys(fixture: &Fixture, writes: &[KeyWrite], differences: &mut Vec<String>) {
    for (name, expected) in &fixture.expect.keys {
        // The last write counts.
        let written = writes.iter().rev().find(|write| write.key == *name);
        match (written.map(|write| &write.value), expected) {
            (None, _) => differences.push(format!("key {name:?} is not written")),
            (Some(None), None) => {}
            (Some(None), Some(_)) => differences.push(format!("key {name:?} is deleted, expected is a value")),
            (Some(Some(_)), None) => differences.push(format!("key {name:?} is set, expected is that it is deleted")),
            (Some(Some(is)), Some(expected)) => {
                differences.extend(value_differs(&format!("key {name:?}"), expected, is));
            }
        }
    }
    let unexpected = writes.iter().filter(|write| !fixture.expect.keys.contains_key(&write.key));
    differences.extend(unexpected.map(|write| format!("key {:?} is written, which is not expected", write.key)));
}

fn value_differs(what: &str, expected: &Bytes, is: &[u8]) -> Option<String> {
    if let Bytes::Json { json: expected } = expected {
        return match serde_json::from_slice::<Value>(is) {
            Ok(is) => document_differs(expected, &is, &mut String::new()).map(|where_| format!("{what}: {where_}")),
            Err(_) => Some(format!("{what} is {}, expected is JSON", shown(is))),
        };
    }
    match expected.bytes() {
        Ok(expected) if expected == is => None,
        Ok(expected) => Some(format!("{what} is {}, expected is {}", shown(is), shown(&expected))),
        Err(why) => Some(format!("{what}: {why}")),
    }
}

/// The first place where two documents differ, with what is there. Numbers are the same however they are written.
fn document_differs(expected: &Value, is: &Value, pointer: &mut String) -> Option<String> {
    let inside = |pointer: &mut String, key: &str, expected: &Value, is: &Value| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let found = document_differs(expected, is, pointer);
        pointer.truncate(length);
        found
    };
    match (expected, is) {
        (Value::Object(expected), Value::Object(is)) => {
            let keys = expected.keys().chain(is.keys().filter(|key| !expected.contains_key(*key)));
            for key in keys {
                let differs = match (expected.get(key), is.get(key)) {
                    (Some(expected), Some(is)) => inside(pointer, key, expected, is),
                    (Some(_), None) => Some(format!("{pointer}/{key} is missing")),
                    (None, _) => Some(format!("{pointer}/{key} is there, which is not expected")),
                };
                if differs.is_some() {
                    return differs;
                }
            }
            None
        }
        (Value::Array(expected), Value::Array(is)) if expected.len() == is.len() => {
            let mut pairs = expected.iter().zip(is).enumerate();
            pairs.find_map(|(n, (expected, is))| inside(pointer, &n.to_string(), expected, is))
        }
        (Value::Number(expected), Value::Number(is)) if expected == is || expected.as_f64() == is.as_f64() => None,
        (expected, is) if expected == is => None,
        (expected, is) => {
            let at = if pointer.is_empty() { "it" } else { pointer.as_str() };
            Some(format!("{at} is {}, expected is {}", cut(&is.to_string()), cut(&expected.to_string())))
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    cut(&format!("{:?}", String::from_utf8_lossy(bytes)))
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

// === impl Said ===

impl Said {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Reject => "reject",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_told_with_its_place() {
        let differs = |expected: Value, is: Value| document_differs(&expected, &is, &mut String::new());
        assert_eq!(differs(json!({"a": [1, 2.0]}), json!({"a": [1.0, 2]})), None);
        assert_eq!(
            differs(json!({"a": [1, {"b/c": 2}]}), json!({"a": [1, {"b/c": 3}]})).unwrap(),
            "/a/1/b~1c is 3, expected is 2"
        );
        assert_eq!(differs(json!({"a": 1}), json!({})).unwrap(), "/a is missing");
        assert_eq!(differs(json!({}), json!({"b": 1})).unwrap(), "/b is there, which is not expected");
        assert_eq!(differs(json!([1]), json!([1, 2])).unwrap(), "it is [1,2], expected is [1]");
    }
}
