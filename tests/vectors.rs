//! Events as the Python packages put them on the bus (`vectors/README.md`), read and written back to the byte.

use sandbar::decode::{Decoder, Settings};
use sandbar::event::{Encoding, Event, Payload};
use sandbar::wire::{Identity, Profile};
use serde_json::Value;

use crate::support::vectors::vectors;

/// Signs what is not signed; nothing of it may show up in what was read from the bus.
fn stranger() -> Identity {
    Identity { source: "stranger".into(), host: "stranger".into(), lib: "0.0.0".into() }
}

#[test]
fn headers_are_read_and_written_back_to_the_byte() {
    for vector in vectors() {
        let message = vector.message();
        let envelope = Profile::OpenEdx.read(&message).unwrap();
        let expected = &vector.metadata;
        let metadata = &envelope.metadata;
        assert_eq!(metadata.kind, vector.kind, "{}", vector.name);
        assert_eq!(metadata.id, expected.id, "{}", vector.name);
        assert_eq!(metadata.source, expected.source, "{}", vector.name);
        assert_eq!(metadata.time, expected.time, "{}", vector.name);
        assert_eq!((metadata.hops, &metadata.key), (0, &None));
        let header = |name: &str| {
            let value = metadata.headers.iter().find(|(found, _)| found == name).unwrap().1.to_vec();
            String::from_utf8(value).unwrap()
        };
        assert_eq!(header("sourcelib"), vector.lib(), "{}", vector.name);
        assert_eq!(header("sourcehost"), expected.sourcehost, "{}", vector.name);
        assert_eq!(header("minorversion"), expected.minorversion.to_string(), "{}", vector.name);
        assert_eq!(envelope.encoding, Encoding::Avro);
        assert_eq!(envelope.payload, vector.datum(), "{}", vector.name);
        assert_eq!(Profile::OpenEdx.write(&envelope, &stranger()), message.fields, "{}", vector.name);
    }
}

#[test]
fn data_decodes_to_what_python_recorded_and_encodes_to_the_same_bytes() {
    let decoder = Decoder::load(&Settings::default()).unwrap();
    for vector in vectors() {
        let message = vector.message();
        let envelope = Profile::OpenEdx.read(&message).unwrap();
        let kind = envelope.metadata.kind.clone();
        let Event { payload: Payload::Json(json), content_type, .. } =
            decoder.decode(&message, envelope, false).unwrap()
        else {
            panic!("{} is not JSON", vector.name)
        };
        assert_eq!(content_type, "application/avro");
        let recorded = &vector.data;
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), *recorded, "{}", vector.name);
        assert_eq!(decoder.to_json(&kind, &vector.datum()).unwrap(), json, "{}", vector.name);
        for json in [&json, &recorded.to_string()] {
            assert_eq!(decoder.to_avro(&kind, json).unwrap(), vector.datum(), "{}", vector.name);
        }
    }
}

#[test]
fn every_cut_of_a_recorded_datum_is_refused() {
    let decoder = Decoder::load(&Settings::default()).unwrap();
    for vector in vectors() {
        let datum = vector.datum();
        for end in 0..datum.len() {
            let error = decoder.to_json(&vector.kind, &datum[..end]).unwrap_err();
            assert!(error.to_string().contains("it ends here"), "{} cut at {end}: {error}", vector.name);
        }
    }
}
