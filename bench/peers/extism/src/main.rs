//! Calls of an Extism plugin that does nothing: what the framework costs without any bus.
//!
//!     extism-calls FILE EVENTS
//!
//! Gives the plugin the bytes of FILE for each of EVENTS events, once to one instance that is kept and once to a fresh
//! instance each, and prints the calls per second of both, one number a line.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use extism::{CompiledPlugin, Plugin, PluginBuilder, Wasm};

/// A module that exports one function, which returns success. It does not even read its input.
const NOOP: &str = r#"(module (memory (export "memory") 1) (func (export "handle") (result i32) (i32.const 0)))"#;
/// A fresh plugin takes so much longer that fewer calls say the same.
const FRESH_SHARE: u64 = 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: extism-calls FILE EVENTS";
    let input = std::fs::read(arguments.next().context(usage)?)?;
    let events: u64 = arguments.next().context(usage)?.parse()?;

    let compiled = PluginBuilder::new(extism::Manifest::new([Wasm::data(NOOP)])).with_cache_disabled().compile()?;
    let mut kept = Plugin::new_from_compiled(&compiled)?;
    println!("{}", rate(events, || call(&mut kept, &input))?);
    println!("{}", rate((events / FRESH_SHARE).max(1), || fresh(&compiled, &input))?);
    Ok(())
}

fn fresh(compiled: &CompiledPlugin, input: &[u8]) -> Result<()> {
    call(&mut Plugin::new_from_compiled(compiled)?, input)
}

fn call(plugin: &mut Plugin, input: &[u8]) -> Result<()> {
    let output: &[u8] = plugin.call("handle", input)?;
    black_box(output);
    Ok(())
}

/// Calls per second. The first call is not timed: it makes what is made once.
fn rate(events: u64, mut one: impl FnMut() -> Result<()>) -> Result<f64> {
    one()?;
    let start = Instant::now();
    for _ in 0..events {
        one()?;
    }
    Ok(events as f64 / start.elapsed().as_secs_f64())
}
