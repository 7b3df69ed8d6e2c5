//! Tells the program which compiler it was built with: counts of another one cannot be compared.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    println!("cargo::rustc-env=SANDBAR_COSTS_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
}
