//! A library that is put before the C library of a process that a test starts (`LD_PRELOAD`), so that the test can turn
//! the process's clock and refuse its writes while it runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The writes fail as on a file system that was turned read-only.
pub(crate) const EROFS: i64 = 30;
/// The writes fail as on a disk that is full.
pub(crate) const ENOSPC: i64 = 28;
/// The writes fail as on a disk that is broken.
pub(crate) const EIO: i64 = 5;

/// What is told to processes: one, or several that live on one machine.
pub(crate) struct Shim {
    orders: File,
    path: PathBuf,
}

// === impl Shim ===

impl Shim {
    /// Tells nothing yet. The orders lie in a file of that name.
    pub(crate) fn new(path: &Path) -> Self {
        fs::write(path, [0; 16]).unwrap();
        let orders = File::options().write(true).open(path).unwrap();
        Self { orders, path: path.to_owned() }
    }

    /// The environment of a process that obeys.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", library().to_owned()), ("SANDBAR_SHIM", self.path.clone())]
    }

    /// Puts the wall clock forward by so many milliseconds against the true time, or back.
    pub(crate) fn turn_clock(&self, by: i64) {
        self.orders.write_all_at(&by.to_ne_bytes(), 0).unwrap();
    }

    /// Lets writes to files fail with an error number of the system, or succeed again.
    pub(crate) fn refuse_writes(&self, with: Option<i64>) {
        self.orders.write_all_at(&with.unwrap_or(0).to_ne_bytes(), 8).unwrap();
    }
}

/// Compiled once for all tests.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another run of the tests may do the same.
        let (made, library) = (folder.join(format!("shim-{}.so", std::process::id())), folder.join("shim.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/shim/shim.c");
        let done = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]).arg(&made).arg(source).status();
        assert!(done.expect("a C compiler runs").success());
        fs::rename(made, &library).unwrap();
        library
    })
}
