//! Tests of the host from outside: one package, one binary.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends by panicking")]
#![allow(clippy::print_stderr, reason = "a failed test prints the log of what it started")]

mod arrows;
mod cli;
mod config;
mod conformance;
mod crash;
mod documents;
mod examples;
mod fastavro;
mod faults;
mod fuzz;
mod hostile;
mod interop;
mod redis;
mod run;
mod sandbox;
mod sqlite;
mod support;
mod vectors;
