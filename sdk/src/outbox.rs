//! Publishing events. Needs the grant `publish = ["topic"]`.
//!
//! What is published leaves with the acknowledgement: if the handler fails afterwards, nothing was published.

use std::fmt;

use serde::Serialize;

use crate::Failure;
use crate::bindings::sandbar::handler::{outbox as host, types as wire};

/// An event to publish. The host sets its id, source and time.
#[derive(Clone, Debug)]
pub struct Draft {
    inner: host::Draft,
}

/// Why a draft was refused. Nothing of it is published; the handler may go on.
///
/// As a [`Failure`]: the first three are rejections, with the codes `denied`, `invalid` and `limit`, since the same
/// event would meet them again; `Other` is a retry with its own code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The topic or type is not granted; the text says which line to add.
    Denied(String),
    /// The draft cannot be encoded: the text says where and why.
    Invalid(String),
    /// Too many or too large; the text says which limit.
    Limit(String),
    /// Anything else.
    Other {
        /// A short word.
        code: String,
        /// For people.
        message: String,
    },
}

/// Publishes `data` as an event of type `kind`, and returns the id it will have.
///
/// With a schema for the type the host encodes it as Avro, without one it is published as JSON.
///
/// # Errors
///
/// See [`Error`].
pub fn publish(topic: &str, kind: &str, data: &(impl Serialize + ?Sized)) -> Result<String, Error> {
    Draft::new(topic, kind).json(data)?.publish()
}

// === impl Draft ===

impl Draft {
    /// A draft without data, which is the JSON document `null`.
    #[must_use]
    pub fn new(topic: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            inner: host::Draft {
                topic: topic.into(),
                kind: kind.into(),
                key: None,
                payload: wire::Payload::Json("null".to_owned()),
                headers: Vec::new(),
                cause: None,
                attributes: Vec::new(),
            },
        }
    }

    /// The data, written as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], if it cannot be written as JSON (a map whose keys are no strings, for example).
    pub fn json(mut self, data: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let text = serde_json::to_string(data).map_err(|error| Error::Invalid(error.to_string()))?;
        self.inner.payload = wire::Payload::Json(text);
        Ok(self)
    }

    /// The data, as JSON text.
    #[must_use]
    pub fn json_text(mut self, text: impl Into<String>) -> Self {
        self.inner.payload = wire::Payload::Json(text.into());
        self
    }

    /// The data, as bytes that go out as they are.
    #[must_use]
    pub fn raw(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.inner.payload = wire::Payload::Raw(bytes.into());
        self
    }

    /// Ordering key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.inner.key = Some(key.into());
        self
    }

    /// One more header. Names that the wire uses itself, and those that start with `ce_` or `sandbar-`, are refused when
    /// the draft is published.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.inner.headers.push((name.into(), value.into()));
        self
    }

    /// A property that came to the contract after this SDK was written.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.inner.attributes.push((name.into(), value.into()));
        self
    }

    /// Publishes it, and returns the id it will have. The id is derived from the event being handled: if the event is
    /// run again, the same id is published, once.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn publish(&self) -> Result<String, Error> {
        host::publish(&self.inner).map_err(Error::from_wire)
    }
}

// === impl Error ===

impl Error {
    fn from_wire(error: host::Error) -> Self {
        match error {
            host::Error::Denied(text) => Self::Denied(text),
            host::Error::Invalid(text) => Self::Invalid(text),
            host::Error::Limit(text) => Self::Limit(text),
            host::Error::Other((code, message)) => Self::Other { code, message },
        }
    }

    pub(crate) fn fate(&self) -> Failure {
        let text = self.to_string();
        match self {
            Self::Denied(_) => Failure::reject("denied", text),
            Self::Invalid(_) => Failure::reject("invalid", text),
            Self::Limit(_) => Failure::reject("limit", text),
            Self::Other { code, .. } => Failure::retry(text).code(code.clone()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "publishing is not granted: {text}"),
            Self::Invalid(text) => write!(f, "the draft cannot be published: {text}"),
            Self::Limit(text) => write!(f, "the draft exceeds a limit: {text}"),
            Self::Other { message, .. } => write!(f, "the draft was not published: {message}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_holds_what_was_put_into_it() {
        let draft = Draft::new("out", "org.example.v1")
            .json(&("x", 1))
            .unwrap()
            .key("course")
            .header("note", b"\xff".as_slice())
            .attribute("new", "1");
        assert_eq!((draft.inner.topic.as_str(), draft.inner.kind.as_str()), ("out", "org.example.v1"));
        assert!(matches!(&draft.inner.payload, wire::Payload::Json(text) if text == r#"["x",1]"#));
        assert_eq!(draft.inner.key.as_deref(), Some(b"course".as_slice()));
        assert_eq!(draft.inner.headers, [("note".to_owned(), vec![0xff])]);
        assert_eq!(draft.inner.attributes, [("new".to_owned(), "1".to_owned())]);
        assert_eq!(draft.inner.cause, None);
    }

    #[test]
    fn what_json_cannot_hold_is_invalid() {
        let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(Draft::new("t", "k").json(&odd).unwrap_err(), Error::Invalid("key must be a string".into()));
    }
}
