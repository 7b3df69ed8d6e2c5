//! What is fuzzed: each module has one function that takes any bytes and panics if something holds that must not.
//!
//! They are compiled twice: for libFuzzer, which looks for inputs (`make fuzz`), and into the tests, which replay the
//! inputs that were kept (`corpus/`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target tells what it found by panicking"
)]
#![allow(unreachable_pub, reason = "libFuzzer's binaries reach it")]

pub mod component;
pub mod config;
pub mod transcoder;
pub mod wire;
