//! Modules compiled in a process of their own: what comes of it is the same, and what may go wrong there does not go
//! wrong here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use sandbar::event::Verdict;
use sandbar::sandbox::{CompileLimits, Compiler, Compiling, LoadError, Ran, Sandbox, Settings};

use super::component::component;
use super::support::{self, Remembering};
use crate::support::BOUND;
use crate::support::beside::{child_of, child_that, children, is_over, signal};
use crate::support::host::{Bench, binary, landlock, without};
use crate::support::process::finish;

/// Enough to keep a compiler busy for seconds, and few enough to be let through.
pub(crate) const BLOCKS: usize = 12_000;

/// The policy of whatever asked for no other.
pub(super) const OTHER: u32 = 0;

const HANDLE: &str = r#"(func (export "handle") (param i32) (result i32) (i32.const 8))"#;

fn compiler(limits: CompileLimits) -> Compiler {
    Compiler::start(&binary(), limits).unwrap()
}

/// The one process of a compiler that was never asked for two modules at once.
fn id_of(compiler: &Compiler) -> u32 {
    let [id] = <[u32; 1]>::try_from(compiler.ids()).unwrap();
    id
}

fn sandbox(compiler: &Compiler) -> Arc<Sandbox> {
    let compiling = Compiling::InChild(compiler.clone());
    Sandbox::new(&Settings { threads: 1, compiling, ..Settings::default() }).unwrap()
}

/// A handler with one function that the check of its shape lets through, and that takes a compiler long: so many blocks,
/// over many variables.
pub(crate) fn slow(blocks: usize) -> Vec<u8> {
    let locals = "i64 ".repeat(20_000);
    let body: String = (0..blocks)
        .map(|n| format!("(if (local.get 0) (then (local.set {} (i64.const {n}))))", 1 + n % 20_000))
        .collect();
    component("", &format!("(func (export \"slow\") (param i32) (local {locals}) {body}) {HANDLE}"))
}

fn refused(sandbox: &Sandbox, wasm: &[u8]) -> LoadError {
    sandbox.load(wasm).unwrap_err()
}

/// Stops a child that has taken its bounds: the filter comes last.
pub(crate) fn stop_at_work(child: u32) {
    let begun = Instant::now();
    let status = || std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
    while !status().contains("Seccomp_filters:\t2") {
        assert!(begun.elapsed() < BOUND, "{}", status());
        std::thread::yield_now();
    }
    signal(child, "STOP");
}

/// Loads, on a thread of its own, what keeps a compiler busy.
fn load_slowly(sandbox: &Arc<Sandbox>) -> JoinHandle<LoadError> {
    let sandbox = Arc::clone(sandbox);
    std::thread::spawn(move || refused(&sandbox, &slow(BLOCKS)))
}

#[test]
fn what_a_child_compiled_runs_as_what_was_compiled_here() {
    let here = support::sandbox(1);
    let apart = sandbox(&compiler(CompileLimits::default()));
    let wasm = support::guest("probe");
    for sandbox in [here, apart] {
        let module = sandbox.load(&wasm).unwrap();
        assert!(!module.is_cached());
        let handler = sandbox.handler(&module, support::spec(), Arc::new(Remembering::default())).unwrap();
        let ran = sandbox.call(&handler, &support::event("ok", &[]), 1, false);
        assert!(matches!(ran, Ran::Called { verdict: Verdict::Done, .. }), "{ran:?}");
    }
}

#[test]
fn code_of_a_child_is_kept_and_found_as_other_code() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |compiling| Settings {
        threads: 1,
        code_cache: Some(folder.path().join("code")),
        compiling,
        ..Settings::default()
    };
    let first = Compiling::InChild(compiler(CompileLimits::default()));
    let wasm = support::guest("noop");
    assert!(!Sandbox::new(&settings(first)).unwrap().load(&wasm).unwrap().is_cached());
    // Whoever compiles: with the code at hand nobody is asked, and nobody started in place of one that is lost.
    let nobody = compiler(CompileLimits::default());
    let id = id_of(&nobody);
    signal(id, "KILL");
    for compiling in [Compiling::InProcess, Compiling::InChild(nobody.clone())] {
        assert!(Sandbox::new(&settings(compiling)).unwrap().load(&wasm).unwrap().is_cached());
    }
    assert_eq!(id_of(&nobody), id);
}

#[test]
fn errors_of_a_child_are_those_of_this_process() {
    let here = support::sandbox(1);
    let apart = sandbox(&compiler(CompileLimits::default()));
    // Bytes that look like a component as far as nobody validates them; one that needs more memory than the pool has.
    let huge = component("", &format!("(memory (export \"huge\") 60000) {HANDLE}"));
    let broken = wat::parse_str("(component (core module (func (result i32))))").unwrap();
    for wasm in [huge, broken] {
        assert_eq!(refused(&apart, &wasm).to_string(), refused(&here, &wasm).to_string());
    }
}

