//! Logs out: what is written of them, and how. There are no spans or metrics yet; their names belong here.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Overrides [`Settings::level`], in the same notation.
pub const LEVEL_VARIABLE: &str = "SANDBAR_LOG";

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A level, or directives such as `info,sandbar::bus=debug`.
    pub level: String,
    /// How a line is written.
    pub format: Format,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people: time, level, module, message, fields.
    #[default]
    Text,
    /// One JSON document per line, with the fields at its top level.
    Json,
}

/// A level or directive that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no log level: write error, warn, info, debug or trace, or directives such as \"info,sandbar::bus=debug\""
)]
pub struct BadLevel(pub String);

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level cannot be read.
    #[error(transparent)]
    Level(#[from] BadLevel),
    /// Another subscriber is installed in this process.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Checks a level without setting anything up.
///
/// # Errors
///
/// If it is neither a level nor a list of directives.
pub fn check_level(level: &str) -> Result<(), BadLevel> {
    filter(level).map(drop)
}

/// Sends this process's log lines to stderr: stdout belongs to what a command prints.
///
/// # Errors
///
/// If the level cannot be read, or logging was set up before.
pub fn init(settings: &Settings) -> Result<(), Error> {
    let filter = filter(&settings.level)?;
    // No colours: stderr goes to a collector as often as to a terminal.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    match settings.format {
        Format::Text => lines.finish().try_init()?,
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()?
        }
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, BadLevel> {
    // A lone word is a target to the parser, so `inof` would silently mean "everything of the module inof".
    let known = |word: &str| {
        matches!(word.to_ascii_lowercase().as_str(), "off" | "error" | "warn" | "info" | "debug" | "trace")
    };
    let directives = level.split(',').map(str::trim);
    if directives.clone().any(|part| part.is_empty() || (!part.contains(['=', '[']) && !known(part))) {
        return Err(BadLevel(level.to_owned()));
    }
    EnvFilter::try_new(level).map_err(|_| BadLevel(level.to_owned()))
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_known_word_or_directives() {
        for level in ["info", "INFO", "off", "info,sandbar::bus=debug", "sandbar[call]=trace,warn"] {
            check_level(level).unwrap_or_else(|error| panic!("{level}: {error}"));
        }
        for level in ["", "inof", "info,", "info,sandbar=loud", "5"] {
            assert!(check_level(level).is_err(), "{level}");
        }
    }
}
