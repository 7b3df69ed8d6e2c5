//! A host at work: its configuration, its process, its memory.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::paths::Paths;

/// Put before every topic.
pub(super) const PREFIX: &str = "bench";
/// The setting of `[host]` that names the directory of compiled modules.
const CODE_CACHE: &str = "code_cache";
/// The end of a log that an error message shows.
const LOG_TAIL: usize = 2_000;

/// What a configuration says, apart from the handlers.
pub(super) struct Config {
    text: String,
}

/// A host's process. Dropping it ends it.
pub(super) struct Host {
    child: Child,
    dir: TempDir,
}

// === impl Config ===

impl Config {
    /// Topics of the bus at `url`.
    pub(super) fn new(url: &str) -> Self {
        // Debug of a Rust string is a TOML basic string for the characters that occur in paths and URLs.
        Self { text: format!("[bus]\nurl = {url:?}\ntopic_prefix = {PREFIX:?}\n") }
    }

    /// The same; a further line of `[bus]`.
    pub(super) fn with_bus(mut self, line: &str) -> Self {
        self.text += &format!("{line}\n");
        self
    }

    /// The same; compiled modules are kept in `dir`.
    pub(super) fn with_code_cache(mut self, dir: &Path) -> Self {
        self.text += &format!("[host]\n{CODE_CACHE} = {dir:?}\n");
        self
    }

    /// One more handler, which starts at the beginning of its topics; `more` are further lines of it.
    pub(super) fn handler(&mut self, name: &str, module: &Path, topics: &[String], more: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.text,
            "[[handler]]\nname = {name:?}\nmodule = {module:?}\ntopics = {topics:?}\nstart = \"beginning\"\n{more}"
        );
    }

    /// Writes it into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<PathBuf> {
        let file = dir.join("sandbar.toml");
        fs::write(&file, &self.text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

// === impl Host ===

impl Host {
    /// Starts `sandbar run`.
    pub(super) fn start(paths: &Paths, config: &Config) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = config.write(dir.path())?;
        let log = File::create(dir.path().join("log"))?;
        let child = Command::new(paths.sandbar()?)
            .arg("run")
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start sandbar")?;
        Ok(Self { child, dir })
    }

    /// Fails if it has ended, which is always too early.
    pub(super) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_TAIL)..).unwrap_or(&log);
        bail!("it ended too early ({status}):\n{tail}")
    }

    /// The memory that is its own and its share of what others use too, in KiB.
    pub(super) fn memory_kib(&self) -> Result<f64> {
        let file = format!("/proc/{}/smaps_rollup", self.child.id());
        proportional(&fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What it read is thrown away: there is nothing to end gracefully.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line `Pss:` of a `smaps_rollup`.
fn proportional(rollup: &str) -> Result<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// A guest that `make guests` has built.
pub(super) fn guest(paths: &Paths, name: &str) -> Result<PathBuf> {
    let module = paths.guests()?.join(name);
    ensure!(module.exists(), "{} is missing: run `make guests`", module.display());
    Ok(module)
}

/// A component that differs from `wasm` in nothing but its bytes: a section with a number is put at its end.
pub(super) fn variant(wasm: &[u8], number: usize) -> Vec<u8> {
    let mut out = wasm.to_vec();
    let number = number.to_le_bytes();
    let name = b"variant";
    // A custom section: its id, the length of what follows, the length of the name, name, content. All below 128, so
    // each length is one byte.
    out.push(0);
    out.push((1 + name.len() + number.len()) as u8);
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.extend_from_slice(&number);
    out
}

/// Lets the others run for a while.
#[expect(clippy::disallowed_methods, reason = "this program has no executor")]
pub(super) fn rest(pause: Duration) {
    thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_memory_is_read() {
        let rollup =
            "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:        9120 kB\nPss:        4321 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(proportional(rollup).unwrap(), 4321.0);
        assert!(proportional("Rss: 1 kB\n").is_err());
    }

    #[test]
    fn variants_are_valid_and_differ() {
        let wasm = include_bytes!("../../../tests/contract/handler-0.1.0.wasm");
        let sandbox = sandbar::sandbox::Sandbox::new(&sandbar::sandbox::Settings::default()).unwrap();
        let digest = |number| sandbox.load(&variant(wasm, number)).unwrap().digest().to_owned();
        assert_ne!(digest(1), digest(2));
    }
}
