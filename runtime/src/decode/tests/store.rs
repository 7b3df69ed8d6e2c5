//! Loading schemas, and decoding messages with them.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::super::{Decoder, Error, Settings};
use crate::event::{Encoding, Envelope, Fields, Message, Metadata, Payload};

const HYPHEN: &str = "org.openedx.enterprise.subsidy.redemption-reversed.v1";

fn only(dir: &Path) -> Settings {
    Settings { dirs: vec![dir.to_owned()], builtin: false, ..Settings::default() }
}

fn cloud_event(kind: &str, fields: &str) -> String {
    format!(r#"{{"type":"record","name":"CloudEvent","namespace":"{kind}","fields":[{fields}]}}"#)
}

fn decode(decoder: &Decoder, kind: &str, encoding: Encoding, payload: &[u8], raw: bool) -> Result<Payload, Error> {
    let message = Message { topic: "t".into(), position: "1".into(), first: "1".into(), fields: Fields::default() };
    let metadata = Metadata { kind: kind.into(), ..Metadata::default() };
    let envelope = Envelope { metadata, encoding, payload: Bytes::copy_from_slice(payload) };
    decoder.decode(&message, envelope, raw).map(|event| event.payload)
}

#[test]
fn every_shipped_schema_is_built_in_and_also_loads_from_its_directory() {
    let builtin = Decoder::load(&Settings::default()).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/openedx");
    let from_dir = Decoder::load(&only(&dir)).unwrap();
    let kinds = |decoder: &Decoder| {
        let mut kinds: Vec<_> = decoder.kinds().map(str::to_owned).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&builtin).len(), 73);
    assert_eq!(kinds(&builtin), kinds(&from_dir));
    // Each is compiled when it is first asked for.
    for kind in kinds(&builtin) {
        let decoded = [&builtin, &from_dir].map(|decoder| decoder.to_json(&kind, &[]));
        assert!(!matches!(decoded[0], Err(Error::NoSchema { .. })), "{kind}");
        assert_eq!(decoded[0], decoded[1]);
    }
    assert!(builtin.has(HYPHEN), "a hyphen in the namespace is no obstacle");
    assert!(builtin.has("org.openedx.authz.role_assignment.created"), "nor is a missing version");
}

