//! What is told of a component without compiling it agrees with what happens to it when it is loaded.

use sandbar::sandbox::{Capability, Grants, Limits, Malformed, Signatures, Spec, Trust, inspect};
use wasmsign2::{KeyPair, Module};

use super::component::component;
use super::support::{everything, guest, shared, spec};

const HANDLE: &str = r#"(func (export "handle") (param i32) (result i32) (i32.const 8))"#;

#[test]
fn a_guest_is_told_as_it_is_loaded() {
    let (wasm, module) = (guest("probe"), &shared().1);
    let found = inspect(&wasm);
    assert_eq!((found.digest.as_str(), found.size), (module.digest(), module.size()));
    assert_eq!(found.imports, module.imports());
    assert_eq!(found.capabilities, module.capabilities());
    assert_eq!(found.contracts, ["0.1.0"]);
    assert_eq!(found.exports, ["sandbar:handler/guest@0.1.0"]);
    assert_eq!(found.signatures, Signatures::None);
    assert!(found.refusal.is_none(), "{:?}", found.refusal);
    let made_by = |field: &str, name: &str| found.producers.iter().any(|one| one.field == field && one.name == name);
    assert!(made_by("language", "Rust") && made_by("processed-by", "rustc"), "{:?}", found.producers);
    assert!(found.first_memory >= 1 << 20, "{}", found.first_memory);
}

#[test]
fn what_is_refused_here_is_refused_when_it_is_loaded() {
    let import = |name: &str| component(&format!(r#"(import "{name}" (instance (export "f" (func))))"#), HANDLE);
    let mut cut = component("", HANDLE);
    cut.truncate(cut.len() / 2);
    for wasm in [
        b"#!/bin/sh".to_vec(),
        wat::parse_str("(module)").unwrap(),
        wat::parse_str("(component)").unwrap(),
        import("acme:thing/door@1.0.0"),
        import("wasi:keyvalue/store@0.2.0"),
        import("sandbar:handler/outbox@0.2.0"),
        component(r#"(import "door" (func))"#, HANDLE),
        component("", r#"(func (export "handle") (param i32) (result i32) (i64.const 8))"#),
        cut,
    ] {
        let (told, error) = (inspect(&wasm).refusal, shared().0.load(&wasm).unwrap_err());
        let told = told.unwrap_or_else(|| panic!("{error}"));
        assert_eq!(std::mem::discriminant(&told), std::mem::discriminant(&error), "{told} and {error}");
    }
    assert!(inspect(&component("", HANDLE)).refusal.is_none());
}

#[test]
fn only_what_it_imports_itself_is_told() {
    // The inner component asks the outer one, not the host.
    let inner = r#"(component $inner (import "acme:thing/door@1.0.0" (instance)))"#;
    let found = inspect(&component(inner, HANDLE));
    assert!(found.refusal.is_none() && found.capabilities.is_empty(), "{found:?}");
    assert_eq!(found.imports, ["sandbar:handler/types@0.1.0"]);
}

#[test]
fn what_a_component_says_of_itself_makes_no_lines_of_its_own() {
    let forged = "x\nsignature  by a friend\u{1b}[2J";
    let mut wasm = component("", HANDLE);
    let part = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let section = [part("producers"), vec![1], part("sdk"), vec![1], part(forged), part(forged)].concat();
    wasm.extend([0, u8::try_from(section.len()).unwrap()]);
    wasm.extend(section);
    let escaped = forged.replace('\n', "\\n").replace('\u{1b}', "\\1b");
    let import = format!(r#"(component (import "{escaped}" (func)))"#);
    let export = format!(r#"(component (instance $i) (export "{escaped}" (instance $i)))"#);
    let (made, asking) = (inspect(&wasm), inspect(&wat::parse_str(import).unwrap()));
    let telling = inspect(&wat::parse_str(export).unwrap());
    assert!(made.refusal.is_none(), "{made:?}");
    let refusal = asking.refusal.unwrap().to_string();
    // The first bytes of a module within it: the parser shows what it expected on lines of their own.
    let at = wasm.windows(8).rposition(|bytes| bytes == b"\0asm\x01\0\0\0").unwrap();
    wasm[at] = 1;
    let broken = inspect(&wasm).refusal.unwrap().to_string();
    assert!(broken.contains("magic"), "{broken}");
    let made = &made.producers[0];
    for said in [&made.name, &made.version, &asking.imports[0], &telling.exports[0], &refusal, &broken] {
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}

#[test]
fn a_signature_is_told_and_not_believed() {
    let wasm = component("", HANDLE);
    let pair = KeyPair::generate();
    let signed = pair.sk.sign(Module::deserialize(&mut &wasm[..]).unwrap(), Some(&b"me".to_vec())).unwrap();
    let mut bytes = Vec::new();
    signed.serialize(&mut bytes).unwrap();
    assert_eq!(inspect(&bytes).signatures, Signatures::Unverified(vec!["6d65".to_owned()]));
    // The version.
    let at = 8 + 3 + "signature".len();
    bytes[at] = 9;
    assert_eq!(inspect(&bytes).signatures, Signatures::Malformed(Malformed::Version));
    let nobody = Trust { keys: Some(Vec::new()), ..Trust::default() };
    let accepted = inspect(&bytes).accepted(&bytes, &nobody, &spec());
    assert!(accepted.refusals.len() == 1 && accepted.refusals[0].contains("cannot be read"), "{accepted:?}");
}

#[test]
fn a_handler_takes_it_or_says_why_not() {
    let wasm = guest("probe");
    let found = inspect(&wasm);
    let given = |grants: Grants| found.accepted(&wasm, &Trust::default(), &Spec { grants, ..spec() });
    let missing: Vec<Capability> = given(Grants::default()).missing.iter().map(|one| one.capability).collect();
    assert_eq!(missing, [Capability::Publish, Capability::Keys, Capability::Config, Capability::Secrets]);
    let all = given(everything());
    assert!(all.missing.is_empty() && all.refusals.is_empty() && all.signed_by.is_none(), "{all:?}");
    let pin = Trust { sha256: Some([7; 32]), ..Trust::default() };
    let limits = Limits { memory: 64 << 10, ..Limits::default() };
    let refused = found.accepted(&wasm, &pin, &Spec { limits, ..spec() }).refusals;
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("sha256") && refused[1].contains("[handler.limits] memory"), "{refused:?}");
}
