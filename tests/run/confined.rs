//! What a running host has given up, seen from outside and tried.

use std::fs;

use super::swapping::{until, variant_of};
use super::*;
use crate::sandbox::compiling::{BLOCKS, slow, stop_at_work};
use crate::support::beside::{beside, child_of, child_that, children, is_over, is_started_with, launcher, signal};
use crate::support::host::{guest, landlock, without};
use crate::support::process::finish;

/// A line of `/proc/PID/status`, of every thread.
fn of_every_thread(process: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let read = |task: fs::DirEntry| {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::trim))?;
        Some(line.to_owned())
    };
    tasks.filter_map(|task| read(task.unwrap())).collect()
}

fn setting(bench: &Bench, setting: &str) {
    let path = bench.path("sandbar.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("[host]\n{setting}\n{text}")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_host_has_given_up_privileges_and_calls() {
    for hardening in [true, false] {
        let bench = Bench::new();
        let url = embedded(&bench);
        let bus = open(&url).await;
        publish(&bus, "in", &[Draft::new("ok")]).await;
        let config = bench.config(&url, &[probe()]);
        if !hardening {
            setting(&bench, "hardening = \"off\"");
        }
        let host = bench.run(&config, &[]);
        progress(&bus, "probe", |lag| lag == 0).await;
        let (privileges, calls) = (of_every_thread(host.id(), "NoNewPrivs"), of_every_thread(host.id(), "Seccomp"));
        assert!(privileges.len() > 3, "it has threads");
        let expected = if hardening { ("1", "2") } else { ("0", "0") };
        assert!(privileges.iter().all(|one| one == expected.0), "{privileges:?}");
        assert!(calls.iter().all(|one| one == expected.1), "{calls:?}");
        let log = host.log();
        let said = if hardening { "the host is confined" } else { "host.hardening is off" };
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn files_outside_programs_and_other_processes_are_out_of_reach() {
    let bench = Bench::new();
    let config = bench.config(&embedded(&bench), &[probe()]);
    let config = config.to_str().unwrap();
    // The bus lies in another directory than the configuration, which is only read.
    let elsewhere = Bench::new();
    fs::write(bench.path("inside"), "x").unwrap();
    fs::write(elsewhere.path("outside"), "x").unwrap();
    let tried =
        |file: &std::path::Path| bench.ok(&["probe", "host", "-c", config, "--file", file.to_str().unwrap()], b"");
    let refused = |text: &str, what: &str, with: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{what}: "))).unwrap();
        assert!(line.contains(with), "{line}");
    };

    let text = tried(&elsewhere.path("outside"));
    for what in ["fork", "look", "execute"] {
        refused(&text, what, "os error 1)");
    }
    for what in ["thread", "socket", "code"] {
        refused(&text, what, "done");
    }
    // It asks for a connection and finds nobody there.
    refused(&text, "connect", "refused (os error 111)");
    // Whatever this kernel has of it.
    for (since, what, with) in [
        (1, "read", "os error 13)"),
        (1, "write", "os error 13)"),
        (1, "list", "os error 13)"),
        (4, "listen", "os error 13)"),
        (6, "signal", "os error 1)"),
    ] {
        refused(&text, what, if landlock() >= since { with } else { "done" });
    }
    let text = tried(&bench.path("inside"));
    for what in ["read", "write", "list"] {
        refused(&text, what, "done");
    }
    // What replaces a module is read again.
    let text = tried(&guest("noop"));
    refused(&text, "read", "done");
    if landlock() > 0 {
        refused(&text, "write", "os error 13)");
    }
}

#[test]
fn beside_the_configuration_nothing_is_written() {
    let (bench, data) = (Bench::new(), Bench::new());
    let url = format!("sqlite:{}", data.path("bus.db").display());
    let config = bench.config(&url, &[probe()]);
    setting(&bench, "control = false\ncode_cache = false");
    fs::write(bench.path("file"), "x").unwrap();
    let file = bench.path("file");
    let args = ["probe", "host", "-c", config.to_str().unwrap(), "--file", file.to_str().unwrap()];
    let text = bench.ok(&args, b"");
    assert!(text.contains("read: done"), "{text}");
    if landlock() > 0 {
        assert!(text.contains("write: Permission denied"), "{text}");
    }
}

#[test]
fn modules_that_take_too_long_keep_a_host_from_starting() {
    let bench = Bench::new();
    fs::write(bench.path("slow.wasm"), slow(BLOCKS)).unwrap();
    let config = bench.config(&embedded(&bench), &[probe()]);
    let text = fs::read_to_string(&config).unwrap();
    let module = format!("module = {:?}", guest("probe"));
    fs::write(&config, text.replace(&module, "module = \"slow.wasm\"")).unwrap();
    setting(&bench, "compile_time = \"1s\"");
    for args in [&["run"][..], &["check"]] {
        let ran = bench.call(args, b"");
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(ran.stderr.contains("more than 1s") && ran.stderr.contains("compile_time = \"2s\""), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_kernel_lacks_is_told_and_left_out() {
    let bench = Bench::new();
    let url = embedded(&bench);
    publish(&open(&url).await, "in", &[Draft::new("ok")]).await;
    let config = bench.config(&url, &[probe()]);
    setting(&bench, "code_cache = false");
    let lacking = |command: &mut std::process::Command| {
        without(command, &[libc::SYS_seccomp, libc::SYS_landlock_create_ruleset]);
    };
    let mut host = bench.run_as(&config, &["--until-idle", "--json"], lacking);
    host.finish();
    assert_eq!(host.summary()["handlers"][0]["acked"], 1);
    let log = host.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("not all is restricted")).collect();
    assert!(told.len() == 1 && told[0].contains("files,") && told[0].contains("system calls"), "{log}");
    assert!(log.contains("less confined than it could be: no Landlock, no seccomp"), "{log}");
}

#[test]
fn a_bus_in_the_root_directory_is_refused() {
    let bench = Bench::new();
    bench.config("sqlite:/sandbar-of-a-test.db", &[probe()]);
    let ran = bench.call(&["run"], b"");
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("/sandbar-of-a-test.db") && ran.stderr.contains("a directory of its own"),
        "{}",
        ran.stderr
    );
    assert!(!std::path::Path::new("/sandbar-of-a-test.db").exists());
}

#[test]
fn a_host_that_is_killed_leaves_no_compiler_behind() {
    let bench = Bench::new();
    fs::write(bench.path("slow.wasm"), slow(BLOCKS)).unwrap();
    let config = bench.config(&embedded(&bench), &[probe()]);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&format!("module = {:?}", guest("probe")), "module = \"slow.wasm\"")).unwrap();
    let host = bench.run(&config, &[]);
    let (launcher, compiler) = (launcher(host.id()), beside(host.id(), "compile-server"));
    let child = child_of(compiler);
    stop_at_work(child);
    host.kill();
    [launcher, compiler, child].into_iter().for_each(is_over);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_does_not_need_is_not_started() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    let config = bench.config(&url, &[probe()]);
    setting(&bench, "code_cache = \"code\"");
    bench.ok(&["check", "--offline"], b"");
    let host = bench.run(&config, &[]);
    publish(&bus, "in", &[Draft::new("ok")]).await;
    progress(&bus, "probe", |lag| lag == 0).await;
    let launcher = launcher(host.id());
    assert_eq!(children(host.id()), [launcher], "the code is in the cache");
    assert_eq!(children(launcher), Vec::<u32>::new(), "and no handler is isolated");

    // Something new: it is there, and when it is lost the next one.
    let mut lost = 0;
    for mark in [1, 2] {
        let module = variant_of(&bench, "probe", mark);
        bench.ok(&["swap", "probe", module.to_str().unwrap()], b"");
        let compiler = beside(host.id(), "compile-server");
        assert_ne!(compiler, lost);
        signal(compiler, "KILL");
        is_over(compiler);
        lost = compiler;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compiles_is_started_with_a_host_that_has_no_code() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("ok")]).await;
    let host = bench.run(&bench.config(&url, &[probe()]), &[]);
    let compiler = child_that(host.id(), |id| is_started_with(id, "compile-server"));
    progress(&bus, "probe", |lag| lag == 0).await;
    assert_eq!(children(launcher(host.id())), Vec::<u32>::new(), "it is the one that was asked");

    signal(compiler, "KILL");
    is_over(compiler);
    bench.ok(&["swap", "probe", variant_of(&bench, "probe", 1).to_str().unwrap()], b"");
    assert!(is_started_with(child_of(launcher(host.id())), "compile-server"), "a confined host starts none");
    assert_eq!(children(host.id()), [launcher(host.id())], "the one that is lost was asked how it ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_modules_are_compiled_at_once_and_one_process_stays() {
    let bench = Bench::new();
    let url = embedded(&bench);
    let bus = open(&url).await;
    publish(&bus, "in", &[Draft::new("ok")]).await;
    let names = ["a", "b", "c", "d"];
    let handlers = names.map(|name| HandlerToml::new(name, "probe", "in"));
    let mut text = fs::read_to_string(bench.config(&url, &handlers)).unwrap();
    for (mark, _) in (0..).zip(names) {
        let other = variant_of(&bench, "probe", mark);
        text = text.replacen(&format!("{:?}", guest("probe")), &format!("{other:?}"), 1);
    }
    let config = bench.path("sandbar.toml");
    fs::write(&config, text).unwrap();
    let host = bench.run(&config, &[]);
    for name in names {
        progress(&bus, name, |lag| lag == 0).await;
    }
    // The others end by themselves.
    beside(host.id(), "compile-server");

    let others = names[..2].iter().zip([5, 6]).map(|(name, mark)| {
        let module = variant_of(&bench, "probe", mark);
        bench.command(&["swap", name, module.to_str().unwrap()]).spawn().unwrap()
    });
    for swap in others.collect::<Vec<_>>() {
        assert_eq!(finish(swap, b"").code, 0);
    }
    beside(host.id(), "compile-server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_process_that_starts_others_a_host_says_so() {
    let bench = Bench::new();
    let config = bench.config(&embedded(&bench), &[probe()]);
    let host = bench.run(&config, &[]);
    until(&bench, "it runs", |now| now["hosts"].as_array().is_some_and(|hosts| !hosts.is_empty())).await;
    bench.ok(&["swap", "probe", variant_of(&bench, "probe", 1).to_str().unwrap()], b"");
    for process in [beside(host.id(), "compile-server"), launcher(host.id())] {
        signal(process, "KILL");
        is_over(process);
    }
    for mark in [2, 3] {
        let module = variant_of(&bench, "probe", mark);
        let ran = bench.call(&["swap", "probe", module.to_str().unwrap()], b"");
        assert!(
            ran.code != 0 && ran.stderr.contains("it is started with the host: start that again"),
            "{}",
            ran.stderr
        );
    }
}