#[test]
fn compiling_is_stopped_at_its_time() {
    let limits = CompileLimits { time: Duration::from_secs(1), ..CompileLimits::default() };
    let compiler = compiler(limits);
    let sandbox = sandbox(&compiler);
    let begun = Instant::now();
    let error = refused(&sandbox, &slow(BLOCKS));
    assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("more than 1s of processor time") && text.contains("compile_time = \"2s\""), "{text}");
    assert!(begun.elapsed() < BOUND);
    assert!(children(id_of(&compiler)).is_empty(), "nothing goes on behind it");
    sandbox.load(&support::guest("noop")).unwrap();
}

#[test]
fn compiling_is_stopped_at_its_memory() {
    let limits = CompileLimits { memory: 128 << 20, ..CompileLimits::default() };
    let sandbox = sandbox(&compiler(limits));
    let error = refused(&sandbox, &slow(BLOCKS));
    assert!(matches!(error, LoadError::CompileMemory { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("more than 128MiB of memory") && text.contains("compile_memory = \"256MiB\""), "{text}");
    sandbox.load(&support::guest("noop")).unwrap();
}

#[test]
fn a_child_that_is_killed_is_an_error_and_the_next_one_compiles() {
    let compiler = compiler(CompileLimits::default());
    let sandbox = sandbox(&compiler);
    let loading = load_slowly(&sandbox);
    signal(child_of(id_of(&compiler)), "KILL");
    let error = loading.join().unwrap();
    assert!(matches!(error, LoadError::Compiler(_)), "{error}");
    assert!(error.to_string().contains("was ended by signal 9"), "{error}");
    sandbox.load(&support::guest("noop")).unwrap();
}

#[test]
fn a_child_that_takes_no_time_is_stopped_as_well() {
    let limits = CompileLimits { time: Duration::from_secs(1), ..CompileLimits::default() };
    let compiler = compiler(limits);
    let sandbox = sandbox(&compiler);
    let loading = load_slowly(&sandbox);
    let child = child_of(id_of(&compiler));
    // It will never have used its second.
    signal(child, "STOP");
    let error = loading.join().unwrap();
    assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
    is_over(child);
    sandbox.load(&support::guest("noop")).unwrap();
}

/// How the kernel schedules what has this directory in `/proc`, a process or a thread, if it is there: field 41 of its
/// `stat`, 39 after the name.
pub(super) fn policy(place: &Path) -> Option<u32> {
    let stat = std::fs::read_to_string(place.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(38)?.parse().ok()
}

fn policy_of(process: u32) -> Option<u32> {
    policy(&Path::new("/proc").join(process.to_string()))
}

#[test]
fn a_child_yields_to_what_is_served_until_it_gets_nowhere() {
    const IDLE: u32 = 5;
    let compiler = compiler(CompileLimits::default());
    let compiling = Compiling::InChild(compiler.clone());
    let sandbox = Sandbox::new(&Settings { threads: 1, compiling: compiling.clone(), ..Settings::default() }).unwrap();
    let loading = load_slowly(&sandbox);
    let child = child_of(id_of(&compiler));
    stop_at_work(child);
    assert_eq!(policy_of(child), Some(OTHER));
    signal(child, "KILL");
    loading.join().unwrap();

    compiling.yield_to_others();
    let loading = load_slowly(&sandbox);
    let starving = child_that(id_of(&compiler), |child| policy_of(child) == Some(IDLE));
    // As it is stopped it has no time at all. On a busy machine it may have got nowhere without that.
    let _ = Command::new("kill").args(["-s", "STOP", &starving.to_string()]).stderr(Stdio::null()).status();
    is_over(starving);
    let child = child_that(id_of(&compiler), |child| child != starving);
    stop_at_work(child);
    assert_eq!(policy_of(child), Some(OTHER));
    signal(child, "KILL");
    loading.join().unwrap();
}

#[test]
fn a_child_has_bounds_and_filters_of_its_own() {
    let limits = CompileLimits { time: Duration::from_secs(20), memory: 1 << 30 };
    let compiler = compiler(limits);
    let sandbox = sandbox(&compiler);
    let loading = load_slowly(&sandbox);
    let child = child_of(id_of(&compiler));
    stop_at_work(child);
    let bounds = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let bound = |name: &str| {
        let line = bounds.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().take(2).map(|number| number.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    };
    assert_eq!(bound("Max cpu time"), (20, 21));
    assert_eq!(
        (bound("Max file size"), bound("Max core file size"), bound("Max open files")),
        ((0, 0), (0, 0), (0, 0))
    );
    let (memory, most) = bound("Max address space");
    assert!(memory == most && memory > limits.memory && memory < 4 * limits.memory, "{memory}");
    signal(child, "KILL");
    loading.join().unwrap();
}

#[test]
fn a_child_ends_with_its_compiler() {
    let compiler = compiler(CompileLimits::default());
    let sandbox = sandbox(&compiler);
    let loading = load_slowly(&sandbox);
    let child = child_of(id_of(&compiler));
    // Nothing that it does itself ends it.
    stop_at_work(child);
    signal(id_of(&compiler), "KILL");
    let error = loading.join().unwrap();
    assert!(error.to_string().contains("the compiler's process is lost"), "{error}");
    is_over(child);
}

#[test]
fn a_compiler_that_is_lost_is_replaced() {
    let compiler = compiler(CompileLimits::default());
    let sandbox = sandbox(&compiler);
    let wasm = support::guest("noop");
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        sandbox.load(&wasm).unwrap();
        let id = id_of(&compiler);
        ids.insert(id);
        // Whether or not it is known by the next time.
        signal(id, "KILL");
        is_over(id);
    }
    assert_eq!(ids.len(), 3);
}

#[test]
fn modules_are_compiled_at_the_same_time_and_one_process_stays() {
    if available_parallelism().unwrap().get() < 2 {
        return;
    }
    let compiler = compiler(CompileLimits::default());
    let sandbox = sandbox(&compiler);
    let loading = [load_slowly(&sandbox), load_slowly(&sandbox)];
    let begun = Instant::now();
    while compiler.ids().len() < 2 {
        assert!(begun.elapsed() < BOUND);
        std::thread::yield_now();
    }
    let ids = compiler.ids();
    let at_work: Vec<u32> = ids.iter().map(|id| child_of(*id)).collect();
    at_work.into_iter().for_each(|child| signal(child, "KILL"));
    loading.into_iter().for_each(|loading| drop(loading.join().unwrap()));
    is_over(ids[1]);
    sandbox.load(&support::guest("noop")).unwrap();
    assert_eq!(compiler.ids(), ids[..1]);
}

#[test]
fn it_ends_with_whoever_started_it() {
    let compiler = compiler(CompileLimits::default());
    let id = id_of(&compiler);
    let sandbox = sandbox(&compiler);
    sandbox.load(&support::guest("noop")).unwrap();
    drop((sandbox, compiler));
    assert!(!Path::new(&format!("/proc/{id}")).exists());
}

#[test]
fn it_has_neither_the_environment_nor_the_files_of_its_host() {
    let (_reader, writer) = std::io::pipe().unwrap();
    // Unlike most of what a Rust program opens, a child would inherit this one.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let compiler = compiler(CompileLimits::default());
    let sandbox = sandbox(&compiler);
    sandbox.load(&support::guest("noop")).unwrap();
    let process = format!("/proc/{}", id_of(&compiler));
    let Ok(environment) = std::fs::read_to_string(format!("{process}/environ")) else {
        // Only root can look into it at all.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let mut names: Vec<&str> = environment.split('\0').filter_map(|one| Some(one.split_once('=')?.0)).collect();
    names.sort_unstable();
    let told = ["MIMALLOC_ALLOW_THP", "MIMALLOC_ARENA_RESERVE", "RAYON_NUM_THREADS"];
    assert_eq!(names, told, "what it is told, and nothing of the host's");
    let files = std::fs::read_dir(format!("{process}/fd")).unwrap();
    let files: Vec<_> = files.map(|file| std::fs::read_link(file.unwrap().path()).unwrap()).collect();
    let of = |kind: &str| files.iter().filter(|file| file.to_string_lossy().starts_with(kind)).count();
    // The second tells of the ends of its children.
    let found = ["socket:", "anon_inode:[signalfd]", "/dev/null"].map(of);
    assert_eq!((found, files.len()), ([1, 1, 3], 5), "{files:?}");
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

#[test]
fn a_process_that_compiles_reaches_nothing() {
    let bench = Bench::new();
    std::fs::write(bench.path("file"), "x").unwrap();
    let file = bench.path("file");
    let probe = |role: &str| bench.ok(&["probe", role, "--file", file.to_str().unwrap()], b"");
    // What is tried succeeds where nothing is confined.
    let free = probe("nothing");
    for what in ["read", "write", "list", "listen", "socket", "thread", "fork", "signal", "look", "code"] {
        assert!(free.contains(&format!("{what}: done")), "{free}");
    }
    assert!(free.contains("sandbar 0."), "another program took its place: {free}");
    let confined = probe("compiler");
    assert!(confined.contains("thread: done"), "{confined}");
    for what in ["read", "write", "list", "listen", "connect", "socket", "fork", "signal", "look", "code", "execute"] {
        // As on a kernel that lacks the call.
        let refused = confined.lines().find(|line| line.starts_with(&format!("{what}: "))).unwrap();
        assert!(refused.contains("os error 38"), "{refused}");
    }
    assert!(confined.contains("memory: ") && !confined.contains("memory: done"), "{confined}");
    assert!(bench.path("file.made").exists(), "by the one that was not confined");
    // Where there are no filters, it has no descriptors for files, and signals are Landlock's.
    let mut command = bench.command(&["probe", "compiler", "--file", file.to_str().unwrap()]);
    without(&mut command, &[libc::SYS_seccomp]);
    let text = finish(command.spawn().unwrap(), b"").text();
    let signal = if landlock() >= 6 { "os error 1)" } else { "done" };
    for (what, with) in [("read", "os error 24"), ("write", "os error 24"), ("list", "os error 24"), ("signal", signal)]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("{what}: ")) && line.contains(with)), "{text}");
    }
}
