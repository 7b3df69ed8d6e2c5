//! The processes beside a host, seen from outside.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;
use std::time::Instant;

use super::BOUND;

/// Processes whose parent is this one.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// The one child of a process, once there is one.
pub(crate) fn child_of(parent: u32) -> u32 {
    one_of(|| children(parent), |found| <[u32; 1]>::try_from(found).ok().map(|[child]| child))
}

/// A child of `parent` that `is_it`, once there is one.
pub(crate) fn child_that(parent: u32, is_it: impl Fn(u32) -> bool) -> u32 {
    one_of(|| children(parent), |found| found.into_iter().find(|child| is_it(*child)))
}

fn one_of(look: impl Fn() -> Vec<u32>, choose: impl Fn(Vec<u32>) -> Option<u32>) -> u32 {
    let begun = Instant::now();
    loop {
        let found = look();
        if let Some(one) = choose(found.clone()) {
            return one;
        }
        assert!(begun.elapsed() < BOUND, "there are {found:?}");
        std::thread::yield_now();
    }
}

/// The process that starts others for a host, once it is there.
pub(crate) fn launcher(host: u32) -> u32 {
    child_that(host, |id| is_started_with(id, "launch-server"))
}

/// The processes that were started with this word, by a host or by its process that starts others.
fn all_beside(host: u32, word: &str) -> Vec<u32> {
    let mut all = children(host);
    all.extend(children(launcher(host)));
    all.retain(|id| is_started_with(*id, word));
    all
}

/// The one of these, once it is the only one.
pub(crate) fn beside(host: u32, word: &str) -> u32 {
    one_of(|| all_beside(host, word), |found| <[u32; 1]>::try_from(found).ok().map(|[one]| one))
}

pub(crate) fn is_started_with(process: u32, word: &str) -> bool {
    fs::read_to_string(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.contains(word))
}

/// Waits until a process does nothing any more, whether or not somebody has asked how it ended.
pub(crate) fn is_over(process: u32) {
    let begun = Instant::now();
    // After the name, which is in parentheses: `Z` is a process that has ended.
    let ended = |stat: String| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    while !fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, ended) {
        assert!(begun.elapsed() < BOUND, "{process} goes on");
        std::thread::yield_now();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap().success());
}

/// Whether these bytes are in any page of a process that can be read.
pub(crate) fn is_in_memory(process: u32, what: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let (mut piece, mut looked) = (vec![0; 1 << 20], 0_usize);
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        // Gibibytes of places for memories are reserved and have no pages.
        if !rest.starts_with('r') {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let length = usize::try_from(end - at).unwrap().min(piece.len());
            // The kernel's own pages of a process cannot be read this way.
            if memory.seek(SeekFrom::Start(at)).is_err() || memory.read_exact(&mut piece[..length]).is_err() {
                break;
            }
            looked += length;
            // SAFETY: both are live and as long as is said. Compared byte by byte, unoptimised, it would take a minute.
            let found = unsafe { libc::memmem(piece.as_ptr().cast(), length, what.as_ptr().cast(), what.len()) };
            if !found.is_null() {
                return true;
            }
            // What lies over the end of a piece is whole in the next.
            at += if at + length as u64 == end { length } else { length - what.len() } as u64;
        }
    }
    assert!(looked > 1 << 20, "only {looked} bytes could be read");
    false
}
