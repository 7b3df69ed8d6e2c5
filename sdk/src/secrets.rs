//! Values that must not be seen: passwords, tokens. Needs the grant `secrets = ["NAME"]`. There is no way to list them.
//!
//! The host hides them in what the handler logs and in the reasons of its failures. That is against accidents: do not count
//! on it.

use std::fmt;

use crate::Failure;
use crate::bindings::sandbar::handler::secrets as host;

/// Why a secret was not read.
///
/// As a [`Failure`]: a rejection with the code `denied`; `Other` is a retry with its own code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not granted; the text says which line to add.
    Denied(String),
    /// Anything else.
    Other {
        /// A short word.
        code: String,
        /// For people.
        message: String,
    },
}

/// The value of a secret.
///
/// # Errors
///
/// See [`Error`].
pub fn get(name: &str) -> Result<String, Error> {
    host::get(name).map_err(|error| match error {
        host::Error::Denied(text) => Error::Denied(text),
        host::Error::Other((code, message)) => Error::Other { code, message },
    })
}

// === impl Error ===

impl Error {
    pub(crate) fn fate(&self) -> Failure {
        let text = self.to_string();
        match self {
            Self::Denied(_) => Failure::reject("denied", text),
            Self::Other { code, .. } => Failure::retry(text).code(code.clone()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "the secret is not granted: {text}"),
            Self::Other { message, .. } => write!(f, "the secret was not read: {message}"),
        }
    }
}

impl std::error::Error for Error {}
