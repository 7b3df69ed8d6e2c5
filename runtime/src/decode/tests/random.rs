//! Random data under random schemas, against apache-avro's own reader and writer.

use std::collections::HashMap;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Duration, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::plan::Plan;
use super::super::schemas::{BUILTIN, compile_text};
use super::super::{MAX_GROWTH, MAX_PAYLOAD, avro, encode};

/// Choices, taken from bytes so that proptest can shrink them; all zero when the bytes run out.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn long(&mut self) -> i64 {
        match self.byte() % 4 {
            0 => i64::from(self.byte()) - 128,
            1 => [i64::MIN, i64::MAX, -1, 1 << 53][self.below(4)],
            _ => i64::from_le_bytes(self.array()),
        }
    }

    fn int(&mut self) -> i32 {
        self.long() as i32
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 8] = ["", "course-v1:", "\"\\\n", "é", "\u{1f600}", "\0\x1f\x7f", "a", "\u{2028}"];
        (0..self.below(6)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(7)).map(|_| self.byte()).collect()
    }
}

/// A schema whose named types are numbered.
fn schema(choices: &mut Choices<'_>, depth: usize, names: &mut usize) -> Json {
    let name = |names: &mut usize| {
        *names += 1;
        if names.is_multiple_of(2) { format!("N{names}") } else { format!("other.space.N{names}") }
    };
    match choices.below(if depth == 0 { 17 } else { 23 }) {
        0 => json!("null"),
        1 => json!("boolean"),
        2 => json!("int"),
        3 => json!("long"),
        4 => json!("float"),
        5 => json!("double"),
        6 => json!("bytes"),
        7..=9 => json!("string"),
        10 => json!({"type": "fixed", "name": name(names), "size": choices.below(5)}),
        11 => json!({"type": "enum", "name": name(names), "symbols": ["A", "B_1", "c"]}),
        12 => json!({"type": "string", "logicalType": "uuid"}),
        13 => json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        14 => json!({"type": "fixed", "name": name(names), "size": 12, "logicalType": "duration"}),
        15 => {
            let logical = ["date", "time-millis"][choices.below(2)];
            json!({"type": "int", "logicalType": logical})
        }
        16 => {
            const LONGS: [&str; 4] = ["time-micros", "timestamp-millis", "timestamp-nanos", "local-timestamp-micros"];
            json!({"type": "long", "logicalType": LONGS[choices.below(4)]})
        }
        17 => json!({"type": "array", "items": schema(choices, depth - 1, names)}),
        18 => json!({"type": "map", "values": schema(choices, depth - 1, names)}),
        19 => match schema(choices, depth - 1, names) {
            union @ Json::Array(_) => union,
            Json::String(null) if null == "null" => json!(["null", "long"]),
            other if choices.below(2) == 0 => json!(["null", other]),
            other => json!([other, "null"]),
        },
        20 => {
            let named = json!({"type": "enum", "name": name(names), "symbols": ["X"]});
            let array = json!({"type": "array", "items": schema(choices, depth - 1, names)});
            json!(["double", "null", named, {"type": "int", "logicalType": "date"}, array, "string"])
        }
        _ => record(choices, depth - 1, names),
    }
}

fn record(choices: &mut Choices<'_>, depth: usize, names: &mut usize) -> Json {
    *names += 1;
    let name = format!("R{names}");
    let mut fields: Vec<Json> = (0..choices.below(5))
        .map(|index| json!({"name": format!("f{index}"), "type": schema(choices, depth, names)}))
        .collect();
    if choices.below(3) == 0 {
        fields.push(json!({"name": "again", "type": ["null", name]}));
    }
    json!({"type": "record", "name": name, "namespace": "space", "fields": fields})
}

type Names<'s> = HashMap<String, &'s Schema>;

