//! How each type looks in JSON, and what each direction refuses.

use super::case;

#[test]
fn scalars() {
    case(r#""null""#).both(&[], "null");
    case(r#""boolean""#).both(&[1], "true");
    case(r#""int""#).both(&[0xff, 0xff, 0xff, 0xff, 0x0f], "-2147483648");
    case(r#""long""#).both(&[0x01], "-1");
    let long = case(r#""long""#);
    long.both(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "9223372036854775807");
    long.both(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "-9223372036854775808");
    case(r#""string""#).both(b"\x0aa\"\n\xc3\xa9", "\"a\\\"\\né\"");
    case(r#""bytes""#).both(b"\x04\xff\x00", r#""/wA=""#);
    case(r#"{"type":"fixed","name":"F","size":3}"#).both(b"abc", r#""YWJj""#);
    case(r#"{"type":"enum","name":"E","symbols":["A","B"]}"#).both(&[2], r#""B""#);
}

#[test]
fn floats_read_back_as_the_same_value() {
    let float = case(r#""float""#);
    let double = case(r#""double""#);
    float.both(&0.1_f32.to_le_bytes(), "0.1");
    float.both(&16_777_216_f32.to_le_bytes(), "16777216.0");
    double.both(&1_f64.to_le_bytes(), "1.0");
    double.both(&(-0.0_f64).to_le_bytes(), "-0.0");
    double.both(&0.1_f64.to_le_bytes(), "0.1");
    double.both(&5e-324_f64.to_le_bytes(), "5e-324");
    double.both(&f64::MAX.to_le_bytes(), "1.7976931348623157e308");
    double.both(&f64::INFINITY.to_le_bytes(), r#""Infinity""#);
    double.both(&f64::NEG_INFINITY.to_le_bytes(), r#""-Infinity""#);
    double.both(&f64::NAN.to_le_bytes(), r#""NaN""#);
    float.both(&f32::NAN.to_le_bytes(), r#""NaN""#);
    float.both(&f32::NEG_INFINITY.to_le_bytes(), r#""-Infinity""#);
    assert_eq!(double.encode(r#"{"v":3}"#).unwrap(), 3_f64.to_le_bytes(), "a whole number is a double too");
}

#[test]
fn unions() {
    let nullable = case(r#"["null","string"]"#);
    nullable.both(&[0], "null");
    nullable.both(&[2, 2, b'x'], r#""x""#);
    let other_way = case(r#"["string","null"]"#);
    other_way.both(&[2], "null");
    other_way.both(&[0, 2, b'x'], r#""x""#);
    let three = case(r#"["null","int",{"type":"enum","name":"E","symbols":["A"]},{"type":"array","items":"null"}]"#);
    three.both(&[0], "null");
    three.both(&[2, 4], r#"{"int":2}"#);
    three.both(&[4, 0], r#"{"n.E":"A"}"#);
    three.both(&[6, 2, 0], r#"{"array":[null]}"#);
    case(r#"["int","string"]"#).both(&[2, 0], r#"{"string":""}"#);
    case(r#"["string"]"#).both(&[0, 0], r#"{"string":""}"#);
}

#[test]
fn containers() {
    let array = case(r#"{"type":"array","items":"long"}"#);
    array.both(&[0], "[]");
    array.both(&[4, 2, 4, 0], "[1,2]");
    assert_eq!(array.decode(&[2, 2, 3, 4, 4, 6, 0]).unwrap(), r#"{"v":[1,2,3]}"#, "blocks, one with its size");
    let map = case(r#"{"type":"map","values":{"type":"map","values":"int"}}"#);
    map.both(&[0], "{}");
    map.both(b"\x04\x02a\x02\x02b\x02\x00\x02z\x00\x00", r#"{"a":{"b":1},"z":{}}"#);
    assert_eq!(map.decode(b"\x02\x02z\x00\x02\x02a\x00\x00").unwrap(), r#"{"v":{"z":{},"a":{}}}"#, "in wire order");
    let sorted = map.encode(r#"{"v":{"é":{},"Z":{},"a":{"y":1,"x":2},"":{}}}"#).unwrap();
    assert_eq!(
        map.decode(&sorted).unwrap(),
        r#"{"v":{"":{},"Z":{},"a":{"x":2,"y":1},"é":{}}}"#,
        "sorted by bytes, as Python sorts"
    );
}

#[test]
fn logical_types_are_what_they_lie_in() {
    case(r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#).both(&[2, 0x7b], r#""ew==""#);
    case(r#"{"type":"string","logicalType":"uuid"}"#).both(&[2, b'u'], r#""u""#);
    case(r#"{"type":"int","logicalType":"date"}"#).both(&[2], "1");
    case(r#"{"type":"long","logicalType":"timestamp-micros"}"#).both(&[2], "1");
    case(r#"{"type":"fixed","size":12,"name":"D","logicalType":"duration"}"#)
        .both(b"abcdefghijkl", r#""YWJjZGVmZ2hpamts""#);
    let union = r#"["null","int",{"type":{"type":"fixed","size":1,"name":"M"},"logicalType":"decimal","precision":2}]"#;
    case(union).both(&[4, 1], r#"{"n.M":"AQ=="}"#);
}

#[test]
fn recursion_and_references() {
    let list = case(r#"["null",{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}]"#);
    list.both(&[2, 2, 0], r#"{"next":{"next":null}}"#);
}

#[test]
fn fields_may_come_in_any_order_and_defaults_may_be_left_out() {
    let record = case(
        r#"{"type":"record","name":"P","fields":[
            {"name":"a","type":"string"},
            {"name":"b","type":["null","long"],"default":null},
            {"name":"c","type":{"type":"map","values":"int"},"default":{"y":2,"x":1}},
            {"name":"d","type":"bytes","default":"\u00ff"},
            {"name":"e","type":["long","string"],"default":7},
            {"name":"f","type":{"type":"record","name":"Q","fields":[{"name":"g","type":"double","default":1.5}]},"default":{}}
        ]}"#,
    );
    let whole = r#"{"v":{"a":"x","b":null,"c":{"x":1,"y":2},"d":"/w==","e":{"long":7},"f":{"g":1.5}}}"#;
    let datum = record.encode(whole).unwrap();
    assert_eq!(record.decode(&datum).unwrap(), whole);
    assert_eq!(record.encode(r#"{"v":{"a":"x"}}"#).unwrap(), datum, "defaults");
    let shuffled = r#"{"v":{"f":{},"e":{"long":7},"d":"/w==","c":{"y":2,"x":1},"b":null,"a":"x"}}"#;
    assert_eq!(record.encode(shuffled).unwrap(), datum);
}

#[test]
fn a_document_that_does_not_fit_is_refused_with_the_place() {
    let record =
        r#"{"type":"record","name":"P","fields":[{"name":"course_key","type":"string"},{"name":"n","type":"int"}]}"#;
    let cases = [
        (record, r#"{"v":{"course_key":"x"}}"#, "/v: field n is missing"),
        (record, r#"{"v":{"course_kye":"x","n":1}}"#, r#"/v: unknown field "course_kye"; did you mean course_key?"#),
        (record, r#"{"v":{"n":1,"course_key":"x","zzz":1}}"#, r#"/v: unknown field "zzz""#),
        (record, r#"{"v":{"n":1,"n":1,"course_key":"x"}}"#, "/v: field n stands there twice"),
        (
            record,
            r#"{"v":{"course_key":"x","n":2147483648}}"#,
            "/v/n: expected an int (whole, 32 bits), found 2147483648",
        ),
        (record, r#"{"v":{"course_key":"x","n":1.0}}"#, "/v/n: expected an int (whole, 32 bits), found 1.0"),
        (
            record,
            r#"{"v":{"course_key":null,"n":1}}"#,
            "/v/course_key: invalid type: null, expected a string at line 1 column 23",
        ),
        (record, r#"{"v":[]}"#, "/v: invalid type: sequence, expected an object at line 1 column 5"),
        (record, r#"{}"#, ": field v is missing"),
        (record, r#"{"v":{}} x"#, "/v: field course_key is missing"),
        (r#""null""#, r#"{"v":null} x"#, ": trailing characters at line 1 column 12"),
        (r#""null""#, "", ": EOF while parsing a value at line 1 column 0"),
        (
            r#""long""#,
            r#"{"v":9223372036854775808}"#,
            "/v: expected a long (whole, 64 bits), found 9223372036854775808",
        ),
        (r#""long""#, r#"{"v":"1"}"#, r#"/v: expected a long (whole, 64 bits), found "1""#),
        (r#""boolean""#, r#"{"v":0}"#, "/v: expected a boolean, found 0"),
        (r#""double""#, r#"{"v":1e999}"#, "/v: expected a double, found 1e999"),
        (r#""double""#, r#"{"v":"nan"}"#, r#"/v: expected a double, found "nan""#),
        (r#""float""#, r#"{"v":1e39}"#, "/v: expected a float, found 1e39"),
        (r#""null""#, r#"{"v":[1]}"#, "/v: expected null, found [1]"),
        (r#""bytes""#, r#"{"v":"a"}"#, "/v: not base64: Invalid input length: 1"),
        (r#"{"type":"fixed","name":"F","size":3}"#, r#"{"v":"YQ=="}"#, "/v: expected 3 bytes, found 1"),
        (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#"{"v":"C"}"#, r#"/v: expected one of A, B, found "C""#),
        (
            r#"{"type":"map","values":"int"}"#,
            r#"{"v":{"a/b":true}}"#,
            "/v/a~1b: expected an int (whole, 32 bits), found true",
        ),
        (r#"{"type":"map","values":"int"}"#, r#"{"v":{"a":1,"b":1,"a":1}}"#, r#"/v: key "a" stands there twice"#),
        (
            r#"{"type":"array","items":"int"}"#,
            r#"{"v":[1,2,"x"]}"#,
            r#"/v/2: expected an int (whole, 32 bits), found "x""#,
        ),
        (r#"["int","string"]"#, r#"{"v":{"long":1}}"#, r#"/v: expected one of int, string, found "long""#),
        (
            r#"["int","string"]"#,
            r#"{"v":{"int":1,"string":""}}"#,
            "/v: a value of a union is an object with one name, this one has more",
        ),
        (r#"["int","string"]"#, r#"{"v":{}}"#, "/v: expected one of int, string, found {}"),
        (
            r#"["int","string"]"#,
            r#"{"v":null}"#,
            "/v: invalid type: null, expected an object with one of int, string at line 1 column 9",
        ),
        (
            r#"["int","string"]"#,
            r#"{"v":1}"#,
            "/v: invalid type: integer `1`, expected an object with one of int, string at line 1 column 6",
        ),
        (r#"["null","int"]"#, r#"{"v":{"int":1}}"#, r#"/v: expected an int (whole, 32 bits), found {"int":1}"#),
    ];
    for (schema, json, expected) in cases {
        assert_eq!(case(schema).encode(json), Err(expected.to_owned()), "{json}");
    }
}

#[test]
fn a_datum_that_does_not_fit_is_refused_with_the_place() {
    let string = r#""string""#;
    let cases: [(&str, &[u8], &str); 14] = [
        (string, b"", "it ends here: 1 more bytes belong to this value, 0 are left (byte 0, at /v)"),
        (string, b"\x08abc", "it ends here: 4 more bytes belong to this value, 3 are left (byte 1, at /v)"),
        (string, b"\x80", "it ends here: 1 more bytes belong to this value, 0 are left (byte 1, at /v)"),
        (string, b"\x01", "a length of -1 (byte 0, at /v)"),
        (string, b"\x08ab\xffc", "a string is not UTF-8 (byte 3, at /v)"),
        (string, &[0xff; 12], "a number of more than 64 bits (byte 0, at /v)"),
        (
            string,
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2],
            "a number of more than 64 bits (byte 0, at /v)",
        ),
        (r#""boolean""#, &[2], "byte 2 is no boolean (byte 0, at /v)"),
        (r#""int""#, &[0x80, 0x80, 0x80, 0x80, 0x10], "2147483648 is no int (byte 0, at /v)"),
        (r#""double""#, &[0; 7], "it ends here: 8 more bytes belong to this value, 7 are left (byte 0, at /v)"),
        (r#"["null","int"]"#, &[4], "branch 2 of a union of 2 (byte 0, at /v)"),
        (r#"["null","int"]"#, &[1], "branch -1 of a union of 2 (byte 0, at /v)"),
        (r#"{"type":"enum","name":"E","symbols":["A"]}"#, &[2], "symbol 1 of an enum with 1 symbols (byte 0, at /v)"),
        (
            r#"{"type":"map","values":{"type":"array","items":"boolean"}}"#,
            b"\x02\x06a/b\x04\x01\x09",
            "byte 9 is no boolean (byte 7, at /v/a~1b/1)",
        ),
    ];
    for (schema, datum, expected) in cases {
        assert_eq!(case(schema).decode(datum), Err(expected.to_owned()), "{datum:?}");
    }
}

#[test]
fn what_follows_the_datum_is_ignored() {
    assert_eq!(case(r#""long""#).decode(&[2, 0xff, 0xff]).as_deref(), Ok(r#"{"v":1}"#));
}
