//! Open edX's event bus over Redis Streams.
//!
//! Eight fields with bare names, in the order of [`FIELDS`]; the payload is `event_data`. What the Python consumer
//! accepts is accepted here, and more where nothing is lost by it: an event is refused only when it has no type or
//! data, or says something that cannot be true.
//!
//! - An empty header counts as absent, and of a repeated one the last counts, as there.
//! - Without `id` or `time` the Python consumer makes them up anew at each reading. Here they are derived from where
//!   the event was first published, so that a retry sees the same event: the id is a UUIDv5 of topic and position,
//!   the time is the one in a Redis entry id, or the Unix epoch on buses whose positions hold no time.
//! - `minorversion`, `sourcehost` and `sourcelib` are not looked at, only carried, with all unknown fields, in wire
//!   order. A field whose name is not UTF-8 is left out: no producer writes such names, and a handler could not say it.
//! - Sandbar's own additions are fields that the Python consumer ignores: `sandbar-key`, `sandbar-hops`,
//!   `sandbar-module`, `content-type`.

use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use uuid::Uuid;

use super::{CONTENT_TYPE, DATA_CONTENT_TYPE, Error, HOPS, Identity, KEY, encoding, iso_time};
use crate::event::{Encoding, Envelope, Fields, Message, Metadata};

/// The names on the wire, in the order the Python producer writes them.
pub(super) const FIELDS: [&str; 8] =
    ["type", "id", "source", "time", "minorversion", "sourcehost", "sourcelib", "event_data"];

/// What `minorversion` is when nobody says: all signals of Open edX have minor version 0.
const MINOR_VERSION: &[u8] = b"0";

/// The namespace of derived ids. Made at random once; changing it would change the id of every event without one.
const IDS: Uuid = Uuid::from_u128(0x6f0c_5d2e_93b1_4c57_a8f4_1f6b_e29d_7a03);

/// Fields that are read into places of their own.
#[derive(Default)]
struct Known<'a> {
    kind: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    data_content_type: Option<&'a [u8]>,
    hops: Option<&'a [u8]>,
    key: Option<usize>,
    data: Option<usize>,
}

pub(super) fn read(message: &Message) -> Result<Envelope, Error> {
    let fields = &message.fields;
    let mut known = Known::default();
    let mut headers = Vec::with_capacity(fields.len().saturating_sub(5));
    for (index, (name, value)) in fields.iter().enumerate() {
        let present = (!value.is_empty()).then_some(value);
        match name {
            b"type" => known.kind = present,
            b"id" => known.id = present,
            b"source" => known.source = present,
            b"time" => known.time = present,
            b"event_data" => known.data = Some(index),
            b"content-type" => known.content_type = present,
            b"datacontenttype" => known.data_content_type = present,
            b"sandbar-hops" => known.hops = present,
            b"sandbar-key" => known.key = Some(index),
            // A handler that passes headers on would be refused it.
            b"sandbar-module" => {}
            _ => {
                if let (Ok(name), Some(value)) = (str::from_utf8(name), fields.value(index)) {
                    headers.push((name.to_owned(), value));
                }
            }
        }
    }

    let kind = text("type", known.kind)?.ok_or(Error::Missing("type"))?;
    let payload = known.data.and_then(|index| fields.value(index)).ok_or(Error::Missing("event_data"))?;
    let id = match text("id", known.id)? {
        Some(id) if is_uuid(id) => id.to_owned(),
        Some(id) => return Err(Error::invalid("id", id, "a UUID")),
        None => Uuid::new_v5(&IDS, format!("{}/{}", message.topic, message.first).as_bytes()).to_string(),
    };
    let time = match text("time", known.time)? {
        Some(time) if is_utc(time) => time.to_owned(),
        Some(time) => return Err(Error::invalid("time", time, "an ISO 8601 time with offset +00:00 or Z")),
        None => iso_time(time_in(message.first.as_str()).unwrap_or(Timestamp::UNIX_EPOCH)),
    };
    let hops = match text(HOPS, known.hops)? {
        Some(hops) => hops.parse().map_err(|_| Error::invalid(HOPS, hops, "a number"))?,
        None => 0,
    };
    let content_type = match text(CONTENT_TYPE, known.content_type)? {
        None => text(DATA_CONTENT_TYPE, known.data_content_type)?,
        found => found,
    };
    Ok(Envelope {
        encoding: encoding(content_type),
        payload,
        metadata: Metadata {
            id,
            kind: kind.to_owned(),
            source: text("source", known.source)?.unwrap_or_default().to_owned(),
            time,
            key: known.key.and_then(|index| fields.value(index)),
            headers,
            hops,
        },
    })
}

