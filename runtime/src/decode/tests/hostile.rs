//! Data made to hurt: nothing panics, and no budget is exceeded by more than one value.

use proptest::prelude::*;

use super::super::{Decoder, MAX_DEPTH, MAX_NODES, Settings, avro};
use super::{Case, MAX_GROWTH, MAX_PAYLOAD, case, encode};

/// A zigzag number.
fn number(long: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::put_long(&mut out, long);
    out
}

#[test]
fn values_that_take_no_bytes_meet_the_limit_on_values() {
    let nothing = r#"{"type":"record","name":"N","fields":[]}"#;
    let nested = format!(r#"{{"type":"array","items":{{"type":"array","items":{nothing}}}}}"#);
    let schemas = [
        r#"{"type":"array","items":"null"}"#.to_owned(),
        format!(r#"{{"type":"array","items":{nothing}}}"#),
        r#"{"type":"array","items":{"type":"fixed","name":"Z","size":0}}"#.to_owned(),
        format!(r#"{{"type":"map","values":{nothing}}}"#),
        nested,
    ];
    let too_many = i64::try_from(MAX_NODES).unwrap() + 1;
    for schema in schemas {
        for count in [too_many, i64::MAX, -too_many, i64::MIN, i64::MIN + 1] {
            let mut datum = number(count);
            if count < 0 {
                datum.extend(number(0));
            }
            let error = case(&schema).decode(&datum).unwrap_err();
            assert!(error.starts_with("more values than one event may have"), "{schema} {count}: {error}");
        }
    }
    // Many blocks, each below the limit.
    let array = case(r#"{"type":"array","items":"null"}"#);
    let datum: Vec<u8> = (0..30).flat_map(|_| number(100_000)).chain([0]).collect();
    assert!(array.decode(&datum).unwrap_err().starts_with("more values than one event may have"));
    let fitting: Vec<u8> = number(1_000_000).into_iter().chain([0]).collect();
    assert_eq!(array.decode(&fitting).unwrap().len(), 5 * 1_000_000 + r#"{"v":[]}"#.len() - 1);
}

#[test]
fn long_json_from_a_short_datum_meets_the_limit_on_output() {
    let name = "n".repeat(1000);
    let record = format!(
        r#"{{"type":"array","items":{{"type":"record","name":"W","fields":[{{"name":"{name}","type":"null"}}]}}}}"#
    );
    let datum: Vec<u8> = number(500_000).into_iter().chain([0]).collect();
    let case = case(&record);
    let error = case.decode(&datum).unwrap_err();
    assert!(error.contains("as JSON it is longer than 8388608 bytes"), "{error}");
    let json = avro::to_json(&case.plan, &number(10).into_iter().chain([0]).collect::<Vec<u8>>(), 1000)
        .map_err(|fault| fault.to_string());
    assert!(json.unwrap_err().contains("longer than 1000 bytes"));
    let last = super::case(r#""string""#);
    let datum: Vec<u8> = number(100).into_iter().chain([b'x'; 100]).collect();
    assert!(avro::to_json(&last.plan, &datum, 50).is_err(), "the last value counts too");
}

#[test]
fn recursion_meets_the_limit_on_depth() {
    let list = r#"{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]}]}"#;
    let deep = |levels: usize| -> Vec<u8> { std::iter::repeat_n(2, levels).chain([0]).collect() };
    // `v` and the first of the list are two levels.
    let decoded = case(list).decode(&deep(MAX_DEPTH - 2)).unwrap();
    assert_eq!(super::super::text::depth(&decoded), MAX_DEPTH);
    assert_eq!(case(list).encode(&decoded).unwrap(), deep(MAX_DEPTH - 2));
    let error = case(list).decode(&deep(MAX_DEPTH - 1)).unwrap_err();
    assert!(error.starts_with("nested deeper than 64 levels"), "{error}");
    let deeper = decoded.replace("null", r#"{"n":null}"#);
    let error = case(list).encode(&deeper).unwrap_err();
    assert!(error.ends_with("nested deeper than 64 levels"), "{error}");
    assert!(case(list).decode(&deep(1_000_000)).is_err());
    let endless = case(r#"{"type":"record","name":"E","fields":[{"name":"e","type":"E"}]}"#);
    assert!(endless.decode(&[]).unwrap_err().starts_with("nested deeper"));
    let tags = case(r#"{"type":"record","name":"T","fields":[{"name":"t","type":["null","int","T"]}]}"#);
    assert!(tags.decode(&[4; 40]).unwrap_err().starts_with("nested deeper"), "a tag is a level too");
    let documents = [format!("{{\"v\":{}", "[".repeat(100_000)), format!("{{\"v\":{}", r#"{"n":"#.repeat(100_000))];
    for document in documents {
        assert!(case(list).encode(&document).is_err());
    }
}

#[test]
fn huge_lengths_allocate_nothing() {
    for length in [i64::MAX, 1 << 40, i64::from(u32::MAX)] {
        for schema in [r#""string""#, r#""bytes""#] {
            assert!(case(schema).decode(&number(length)).unwrap_err().starts_with("it ends here"));
        }
        let key: Vec<u8> = number(1).into_iter().chain(number(length)).chain(*b"abc").collect();
        let map = case(r#"{"type":"map","values":"int"}"#);
        assert!(map.decode(&key).unwrap_err().starts_with("it ends here"));
    }
    let fixed = case(r#"{"type":"fixed","name":"F","size":9223372036854775807}"#);
    assert!(fixed.decode(b"abc").unwrap_err().starts_with("it ends here"));
}

#[test]
fn a_document_with_more_values_than_can_be_decoded_is_refused() {
    let array = case(r#"{"type":"array","items":"null"}"#);
    let json = |count: usize| format!(r#"{{"v":[{}null]}}"#, "null,".repeat(count - 1));
    // The record and the array are values too.
    assert!(array.decode(&array.encode(&json(MAX_NODES - 2)).unwrap()).is_ok());
    assert!(array.encode(&json(MAX_NODES - 1)).unwrap_err().contains("more values than one event may have"));
}

#[test]
fn errors_do_not_repeat_what_is_long() {
    let long = "x".repeat(100_000);
    let map = case(r#"{"type":"map","values":"int"}"#);
    let key: Vec<u8> = number(1).into_iter().chain(number(100_000)).chain(long.bytes()).collect();
    let mut errors = vec![map.decode(&key).unwrap_err()];
    for json in [format!("{{\"v\":\"{long}\"}}"), format!("{{\"{long}\":1}}"), format!("{{\"v\":{{\"{long}\":true}}}}")]
    {
        errors.push(map.encode(&json).unwrap_err());
    }
    let decoder = Decoder::load(&Settings::default()).unwrap();
    errors.push(decoder.to_json(&long, b"").unwrap_err().to_string());
    for error in errors {
        assert!(error.len() < 500, "{error}");
    }
}

#[test]
fn a_document_whose_datum_is_too_large_is_refused() {
    let json = format!(r#"{{"v":"{}"}}"#, "a".repeat(MAX_PAYLOAD));
    assert_eq!(case(r#""string""#).encode(&json), Err("too large".into()));
}

/// Schemas that punish every shortcut.
fn nasty() -> Vec<Case> {
    [
        r#"{"type":"array","items":"null"}"#,
        r#"{"type":"array","items":{"type":"array","items":{"type":"array","items":"null"}}}"#,
        r#"{"type":"map","values":{"type":"record","name":"N","fields":[]}}"#,
        r#"{"type":"record","name":"L","fields":[{"name":"a","type":["null","L"]},{"name":"b","type":["L","null"]}]}"#,
        r#"{"type":"record","name":"T","fields":[{"name":"t","type":{"type":"array","items":"T"}}]}"#,
        r#"["null","string","bytes","long","double",{"type":"map","values":"float"}]"#,
        r#"{"type":"map","values":["string",{"type":"enum","name":"E","symbols":["A"]}]}"#,
    ]
    .map(case)
    .into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Small numbers are likelier: they are what branches, lengths and counts are.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..200)) {
        thread_local! {
            static OPEN_EDX: Decoder = Decoder::load(&Settings::default()).unwrap();
            static NASTY: Vec<Case> = nasty();
        }
        let check = |json: &str| {
            prop_assert!(json.len() <= MAX_PAYLOAD * MAX_GROWTH);
            prop_assert!(super::super::text::depth(json) <= MAX_DEPTH);
            prop_assert!(serde_json::from_str::<serde_json::Value>(json).is_ok());
            Ok(())
        };
        OPEN_EDX.with(|decoder| decoder.plans.values().try_for_each(|known| {
            avro::to_json(known.plan().unwrap(), &bytes, MAX_PAYLOAD * MAX_GROWTH).map_or(Ok(()), |json| check(&json))
        }))?;
        NASTY.with(|cases| cases.iter().try_for_each(|case| case.decode(&bytes).map_or(Ok(()), |json| check(&json))))?;
    }

    #[test]
    fn random_documents_never_panic(json in r#"\{"v":[\[\]{}",:0-9a-zNI\\ -]{0,40}\}"#) {
        for case in nasty() {
            if let Ok(datum) = case.encode(&json) {
                case.decode(&datum).unwrap();
            }
        }
    }
}