fn collect<'s>(schema: &'s Schema, names: &mut Names<'s>) {
    match schema {
        Schema::Record(record) => {
            names.insert(record.name.fullname(None), schema);
            record.fields.iter().for_each(|field| collect(&field.schema, names));
        }
        Schema::Array(array) => collect(&array.items, names),
        Schema::Map(map) => collect(&map.types, names),
        Schema::Union(union) => union.variants().iter().for_each(|variant| collect(variant, names)),
        _ => {}
    }
}

/// A value, and the JSON it must become: the rules once more, written the obvious way.
fn value(choices: &mut Choices<'_>, schema: &Schema, names: &Names<'_>, depth: usize) -> (Value, Json) {
    let base64 = |bytes: &[u8]| Json::String(STANDARD.encode(bytes));
    match schema {
        Schema::Null => (Value::Null, Json::Null),
        Schema::Boolean => {
            let boolean = choices.byte() & 1 == 1;
            (Value::Boolean(boolean), boolean.into())
        }
        Schema::Int => with(choices.int(), Value::Int),
        Schema::Date => with(choices.int(), Value::Date),
        Schema::TimeMillis => with(choices.int(), Value::TimeMillis),
        Schema::Long => with(choices.long(), Value::Long),
        Schema::TimeMicros => with(choices.long(), Value::TimeMicros),
        Schema::TimestampMillis => with(choices.long(), Value::TimestampMillis),
        Schema::TimestampNanos => with(choices.long(), Value::TimestampNanos),
        Schema::LocalTimestampMicros => with(choices.long(), Value::LocalTimestampMicros),
        Schema::Float => {
            let float = f32::from_le_bytes(choices.array());
            // The shortest text of a float is not that of the same number as a double.
            (Value::Float(float), number(float.is_nan(), float.into(), format!("{float:?}")))
        }
        Schema::Double => {
            let double = f64::from_le_bytes(choices.array());
            (Value::Double(double), number(double.is_nan(), double, format!("{double:?}")))
        }
        Schema::Bytes => {
            let bytes = choices.bytes();
            (Value::Bytes(bytes.clone()), base64(&bytes))
        }
        Schema::Decimal(decimal) if matches!(decimal.inner, InnerDecimalSchema::Bytes) => {
            let bytes = choices.array::<3>();
            (Value::Decimal(Decimal::from(bytes)), base64(&bytes))
        }
        Schema::String => with(choices.text(), Value::String),
        Schema::Uuid(UuidSchema::String) => {
            let uuid = apache_avro::Uuid::from_bytes(choices.array());
            (Value::Uuid(uuid), uuid.to_string().into())
        }
        Schema::Fixed(fixed) => {
            let bytes: Vec<u8> = (0..fixed.size).map(|_| choices.byte()).collect();
            (Value::Fixed(fixed.size, bytes.clone()), base64(&bytes))
        }
        Schema::Duration(_) => {
            let bytes = choices.array::<12>();
            (Value::Duration(Duration::from(bytes)), base64(&bytes))
        }
        Schema::Enum(schema) => {
            let index = choices.below(schema.symbols.len());
            (Value::Enum(index as u32, schema.symbols[index].clone()), schema.symbols[index].as_str().into())
        }
        Schema::Array(array) => {
            let count = if depth == 0 { 0 } else { choices.below(4) };
            let items = (0..count).map(|_| value(choices, &array.items, names, depth - 1));
            let (values, jsons) = items.unzip();
            (Value::Array(values), Json::Array(jsons))
        }
        Schema::Map(map) => {
            let count = if depth == 0 { 0 } else { choices.below(4) };
            let (mut values, mut jsons) = (HashMap::new(), serde_json::Map::new());
            for _ in 0..count {
                let (key, (value, json)) = (choices.text(), value(choices, &map.types, names, depth - 1));
                values.insert(key.clone(), value);
                jsons.insert(key, json);
            }
            (Value::Map(values), Json::Object(jsons))
        }
        Schema::Record(record) => {
            let fields = record.fields.iter().map(|field| {
                let (value, json) = value(choices, &field.schema, names, depth.saturating_sub(1));
                ((field.name.clone(), value), (field.name.clone(), json))
            });
            let (values, jsons): (Vec<_>, serde_json::Map<_, _>) = fields.unzip();
            (Value::Record(values), Json::Object(jsons))
        }
        Schema::Union(union) => {
            let variants = union.variants();
            let null = variants.iter().position(|variant| matches!(variant, Schema::Null));
            let index = null.filter(|_| depth == 0).unwrap_or_else(|| choices.below(variants.len()));
            let (value, json) = value(choices, &variants[index], names, depth.saturating_sub(1));
            let plain = json.is_null() || (null.is_some() && variants.len() == 2);
            let json = if plain { json } else { json!({tag(&variants[index]): json}) };
            (Value::Union(index as u32, Box::new(value)), json)
        }
        Schema::Ref { name } => value(choices, names[&name.fullname(None)], names, depth),
        other => panic!("no values of {other:?} here"),
    }
}

