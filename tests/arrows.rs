//! Which module may name which: the shape of the line, read off the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the steps of the line may name besides themselves.
const WORDS: &[&str] = &["event", "telemetry"];
/// The steps. Each is blind to the others.
const STEPS: &[&str] = &["bus", "wire", "decode", "dispatch", "sandbox", "settle"];
/// Files are split by meaning at about 350 lines. This is where it can no longer be put off.
const MOST_LINES: usize = 500;

#[test]
fn modules_name_only_what_lies_before_them() {
    let src = root().join("runtime/src");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources(&src) {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let path: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
        let Some(allowed) = allowed(path[0]) else { continue };
        seen.insert(path[0].to_owned());
        for name in named(&fs::read_to_string(&file).unwrap(), path.len()) {
            if name != path[0] && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} names {name}", path.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the line does not have: {wrong:#?}");
    for step in STEPS {
        assert!(seen.contains(*step), "there is no {step}: is the list of steps in this test out of date?");
    }
}

#[test]
fn every_way_to_name_a_module_is_seen() {
    let text = r"
        //! Not in a comment: crate::pipeline.
        use crate::event::{Event, Fields};
        use crate::{
            bus::{self, Bus},
            decode,
        };
        fn f() -> crate::settle::Verdict {}
        use super::super::wire::Profile;
        pub(crate) fn g() {}
    ";
    assert_eq!(named(text, 2), names(&["event", "bus", "decode", "settle", "wire"]));
    // One level deeper the same path stays within the module.
    assert_eq!(named("use super::super::wire::Profile;", 3), names(&[]));
}

#[test]
fn guests_do_not_reach_into_the_host() {
    let host = ["tokio", "wasmtime", "sandbar", "redis", "rusqlite"];
    for manifest in ["sdk/Cargo.toml", "sdk/macros/Cargo.toml"] {
        for name in dependencies(&root().join(manifest)) {
            assert!(!host.contains(&name.as_str()), "{manifest} depends on {name}");
        }
    }
    for entry in fs::read_dir(root().join("example-handlers")).into_iter().flatten() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        if manifest.exists() {
            let found = dependencies(&manifest);
            assert!(found.iter().any(|name| name == "sandbar-sdk"), "{} does without the SDK", manifest.display());
            for name in found {
                assert!(!host.contains(&name.as_str()), "{} depends on {name}", manifest.display());
            }
        }
    }
}

#[test]
fn files_keep_their_shape() {
    for folder in ["runtime/src", "sdk", "tests", "bench", "example-handlers"] {
        for file in sources(&root().join(folder)) {
            assert_ne!(file.file_name().unwrap(), "mod.rs", "{}: name it after its module", file.display());
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= MOST_LINES, "{} has {lines} lines: split it by meaning", file.display());
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What a module of the library may name; `None` for those that may name everything.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    match module {
        "event" | "telemetry" => Some(Vec::new()),
        "config" => Some([WORDS, STEPS, &["admin"]].concat()),
        "pipeline" => Some([WORDS, STEPS, &["config"]].concat()),
        "lib" | "main" | "cli" => None,
        // A new module is as blind as a step until it is named here.
        _ => Some(WORDS.to_vec()),
    }
}

/// The top-level modules that the text names by `crate::…`, or by enough `super::` in a file `depth` levels down.
fn named(text: &str, depth: usize) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    let to_root = "super::".repeat(depth);
    for marker in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(marker) {
            let rest = &code[at + marker.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_heads(group)),
                None => found.extend(head(rest)),
            }
        }
    }
    // `super::` within a nested test module, or an item of the crate's root: not a module.
    let src = root().join("runtime/src");
    found.retain(|name| src.join(name).with_extension("rs").exists());
    found
}

/// The first segments of the paths in `{a::b, c::{d, e}}`, given what follows the opening brace.
fn group_heads(group: &str) -> BTreeSet<String> {
    let mut heads = BTreeSet::new();
    let mut depth = 1;
    let mut item = String::new();
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && character == ',') {
            heads.extend(head(item.trim()));
            item.clear();
        } else {
            item.push(character);
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The identifier at the start of `path`.
fn head(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// All dependencies that a manifest declares, of whatever kind.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let table: toml::Table = text.parse().unwrap();
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section)?.as_table())
        .flat_map(|section| section.keys().cloned())
        .collect()
}

/// All Rust files below a folder that are written by people.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                files.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_some_and(|stem| stem != "bindings")
        {
            files.push(path);
        }
    }
    files
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
