//! Pinned and signed modules: what is not what was asked for is refused before anything is made of it.

use std::path::Path;

use wasmsign2::{KeyPair, Module};

use super::*;
use crate::support::host::guest;
use crate::support::process::finish;

/// A handler whose module lies beside the configuration, with these lines in `[host]` and in `[[handler]]`.
fn bench(host: &str, handler: &str, wasm: &[u8]) -> Bench {
    let bench = Bench::new();
    std::fs::write(bench.path("handler.wasm"), wasm).unwrap();
    let url = embedded(&bench);
    let text = format!(
        "[bus]\nurl = {url:?}\n[host]\ncode_cache = \"code\"\n{host}\n[[handler]]\nname = \"h\"\nmodule = \
         \"handler.wasm\"\ntopics = [\"in\"]\n{handler}\n"
    );
    std::fs::write(bench.path("sandbar.toml"), text).unwrap();
    bench
}

fn signed(wasm: &[u8], pair: &KeyPair) -> Vec<u8> {
    let module = pair.sk.sign(Module::deserialize(&mut &wasm[..]).unwrap(), None).unwrap();
    let mut bytes = Vec::new();
    module.serialize(&mut bytes).unwrap();
    bytes
}

fn compiled(bench: &Bench) -> bool {
    let entries = |path: &Path| std::fs::read_dir(path).map_or(0, |entries| entries.filter(|e| e.is_ok()).count());
    // Beside its key.
    entries(&bench.path("code")) > 1
}

/// Runs and checks; answers the exit code, which is the same, and what `run` said.
fn ends(bench: &Bench) -> (i32, String) {
    let child = bench.command(&["run", "--until-idle"]).env("SANDBAR_LOG", "info").spawn().unwrap();
    let ran = finish(child, b"");
    let refused = ran.code != 0;
    assert_eq!(compiled(bench), !refused, "{}", ran.stderr);
    let check = bench.call(&["check"], b"");
    assert_eq!(check.code, ran.code, "{} {}", check.stderr, ran.stderr);
    let inspected = bench.call(&["inspect", "handler.wasm", "--handler", "h"], b"");
    assert_eq!(inspected.code, ran.code, "{inspected:?}");
    (ran.code, ran.stderr)
}

#[test]
fn a_signed_module_runs_and_no_other_is_compiled() {
    let wasm = std::fs::read(guest("noop")).unwrap();
    let (pair, other) = (KeyPair::generate(), KeyPair::generate());
    let mut flipped = signed(&wasm, &pair);
    let at = flipped.len() / 2;
    flipped[at] ^= 0x20;
    let keys = "trusted_keys = [\"release.pub\"]";
    for (wasm, expected) in [
        (signed(&wasm, &pair), None),
        (wasm.clone(), Some("is not signed")),
        (flipped, Some("no signature of one of the `trusted_keys`")),
        (signed(&wasm, &other), Some("no signature of one of the `trusted_keys`")),
    ] {
        // For all handlers, and for this one, whose keys stand in place of the host's.
        for (host, own) in [(keys, ""), ("", keys), ("trusted_keys = [\"other.pub\"]", keys)] {
            let bench = bench(host, own, &wasm);
            std::fs::write(bench.path("release.pub"), pair.pk.to_pem()).unwrap();
            std::fs::write(bench.path("other.pub"), other.pk.to_bytes()).unwrap();
            let (code, log) = ends(&bench);
            assert_eq!(code, if expected.is_some() { 4 } else { 0 }, "{log}");
            assert!(expected.is_none_or(|expected| log.contains(expected)), "{log}");
        }
    }
}

#[test]
fn a_handler_that_asks_for_nothing_does_not_vouch_for_another() {
    // Both have the same file; the first would take it as it is.
    let pair = KeyPair::generate();
    let second = "[[handler]]\nname = \"g\"\nmodule = \"handler.wasm\"\ntopics = [\"in\"]\ntrusted_keys = [\"key\"]";
    let bench = bench("", second, &std::fs::read(guest("noop")).unwrap());
    std::fs::write(bench.path("key"), pair.pk.to_bytes()).unwrap();
    let ran = bench.call(&["run", "--until-idle"], b"");
    assert!(ran.code == 4 && ran.stderr.contains("handler g is refused"), "{}", ran.stderr);
    assert!(!compiled(&bench));
}

#[test]
fn a_pinned_module_runs_and_no_other() {
    let wasm = std::fs::read(guest("noop")).unwrap();
    let digest = sandbar::sandbox::inspect(&wasm).digest;
    let (code, log) = ends(&bench("", &format!("sha256 = \"{digest}\""), &wasm));
    assert!(code == 0 && log.contains(&digest), "{log}");
    let other = std::fs::read(guest("echo")).unwrap();
    let (code, log) = ends(&bench("", &format!("sha256 = \"{}\"", digest.to_uppercase()), &other));
    assert!(code == 4 && log.contains(&digest) && log.contains("pins"), "{log}");
}

#[test]
fn keys_that_cannot_be_read_trust_nobody() {
    let pair = KeyPair::generate();
    let wasm = signed(&std::fs::read(guest("noop")).unwrap(), &pair);
    for keys in ["[\"missing.pub\"]", "[\"handler.wasm\"]", "\"release.pub\"", "[\"ssh-rsa AAAA\"]", "true"] {
        for (host, own) in [(format!("trusted_keys = {keys}"), ""), (String::new(), keys)] {
            let own = if own.is_empty() { String::new() } else { format!("trusted_keys = {own}") };
            let bench = bench(&host, &own, &wasm);
            std::fs::write(bench.path("secret.key"), pair.sk.to_pem()).unwrap();
            for command in [&["run"][..], &["check"]] {
                let ran = bench.call(command, b"");
                assert_eq!(ran.code, 2, "{keys}: {}", ran.stderr);
                assert!(ran.stderr.contains("trusted_keys"), "{}", ran.stderr);
            }
            assert!(!compiled(&bench), "{keys}");
        }
    }
}
