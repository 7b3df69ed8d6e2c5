//! Would the file do, without touching it?

use std::path::Path;

use super::fault::Fault;
use super::schema;

pub(super) fn probe(path: &Path) -> Result<(), Fault> {
    if path.exists() {
        return schema::inspect(path);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let metadata = std::fs::metadata(directory)
        .map_err(|error| Fault::CannotOpen(format!("directory {}: {error}", directory.display())))?;
    if !metadata.is_dir() {
        return Err(Fault::CannotOpen(format!("{} is no directory", directory.display())));
    }
    if metadata.permissions().readonly() {
        return Err(Fault::ReadOnly);
    }
    Ok(())
}
