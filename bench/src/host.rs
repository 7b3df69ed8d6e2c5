//! Sandbar, measured as people run it: as a process with a file of settings.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::paths::Paths;
use crate::running::Running;
use crate::stream::{PREFIX, Stream};

/// Where handlers that publish do so.
pub(crate) const STATEMENTS: &str = "statements";

/// What the handlers of a host are.
pub(crate) struct Handler {
    /// The folder of the guest.
    pub(crate) module: &'static str,
    /// Further lines of `[[handler]]`.
    pub(crate) more: &'static str,
}

/// Nothing is done, in a fresh instance for each event.
pub(crate) const NOOP: Handler = Handler { module: "noop", more: "" };
/// The same, where an instance is kept for many events.
pub(crate) const NOOP_REUSE: Handler = Handler { module: "noop", more: "reuse = 1000\n" };
/// The same, where each call is made in a process that has no bus.
pub(crate) const NOOP_ISOLATED: Handler = Handler { module: "noop", more: "isolation = \"process\"\n" };
/// About 100 µs are computed.
pub(crate) const BUSY: Handler = Handler { module: "busy", more: "" };
/// The event is parsed, and a statement is published with the acknowledgement.
pub(crate) const XAPI: Handler = Handler {
    module: "xapi",
    more: "[handler.grants]\npublish = [\"statements\"]\nconfig = { base = \"https://lms.example.org\" }\n",
};

/// Runs a host with one such handler for each group, which reads all topics of the stream from the beginning.
pub(crate) fn start(paths: &Paths, stream: &Stream<'_>, groups: &[String], handler: &Handler) -> Result<Running> {
    let module = paths.guest(handler.module)?;
    let dir = tempfile::tempdir()?;
    let mut config = String::new();
    // Debug of a Rust string is a TOML basic string for the characters that occur in paths and URLs.
    writeln!(config, "[bus]\nurl = {:?}\ntopic_prefix = {PREFIX:?}\nprofile = \"openedx\"", stream.server.url())?;
    // As the Python producer trims, which is compared with it.
    writeln!(config, "stream_max_len = 10000")?;
    writeln!(config, "[schemas]\ndirs = [{:?}]", paths.root().join("schemas/openedx"))?;
    for group in groups {
        writeln!(config, "[[handler]]\nname = {group:?}\nmodule = {module:?}\ntopics = {:?}", stream.topics)?;
        writeln!(config, "start = \"beginning\"\n{}", handler.more)?;
    }
    let file = dir.path().join("sandbar.toml");
    fs::write(&file, config)?;
    Running::process(Command::new(paths.sandbar()?).arg("run").arg("-c").arg(file), dir)
}
