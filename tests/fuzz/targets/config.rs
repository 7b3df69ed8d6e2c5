//! Any text as a configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;

use sandbar::config::{Config, Environment};
use tempfile::TempDir;

/// In memory where that can be had: some file systems write what replaces a file to the disk at once.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder"));

/// The input is the file. Lines `#env NAME=VALUE` in it are the environment.
pub fn run(input: &[u8]) {
    let path = file();
    fs::write(&path, input).expect("the temporary folder takes a file");
    let text = String::from_utf8_lossy(input);
    let environment: Environment =
        text.lines().filter_map(|line| line.strip_prefix("#env ")?.split_once('=')).collect();
    let told = load(&path, &environment);
    assert_eq!(load(&path, &environment), told, "the same file gives the same answer");
}

/// What a configuration says, or all that is wrong with it.
fn load(path: &Path, environment: &Environment) -> Result<Config, String> {
    Config::load(path, environment).map_err(|problems| {
        let told = problems.to_string();
        assert!(!told.is_empty(), "it is refused without a reason");
        told
    })
}

/// One for each thread, so that tests may run beside each other.
fn file() -> PathBuf {
    FOLDER.path().join(format!("{:?}.toml", thread::current().id()))
}
