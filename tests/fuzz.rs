//! The inputs that fuzzing has kept, through the very functions that it calls.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

mod targets;

/// The name of its folder, what is called with each input, and how many there are at least.
type Target = (&'static str, fn(&[u8]), usize);

const TARGETS: [Target; 4] = [
    ("transcoder", targets::transcoder::run, 20),
    ("wire", targets::wire::run, 20),
    ("config", targets::config::run, 20),
    ("component", targets::component::run, 20),
];

/// For one input, on a machine that does much else. It takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_fuzzing_has_kept_is_answered_in_time() {
    let mut failed = Vec::new();
    for (name, run, least) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= least, "only {} inputs for {name}", files.len());
        failed.extend(replay(run, files));
    }
    assert!(failed.is_empty(), "each ends in a panic, or not at all: {failed:#?}");
}

/// Runs inputs one after the other on a thread of their own, so that one that never ends is seen; those that failed.
fn replay(run: fn(&[u8]), files: Vec<PathBuf>) -> Vec<PathBuf> {
    let (tell, told) = mpsc::channel();
    let inputs = files.clone();
    thread::spawn(move || {
        for file in inputs {
            let input = fs::read(file).unwrap();
            if tell.send(panic::catch_unwind(|| run(&input)).is_ok()).is_err() {
                return;
            }
        }
    });
    let mut failed = Vec::new();
    for file in files {
        match told.recv_timeout(PATIENCE) {
            Ok(true) => {}
            Ok(false) => failed.push(file),
            // Those after it would wait for it.
            Err(_) => {
                failed.push(file);
                break;
            }
        }
    }
    failed
}
