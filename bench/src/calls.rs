//! Extism, as the bare call of a plugin: a framework for plugins has no bus, so its part of the line is all there is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::sample::Sample;

/// As long as the payload of the events in the main comparison.
const INPUT: usize = 1024;
/// Calls of the instance that is kept; the program makes fewer of those that need a fresh one.
const CALLS: &str = "100000";

/// Calls per second of a plugin that does nothing, on one thread.
pub(crate) fn measure(program: &Path) -> Result<Vec<Sample>> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("event");
    fs::write(&input, vec![b'x'; INPUT])?;
    let output = Command::new(program).arg(&input).arg(CALLS).output()?;
    ensure!(output.status.success(), "extism-calls: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let mut next = |name: &str, what: &str| {
        let line = lines.next().context("extism-calls printed too little")?;
        anyhow::Ok(Sample::new(name, what, "events/s", line.parse()?))
    };
    Ok(vec![
        next("extism", "Extism, call of a no-op plugin that is kept, without a bus, one thread")?,
        next("extism_fresh", "Extism, fresh plugin per call, without a bus, one thread")?,
    ])
}
