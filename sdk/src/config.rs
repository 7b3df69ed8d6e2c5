//! Values that the operator wrote into the configuration. Needs the grant `config = { name = "value" }`.

use std::fmt;

use crate::Failure;
use crate::bindings::sandbar::handler::config as host;

/// Why a value was not read.
///
/// As a [`Failure`]: a rejection with the code `denied` or `config`, since only the operator can change that, who can
/// send the dead letters again afterwards; `Other` is a retry with its own code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is granted; the text says which line to add.
    Denied(String),
    /// The operator did not set this name.
    Missing(String),
    /// Anything else.
    Other {
        /// A short word.
        code: String,
        /// For people.
        message: String,
    },
}

/// The value of a name, or none if the operator did not set it.
///
/// # Errors
///
/// See [`Error`].
pub fn get(name: &str) -> Result<Option<String>, Error> {
    host::get(name).map_err(|error| match error {
        host::Error::Denied(text) => Error::Denied(text),
        host::Error::Other((code, message)) => Error::Other { code, message },
    })
}

/// The value of a name that must be set.
///
/// # Errors
///
/// [`Error::Missing`] if it is not; otherwise see [`Error`].
pub fn require(name: &str) -> Result<String, Error> {
    get(name)?.ok_or_else(|| Error::Missing(name.to_owned()))
}

// === impl Error ===

impl Error {
    pub(crate) fn fate(&self) -> Failure {
        let text = self.to_string();
        match self {
            Self::Denied(_) => Failure::reject("denied", text),
            Self::Missing(_) => Failure::reject("config", text),
            Self::Other { code, .. } => Failure::retry(text).code(code.clone()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "config is not granted: {text}"),
            Self::Missing(name) => {
                write!(f, "`{name}` is not set: add it under [handler.grants], config = {{ {name} = \"…\" }}")
            }
            Self::Other { message, .. } => write!(f, "config was not read: {message}"),
        }
    }
}

impl std::error::Error for Error {}
