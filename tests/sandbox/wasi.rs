//! WASI is there and empty, and a delivery runs the same way again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::{Event, Verdict, code};
use sandbar::sandbox::{Services, Spec};

use super::component::importing;
use super::support::{Remembering, call, called, event, probe, retried, said, shared, spec};

fn at(first: &str) -> Event {
    Event { first: first.into(), ..event("world", &[]) }
}

#[test]
fn there_is_no_environment_and_no_file() {
    let (handler, _) = probe(spec());
    let world = said(&handler, &event("world", &[]));
    assert!(world.contains("env [] args []") && world.contains("wall Ok(1714979289)"), "{world}");
    let files = said(&handler, &event("files", &[]));
    assert_eq!(files.matches("Err(").count(), 3, "{files}");
    assert!(files.ends_with("thread false"), "{files}");
    let read = said(&handler, &event("read-stdin", &[]));
    assert_eq!(read, r#"Ok("")"#);
}

#[test]
fn a_delivery_runs_the_same_way_again() {
    let (handler, _) = probe(spec());
    let world = said(&handler, &at("1-0"));
    let again = shared().0.call(&handler, &at("1-0"), 4, true);
    match called(again).0 {
        Verdict::Reject { reason, .. } => assert_eq!(reason, world, "whatever the attempt"),
        other => panic!("{other:?}"),
    }
    assert_ne!(said(&handler, &at("2-0")), world, "another event has other numbers");
    let (other, _) = probe(Spec { group: "another".into(), ..spec() });
    assert_ne!(said(&other, &at("1-0")), world, "so has another group");
}

#[test]
fn sleeping_returns_at_once() {
    let (handler, _) = probe(spec());
    let started = Instant::now();
    let passed: u64 = said(&handler, &event("sleep", &[("ms", "3600000")])).parse().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!((3_600_000..3_600_010).contains(&passed), "{passed}");
}

#[test]
fn a_loop_that_waits_for_time_to_pass_ends() {
    let (handler, _) = probe(spec());
    assert_eq!(call(&handler, &event("wait", &[])).0, Verdict::Done);
}

/// A component that calls one function of a WASI interface that no runtime calls, and looks at what it returns.
fn caller(result: &str, check: &str) -> Vec<u8> {
    let imports = format!(
        r#"(import "wasi:sockets/later@0.2.77" (instance $later
             (type $code0 (enum "odd" "access-denied")) (export "code" (type $code (eq $code0)))
             (export "f" (func (result {result})))))
           (core module $memory (memory (export "m") 1))
           (core instance $memory (instantiate $memory))
           (core func $f (canon lower (func $later "f") (memory (core memory $memory "m"))))"#
    );
    let with = r#"(with "later" (instance (export "f" (func $f)) (export "m" (memory $memory "m"))))"#;
    let core = format!(
        r#"(import "later" "f" (func $f {})) (import "later" "m" (memory $seen 1)) ;;
           (func (export "handle") (param i32) (result i32) {check} (i32.const 8))"#,
        if result == "u32" { "(result i32)" } else { "(param i32)" },
    );
    importing(&imports, with, &core)
}

#[test]
fn what_nothing_serves_refuses_or_traps_with_its_name() {
    let run = |wasm: &[u8]| {
        let (sandbox, _) = shared();
        let module = sandbox.load(wasm).unwrap();
        let services: Arc<dyn Services> = Arc::new(Remembering::default());
        let handler = sandbox.handler(&module, spec(), services).unwrap();
        called(sandbox.call(&handler, &event("ok", &[]), 1, false)).0
    };
    // An error, and the second case of the enumeration.
    let check = "(call $f (i32.const 16)) (if (i32.ne (i32.load16_u $seen (i32.const 16)) (i32.const 0x0101)) (then unreachable))";
    assert_eq!(run(&caller("(result (error $code))", check)), Verdict::Done);
    let (code, reason) = retried(run(&caller("u32", "(drop (call $f))")));
    assert_eq!(code, code::TRAP);
    assert!(reason.contains("wasi:sockets/later@0.2.77#f"), "{reason}");
}
