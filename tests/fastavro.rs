//! Random data, written by fastavro, through the decoder and back: `peers/fastavro_check.py` makes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbar::decode::{Decoder, Settings};
use serde_json::Value;

/// Values made for each schema.
const ROUNDS: usize = 40;

fn python() -> PathBuf {
    let python = std::env::var_os("SANDBAR_PYTHON")
        .expect("SANDBAR_PYTHON names no Python with fastavro: run this through `make test`, which makes one");
    python.into()
}

#[test]
fn what_fastavro_writes_becomes_the_json_it_should_and_the_same_bytes_again() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let more = tempfile::tempdir().unwrap();
    // Another seed each day would find more and could not be repeated; proptest looks for what is new.
    let output = Command::new(python())
        .arg(here.join("peers/fastavro_check.py"))
        .arg(here.join("../schemas/openedx"))
        .arg(more.path())
        .args(["20260314", &ROUNDS.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let decoder = Decoder::load(&Settings { dirs: vec![more.path().into()], ..Settings::default() }).unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let kind = case["kind"].as_str().unwrap();
        let datum = STANDARD.decode(case["datum"].as_str().unwrap()).unwrap();
        let json = decoder.to_json(kind, &datum).unwrap_or_else(|error| panic!("{error}: {line}"));
        let expected = case["json"].as_str().unwrap();
        let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        assert_eq!(parse(&json), parse(expected), "{line}");
        for json in [&json, expected] {
            let again = decoder.to_avro(kind, json).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(datum == again || has_nan(json), "{kind}: {json}");
            assert_eq!(datum.len(), again.len(), "{kind}: {json}");
        }
    }
    assert_eq!(lines.lines().count(), (73 + 2) * ROUNDS);
}

/// There are many NaNs in Avro and one in JSON.
fn has_nan(json: &str) -> bool {
    json.contains(r#""NaN""#)
}