#[test]
fn a_directory_comes_before_what_is_built_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(format!("{HYPHEN}.avsc"));
    fs::write(file, cloud_event(HYPHEN, r#"{"name":"mine","type":"int"}"#)).unwrap();
    fs::write(dir.path().join("README.md"), "not a schema").unwrap();
    let decoder = Decoder::load(&Settings { dirs: vec![dir.path().into()], ..Settings::default() }).unwrap();
    assert_eq!(decoder.kinds().count(), 73);
    assert_eq!(decoder.to_json(HYPHEN, &[2]).unwrap(), r#"{"mine":1}"#);
}

#[test]
fn a_schema_that_is_no_cloud_event_goes_by_its_full_name() {
    let dir = tempfile::tempdir().unwrap();
    let schema = r#"{"type":"record","name":"Placed","namespace":"com.shop.Order","fields":[]}"#;
    fs::write(dir.path().join("com+shop+Order+Placed_schema.avsc"), schema).unwrap();
    assert!(Decoder::load(&only(dir.path())).unwrap().has("com.shop.Order.Placed"));
}

#[test]
fn all_that_is_wrong_with_schemas_is_said_at_once_each_with_its_file() {
    let (dir, other, empty) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("a.avsc", "{");
    write("b.avsc", r#""string""#);
    write("c.avsc", r#"{"type":"enum","name":"c","symbols":["A"]}"#);
    write("d.avsc", &cloud_event("another.v1", ""));
    write("e.avsc", r#"{"type":"record","name":"CloudEvent","fields":[]}"#);
    write("f.avsc", r#"{"type":"record","name":"f","fields":[{"name":"x","type":"Missing"}]}"#);
    let twice = r#"{"type":"record","name":"I","fields":[]}"#;
    let fields = format!(r#"{{"name":"x","type":{twice}}},{{"name":"y","type":{twice}}}"#);
    write("g.avsc", &format!(r#"{{"type":"record","name":"g","fields":[{fields}]}}"#));
    write("h+v1_schema.avsc", &cloud_event("h.v1", ""));
    write("h.v1.avsc", &cloud_event("h.v1", ""));
    write("i.avsc", r#"{"type":"record","name":"i","fields":[{"name":"x","type":"int","default":"one"}]}"#);
    write("j.avsc", r#"{"type":"record","name":"j k","fields":[]}"#);
    write("fine.v1.avsc", &cloud_event("fine.v1", ""));
    fs::write(other.path().join("h.v1.avsc"), cloud_event("h.v1", "")).unwrap();
    let missing = dir.path().join("missing");
    let dirs = [dir.path(), other.path(), &missing, empty.path()].map(Path::to_owned).to_vec();
    let errors = Decoder::load(&Settings { dirs, ..Settings::default() }).unwrap_err();
    let expected = [
        ("a.avsc", "EOF while parsing"),
        ("b.avsc", "the schema is no record"),
        ("c.avsc", "the schema is no record"),
        ("d.avsc", "the schema is that of type another.v1: name the file another+v1_schema.avsc or another.v1.avsc"),
        ("e.avsc", "a CloudEvent has the event type as its namespace"),
        ("f.avsc", "Missing"),
        ("g.avsc", "type I is defined twice"),
        ("h.v1.avsc", "type h.v1 is in"),
        ("i.avsc", "x"),
        ("j.avsc", "j k"),
        ("h.v1.avsc", "type h.v1 is in"),
        ("missing", "schemas.dirs names directories"),
        (empty.path().file_name().unwrap().to_str().unwrap(), "it holds no .avsc file"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (file, reason)) in errors.iter().zip(expected) {
        assert!(error.path.ends_with(file) && error.to_string().contains(reason), "{file}: {error}");
    }
}

#[test]
fn each_payload_is_decoded_by_what_it_says_it_is() {
    let decoder = Decoder::load(&Settings { max_payload: 100, ..Settings::default() }).unwrap();
    let datum = b"\x02s\x02c\x12";
    let json = r#"{"redemption":{"subsidy_identifier":"s","content_key":"c","lms_user_id":9}}"#;
    assert_eq!(decode(&decoder, HYPHEN, Encoding::Avro, datum, false), Ok(Payload::Json(json.into())));
    assert_eq!(decode(&decoder, HYPHEN, Encoding::Avro, datum, true), Ok(Payload::Raw(Bytes::from_static(datum))));
    assert_eq!(decoder.to_avro(HYPHEN, json).unwrap(), datum);

    let spaced = br#" {"a": [1.50, "\u00e9"]}"#;
    let same = Payload::Json(String::from_utf8(spaced.to_vec()).unwrap());
    assert_eq!(decode(&decoder, "any", Encoding::Json, spaced, false), Ok(same), "unchanged");

    let other = Encoding::Other("text/plain".into());
    assert_eq!(decode(&decoder, "any", other.clone(), b"\xff", true), Ok(Payload::Raw(Bytes::from_static(b"\xff"))));
    let fails = |kind: &str, encoding: Encoding, payload: &[u8], raw: bool, code: &str, text: &str| {
        let error = decode(&decoder, kind, encoding, payload, raw).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(text), "{} {error}", error.code());
    };
    fails("any", other, b"", false, "no-schema", "text/plain");
    fails("any", Encoding::Avro, b"", false, "no-schema", "any");
    fails(HYPHEN, Encoding::Avro, b"\x02", false, "undecodable", "byte 1, at /redemption/subsidy_identifier");
    fails("any", Encoding::Json, b"{", false, "undecodable", "EOF");
    fails("any", Encoding::Json, b"1 2", false, "undecodable", "trailing");
    fails("any", Encoding::Json, b"\"\xff\"", false, "undecodable", "utf-8");
    fails("any", Encoding::Json, "[".repeat(65).as_bytes(), false, "undecodable", "EOF");
    for encoding in [Encoding::Avro, Encoding::Json] {
        fails("any", encoding, &[b' '; 101], true, "too-large", "has 101 bytes, the limit is 100");
    }
    fails(HYPHEN, Encoding::Avro, &[b' '; 101], false, "too-large", "has 101 bytes");
}

#[test]
fn json_may_be_nested_as_deep_as_avro() {
    let decoder = Decoder::load(&Settings::default()).unwrap();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(decode(&decoder, "any", Encoding::Json, nested(64).as_bytes(), false).is_ok());
    for levels in [65, 200, 500_000] {
        let error = decode(&decoder, "any", Encoding::Json, nested(levels).as_bytes(), false).unwrap_err();
        assert!(error.to_string().contains("nested deeper than 64 levels"), "{error}");
    }
}

#[test]
fn people_are_told_the_type_they_may_have_meant() {
    let decoder = Decoder::load(&Settings::default()).unwrap();
    let typo = HYPHEN.replace("reversed", "reverse");
    let expected = format!(
        "no schema is known for type {typo:?} (did you mean {HYPHEN}?); put its .avsc file into a directory of schemas.dirs"
    );
    assert_eq!(decoder.to_avro(&typo, "{}").unwrap_err().to_string(), expected);
    assert_eq!(decoder.to_json(&typo, b"").unwrap_err().to_string(), expected);
    let error = decoder.to_json("x", b"").unwrap_err();
    assert!(!error.to_string().contains("did you mean"), "{error}");
}

#[test]
fn encoding_keeps_to_the_limit_in_both_measures() {
    let decoder = Decoder::load(&Settings { max_payload: 30, ..Settings::default() }).unwrap();
    let json = |length: usize| {
        let text = "s".repeat(length);
        format!(r#"{{"redemption":{{"subsidy_identifier":"{text}","content_key":"","lms_user_id":1}}}}"#)
    };
    assert_eq!(decoder.to_avro(HYPHEN, &json(27)).unwrap().len(), 30);
    let error = decoder.to_avro(HYPHEN, &json(28)).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("more than 30 bytes")), ("too-large", true), "{error}");
    assert_eq!(decoder.to_avro(HYPHEN, &" ".repeat(241)).unwrap_err().code(), "too-large");
}