pub(super) fn write(envelope: &Envelope, identity: &Identity) -> Fields {
    let metadata = &envelope.metadata;
    let header = |name: &str, default: &'static [u8]| {
        let found = metadata.headers.iter().find(|(found, _)| found == name);
        found.map_or(Bytes::from_static(default), |(_, value)| value.clone())
    };
    let or = |value: Bytes, default: &str| {
        if value.is_empty() { Bytes::copy_from_slice(default.as_bytes()) } else { value }
    };
    let source = if metadata.source.is_empty() { &identity.source } else { &metadata.source };
    let minor_version = header("minorversion", MINOR_VERSION);
    let host = or(header("sourcehost", b""), &identity.host);
    let lib = or(header("sourcelib", b""), &identity.lib);
    let values: [&[u8]; FIELDS.len()] = [
        metadata.kind.as_bytes(),
        metadata.id.as_bytes(),
        source.as_bytes(),
        metadata.time.as_bytes(),
        &minor_version,
        &host,
        &lib,
        &envelope.payload,
    ];
    let mut pairs: Vec<(&str, &[u8])> = FIELDS.into_iter().zip(values).collect();
    let extras = metadata.headers.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str()));
    pairs.extend(extras.map(|(name, value)| (name.as_str(), &value[..])));
    if let Some(key) = &metadata.key {
        pairs.push((KEY, key));
    }
    let hops = metadata.hops.to_string();
    if metadata.hops > 0 {
        pairs.push((HOPS, hops.as_bytes()));
    }
    if envelope.encoding != Encoding::Avro {
        pairs.push((CONTENT_TYPE, envelope.encoding.content_type().as_bytes()));
    }
    Fields::from_pairs(pairs)
}

fn text<'a>(header: &'static str, value: Option<&'a [u8]>) -> Result<Option<&'a str>, Error> {
    value.map(|value| str::from_utf8(value).map_err(|_| Error::NotText(header))).transpose()
}

