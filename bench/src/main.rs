//! Events per second through Sandbar, beside a bare loop, the same loop with a native function, and the Python consumer.
//!
//! All drain the same stream of one Redis server, in rounds that alternate, so that whatever else the machine
//! does meets them alike. Each is measured from outside, by what the server says is acknowledged.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "the figures are what this program is for")]

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

mod contender;
mod figures;
mod native;
mod report;
mod sample;
mod server;
mod stream;

use contender::{Contender, Paths};
use report::Summary;
use sample::Sample;
use server::Server;
use stream::Stream;

/// Measures events per second: a bare loop, the same with a native function, Sandbar with a handler that does nothing,
/// the Python consumer.
#[derive(Parser)]
struct Options {
    /// Rounds; each contender runs once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Events in the stream.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Which contenders to run.
    #[arg(long, value_delimiter = ',', default_values_t = Contender::value_variants().to_vec())]
    only: Vec<Contender>,
    /// The event: a test vector.
    #[arg(long, default_value_os_t = root().join("tests/vectors/13_tracking_event_emitted.json"))]
    vector: PathBuf,
    /// Where the summary goes.
    #[arg(long, default_value_os_t = root().join("bench/out"))]
    out: PathBuf,
    /// A document between whose marks the table is put.
    #[arg(long)]
    into: Option<PathBuf>,
    #[command(flatten)]
    figures: figures::Options,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && !options.only.is_empty(), "there is nothing to measure");
    let paths = Paths::from_env(root())?;
    for round in 0..options.rounds {
        let mut samples = Vec::new();
        for figure in options.figures.chosen() {
            for sample in options.figures.measure(*figure, &paths)? {
                let Sample { name, what, unit, value } = &sample;
                eprintln!("round {}: {name:<26} {value:>12.1} {unit} ({what})", round + 1);
                samples.push(sample);
            }
        }
        for (name, ratio) in figures::ratios(&samples) {
            eprintln!("round {}: {name:<26} {ratio:>12.2}", round + 1);
        }
    }
    if options.figures.only_figures {
        return Ok(());
    }

    let server = Server::start()?;
    let stream = Stream::fill(&server, &options.vector, options.events)?;
    let mut summary = Summary::new(machine(&server)?, stream.describe());
    for round in 0..options.rounds {
        for place in 0..options.only.len() {
            // Whoever comes first in one round comes later in the next.
            let contender = options.only[(round + place) % options.only.len()];
            let rate = contender
                .measure(&paths, &stream, round)
                .with_context(|| format!("{contender} in round {}", round + 1))?;
            eprintln!("round {}: {contender:<10} {rate:>9.0} events/s", round + 1);
            summary.add(contender, rate);
        }
    }
    summary.write(&options.out)?;
    if let Some(document) = &options.into {
        summary.put_into(document)?;
    }
    print!("{}", summary.markdown());
    Ok(())
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The machine and the versions that figures depend on, in one line.
fn machine(server: &Server) -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(env::consts::ARCH, |(_, name)| name);
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores of {model}, Redis {}", server.version()?))
}
