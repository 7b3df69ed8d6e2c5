//! `[secrets]`: where the secrets of handlers come from. Their values never stand in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::environment::{Environment, SECRET_PREFIX};
use super::problem::{Collector, Place, Problem, Problems};
use super::section::Section;
use super::tree::Table;
use super::{Config, HandlerConfig, keys};
use crate::sandbox::limits::{SECRET_LEAST, SECRET_MOST};
use crate::sandbox::{self, Secret};

/// Where each secret that a handler asks for comes from. Values from the environment are here, hidden; files are read
/// when a handler is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretSources(BTreeMap<String, Source>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A variable, and its value if it is set and not empty.
    Variable(String, Option<Secret>),
    /// A file, which is not looked at yet.
    File(PathBuf),
}

/// What was read for one handler.
#[derive(Debug)]
pub struct HandlerSecrets {
    /// With their values.
    pub secrets: sandbox::Secrets,
    /// What is not wrong enough to refuse them.
    pub warnings: Vec<Problem>,
}

/// A name that an environment variable's can end with.
pub(super) fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.len() <= 128 && text.chars().all(good)
}

/// Reads `[secrets]`, and the environment for every name that is asked for and not in it.
pub(super) fn read<'a>(
    tree: &mut Table,
    directory: &Path,
    environment: &Environment,
    asked: impl Iterator<Item = &'a str>,
    problems: &mut Collector,
) -> SecretSources {
    let variable = |name: &str| {
        let value = environment.get(name).filter(|value| !value.is_empty());
        Source::Variable(name.to_owned(), value.map(|value| Secret::new(value.as_bytes())))
    };
    let mut sources = BTreeMap::new();
    for (name, node) in tree.take("secrets").map_or_else(Table::default, |node| entries(node, problems)).0 {
        let place = node.place.clone();
        // What stands there is not shown: it may be the secret itself.
        let wrong = format!(
            "`{name}` in [secrets] takes {{ env = \"VARIABLE\" }} or {{ file = \"PATH\" }}: the value itself does not \
             belong in this file"
        );
        if !is_name(&name) {
            problems.add(&place, format!("{name:?} in [secrets] is no name: it takes letters, digits and `_`"));
            continue;
        }
        let Ok(table) = node.into_table() else {
            problems.add(&place, wrong);
            continue;
        };
        let mut section = Section::new("[secrets]", &keys::SECRET, table, place.clone(), problems);
        let (env, file) = (section.string("env"), section.string("file"));
        match (env.filter(|found| !found.value.is_empty()), file.filter(|found| !found.value.is_empty())) {
            (Some(env), None) => drop(sources.insert(name, variable(&env.value))),
            (None, Some(file)) => drop(sources.insert(name, Source::File(directory.join(file.value)))),
            _ => section.problem(&place, wrong),
        }
        section.finish();
    }
    for name in asked {
        if !sources.contains_key(name) {
            sources.insert(name.to_owned(), variable(&format!("{SECRET_PREFIX}{name}")));
        }
    }
    SecretSources(sources)
}

fn entries(node: super::tree::Node, problems: &mut Collector) -> Table {
    let place = node.place.clone();
    node.into_table().unwrap_or_else(|_| {
        problems.add(&place, "secrets takes a table: write [secrets]");
        Table::default()
    })
}

// === impl Config ===

impl Config {
    /// Reads the secrets of a handler: what a start needs and nothing else does.
    ///
    /// # Errors
    ///
    /// Each that has no value or one that cannot be used, at the line that asks for it. No value is shown.
    pub fn secrets_of(&self, handler: &HandlerConfig) -> Result<HandlerSecrets, Problems> {
        let (mut values, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (name, place) in &handler.places.secrets {
            let mut warn = |text| warnings.push(self.problem(place, format!("secret {name:?}: {text}")));
            match self.secrets.value(name, &mut warn) {
                Ok(value) => values.push((name.clone(), value)),
                Err(why) => {
                    let message = format!("[[handler]] {:?} asks for the secret {name:?}, and {why}", handler.name);
                    problems.push(self.problem(place, message));
                }
            }
        }
        match problems.is_empty() {
            true => Ok(HandlerSecrets { secrets: sandbox::Secrets::known(values), warnings }),
            false => Err(Problems(problems)),
        }
    }
}

// === impl SecretSources ===

impl SecretSources {
    /// The files that secrets are read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.values().filter_map(|source| match source {
            Source::File(path) => Some(path.as_path()),
            Source::Variable(..) => None,
        })
    }

    fn value(&self, name: &str, warn: &mut dyn FnMut(String)) -> Result<Secret, String> {
        let (value, whence) = match self.0.get(name) {
            Some(Source::Variable(variable, Some(value))) => (value.clone(), variable.clone()),
            Some(Source::File(path)) => {
                let whence = path.display().to_string();
                let value = file(path, warn).map_err(|error| format!("{whence} cannot be used: {error}"))?;
                (value, whence)
            }
            None | Some(Source::Variable(_, None)) => {
                let variable = match self.0.get(name) {
                    Some(Source::Variable(variable, _)) => variable.clone(),
                    _ => format!("{SECRET_PREFIX}{name}"),
                };
                return Err(format!(
                    "it has no value: set {variable}, or write {name} = {{ file = \"PATH\" }} under [secrets]"
                ));
            }
        };
        match value.bytes() {
            // So are variables read that are not UTF-8.
            bytes if std::str::from_utf8(bytes).map_or(true, |text| text.contains('\u{fffd}')) => {
                Err(format!("the value of {whence} is not UTF-8"))
            }
            bytes if bytes.len() < SECRET_LEAST => Err(format!(
                "the value of {whence} has {} bytes; it takes {SECRET_LEAST} or more: a shorter one can be found by \
                 trying (what is no secret belongs in `config`)",
                bytes.len()
            )),
            bytes if bytes.len() > SECRET_MOST => {
                Err(format!("the value of {whence} has {} bytes; the most is {SECRET_MOST}", bytes.len()))
            }
            _ => Ok(value),
        }
    }
}

/// The file's text without its last line break. What is looked at is what was opened.
fn file(path: &Path, warn: &mut dyn FnMut(String)) -> io::Result<Secret> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Err(io::Error::other(format!("everybody may write it (mode {mode:04o}): chmod o-rw it")));
    }
    if mode & 0o004 != 0 {
        warn(format!("everybody may read {} (mode {mode:04o}): chmod o-r it", path.display()));
    }
    let mut bytes = Vec::new();
    // One more than is taken, and the line break.
    file.take(SECRET_MOST as u64 + 3).read_to_end(&mut bytes)?;
    let text = bytes.strip_suffix(b"\n").map_or(&bytes[..], |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    Ok(Secret::new(text))
}

/// The names in `secrets` of a handler's grants, with where each stands.
pub(super) fn asked(section: &mut Section<'_>) -> Vec<(String, Place)> {
    let Some(found) = section.strings("secrets") else { return Vec::new() };
    let mut names: Vec<(String, Place)> = Vec::new();
    for name in found.value {
        let what = format!("`secrets` in {}", section.label());
        if !is_name(&name.value) {
            let message = format!("{what}: {:?} is no name of a secret: it takes letters, digits and `_`", name.value);
            section.problem(&name.place, message);
        } else if names.iter().all(|(known, _)| *known != name.value) {
            names.push((name.value, name.place));
        }
    }
    let most = sandbox::limits::SECRETS;
    if names.len() > most {
        let message = format!("`secrets` in {} has {} names; the most is {most}", section.label(), names.len());
        section.problem(&found.place, message);
    }
    names
}
