//! Counts what an event costs and compares it with a baseline: `make bench-count`.
//!
//! Nothing here looks at a clock. Instructions and system calls are counted by callgrind, which emulates the processor;
//! page faults by the kernel, for one thread. Both are of the build that this program belongs to: see bench/NOTES.md
//! for what that means.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "the figures are what this program is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sandbar_costs::root;

mod baseline;
mod callgrind;
mod child;
mod line;
mod measure;
mod strace;

use baseline::{Baseline, Comparison};

/// As the host allocates: an allocation costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a figure that seems to have grown is counted again. What disturbs a count only adds to it.
const SECOND_LOOKS: usize = 2;

/// Counts instructions, system calls and page faults per event and fails if one has grown against the baseline.
#[derive(Parser)]
struct Options {
    /// Writes what is counted as the new baseline.
    #[arg(long)]
    update: bool,
    /// Only the steps whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// The baseline.
    #[arg(long, default_value_os_t = root().join("bench/baseline.json"))]
    baseline: PathBuf,
    /// Does a step so often and nothing else; this program calls itself so.
    #[arg(long, hide = true, value_names = ["STEP", "WARM", "RUNS"], num_args = 3)]
    child: Option<Vec<String>>,
    /// Drains a topic and nothing else; this program calls itself so.
    #[arg(long, hide = true, value_names = ["URL", "TOPIC", "EVENTS"], num_args = 3)]
    line: Option<Vec<String>>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(arguments) = &options.child {
        return child::run(arguments).map(|()| ExitCode::SUCCESS);
    }
    if let Some(arguments) = &options.line {
        return line::run(arguments).map(|()| ExitCode::SUCCESS);
    }
    count(&options)
}

fn count(options: &Options) -> Result<ExitCode> {
    let kind = baseline::Kind::of_this_machine();
    let known = match options.update {
        true if options.only.is_none() => None,
        true => Baseline::read(&options.baseline).ok(),
        false => Some(Baseline::read(&options.baseline)?),
    };
    if let Some(known) = &known
        && let Some(difference) = known.kind.differs(&kind)
    {
        ensure!(!options.update, "another kind of machine: write a whole baseline, without --only");
        println!("bench-count: SKIPPED, NOTHING WAS COMPARED: {difference}");
        return Ok(ExitCode::SUCCESS);
    }
    let only = options.only.as_deref().unwrap_or_default();
    let mut figures = measure::all(only)?;
    if options.update {
        let figures = known.map_or_else(|| figures.clone(), |known| known.with(&figures));
        let path = &options.baseline;
        Baseline { kind, figures }.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        println!("bench-count: the baseline is renewed: {}", path.canonicalize()?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let known = known.context("there is no baseline")?;
    let compare = |figures: &[baseline::Figure]| Comparison::new(&known, &kind, figures, only);
    for _ in 0..SECOND_LOOKS {
        let comparison = compare(&figures);
        let grown = comparison.grown();
        if grown.is_empty() {
            break;
        }
        eprintln!("bench-count: looking again at {}", grown.join(", "));
        measure::again(&mut figures, &grown)?;
    }
    let comparison = compare(&figures);
    print!("{comparison}");
    Ok(if comparison.is_failure() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
