//! Events per second through Sandbar, beside loops without a sandbox and what others offer, and the latency it adds.
//!
//! All contenders of a workload drain the same streams of one Redis server, in rounds that alternate, so that whatever
//! else the machine does meets them alike. Each is measured from outside, by what the server says is acknowledged.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "the figures are what this program is for")]

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

mod bare;
mod calls;
mod contender;
mod drain;
mod event;
mod figures;
mod host;
mod latency;
mod native;
mod paths;
mod peers;
mod report;
mod running;
mod sample;
mod server;
mod smallest;
mod stream;
mod workload;

use contender::Contender;
use paths::Paths;
use report::Summary;
use sample::Sample;
use server::Server;
use workload::Workload;

/// Where the plots that a document shows lie, seen from it.
const PLOTS: &str = "bench/plots";

/// Measures Sandbar beside loops without a sandbox and what others offer.
#[derive(Parser)]
struct Options {
    /// Rounds; each contender runs once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Events in the stream of the main comparison. The other workloads have a share of it.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Which workloads to run. Default: all.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Which of the workloads' contenders to run. Default: all whose programs are there.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Where the summary and the plots go.
    #[arg(long, default_value_os_t = root().join("bench/out"))]
    out: PathBuf,
    /// A document between whose marks the tables are put. The plots that it shows go to bench/plots beside it.
    #[arg(long)]
    into: Option<PathBuf>,
    #[command(flatten)]
    figures: figures::Options,
}

/// What all workloads need.
pub(crate) struct Bench<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) server: &'a Server,
    pub(crate) rounds: usize,
    pub(crate) events: u64,
    /// Whom the command line names.
    only: Vec<Contender>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && options.events > 0, "there is nothing to measure");
    let paths = Paths::from_env(root())?;
    let server = Server::start()?;
    let bench =
        Bench { paths: &paths, server: &server, rounds: options.rounds, events: options.events, only: options.only };
    let workloads = match options.workloads {
        chosen if !chosen.is_empty() => chosen,
        _ => Workload::value_variants().to_vec(),
    };

    let mut summary = Summary::new(machine(&server)?, [&workload::RATIOS[..], &figures::RATIOS[..]].concat());
    if !options.figures.only_figures {
        for workload in workloads {
            workload.run(&bench, &mut summary)?;
        }
    }
    for round in 0..options.rounds {
        for figure in options.figures.chosen() {
            for sample in options.figures.measure(*figure, &paths)? {
                let Sample { name, what, unit, value } = &sample;
                eprintln!("round {}: {name:<26} {value:>12.1} {unit} ({what})", round + 1);
                summary.add(round, sample);
            }
        }
    }
    summary.write(&options.out)?;
    if let Some(document) = &options.into {
        summary.put_into(document, PLOTS)?;
    }
    print!("{}", summary.markdown(None));
    Ok(())
}

// === impl Bench ===

impl Bench<'_> {
    /// Those of a workload's contenders that are to run.
    pub(crate) fn among(&self, contenders: &[Contender]) -> Vec<Contender> {
        let wanted = |contender: &Contender| match contender {
            _ if !self.only.is_empty() => self.only.contains(contender),
            // Go may be missing here, and with it only this one.
            Contender::Watermill => self.paths.watermill().inspect_err(|why| self.leave_out(contender, why)).is_ok(),
            _ => true,
        };
        contenders.iter().copied().filter(wanted).collect()
    }

    /// Tells the one who waits how it goes.
    pub(crate) fn say(&self, round: usize, line: &str) {
        eprintln!("round {}: {line}", round + 1);
    }

    /// Tells what is not measured.
    pub(crate) fn leave_out(&self, what: impl std::fmt::Display, why: &anyhow::Error) {
        eprintln!("{what} is left out: {why}");
    }
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