fn with<T: Clone + Into<Json>>(scalar: T, wrap: impl Fn(T) -> Value) -> (Value, Json) {
    (wrap(scalar.clone()), scalar.into())
}

fn number(nan: bool, double: f64, text: String) -> Json {
    if nan {
        "NaN".into()
    } else if double.is_finite() {
        serde_json::from_str(&text).unwrap()
    } else {
        (if double > 0.0 { "Infinity" } else { "-Infinity" }).into()
    }
}

fn tag(schema: &Schema) -> String {
    let named = |name: &Name| name.fullname(None);
    match schema {
        Schema::Enum(schema) => named(&schema.name),
        Schema::Fixed(schema) | Schema::Duration(schema) => named(&schema.name),
        Schema::Record(schema) => named(&schema.name),
        Schema::Ref { name } => named(name),
        Schema::Double => "double".into(),
        Schema::Date | Schema::Int => "int".into(),
        Schema::Array(_) => "array".into(),
        Schema::String => "string".into(),
        other => panic!("no tag for {other:?} here"),
    }
}

/// One value under one schema, through both of us in both directions.
fn check(text: &str, choices: &mut Choices<'_>) {
    let (_, plan): (String, Plan) = compile_text(text).unwrap();
    let schema = Schema::parse_str(text).unwrap();
    let mut names = Names::new();
    collect(&schema, &mut names);
    let (value, expected) = value(choices, &schema, &names, 6);
    let write = |value: Value| GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap();
    let datum = write(value);

    let json = avro::to_json(&plan, &datum, MAX_PAYLOAD * MAX_GROWTH).unwrap();
    assert_eq!(serde_json::from_str::<Json>(&json).unwrap(), expected, "{text}");

    let again = encode::to_avro(&plan, &json, MAX_PAYLOAD).unwrap();
    assert_eq!(again.len(), datum.len(), "only the order of maps may differ");
    // Values are compared by what they become after one more turn: NaN equals nothing, and maps have no order.
    let read = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut again.as_slice()).unwrap();
    let rewritten = write(read);
    let back = avro::to_json(&plan, &rewritten, MAX_PAYLOAD * MAX_GROWTH).unwrap();
    assert_eq!(serde_json::from_str::<Json>(&back).unwrap(), expected);
    assert_eq!(encode::to_avro(&plan, &back, MAX_PAYLOAD).unwrap(), again, "there is one way to write a value");

    for end in (0..datum.len()).step_by(datum.len() / 8 + 1) {
        if let Ok(shorter) = avro::to_json(&plan, &datum[..end], MAX_PAYLOAD * MAX_GROWTH) {
            panic!("cut at {end} of {} it is still {shorter}", datum.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_schemas(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut choices = Choices(bytes.iter());
        let text = record(&mut choices, 4, &mut 0).to_string();
        check(&text, &mut choices);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn shipped_schemas(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, text) in BUILTIN {
            check(text, &mut Choices(bytes.iter()));
        }
    }
}
