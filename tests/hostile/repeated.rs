//! Each case again and again: what one call leaves behind, however little, would show.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::{Verdict, code};
use sandbar::sandbox::{Isolator, Limits, Module, Ran, Sandbox, Services, Settings, Spec};

use super::case::{self, Case};
use crate::sandbox::support::{Remembering, bounded, called, event, guest, isolator, spec};
use crate::support::beside::children;

/// Set for the process that does it: other tests beside it would grow it too.
const ALONE: &str = "HOSTILE_ALONE";

/// How often each case is called. `HOSTILE_REPETITIONS` says otherwise.
const REPETITIONS: usize = 300;

/// A refusal costs the reading of megabytes; one that leaves something behind shows sooner.
const REFUSALS: usize = 20;

/// One of so many calls is made once more in a process of its own.
const SHARE_APART: usize = 10;

/// Calls before memory is looked at: pools and caches have filled up then.
const WARM_UP: usize = 100;

const WALL: Duration = Duration::from_millis(5);

/// The most that a process may have grown by after ten thousand calls of one case; after fewer it is as much less, but no
/// less than what comes and goes by itself.
const GROWTH: u64 = 16 << 20;
const NOISE: u64 = 4 << 20;

#[test]
fn thousands_of_calls_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_some() {
        return repeat_all();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hostile::repeated::thousands_of_calls_leave_nothing_behind", "--nocapture"]);
    let status = command.env(ALONE, "1").stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
}

fn repeat_all() {
    let repetitions = std::env::var("HOSTILE_REPETITIONS").map_or(REPETITIONS, |text| text.parse().unwrap());
    let only = std::env::var("HOSTILE_CASE").ok();
    let wanted = |case: &Case| !case.line && only.as_ref().is_none_or(|only| *only == case.name);
    let isolator = isolator();
    let settings = Settings { threads: 2, isolator: Some(isolator.clone()), ..Settings::default() };
    let sandbox = Sandbox::new(&settings).unwrap();
    let module = sandbox.load(&guest("probe")).unwrap();
    let neighbour = sandbox.handler(&module, spec(), Arc::new(Remembering::default())).unwrap();
    for case in case::all().into_iter().filter(wanted) {
        let name = case.name.clone();
        let begun = Instant::now();
        let (times, growth) = match case.is_refused() {
            true => refuse(&sandbox, &case, repetitions),
            false => {
                let module = sandbox.load(&case.wasm()).unwrap();
                let apart = (repetitions / SHARE_APART).max(1);
                let case = Arc::new(case);
                let in_worker = match case.may_be_isolated() {
                    true => repeat(&sandbox, &module, (&case, true), apart, &|| of_workers(&isolator)).1,
                    false => 0,
                };
                let (times, growth) = repeat(&sandbox, &module, (&case, false), repetitions, &resident);
                let most = (GROWTH * apart as u64 / 10_000).max(NOISE);
                assert!(in_worker < most, "{name}: its worker has grown by {in_worker} bytes in {apart} calls");
                (times, growth)
            }
        };
        let per_call = begun.elapsed() / u32::try_from(times).unwrap_or(1);
        eprintln!("hostile: {name}: {times} times, {per_call:?} each, grown by {} KiB", growth >> 10);
        let most = (GROWTH * times as u64 / 10_000).max(NOISE);
        assert!(growth < most, "{name}: grown by {growth} bytes in {times} calls");
        assert_eq!(called(sandbox.call(&neighbour, &event("ok", &[]), 1, false)).0, Verdict::Done, "{name}");
    }
}

/// Calls a case so often; says how often, and by how much what is looked at grew.
fn repeat(
    sandbox: &Arc<Sandbox>,
    module: &Module,
    (case, isolated): (&Arc<Case>, bool),
    repetitions: usize,
    resident: &dyn Fn() -> u64,
) -> (usize, u64) {
    let services = Arc::new(Remembering::default());
    let mut spec = Spec { isolated, ..case.spec() };
    spec.limits = Limits { time: WALL, ..spec.limits };
    let handler = sandbox.handler(module, spec, Arc::clone(&services) as Arc<dyn Services>).unwrap();
    let mut before = 0;
    for round in 0..repetitions {
        if round == WARM_UP.min(repetitions / 2) {
            before = resident();
        }
        let (sandbox, handler, event) = (Arc::clone(sandbox), Arc::clone(&handler), case.event());
        let ran = match round {
            0 => bounded(move || sandbox.call(&handler, &event, 1, false)),
            _ => sandbox.call(&handler, &event, 1, false),
        };
        let Ran::Called { verdict, effects, .. } = ran else { panic!("{}: {ran:?}", case.name) };
        // What is quick otherwise may take longer than that on a busy machine, or have no time left for a key.
        match &verdict {
            Verdict::Retry { code, .. } if code == code::TIME_LIMIT => assert!(effects.is_empty()),
            _ if case.expect.code == code::TIME_LIMIT => panic!("{}: {verdict:?}", case.name),
            _ => drop(case.check_code(&verdict, &effects)),
        }
    }
    (repetitions, resident().saturating_sub(before))
}

fn refuse(sandbox: &sandbar::sandbox::Sandbox, case: &Case, repetitions: usize) -> (usize, u64) {
    let (wasm, spec, times) = (case.wasm(), case.spec(), repetitions.min(REFUSALS));
    let mut before = 0;
    for round in 0..times {
        if round == times / 2 {
            before = resident();
        }
        let loaded = sandbox.load(&wasm).map_err(|error| error.to_string());
        let handler = loaded.and_then(|module| {
            let services = Arc::new(Remembering::default());
            sandbox.handler(&module, spec.clone(), services).map_err(|error| error.to_string())
        });
        case.check_refusal(&handler.expect_err(&case.name));
    }
    (times, resident().saturating_sub(before))
}

/// Bytes of the processes in which isolated calls run.
fn of_workers(isolator: &Isolator) -> u64 {
    children(isolator.id().unwrap()).into_iter().map(|worker| resident_of(&worker.to_string())).sum()
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    resident_of("self")
}

fn resident_of(process: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}
