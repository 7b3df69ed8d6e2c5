//! What is refused when it is loaded, and that the error says what to do.

use std::sync::Arc;
use std::time::Duration;

use sandbar::event::{Verdict, code};
use sandbar::sandbox::{Capability, Grants, Limits, LoadError, Secrets, Services, Spec, missing_grants};

use super::component::component;
use super::support::{Remembering, bounded, called, event, everything, guest, retried, shared, spec};

const HANDLE: &str = r#"(func (export "handle") (param i32) (result i32) (i32.const 8))"#;

fn refused(wasm: &[u8]) -> LoadError {
    match shared().0.load(wasm) {
        Err(error) => error,
        Ok(module) => panic!("loaded: {module:?}"),
    }
}

fn imports(name: &str) -> String {
    let wasm = component(&format!(r#"(import "{name}" (instance (export "f" (func))))"#), HANDLE);
    refused(&wasm).to_string()
}

fn run(wasm: &[u8], limits: Limits) -> Verdict {
    let (sandbox, _) = shared();
    let module = sandbox.load(wasm).unwrap();
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let handler = sandbox.handler(&module, Spec { limits, ..spec() }, services).unwrap();
    called(sandbox.call(&handler, &event("ok", &[]), 1, false)).0
}

#[test]
fn the_smallest_component_runs() {
    assert_eq!(run(&component("", HANDLE), Limits::default()), Verdict::Done);
}

#[test]
fn what_is_no_component_is_named() {
    for nothing in [&b""[..], b"\x7fELF....", b"(component)", b"\0asm"] {
        let error = refused(nothing);
        assert!(matches!(error, LoadError::NotWasm), "{error}");
        assert!(error.to_string().contains("cargo build --target wasm32-wasip2"));
    }
    let core = refused(&wat::parse_str("(module)").unwrap());
    assert!(matches!(core, LoadError::CoreModule), "{core}");
    assert!(core.to_string().starts_with("is a core module, not a component: build with"), "{core}");
    let mut broken = component("", HANDLE);
    broken.truncate(broken.len() / 2);
    assert!(matches!(refused(&broken), LoadError::Invalid(_)));
}

#[test]
fn unknown_imports_are_refused_by_name() {
    for (name, hint) in [
        ("acme:thing/door@1.0.0", "sandbar:handler/{log,outbox,keys,config,secrets}@0.1.0"),
        ("wasi:http/outgoing-handler@0.1.0", "version 0.2 is served"),
        ("wasi:keyvalue/store@0.2.0", "sandbar:handler/keys@0.1.0"),
        ("sandbar:handler/outbox@0.2.0", "0.1.0"),
        ("sandbar:handler/teleport@0.1.0", "0.1.0"),
    ] {
        let error = imports(name);
        assert!(error.contains(&format!("imports `{name}`")) && error.contains(hint), "{error}");
    }
    let error = refused(&component(r#"(import "door" (func))"#, HANDLE));
    assert!(error.to_string().contains("imports `door`"), "{error}");
}

#[test]
fn the_asynchronous_component_model_is_refused_with_that_reason() {
    let error = imports("wasi:clocks/monotonic-clock@0.3.0");
    assert!(error.contains("asynchronous component model") && error.contains("@0.3.0"), "{error}");
    let lift = r#"(component
        (core module $m (func (export "f") (result i32) (i32.const 0)) (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "cb")))))"#;
    let error = refused(&wat::parse_str(lift).unwrap());
    assert!(matches!(error, LoadError::Async(_)), "{error}");
}

#[test]
fn another_world_is_refused_with_what_it_exports() {
    let other = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (export "run" (func $f)))"#;
    let error = refused(&wat::parse_str(other).unwrap()).to_string();
    assert!(error.contains("exports `run`") && error.contains("sandbar:handler/guest@0.1.0"), "{error}");
    assert!(refused(&wat::parse_str("(component)").unwrap()).to_string().contains("exports nothing"));
    let newer = other.replace(
        r#"(export "run" (func $f))"#,
        r#"(instance $g (export "handle" (func $f))) (export "sandbar:handler/guest@9.0.0" (instance $g))"#,
    );
    assert!(refused(&wat::parse_str(newer).unwrap()).to_string().contains("guest@9.0.0"));
    let wrong = other.replace(
        r#"(export "run" (func $f))"#,
        r#"(instance $g (export "handle" (func $f))) (export "sandbar:handler/guest@0.1.0" (instance $g))"#,
    );
    let error = refused(&wat::parse_str(wrong).unwrap());
    assert!(matches!(error, LoadError::Link(_)) && error.to_string().contains("handle"), "{error}");
}

