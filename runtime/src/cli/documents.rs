//! Events as a user writes them: one JSON document, an array of them, or one per line; bare data or with an envelope.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Deserialize;
use serde_json::value::RawValue;

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

/// Reads documents one after the other, so that a long file takes no more memory than its largest document.
pub(super) fn read(input: impl BufRead) -> impl Iterator<Item = Result<Document, serde_json::Error>> {
    let whole = serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>();
    whole.flat_map(|value| match value {
        Ok(value) if value.get().starts_with('[') => match serde_json::from_str::<Vec<Box<RawValue>>>(value.get()) {
            Ok(items) => items.into_iter().map(|item| document(&item)).collect(),
            Err(error) => vec![Err(error)],
        },
        Ok(value) => vec![document(&value)],
        Err(error) => vec![Err(error)],
    })
}

fn document(raw: &RawValue) -> Result<Document, serde_json::Error> {
    if !has_data(raw) {
        return Ok(Document { data: raw.get().to_owned(), ..Document::default() });
    }
    let found: Enveloped = serde_json::from_str(raw.get())?;
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

fn has_data(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(rename = "data")]
        _data: serde::de::IgnoredAny,
    }
    raw.get().starts_with('{') && serde_json::from_str::<Probe>(raw.get()).is_ok()
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
        assert!(found[1].as_ref().is_err_and(|error| error.is_eof()));
    }
}
