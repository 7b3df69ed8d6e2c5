//! System calls of one thread, by strace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// No file has these names. That somebody asks for them shows in the trace where counting begins and ends.
const BEGIN: &str = "/sandbar-costs/begin";
const END: &str = "/sandbar-costs/end";

/// From here on system calls of this thread count.
pub(crate) fn begin() {
    let _ = fs::metadata(BEGIN);
}

/// From here on they do not.
pub(crate) fn end() {
    let _ = fs::metadata(END);
}

/// Runs this program under strace with these arguments and answers how many system calls its first thread made between two
/// marks: the median, since now and then one wakes a thread that had nothing to do for a while. Readings of the clock are
/// none: they do not enter the kernel.
pub(crate) fn count(arguments: &[&str], folder: &Path) -> Result<u64> {
    let prefix = folder.join("trace");
    let output = Command::new("strace")
        .args(["--quiet=all", "-ff", "--output"])
        .arg(&prefix)
        .arg(std::env::current_exe()?)
        .args(arguments)
        .envs(super::child::ENVIRONMENT)
        .stdin(Stdio::null())
        .output()
        .context("cannot run strace; `make bench-count` installs it")?;
    if !output.status.success() {
        bail!("under strace ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    // One file per thread and process; only the first thread sets marks.
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        if text.contains(BEGIN) {
            return median(between_marks(&text)?);
        }
    }
    bail!("the trace has no mark: is this process allowed to trace others?")
}

fn between_marks(trace: &str) -> Result<Vec<u64>> {
    let (mut counts, mut running) = (Vec::new(), None);
    for line in trace.lines() {
        if line.contains(BEGIN) {
            running = Some(0);
        } else if line.contains(END) {
            counts.extend(running.take());
        } else if let Some(count) = &mut running {
            // What was interrupted goes on in a line of its own; signals and ends are no calls.
            let is_call = !line.starts_with("restart_syscall(") && !line.starts_with(['-', '+', '<']);
            *count += u64::from(is_call);
        }
    }
    ensure!(running.is_none(), "the trace ends before counting does");
    Ok(counts)
}

fn median(mut counts: Vec<u64>) -> Result<u64> {
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().context("nothing was counted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_between_the_marks_are_counted() {
        let call = |name: &str| format!("statx(AT_FDCWD, \"{name}\", 0, STATX_ALL, 0x7) = -1 ENOENT\n");
        let (begin, end) = (call(BEGIN), call(END));
        let trace = format!(
            "brk(0) = 1\n{begin}read(3, \"x\", 1) = 1\n--- SIGSEGV {{}} ---\nwrite(3, \"x\", 1) = 1\n{end}brk(0) = 1\n\
             {begin}brk(0) = 1\n{end}+++ exited with 0 +++\n"
        );
        assert_eq!(between_marks(&trace).unwrap(), [2, 1]);
        assert!(between_marks(&begin).is_err());
        assert_eq!(median(vec![9, 1, 1]).unwrap(), 1);
        assert!(median(Vec::new()).is_err());
    }
}
