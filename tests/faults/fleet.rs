//! The hosts of a run: real processes that are killed, frozen, and started anew, and what they have logged.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::host::binary;
use crate::support::shim::Shim;

/// Exit codes of a host that was told to stop: done, no bus before it had joined, and drained too slowly because the
/// bus was away.
const STOPPED: [i32; 3] = [0, 3, 5];
/// The bus was not there when the host started: whoever supervises it starts it again.
const NO_BUS: i32 = 3;

/// All hosts, at most one in each slot.
pub(super) struct Fleet {
    configs: Vec<PathBuf>,
    /// What the host in each slot obeys.
    pub(super) shims: Vec<Shim>,
    slots: Vec<Option<Process>>,
    /// Told to stop, and not gone yet.
    stopping: Vec<Process>,
    logs: Vec<Arc<Mutex<Vec<String>>>>,
    readers: Vec<JoinHandle<()>>,
    /// What hosts did that they should not have.
    pub(super) misdeeds: Vec<String>,
}

struct Process {
    child: Child,
    slot: usize,
    log: Arc<Mutex<Vec<String>>>,
    frozen: bool,
}

// === impl Fleet ===

impl Fleet {
    /// One slot for each configuration and what its host obeys; nothing is started.
    pub(super) fn new(configs: Vec<PathBuf>, shims: Vec<Shim>) -> Self {
        let slots = configs.iter().map(|_| None).collect();
        Self { configs, shims, slots, stopping: vec![], logs: vec![], readers: vec![], misdeeds: vec![] }
    }

    /// Starts a host where none is.
    pub(super) fn start(&mut self, slot: usize) {
        if self.slots[slot].is_some() {
            return;
        }
        // With SIGXFSZ ignored, a write beyond the limit on file sizes fails as on a full disk and does not kill.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" run --config \"$1\""])
            .arg(binary())
            .arg(&self.configs[slot])
            .env_clear()
            .envs(self.shims[slot].environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        self.readers.push(thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }));
        self.logs.push(Arc::clone(&log));
        self.slots[slot] = Some(Process { child, slot, log, frozen: false });
    }

    /// Ends a host as a power failure would.
    pub(super) fn kill(&mut self, slot: usize) {
        // Dropping kills.
        self.slots[slot] = None;
    }

    /// Sends SIGTERM; the host is none of the fleet's any more, except that it must end well.
    pub(super) fn terminate(&mut self, slot: usize) {
        if let Some(process) = self.slots[slot].take() {
            process.signal("-TERM");
            self.stopping.push(process);
        }
    }

    /// Freezes the host in a slot, if there is one.
    pub(super) fn freeze(&mut self, slot: usize) {
        if let Some(process) = &mut self.slots[slot] {
            process.signal("-STOP");
            process.frozen = true;
        }
    }

    /// Thaws what was frozen in a slot, also if it was told to stop meanwhile.
    pub(super) fn thaw(&mut self, slot: usize) {
        let stopping = self.stopping.iter_mut().filter(|process| process.slot == slot);
        for process in self.slots[slot].iter_mut().chain(stopping) {
            process.signal("-CONT");
            process.frozen = false;
        }
    }

    /// True while a host is frozen, perhaps with a lock in its hands.
    pub(super) fn is_frozen(&self) -> bool {
        self.slots.iter().flatten().chain(&self.stopping).any(|process| process.frozen)
    }

    /// Limits the size of the files that a host may write, or lifts the limit.
    pub(super) fn limit_files(&self, slot: usize, bytes: Option<u64>) {
        if let Some(process) = &self.slots[slot] {
            let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
            let pid = process.child.id().to_string();
            let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status();
            assert!(done.expect("prlimit of util-linux runs").success());
        }
    }

    /// Looks after the hosts as a supervisor does: one that found no bus when it started is started again. Any other
    /// end that nobody asked for is a misdeed.
    pub(super) fn supervise(&mut self) {
        for slot in 0..self.slots.len() {
            let Some(process) = &mut self.slots[slot] else { continue };
            let Some(status) = process.child.try_wait().unwrap() else { continue };
            if status.code() != Some(NO_BUS) || process.has_joined() {
                self.misdeeds.push(format!("host {slot} ended by itself: {status}"));
            }
            self.slots[slot] = None;
            self.start(slot);
        }
        let mut stopping = std::mem::take(&mut self.stopping);
        stopping.retain_mut(|process| match process.child.try_wait().unwrap() {
            Some(status) => {
                self.misdeeds.extend(process.judge(status));
                false
            }
            None => true,
        });
        self.stopping = stopping;
    }

    /// Stops all hosts and waits for their end and their last words.
    pub(super) async fn stop(&mut self, bound: Duration) {
        for slot in 0..self.slots.len() {
            self.terminate(slot);
        }
        let end = Instant::now() + bound;
        loop {
            self.supervise();
            if self.stopping.is_empty() || Instant::now() > end {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        for process in self.stopping.drain(..) {
            self.misdeeds.push(format!("host {} did not stop within {bound:?}", process.slot));
        }
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }

    /// All that all hosts, the dead ones too, have logged.
    pub(super) fn lines(&self) -> Vec<String> {
        self.logs.iter().flat_map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// The last words of each host, without what its guests said.
    pub(super) fn last_lines(&self, most: usize) -> String {
        let mut text = String::new();
        for (number, log) in self.logs.iter().enumerate() {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let own: Vec<&String> = log.iter().filter(|line| !line.contains(" handler: ")).collect();
            writeln!(text, "  process {number}:").unwrap();
            for line in &own[own.len().saturating_sub(most)..] {
                writeln!(text, "    {line}").unwrap();
            }
        }
        text
    }
}

// === impl Process ===

impl Process {
    fn signal(&self, signal: &str) {
        // It fails if the host has ended, which `supervise` sees.
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).stderr(Stdio::null()).status();
    }

    fn has_joined(&self) -> bool {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().any(|line| line.contains("the handler has joined its group"))
    }

    fn judge(&self, status: ExitStatus) -> Option<String> {
        let well = status.code().is_some_and(|code| STOPPED.contains(&code))
            // Told to stop before it listened for signals.
            || (!self.has_joined() && status.code().is_none());
        (!well).then(|| format!("host {} was told to stop and ended with {status}", self.slot))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
