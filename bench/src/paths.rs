//! What is measured, and where it lies.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// As `make bench` sets them.
pub(crate) struct Paths {
    root: PathBuf,
    sandbar: Option<OsString>,
    guests: Option<OsString>,
    python: Option<OsString>,
    watermill: Option<OsString>,
    extism: Option<OsString>,
}

// === impl Paths ===

impl Paths {
    pub(crate) fn from_env(root: &Path) -> Result<Self> {
        // An empty variable is one that the Makefile had nothing for.
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Ok(Self {
            root: root.canonicalize()?,
            sandbar: set("SANDBAR_BIN"),
            guests: set("SANDBAR_GUESTS"),
            python: set("SANDBAR_PYTHON"),
            watermill: set("SANDBAR_WATERMILL"),
            extism: set("SANDBAR_EXTISM"),
        })
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The host's binary.
    pub(crate) fn sandbar(&self) -> Result<&Path> {
        file(self.sandbar.as_ref(), "SANDBAR_BIN")
    }

    /// The interpreter that has the Python event bus.
    pub(crate) fn python(&self) -> Result<&Path> {
        file(self.python.as_ref(), "SANDBAR_PYTHON")
    }

    /// Watermill's subscriber.
    pub(crate) fn watermill(&self) -> Result<&Path> {
        file(self.watermill.as_ref(), "SANDBAR_WATERMILL")
    }

    /// The program that calls a plugin of Extism.
    pub(crate) fn extism(&self) -> Result<&Path> {
        file(self.extism.as_ref(), "SANDBAR_EXTISM")
    }

    /// The folder of the built guests.
    pub(crate) fn guests(&self) -> Result<&Path> {
        file(self.guests.as_ref(), "SANDBAR_GUESTS")
    }

    /// A component that was built from the folder `name`.
    pub(crate) fn guest(&self, name: &str) -> Result<PathBuf> {
        let module = self.guests()?.join(name).with_extension("wasm");
        ensure!(module.exists(), "{} is missing: run `make guests`", module.display());
        Ok(module)
    }
}

fn file<'a>(path: Option<&'a OsString>, variable: &str) -> Result<&'a Path> {
    let path = Path::new(path.with_context(|| format!("{variable} is not set: run `make bench`"))?);
    ensure!(path.exists(), "{variable} names {}, which is missing", path.display());
    Ok(path)
}