#[test]
fn what_does_not_fit_the_pool_is_refused() {
    let memories = format!("{} {HANDLE}", "(memory 1)".repeat(7));
    assert_eq!(run(&component("", &memories), Limits::default()), Verdict::Done);
    let many = component("", &format!("{} {HANDLE}", "(memory 1)".repeat(8)));
    let error = refused(&many);
    assert!(matches!(error, LoadError::Pool(..)), "{error}");
    let error = refused(&component("", &format!("(table 70000 funcref) {HANDLE}")));
    assert!(matches!(error, LoadError::Pool(..)) && error.to_string().contains("70000"), "{error}");
    let error = refused(&component("", &format!("(memory 2000) {HANDLE}")));
    assert!(matches!(error, LoadError::Pool(..)), "{error}");
    assert!(error.to_string().contains("[handler.limits] memory"), "{error}");
}

#[test]
fn the_first_memory_must_fit_the_limit() {
    let (sandbox, _) = shared();
    let module = sandbox.load(&component("", &format!("(memory 40) {HANDLE}"))).unwrap();
    let services: Arc<dyn Services> = Arc::new(Remembering::default());
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    let error = sandbox.handler(&module, Spec { limits, ..spec() }, Arc::clone(&services)).unwrap_err().to_string();
    assert!(error.contains("1MiB") && error.contains(r#"[handler.limits] memory = "2560KiB""#), "{error}");
    let limits = Limits { memory: 1 << 30, ..Limits::default() };
    let error = sandbox.handler(&module, Spec { limits, ..spec() }, services).unwrap_err().to_string();
    assert!(error.contains("1024MiB") && error.contains("64MiB"), "{error}");
}

#[test]
fn memories_and_tables_count_together() {
    let limits = Limits { memory: 256 << 10, ..Limits::default() };
    // Each fits by itself; with the two pages that every component here has they do not.
    for more in ["(memory 3)", "(memory 1) (memory 2)", "(table 9000 funcref)"] {
        let (code, reason) = retried(run(&component("", &format!("{more} {HANDLE}")), limits.clone()));
        assert_eq!(code, code::MEMORY_LIMIT, "{more}: {reason}");
        assert!(reason.contains("256KiB"), "{reason}");
    }
    assert_eq!(run(&component("", &format!("(memory 2) {HANDLE}")), limits), Verdict::Done);
}

#[test]
fn a_start_function_is_part_of_the_call() {
    let trap = component("", &format!("(func $start unreachable) (start $start) {HANDLE}"));
    let (code, reason) = retried(run(&trap, Limits::default()));
    assert_eq!(code, code::TRAP);
    assert!(reason.contains("unreachable"), "{reason}");
    let looping = component("", &format!("(func $start (loop (br 0))) (start $start) {HANDLE}"));
    let limits = Limits { time: Duration::from_millis(30), ..Limits::default() };
    assert_eq!(retried(bounded(move || run(&looping, limits))).0, code::TIME_LIMIT);
}

#[test]
fn a_module_says_what_it_is() {
    let module = &shared().1;
    assert_eq!(module.size(), guest("probe").len());
    assert_eq!(module.digest().len(), 64);
    assert!(module.digest().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(module.imports().iter().any(|name| name == "sandbar:handler/outbox@0.1.0"), "{:?}", module.imports());
    let all = [Capability::Publish, Capability::Keys, Capability::Config, Capability::Secrets];
    let served = [Capability::Clock, Capability::Random];
    assert_eq!(module.capabilities(), [&all[..], &served].concat());
    let small = shared().0.load(&component("", HANDLE)).unwrap();
    assert_eq!(small.capabilities(), []);
    assert_ne!(small.digest(), module.digest());
}

#[test]
fn missing_grants_come_with_the_line_to_add() {
    let module = &shared().1;
    let lines = |grants: &Grants| -> Vec<String> {
        missing_grants(module, grants).into_iter().map(|missing| missing.line).collect()
    };
    assert_eq!(
        lines(&Grants::default()),
        [
            r#"[handler.grants] publish = ["topic"]"#,
            "[handler.grants] keys = true",
            r#"[handler.grants] config = { name = "value" }"#,
            r#"[handler.grants] secrets = ["NAME"]"#,
        ]
    );
    assert_eq!(lines(&everything()).len(), 0);
    assert_eq!(missing_grants(&shared().0.load(&component("", HANDLE)).unwrap(), &Grants::default()), []);
    let without = Grants { secrets: Secrets::default(), ..everything() };
    let (handler, _) = super::support::probe(Spec { grants: without, ..spec() });
    assert_eq!(handler.missing_grants().len(), 1);
}
