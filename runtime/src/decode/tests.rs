//! Tests of decoding and encoding, by what they compare with.

use super::plan::Plan;
use super::schemas::compile_text;
use super::{MAX_GROWTH, MAX_PAYLOAD, avro, encode};

mod hostile;
mod random;
mod rules;
mod store;

/// Data under one schema.
struct Case {
    plan: Plan,
}

/// A record with one field `v` of the type that `schema` says, so that errors have a place.
fn case(schema: &str) -> Case {
    let record = format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{{"name":"v","type":{schema}}}]}}"#);
    Case { plan: compile_text(&record).unwrap().1 }
}

impl Case {
    fn decode(&self, datum: &[u8]) -> Result<String, String> {
        avro::to_json(&self.plan, datum, MAX_PAYLOAD * MAX_GROWTH).map_err(|fault| fault.to_string())
    }

    fn encode(&self, json: &str) -> Result<Vec<u8>, String> {
        encode::to_avro(&self.plan, json, MAX_PAYLOAD).map_err(|refusal| match refusal {
            encode::Refusal::Mismatch { pointer, what } => format!("{pointer}: {what}"),
            encode::Refusal::TooLarge => "too large".into(),
        })
    }

    /// The datum is the JSON, in both directions.
    #[track_caller]
    fn both(&self, datum: &[u8], value: &str) {
        let json = format!(r#"{{"v":{value}}}"#);
        assert_eq!(self.decode(datum).as_deref(), Ok(json.as_str()));
        assert_eq!(self.encode(&json).as_deref(), Ok(datum), "{json}");
    }
}
