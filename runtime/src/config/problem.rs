//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file as a whole: something is missing, or it cannot be read.
    File,
    /// On this line of the file, counted from 1.
    Line(usize),
    /// In the environment variable of this name.
    Environment(String),
}

/// One thing that is wrong, with the place and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file, as the user named it.
    pub file: PathBuf,
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub message: String,
}

/// All that is wrong with a configuration, in the order of the file, the environment last.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// Collects problems while a configuration is read.
pub(super) struct Collector {
    file: PathBuf,
    found: Vec<Problem>,
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File => write!(f, "{}: {}", self.file.display(), self.message),
            Place::Line(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            Place::Environment(name) => write!(f, "{name}: {}", self.message),
        }
    }
}

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

// === impl Collector ===

impl Collector {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    pub(super) fn add(&mut self, place: &Place, message: impl Into<String>) {
        self.found.push(Problem { file: self.file.clone(), place: place.clone(), message: message.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems in the order of their places; those of one place in the order they were found.
    pub(super) fn finish(mut self) -> Problems {
        self.found.sort_by(|a, b| a.place.cmp(&b.place));
        Problems(self.found)
    }
}