/// True for every form that Python's `UUID()` takes: 32 hexadecimal digits with hyphens anywhere, in braces or not,
/// after `urn:` and `uuid:` or not.
fn is_uuid(text: &str) -> bool {
    let text = text.trim_start_matches("urn:").trim_start_matches("uuid:").trim_matches(['{', '}']);
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// True for a date and time with an offset of zero, in any form of ISO 8601.
fn is_utc(text: &str) -> bool {
    let Ok(pieces) = Pieces::parse(text) else { return false };
    let zero = pieces.to_numeric_offset().is_some_and(|offset| offset.is_zero());
    zero && pieces.time().is_some() && pieces.time_zone_annotation().is_none()
}

/// The time in a Redis entry id, `<milliseconds>-<sequence>`.
fn time_in(position: &str) -> Option<Timestamp> {
    let (millis, sequence) = position.split_once('-')?;
    sequence.parse::<u64>().ok()?;
    Timestamp::from_millisecond(millis.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::*;

    const PLAIN: [(&str, &str); 8] = [
        ("type", "org.example.thing.v1"),
        ("id", "1d2f8a15-0b0c-11f1-8de9-0242ac120002"),
        ("source", "openedx/lms/web"),
        ("time", "2026-03-14T15:09:47.535897+00:00"),
        ("minorversion", "0"),
        ("sourcehost", "lms-1"),
        ("sourcelib", "11.2.0"),
        ("event_data", "\u{2}a"),
    ];

    fn identity() -> Identity {
        Identity { source: "openedx/sandbar/web".into(), host: "here".into(), lib: "1.2.3".into() }
    }

    fn message(pairs: &[(&str, &str)]) -> Message {
        Message {
            topic: "things".into(),
            position: "1795225489020-7".into(),
            first: "1795225489020-0".into(),
            fields: Fields::from_pairs(pairs.iter().copied()),
        }
    }

    /// The plain message with `header` set to `value`, or without it.
    fn with(header: &str, value: Option<&str>) -> Message {
        let mut pairs: Vec<_> = PLAIN.into_iter().filter(|(name, _)| *name != header || value.is_some()).collect();
        match (pairs.iter_mut().find(|(name, _)| *name == header), value) {
            (Some(pair), Some(value)) => pair.1 = value,
            (None, Some(value)) => pairs.push((header, value)),
            _ => {}
        }
        message(&pairs)
    }

    fn read(message: &Message) -> Result<Envelope, Error> {
        Profile::OpenEdx.read(message)
    }

    #[test]
    fn what_is_read_is_written_back_to_the_byte() {
        let mut pairs = PLAIN.to_vec();
        pairs.extend([("traceparent", "00-1"), ("traceparent", "00-2"), ("ce_x", "")]);
        pairs.extend([("sandbar-key", "k"), ("sandbar-hops", "3"), ("content-type", "text/plain")]);
        let message = message(&pairs);
        let envelope = read(&message).unwrap();
        assert_eq!(envelope.metadata.hops, 3);
        assert_eq!(envelope.metadata.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(envelope.encoding, Encoding::Other("text/plain".into()));
        let names: Vec<_> = envelope.metadata.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["minorversion", "sourcehost", "sourcelib", "traceparent", "traceparent", "ce_x"]);
        assert_eq!(Profile::OpenEdx.write(&envelope, &identity()), message.fields);
    }

    #[test]
    fn what_is_missing_is_signed_by_the_host() {
        let envelope = Envelope {
            encoding: Encoding::Json,
            payload: Bytes::from_static(b"{}"),
            metadata: Metadata {
                id: "i".into(),
                kind: "k".into(),
                time: "t".into(),
                headers: vec![("x".into(), Bytes::from_static(b"1"))],
                ..Metadata::default()
            },
        };
        let expected = Fields::from_pairs([
            ("type", "k"),
            ("id", "i"),
            ("source", "openedx/sandbar/web"),
            ("time", "t"),
            ("minorversion", "0"),
            ("sourcehost", "here"),
            ("sourcelib", "1.2.3"),
            ("event_data", "{}"),
            ("x", "1"),
            ("content-type", "application/json"),
        ]);
        assert_eq!(Profile::OpenEdx.write(&envelope, &identity()), expected);
    }

    #[test]
    fn a_missing_id_or_time_is_the_same_at_every_reading() {
        for message in [with("id", None), with("id", Some("")), with("time", None), with("time", Some(""))] {
            let mut later = message.clone();
            later.position = "1795225499999-0".into();
            assert_eq!(read(&message), read(&later), "a requeued event keeps id and time");
        }
        let id = |message: &Message| read(message).unwrap().metadata.id;
        let mut other = with("id", None);
        let first = id(&other);
        assert_eq!(Uuid::parse_str(&first).unwrap().get_version_num(), 5);
        other.first = "1795225489020-1".into();
        assert_ne!(id(&other), first, "another event has another id");

        let mut timeless = with("time", None);
        assert_eq!(read(&timeless).unwrap().metadata.time, "2026-11-21T01:44:49.020000+00:00");
        timeless.first = "42".into();
        assert_eq!(read(&timeless).unwrap().metadata.time, "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn what_python_accepts_is_accepted_as_it_came() {
        let times = [
            "2026-03-14T15:09:47Z",
            "2026-03-14T15:09:47+0000",
            "2026-03-14 15:09:47.123456789+00:00",
            "2026-03-14T15:09:47-00:00",
            "20260314T150947Z",
        ];
        for time in times {
            assert_eq!(read(&with("time", Some(time))).unwrap().metadata.time, time);
        }
        let ids = [
            "1D2F8A15-0B0C-11F1-8DE9-0242AC120002",
            "{1d2f8a15-0b0c-11f1-8de9-0242ac120002}",
            "1d2f8a150b0c11f18de90242ac120002",
            "urn:uuid:1d2f8a15-0b0c-11f1-8de9-0242ac120002",
        ];
        for id in ids {
            assert_eq!(read(&with("id", Some(id))).unwrap().metadata.id, id);
        }
        for header in ["source", "minorversion", "sourcehost", "sourcelib"] {
            for value in [None, Some(""), Some("not a number")] {
                read(&with(header, value)).unwrap();
            }
        }
        assert_eq!(read(&with("event_data", Some(""))).unwrap().payload, Bytes::new(), "decode says what is wrong");
    }

    #[test]
    fn what_cannot_be_true_is_refused_with_the_header_named() {
        let cases = [
            (with("type", None), "header type is missing or empty"),
            (with("type", Some("")), "header type is missing or empty"),
            (with("event_data", None), "header event_data is missing or empty"),
            (with("id", Some("17")), r#"header id is "17", not a UUID"#),
            (with("sandbar-hops", Some("-1")), r#"header sandbar-hops is "-1", not a number"#),
        ];
        for (message, expected) in cases {
            let error = read(&message).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.code()), (expected, "bad-headers"));
        }
        for time in ["2026-03-14T15:09:47", "2026-03-14T15:09:47+02:00", "2026-03-14", "now", "1773500987", "15:09:47Z"]
        {
            let error = read(&with("time", Some(time))).unwrap_err();
            assert!(error.to_string().starts_with("header time is "), "{time}: {error}");
        }
        let fields = Fields::from_pairs([("type", &b"\xff"[..]), ("event_data", b"")]);
        assert_eq!(read(&Message { fields, ..message(&[]) }), Err(Error::NotText("type")));
    }

    #[test]
    fn of_a_repeated_header_the_last_counts_and_nameless_fields_are_left_out() {
        let mut pairs: Vec<(&[u8], &[u8])> =
            PLAIN.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        pairs.extend([(&b"type"[..], &b"last"[..]), (b"\xff", b"x")]);
        let envelope = read(&Message { fields: Fields::from_pairs(pairs), ..message(&[]) }).unwrap();
        assert_eq!(envelope.metadata.kind, "last");
        assert_eq!(envelope.metadata.headers.len(), 3);
    }
}
