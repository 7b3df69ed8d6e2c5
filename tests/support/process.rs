//! A command that runs to its end: fed, bounded, and read.

use std::io::{Read, Write as _};
use std::process::{Child, Output};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::BOUND;

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Feeds a process whose streams are all pipes and waits for its end, within a bound.
pub(crate) fn finish(mut child: Child, stdin: &[u8]) -> Ran {
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // A process that does not read its input breaks the pipe, which is its right.
    let writer = thread::spawn(move || drop(input.write_all(&bytes)));
    let output = bounded(child);
    writer.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn bounded(mut child: Child) -> Output {
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |pipe: &mut dyn Read| {
        let mut bytes = Vec::new();
        // What was read until then is the output, however it ended.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    };
    let (tell, told) = mpsc::channel();
    let out = thread::spawn(move || {
        let bytes = read(&mut stdout);
        let _ = tell.send(());
        bytes
    });
    let err = thread::spawn(move || read(&mut stderr));
    if told.recv_timeout(BOUND).is_err() {
        drop(child.kill());
        drop(child.wait());
        panic!("the command took longer than {BOUND:?}: {}", String::from_utf8_lossy(&err.join().unwrap()));
    }
    let status = child.wait().unwrap();
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

// === impl Ran ===

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// The processors' time of a process so far; none if it is gone.
pub(crate) fn processor(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split(' ').skip(11).take(2).map(|time| time.parse::<u64>().unwrap()).sum();
    // A hundred in a second, on every Linux.
    Duration::from_millis(ticks * 10)
}
