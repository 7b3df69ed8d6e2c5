//! Events as the Python packages put them on the bus (`vectors/README.md`), read and written back to the byte.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbar::decode::{Decoder, Settings};
use sandbar::event::{Encoding, Event, Fields, Message, Payload};
use sandbar::wire::{Identity, Profile};
use serde_json::Value;

struct Vector {
    name: String,
    json: Value,
    fields: Vec<(String, Vec<u8>)>,
}

fn vectors() -> Vec<Vector> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert_eq!(files.len(), 15);
    let read = |file: &Path| {
        let json: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let fields = json["redis"]["fields"].as_array().unwrap().iter().map(|field| {
            let value = STANDARD.decode(field["value_b64"].as_str().unwrap()).unwrap();
            (field["name"].as_str().unwrap().to_owned(), value)
        });
        Vector { name: json["name"].as_str().unwrap().to_owned(), fields: fields.collect(), json }
    };
    files.iter().map(|file| read(file)).collect()
}

impl Vector {
    fn message(&self) -> Message {
        let id = self.json["redis"]["entry_id"].as_str().unwrap();
        Message {
            topic: self.json["topic"].as_str().unwrap().into(),
            position: id.into(),
            first: id.into(),
            fields: Fields::from_pairs(self.fields.iter().map(|(name, value)| (name, value))),
        }
    }

    fn datum(&self) -> &[u8] {
        &self.fields.iter().find(|(name, _)| name == "event_data").unwrap().1
    }
}

/// Signs what is not signed; nothing of it may show up in what was read from the bus.
fn stranger() -> Identity {
    Identity { source: "stranger".into(), host: "stranger".into(), lib: "0.0.0".into() }
}

#[test]
fn headers_are_read_and_written_back_to_the_byte() {
    for vector in vectors() {
        let message = vector.message();
        let envelope = Profile::OpenEdx.read(&message).unwrap();
        let expected = &vector.json["metadata"];
        let metadata = &envelope.metadata;
        assert_eq!(metadata.kind, expected["event_type"], "{}", vector.name);
        assert_eq!(metadata.id, expected["id"], "{}", vector.name);
        assert_eq!(metadata.source, expected["source"], "{}", vector.name);
        assert_eq!(metadata.time, expected["time"], "{}", vector.name);
        assert_eq!((metadata.hops, &metadata.key), (0, &None));
        let header = |name: &str| {
            let value = metadata.headers.iter().find(|(found, _)| found == name).unwrap().1.to_vec();
            String::from_utf8(value).unwrap()
        };
        let lib: Vec<_> = expected["sourcelib"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(header("sourcelib"), lib.join("."), "{}", vector.name);
        assert_eq!(header("sourcehost"), expected["sourcehost"].as_str().unwrap(), "{}", vector.name);
        assert_eq!(header("minorversion"), expected["minorversion"].to_string(), "{}", vector.name);
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
        let recorded = &vector.json["event_data_avro_json"];
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), *recorded, "{}", vector.name);
        assert_eq!(decoder.to_json(&kind, vector.datum()).unwrap(), json, "{}", vector.name);
        for json in [&json, &recorded.to_string()] {
            assert_eq!(decoder.to_avro(&kind, json).unwrap(), vector.datum(), "{}", vector.name);
        }
    }
}

#[test]
fn every_cut_of_a_recorded_datum_is_refused() {
    let decoder = Decoder::load(&Settings::default()).unwrap();
    for vector in vectors() {
        let kind = vector.json["event_type"].as_str().unwrap();
        for end in 0..vector.datum().len() {
            let error = decoder.to_json(kind, &vector.datum()[..end]).unwrap_err();
            assert!(error.to_string().contains("it ends here"), "{} cut at {end}: {error}", vector.name);
        }
    }
}
