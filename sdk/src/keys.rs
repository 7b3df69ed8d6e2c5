//! A handler's own keys: small values that outlive the call. Needs the grant `keys = true`.
//!
//! Keys belong to one handler; no other can see them. Writes are committed with the acknowledgement, and only if none of
//! the keys this call read was written by another call meanwhile. If one was, nothing is committed and the event is run
//! again: read, decide and write without any lock. A call reads its own writes.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::bindings::sandbar::handler::keys as host;

/// Why an operation was refused.
///
/// As a [`Failure`]: `Unavailable` is a retry with the code `unavailable`, `Other` one with its own code; the rest are
/// rejections, with the codes `denied`, `invalid`, `limit` and `bad-value`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not granted; the text says which line to add.
    Denied(String),
    /// Not a valid key.
    Invalid(String),
    /// Too many or too large; the text says which limit.
    Limit(String),
    /// The bus cannot be read now.
    Unavailable(String),
    /// The value cannot be written as JSON, or what is kept cannot be read as the type that was asked for.
    Value(String),
    /// Anything else.
    Other {
        /// A short word.
        code: String,
        /// For people.
        message: String,
    },
}

/// The value of a key, or none.
///
/// # Errors
///
/// See [`Error`].
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host::get(key).map_err(Error::from_wire)
}

/// The value of a key that was written with [`set_json`], or none.
///
/// # Errors
///
/// [`Error::Value`] if it is no JSON document of that type; otherwise see [`Error`].
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    get(key)?.map(|bytes| from_json(key, &bytes)).transpose()
}

/// Sets a key.
///
/// # Errors
///
/// See [`Error`].
pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    host::set(key, value.as_ref(), None).map_err(Error::from_wire)
}

/// Sets a key to a JSON document.
///
/// # Errors
///
/// [`Error::Value`] if the value cannot be written as JSON; otherwise see [`Error`].
pub fn set_json(key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
    set(key, serde_json::to_vec(value).map_err(|error| Error::Value(format!("{key}: {error}")))?)
}

/// Removes a key; removing what is not there succeeds.
///
/// # Errors
///
/// See [`Error`].
pub fn delete(key: &str) -> Result<(), Error> {
    host::delete(key, None).map_err(Error::from_wire)
}

/// Keys that start with `prefix`, sorted by their bytes, at most `limit`. Counts as having read every key of the
/// handler: any write of another call makes this one run again.
///
/// # Errors
///
/// See [`Error`].
pub fn list(prefix: &str, limit: u32) -> Result<Vec<String>, Error> {
    host::list(prefix, limit).map_err(Error::from_wire)
}

fn from_json<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Value(format!("{key}: {error}")))
}

// === impl Error ===

impl Error {
    fn from_wire(error: host::Error) -> Self {
        match error {
            host::Error::Denied(text) => Self::Denied(text),
            host::Error::Invalid(text) => Self::Invalid(text),
            host::Error::Limit(text) => Self::Limit(text),
            host::Error::Unavailable(text) => Self::Unavailable(text),
            host::Error::Other((code, message)) => Self::Other { code, message },
        }
    }

    pub(crate) fn fate(&self) -> Failure {
        let text = self.to_string();
        match self {
            Self::Denied(_) => Failure::reject("denied", text),
            Self::Invalid(_) => Failure::reject("invalid", text),
            Self::Limit(_) => Failure::reject("limit", text),
            Self::Value(_) => Failure::reject("bad-value", text),
            Self::Unavailable(_) => Failure::retry(text).code("unavailable"),
            Self::Other { code, .. } => Failure::retry(text).code(code.clone()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "keys are not granted: {text}"),
            Self::Invalid(text) => write!(f, "no valid key: {text}"),
            Self::Limit(text) => write!(f, "the keys exceed a limit: {text}"),
            Self::Unavailable(text) => write!(f, "the keys cannot be read now: {text}"),
            Self::Value(text) => write!(f, "the value of a key is not what was expected: {text}"),
            Self::Other { message, .. } => write!(f, "the keys were not used: {message}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_shape_is_an_error_that_names_the_key() {
        assert_eq!(from_json::<Vec<u8>>("k", b"[1,2]"), Ok(vec![1, 2]));
        let error = from_json::<Vec<u8>>("course/x", b"{}").unwrap_err();
        assert!(matches!(&error, Error::Value(text) if text.starts_with("course/x: ")), "{error:?}");
    }
}
