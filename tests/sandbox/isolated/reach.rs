//! What the process of a call has, and what it reaches.

use std::fs;

use sandbar::sandbox::{Grants, Secret, Secrets, Spec};

use super::*;
use crate::support::beside::is_in_memory;
use crate::support::host::{Bench, HandlerToml, guest, landlock, without};
use crate::support::process::finish;

#[test]
fn a_worker_holds_the_secrets_of_its_handler_and_of_no_other() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can look into it at all.
        return;
    }
    let apart = Apart::new();
    let with = |value: &str| {
        let secrets = Secrets::known([("TOKEN".to_owned(), Secret::new(value.as_bytes()))]);
        Spec { grants: Grants { secrets, ..Grants::default() }, ..spec() }
    };
    // Made here, so that the program's file does not hold them.
    let value = |of: &str| format!("{of}-secret-of-a-handler-{:x}", std::process::id());
    let (mine, _) = apart.handler(with(&value("my")));
    let worker = child_of(apart.isolator.id().unwrap());
    let (other, _) = apart.handler(with(&value("other")));
    let telling = |value: &str| event("secret", &[("name", "TOKEN"), ("way", "is"), ("value", value)]);
    for (handler, value) in [(&mine, value("my")), (&other, value("other"))] {
        assert_eq!(apart.said(handler, &telling(&value)), "true");
    }
    assert!(is_in_memory(worker, value("my").as_bytes()), "it was told this one");
    assert!(!is_in_memory(worker, value("other").as_bytes()));
    // Nor what seeds the random numbers of others.
    assert!(!is_in_memory(worker, b"of the tests"));
    assert!(is_in_memory(std::process::id(), value("other").as_bytes()), "what is looked for can be found");
}

#[test]
fn a_worker_has_one_socket_and_nothing_else() {
    let (_reader, writer) = std::io::pipe().unwrap();
    // Unlike most of what a Rust program opens, a child would inherit this one.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let apart = Apart::new();
    let (_one, _) = apart.handler(spec());
    let worker = child_of(apart.isolator.id().unwrap());
    let (_other, _) = apart.handler(spec());
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    let bounds = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    for name in ["Max open files", "Max core file size", "Max file size"] {
        let line = bounds.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(line.split_whitespace().take(2).all(|number| number == "0"), "{name}: {line}");
    }
    let Ok(files) = fs::read_dir(format!("/proc/{worker}/fd")) else {
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let files = files.map(|file| fs::read_link(file.unwrap().path()).unwrap().to_string_lossy().into_owned());
    let mut files: Vec<_> = files.collect();
    files.retain(|file| file != "/dev/null");
    let known = |file: &String| {
        file.starts_with("socket:") || file.ends_with("/pagemap") || file.starts_with("/memfd:wasm-memory-image")
    };
    assert!(files.iter().all(known), "{files:?}");
    assert_eq!(files.iter().filter(|file| file.starts_with("socket:")).count(), 1, "{files:?}");
    let environment = fs::read_to_string(format!("/proc/{worker}/environ")).unwrap();
    assert_eq!(environment.trim_end_matches('\0'), "MIMALLOC_ARENA_RESERVE=16MiB");
}

#[test]
fn a_worker_reaches_nothing() {
    let bench = Bench::new();
    let file = bench.path("file");
    fs::write(&file, "x").unwrap();
    let args = ["probe", "worker", "--file", file.to_str().unwrap()];
    let text = bench.ok(&args, b"");
    for what in [
        "read", "write", "list", "make", "listen", "connect", "socket", "thread", "fork", "signal", "look", "code",
        "execute",
    ] {
        // As on a kernel that lacks the call.
        let refused = text.lines().find(|line| line.starts_with(&format!("{what}: "))).unwrap();
        assert!(refused.contains("os error 38"), "{refused}");
    }
    assert!(!bench.path("file.made").exists());
    // Where there are no filters it has no descriptors for files, and for what takes none there is Landlock.
    let mut command = bench.command(&args);
    without(&mut command, &[libc::SYS_seccomp]);
    let text = finish(command.spawn().unwrap(), b"").text();
    for what in ["read", "write", "list"] {
        let refused = text.lines().find(|line| line.starts_with(&format!("{what}: "))).unwrap();
        assert!(refused.contains("os error 24"), "{refused}");
    }
    assert!(text.contains(if landlock() > 0 { "make: Permission denied" } else { "make: done" }), "{text}");
}

#[test]
fn where_the_kernel_lacks_measures_calls_are_made_without() {
    let bench = Bench::new();
    let folder = bench.path("fixtures");
    fs::create_dir(&folder).unwrap();
    let event = serde_json::json!({ "topic": "in", "type": "ok", "content_type": "application/json", "data": {} });
    let fixture = serde_json::json!({ "event": event, "expect": { "verdict": "done" } });
    fs::write(folder.join("one.event.json"), fixture.to_string()).unwrap();
    let config = bench.config("sqlite:bus.db", &[HandlerToml::new("probe", "probe", "in").with(PROCESS)]);
    let (module, config, folder) = (guest("probe"), config.display().to_string(), folder.display().to_string());
    let args = ["test", module.to_str().unwrap(), "--fixtures", &folder, "--handler", "probe", "-c", &config];
    for calls in [&[][..], &[libc::SYS_seccomp, libc::SYS_landlock_create_ruleset]] {
        let mut command = bench.command(&args);
        without(&mut command, calls);
        let ran = finish(command.spawn().unwrap(), b"");
        assert_eq!(ran.code, 0, "{}{}", ran.stderr, ran.text());
    }
}
