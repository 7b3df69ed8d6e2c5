//! What others offer for the same work.

use std::process::Command;

use anyhow::{Result, bail};

use crate::host::STATEMENTS;
use crate::paths::Paths;
use crate::running::Running;
use crate::stream::{PREFIX, Stream};

/// Longer than any round lasts.
const SECONDS: &str = "600";

/// The Python consumer from PyPI with a receiver that does nothing.
pub(crate) fn python(paths: &Paths, stream: &Stream<'_>, group: &str) -> Result<Running> {
    let mut command = script(paths, "tests/peers/consume.py", stream, group)?;
    Running::process(command.args(["--quiet", "--seconds", SECONDS]), tempfile::tempdir()?)
}

/// The Python consumer with a receiver that makes a statement of each event and publishes it with the Python producer.
pub(crate) fn python_xapi(paths: &Paths, stream: &Stream<'_>, group: &str) -> Result<Running> {
    let mut command = script(paths, "bench/peers/python/xapi.py", stream, group)?;
    Running::process(command.args(["--into", STATEMENTS]), tempfile::tempdir()?)
}

/// Watermill's subscriber for Redis Streams, which acknowledges what it gets.
pub(crate) fn watermill(paths: &Paths, stream: &Stream<'_>, group: &str) -> Result<Running> {
    let [key] = &stream.keys()[..] else { bail!("it is measured with one topic") };
    let mut command = Command::new(paths.watermill()?);
    command.args(["-address", &stream.server.address(), "-stream", key, "-group", group]);
    Running::process(&mut command, tempfile::tempdir()?)
}

fn script(paths: &Paths, name: &str, stream: &Stream<'_>, group: &str) -> Result<Command> {
    let [topic] = &stream.topics[..] else { bail!("it is measured with one topic") };
    let mut command = Command::new(paths.python()?);
    command.arg(paths.root().join(name));
    command.args(["--url", &stream.server.url(), "--prefix", PREFIX, "--topic", topic, "--group", group]);
    Ok(command)
}
