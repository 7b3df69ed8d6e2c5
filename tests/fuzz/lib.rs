//! What libFuzzer calls, as a library for its binaries.

pub mod targets;
