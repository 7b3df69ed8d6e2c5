//! Avro to JSON and back, under schemas that ship with Sandbar and under any other.

use std::sync::LazyLock;

use sandbar::decode::{Decoder, Error, Settings};

/// Far below the default, so that inputs run fast; what depends on it depends on nothing else.
const MAX_PAYLOAD: usize = 1 << 14;

/// What separates the schema from the data; JSON has no such byte.
const BETWEEN: u8 = 0;

struct Builtin {
    decoder: Decoder,
    kinds: Vec<String>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let settings = Settings { max_payload: MAX_PAYLOAD, ..Settings::default() };
    let decoder = Decoder::load(&settings).expect("the schemas that are built in");
    let mut kinds: Vec<String> = decoder.kinds().map(str::to_owned).collect();
    kinds.sort();
    Builtin { decoder, kinds }
});

/// The input is a schema and, after [`BETWEEN`], data: a datum, a document, or neither. `#7` stands for the seventh schema
/// that is built in.
pub fn run(input: &[u8]) {
    let at = input.iter().position(|byte| *byte == BETWEEN).unwrap_or(input.len());
    let (schema, data) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let Ok(schema) = str::from_utf8(schema) else { return };
    if let Some(number) = schema.strip_prefix('#') {
        let Builtin { decoder, kinds } = &*BUILTIN;
        let number: usize = number.parse().unwrap_or_default();
        check(decoder, &kinds[number % kinds.len()], data);
    } else if let Ok(decoder) = Decoder::of_schema(schema, MAX_PAYLOAD) {
        let kind = decoder.kinds().next().expect("the one schema").to_owned();
        check(&decoder, &kind, data);
    }
}

fn check(decoder: &Decoder, kind: &str, data: &[u8]) {
    if let Ok(json) = decoder.to_json(kind, data) {
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "what came out is no JSON: {json}");
        match decoder.to_avro(kind, &json) {
            Ok(datum) => settled(decoder, kind, &datum),
            Err(error) => may_be_refused(&error),
        }
    }
    if let Ok(json) = str::from_utf8(data)
        && let Ok(datum) = decoder.to_avro(kind, json)
    {
        settled(decoder, kind, &datum);
    }
}

/// There is one way to write a value, and reading it back loses nothing.
fn settled(decoder: &Decoder, kind: &str, datum: &[u8]) {
    match decoder.to_json(kind, datum) {
        Ok(json) => {
            let again = decoder.to_avro(kind, &json);
            assert_eq!(again.as_deref(), Ok(datum), "{json}");
        }
        Err(error) => assert!(too_much(&error), "what was written cannot be read: {error}"),
    }
}

/// A datum may say what a document cannot, and be longer as a document.
fn may_be_refused(error: &Error) {
    let twice = matches!(error, Error::Unencodable { reason, .. } if reason.ends_with("stands there twice"));
    assert!(twice || too_much(error), "what was read cannot be written: {error}");
}

fn too_much(error: &Error) -> bool {
    match error {
        Error::TooLarge { .. } => true,
        Error::Undecodable { reason, .. } | Error::Unencodable { reason, .. } => {
            reason.starts_with("more values than") || reason.starts_with("as JSON it is longer than")
        }
        _ => false,
    }
}
