//! What the documents say of the sources is so.

use std::fs;
use std::path::Path;

use crate::support::host::workspace;

fn read(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// All Rust sources of the host and the tests, in one string.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The parts of a text between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let mut code = String::new();
    sources(&workspace().join("runtime/src"), &mut code);
    sources(&workspace().join("tests"), &mut code);
    let architecture = read("ARCHITECTURE.md");
    let invariants: Vec<&str> =
        architecture.split("\n\n").filter(|paragraph| paragraph.starts_with("**Invariant:**")).collect();
    assert!(invariants.len() >= 12, "only {} invariants", invariants.len());
    for invariant in invariants {
        let tests: Vec<&str> = quoted(invariant).into_iter().filter(|name| name.matches('_').count() > 1).collect();
        assert!(!tests.is_empty(), "names no test: {invariant}");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "{test} does not exist");
        }
    }
}

#[test]
fn every_path_that_is_named_exists() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = read(document);
        for name in quoted(&text) {
            let of_the_project = ["runtime/", "sdk/", "wit/", "docs/", "tests/", "schemas/", "scripts/", "bench/"];
            if of_the_project.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '*', '<']) {
                // What is built is not there before it is built.
                let found = name.starts_with("bench/out") || workspace().join(name).exists();
                assert!(found, "{document} names {name}");
            }
        }
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap().split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(workspace().join(target).exists(), "{document} links to {target}");
            }
        }
    }
}
