//! Wire profiles: how the fields of a message carry an event's headers and payload.
//!
//! Nothing else in Sandbar knows how one system or another names its headers.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::event::{Encoding, Envelope, Fields, Message, code};

mod openedx;

/// A convention about the fields of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Open edX's event bus over Redis Streams: bare header names and a schemaless Avro datum.
    OpenEdx,
}

/// What the host signs published events with, where the event itself does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The producing service, e.g. `openedx/lms/web`.
    pub source: String,
    /// The producing machine's name.
    pub host: String,
    /// Version of the library that defines the events, numbers joined by dots, e.g. `11.2.0`.
    pub lib: String,
}

/// Headers that cannot be read. The event becomes a dead letter under [`code::BAD_HEADERS`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header without which there is no event.
    #[error("header {0} is missing or empty")]
    Missing(&'static str),
    /// A header that must be text.
    #[error("header {0} is not UTF-8")]
    NotText(&'static str),
    /// A header with a value that it cannot have.
    #[error("header {header} is {value:?}, not {expected}")]
    Invalid {
        /// Its name.
        header: &'static str,
        /// What it holds, cut to a readable length.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// A name that is no profile's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown wire profile {0:?}; known is \"openedx\"")]
pub struct UnknownProfile(String);

/// How many events' worth of handlers an event has passed through by being published again.
const HOPS: &str = "sandbar-hops";
/// The ordering key, on buses that have no place of their own for it.
const KEY: &str = "sandbar-key";
/// SHA-256, in hex, of the module that published it. For whoever looks at the bus: no handler is shown it.
pub const MODULE: &str = "sandbar-module";
/// How the payload is written; absent for Avro.
const CONTENT_TYPE: &str = "content-type";
/// CloudEvents' name for the same.
const DATA_CONTENT_TYPE: &str = "datacontenttype";

/// The time now, as profiles write it: ISO 8601 in UTC with offset `+00:00` and microseconds, the fraction left out
/// when it is zero. That is what Python's `datetime.isoformat` writes.
#[must_use]
pub fn now_time() -> String {
    iso_time(Timestamp::now())
}

fn iso_time(time: Timestamp) -> String {
    let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
    match time.subsec_nanosecond() / 1000 {
        0 => format!("{seconds}+00:00"),
        micros => format!("{seconds}.{micros:06}+00:00"),
    }
}

// === impl Profile ===

impl Profile {
    /// Reads the headers of a message; the payload stays as it is and shares the message's memory.
    ///
    /// # Errors
    ///
    /// If a required header is missing or one cannot be what it says. The same message always gives the same answer.
    pub fn read(self, message: &Message) -> Result<Envelope, Error> {
        match self {
            Self::OpenEdx => openedx::read(message),
        }
    }

    /// Writes an event, signed with `identity` where it is not signed yet. An event as
    /// the profile's other producers write it comes out as it was read, to the byte.
    #[must_use]
    pub fn write(self, envelope: &Envelope, identity: &Identity) -> Fields {
        match self {
            Self::OpenEdx => openedx::write(envelope, identity),
        }
    }

    /// True for header names that only the host may set: the profile's own, `ce_*`, `sandbar-*` and content types.
    /// Upper and lower case count as the same.
    #[must_use]
    pub fn is_reserved(self, header: &str) -> bool {
        let name = header.to_ascii_lowercase();
        let of_profile = match self {
            Self::OpenEdx => openedx::FIELDS.contains(&name.as_str()),
        };
        of_profile
            || name.starts_with("ce_")
            || name.starts_with("sandbar-")
            || name == CONTENT_TYPE
            || name == DATA_CONTENT_TYPE
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        match name {
            "openedx" => Ok(Self::OpenEdx),
            _ => Err(UnknownProfile(name.to_owned())),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenEdx => "openedx",
        })
    }
}

// === impl Error ===

impl Error {
    /// The code of the dead letter.
    #[must_use]
    pub fn code(&self) -> &'static str {
        code::BAD_HEADERS
    }

    fn invalid(header: &'static str, value: &str, expected: &'static str) -> Self {
        /// As much of a hostile header as a log line should hold.
        const SHOWN: usize = 100;
        Self::Invalid { header, value: value.chars().take(SHOWN).collect(), expected }
    }
}

/// The encoding that a content type names. Parameters and case do not matter; absent means Avro.
fn encoding(content_type: Option<&str>) -> Encoding {
    let Some(content_type) = content_type else { return Encoding::Avro };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/avro") {
        Encoding::Avro
    } else if essence.eq_ignore_ascii_case("application/json") {
        Encoding::Json
    } else {
        Encoding::Other(content_type.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_profiles_round_trip_and_others_are_refused() {
        assert_eq!("openedx".parse(), Ok(Profile::OpenEdx));
        assert_eq!(Profile::OpenEdx.to_string(), "openedx");
        let error = "confluent".parse::<Profile>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown wire profile "confluent"; known is "openedx""#);
    }

    #[test]
    fn times_are_written_as_python_writes_them() {
        let time = |micros| iso_time(Timestamp::from_microsecond(micros).unwrap());
        assert_eq!(time(1_773_500_987_535_897), "2026-03-14T15:09:47.535897+00:00");
        assert_eq!(time(1_773_500_987_000_097), "2026-03-14T15:09:47.000097+00:00");
        assert_eq!(time(1_773_500_987_000_000), "2026-03-14T15:09:47+00:00");
        let now = now_time();
        assert!(now.starts_with("20") && now.ends_with("+00:00"), "{now}");
    }

    #[test]
    fn the_host_keeps_its_header_names() {
        for name in [
            "type",
            "id",
            "source",
            "time",
            "minorversion",
            "sourcehost",
            "sourcelib",
            "event_data",
            "Type",
            "ce_type",
            "CE_x",
            "sandbar-hops",
            "Sandbar-Anything",
            "content-type",
            "Content-Type",
            "datacontenttype",
        ] {
            assert!(Profile::OpenEdx.is_reserved(name), "{name}");
        }
        for name in ["traceparent", "types", "x-ce_type", "sandbar", ""] {
            assert!(!Profile::OpenEdx.is_reserved(name), "{name}");
        }
    }

    #[test]
    fn content_types_name_encodings() {
        assert_eq!(encoding(None), Encoding::Avro);
        assert_eq!(encoding(Some("application/avro")), Encoding::Avro);
        assert_eq!(encoding(Some("Application/JSON; charset=utf-8")), Encoding::Json);
        assert_eq!(encoding(Some("text/plain; x=y")), Encoding::Other("text/plain; x=y".into()));
    }
}
