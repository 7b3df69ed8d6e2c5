//! A fixture as it is written: `NAME.event.json`. `docs/handlers.md` says what each key means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::PayloadForm;
use crate::event::Encoding;

/// How the names of fixtures end.
const SUFFIX: &str = ".event.json";

/// One event, and what has to come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// The file's name without its end.
    #[serde(skip)]
    pub name: String,
    pub(super) event: Given,
    #[serde(default = "first")]
    pub(super) attempt: u32,
    #[serde(default = "json", deserialize_with = "payload")]
    pub(super) payload: PayloadForm,
    /// What the handler's keys hold; `None` if it has no keys.
    pub(super) keys: Option<BTreeMap<String, Bytes>>,
    pub(super) config: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) expect: Expected,
}

/// The event, with the keys of an envelope of `sandbar publish`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    pub(super) topic: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) time: Option<String>,
    pub(super) source: Option<String>,
    pub(super) key: Option<String>,
    pub(super) content_type: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// To the byte: numbers keep every digit.
    data: Option<Box<RawValue>>,
    pub(super) base64: Option<String>,
}

/// What has to come of it. Of effects nothing may come that is not named.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) verdict: Said,
    pub(super) code: Option<String>,
    /// A part of the reason.
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) published: Vec<Published>,
    /// Null: it is deleted.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, Option<Bytes>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    Done,
    Retry,
    Reject,
}

/// An event that is to be published. What is not named may be anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    pub(super) topic: String,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) key: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) data: Option<Value>,
    pub(super) base64: Option<String>,
}

/// A value of a key.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Bytes {
    Text(String),
    /// Compared as JSON, not to the byte.
    Json {
        json: Value,
    },
    Base64 {
        base64: String,
    },
}

/// Why a fixture cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A folder or file that cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No fixture.
    #[error("fixture {name} cannot be used: {source}")]
    Syntax {
        /// Its name.
        name: String,
        /// What is wrong and where.
        source: serde_json::Error,
    },
}

fn first() -> u32 {
    1
}

fn json() -> PayloadForm {
    PayloadForm::Json
}

fn payload<'de, D: Deserializer<'de>>(from: D) -> Result<PayloadForm, D::Error> {
    match String::deserialize(from)?.as_str() {
        "json" => Ok(PayloadForm::Json),
        "raw" => Ok(PayloadForm::Raw),
        other => Err(serde::de::Error::custom(format!("`payload` is {other:?}; it takes \"json\" or \"raw\""))),
    }
}

// === impl Fixture ===

impl Fixture {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// If the text is no fixture; the error says where.
    pub fn parse(name: &str, text: &str) -> Result<Self, Invalid> {
        let read = serde_json::from_str(text);
        let fixture: Self = read.map_err(|source| Invalid::Syntax { name: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), ..fixture })
    }

    /// Reads every `*.event.json` of a folder, in the order of their names.
    ///
    /// # Errors
    ///
    /// If the folder or a file cannot be read or a file is no fixture.
    pub fn read_folder(folder: &Path) -> Result<Vec<Self>, Invalid> {
        texts(folder)?.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }
}

/// Names and texts of a folder's fixtures, in the order of their names.
///
/// # Errors
///
/// If the folder or a file cannot be read.
pub fn texts(folder: &Path) -> Result<Vec<(String, String)>, Invalid> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| Invalid::Unreadable { path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(name) = name {
            found.push((name.to_owned(), fs::read_to_string(&path).map_err(unreadable(&path))?));
        }
    }
    found.sort();
    Ok(found)
}

/// The folder of a module's fixtures if nothing else is said: beside it, with its name.
#[must_use]
pub fn folder_of(module: &Path) -> PathBuf {
    module.with_extension("")
}

// === impl Given ===

impl Given {
    pub(super) fn json(&self) -> Option<&str> {
        self.data.as_ref().map(|data| data.get())
    }

    pub(super) fn encoding(&self) -> Result<Encoding, String> {
        let is = |known: &str| self.content_type.as_deref().is_none_or(|name| name.eq_ignore_ascii_case(known));
        match &self.content_type {
            _ if is("application/avro") => Ok(Encoding::Avro),
            _ if is("application/json") => Ok(Encoding::Json),
            Some(name) if self.base64.is_some() => Ok(Encoding::Other(name.clone())),
            other => Err(format!(
                "content type {:?} is not known: data is application/avro or application/json; give `base64` for another",
                other.as_deref().unwrap_or_default()
            )),
        }
    }
}

// === impl Bytes ===

impl Bytes {
    /// As it is kept.
    pub(super) fn bytes(&self) -> Result<bytes::Bytes, String> {
        match self {
            Self::Text(text) => Ok(bytes::Bytes::copy_from_slice(text.as_bytes())),
            Self::Json { json } => Ok(json.to_string().into()),
            Self::Base64 { base64 } => {
                STANDARD.decode(base64).map(Into::into).map_err(|error| format!("`base64` is none: {error}"))
            }
        }
    }
}
