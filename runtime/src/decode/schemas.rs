//! Where schemas come from: those built into the binary, and directories of `.avsc` files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use apache_avro::error::Details;
use apache_avro::validator::{
    SchemaNameValidator, SchemaNamespaceValidator, set_schema_name_validator, set_schema_namespace_validator,
};
use apache_avro::{AvroResult, Schema};

use super::plan::Plan;

/// A schema file, or a directory of them, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A type whose schema is known.
#[derive(Debug)]
pub(super) struct Known {
    /// `None` if the schema cannot be used, which is not so of any that ships with Sandbar.
    plan: OnceLock<Option<Plan>>,
    /// For a built-in one, which is compiled when it is first asked for: most hosts meet a few of them, and compiling all
    /// of them would be felt in each start.
    text: &'static str,
}

/// File name and text of each schema that ships with Sandbar; `build.rs` makes the list.
pub(super) const BUILTIN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// The name of the root record of every Open edX schema. It says nothing: the namespace is the event type.
const CLOUD_EVENT: &str = "CloudEvent";

/// What a schema file's name ends with.
const EXTENSION: &str = "avsc";

/// What Open edX puts between the event type and the extension.
const SUFFIX: &str = "_schema";

// === impl Known ===

impl Known {
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.get_or_init(|| compile_text(self.text).ok().map(|(_, plan)| plan)).as_ref()
    }
}

impl From<Plan> for Known {
    fn from(plan: Plan) -> Self {
        Self { plan: OnceLock::from(Some(plan)), text: "" }
    }
}

/// Reads all schemas and compiles those in `dirs`. A type there comes before a built-in one.
pub(super) fn load(dirs: &[PathBuf], builtin: bool) -> Result<HashMap<String, Known>, Vec<SchemaError>> {
    let mut errors = Vec::new();
    let mut found: HashMap<String, (PathBuf, Plan)> = HashMap::new();
    for dir in dirs {
        let files = match files_in(dir) {
            Ok(files) => files,
            Err(reason) => {
                errors.push(SchemaError { path: dir.clone(), reason });
                continue;
            }
        };
        for path in files {
            let compiled = fs::read_to_string(&path).map_err(|error| error.to_string());
            match compiled.and_then(|text| compile(&path, &text)) {
                Ok((kind, plan)) => match found.entry(kind) {
                    Entry::Vacant(entry) => drop(entry.insert((path, plan))),
                    Entry::Occupied(entry) => {
                        let reason = format!("type {} is in {} already", entry.key(), entry.get().0.display());
                        errors.push(SchemaError { path, reason });
                    }
                },
                Err(reason) => errors.push(SchemaError { path, reason }),
            }
        }
    }
    let mut plans: HashMap<String, Known> = found.into_iter().map(|(kind, (_, plan))| (kind, plan.into())).collect();
    for (name, text) in BUILTIN.iter().filter(|_| builtin) {
        if let Some(kind) = kind_of_builtin(name) {
            plans.entry(kind).or_insert_with(|| Known { plan: OnceLock::new(), text });
        }
    }
    if errors.is_empty() { Ok(plans) } else { Err(errors) }
}

/// The event type of a schema that ships with Sandbar, by the name of its file.
fn kind_of_builtin(name: &str) -> Option<String> {
    kinds_of_file(Path::new(name)).last()
}

/// The schema files of a directory, sorted, so that errors come in the same order everywhere.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let hint = |error: std::io::Error| format!("{error}; schemas.dirs names directories with .{EXTENSION} files");
    let entries = fs::read_dir(dir).map_err(hint)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(hint)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == EXTENSION));
    if files.is_empty() {
        return Err(format!("it holds no .{EXTENSION} file"));
    }
    files.sort();
    Ok(files)
}

/// The event type of a schema, and the schema compiled.
fn compile(path: &Path, text: &str) -> Result<(String, Plan), String> {
    let kind_and_plan = compile_text(text)?;
    let kind = &kind_and_plan.0;
    if kinds_of_file(path).any(|named| named == *kind) {
        return Ok(kind_and_plan);
    }
    Err(format!(
        "the schema is that of type {kind}: name the file {}{SUFFIX}.{EXTENSION} or {kind}.{EXTENSION}",
        kind.replace('.', "+")
    ))
}

pub(super) fn compile_text(text: &str) -> Result<(String, Plan), String> {
    allow_names_as_they_are();
    let schema = Schema::parse_str(text).map_err(|error| whole(&error))?;
    let name = schema.name().ok_or("the schema is no record: the data of an event is one")?;
    let kind = match (name.name(), name.namespace()) {
        (CLOUD_EVENT, Some(namespace)) => namespace.to_owned(),
        (CLOUD_EVENT, None) => {
            return Err(format!("a {CLOUD_EVENT} has the event type as its namespace; this has none"));
        }
        _ => name.fullname(None),
    };
    if !matches!(schema, Schema::Record(_)) {
        return Err("the schema is no record: the data of an event is one".into());
    }
    Ok((kind, Plan::compile(&schema)?))
}

/// An error with all its causes: the parser's outermost words alone say little.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// The event types that a file of this name may hold: `a+b+v1_schema.avsc` and `a.b.v1.avsc` hold `a.b.v1`.
fn kinds_of_file(path: &Path) -> impl Iterator<Item = String> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().replace('+', ".")).unwrap_or_default();
    let short = stem.strip_suffix(SUFFIX).map(str::to_owned);
    [Some(stem), short].into_iter().flatten()
}

/// Lets namespaces hold hyphens and start with digits.
///
/// The Python packages never look: `org.openedx.enterprise.subsidy.redemption-reversed.v1` is on the wire, though the
/// Avro specification ("Names") forbids the hyphen. apache-avro's parser takes its rules from a place that can be set
/// once in a process, before anything is parsed; should somebody else have been first, their rules hold, and a schema
/// that breaks them is reported with its file like any other.
fn allow_names_as_they_are() {
    struct AsTheyAre;

    fn is_name(part: &str) -> bool {
        let first = part.as_bytes().first();
        first.is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn is_namespace(text: &str) -> bool {
        let of_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        text.is_empty() || text.split('.').all(|part| !part.is_empty() && part.bytes().all(of_part))
    }

    impl SchemaNameValidator for AsTheyAre {
        fn validate(&self, full: &str) -> AvroResult<usize> {
            let start = full.rfind('.').map_or(0, |dot| dot + 1);
            if is_name(&full[start..]) && is_namespace(&full[..start.saturating_sub(1)]) {
                return Ok(start);
            }
            Err(Details::InvalidSchemaName(full.to_owned(), "namespace.name of letters, digits and underscores").into())
        }
    }

    impl SchemaNamespaceValidator for AsTheyAre {
        fn validate(&self, namespace: &str) -> AvroResult<()> {
            if is_namespace(namespace) {
                return Ok(());
            }
            Err(Details::InvalidNamespace(namespace.to_owned(), "letters, digits, underscores, hyphens and dots")
                .into())
        }
    }

    static SET: Once = Once::new();
    SET.call_once(|| {
        let _ = set_schema_name_validator(Box::new(AsTheyAre));
        let _ = set_schema_namespace_validator(Box::new(AsTheyAre));
    });
}

// === impl SchemaError ===

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema {}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for SchemaError {}
