//! Figures beside the contenders: what a handler costs that does nothing, how long a start takes, the embedded bus,
//! publishing, and how the rate changes as the work grows.
//!
//! Each figure brings its own server or file, so that none finds what another has left behind.

use std::fmt;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::paths::Paths;
use crate::report::Ratio;
use crate::sample::Sample;

mod event;
mod growth;
mod host;
mod idle;
mod progress;
mod publish;
mod soak;
mod sqlite;
mod start;

/// Ratios that are reported when both sides were measured: name, over, under.
pub(crate) const RATIOS: [Ratio; 2] =
    [("sqlite_noop/raw_sqlite", "sqlite_noop", "raw_sqlite"), ("publish/python", "publish", "publish_python")];

/// Which figures are measured, and how much work each gets.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only the figures, no contenders
    #[arg(long)]
    pub(crate) only_figures: bool,
    /// Measure only the contenders, no figures
    #[arg(long, conflicts_with = "only_figures")]
    pub(crate) no_figures: bool,
    /// Which figures to measure
    #[arg(long, value_delimiter = ',', default_values_t = Figure::value_variants().to_vec())]
    pub(crate) figures: Vec<Figure>,
    /// Handlers that idle while their memory is measured
    #[arg(long, default_value_t = 1_000)]
    idle_handlers: usize,
    /// Modules of the start-up with many
    #[arg(long, default_value_t = 100)]
    start_modules: usize,
    /// Events that the embedded bus drains
    #[arg(long, default_value_t = 50_000)]
    sqlite_events: u64,
    /// Events that are published from a file
    #[arg(long, default_value_t = 1_000_000)]
    publish_events: u64,
    /// Calls at each point of the figures over growing work
    #[arg(long, default_value_t = 100_000)]
    growth_events: u64,
    /// How long a host runs under load while its memory is watched
    #[arg(long, default_value_t = 0.5)]
    soak_minutes: f64,
}

/// One kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Figure {
    Start,
    Idle,
    Sqlite,
    Publish,
    Growth,
    Soak,
}

// === impl Options ===

impl Options {
    /// The figures of this run.
    pub(crate) fn chosen(&self) -> &[Figure] {
        if self.no_figures { &[] } else { &self.figures }
    }

    /// Measures one figure once.
    pub(crate) fn measure(&self, figure: Figure, paths: &Paths) -> Result<Vec<Sample>> {
        let measured = match figure {
            Figure::Start => start::measure(paths, self.start_modules),
            Figure::Idle => idle::measure(paths, self.idle_handlers),
            Figure::Sqlite => sqlite::measure(paths, self.sqlite_events),
            Figure::Publish => publish::measure(paths, self.publish_events),
            Figure::Growth => growth::measure(paths, self.growth_events),
            Figure::Soak => soak::measure(paths, self.soak_minutes),
        };
        measured.with_context(|| format!("figure {figure}"))
    }
}

// === impl Figure ===

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Idle => "idle",
            Self::Sqlite => "sqlite",
            Self::Publish => "publish",
            Self::Growth => "growth",
            Self::Soak => "soak",
        })
    }
}
