//! Who is measured, and how each is started.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

use crate::bare::{self, AtTheEnd};
use crate::paths::Paths;
use crate::running::Running;
use crate::stream::Stream;
use crate::{host, native, peers, smallest};

/// Events that slow contenders handle in a round: some seconds, as the others take with the whole stream.
const SLOW_EVENTS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Contender {
    /// The limit: one socket, nothing looked at but the ids.
    Smallest,
    /// XREADGROUP and XACK in a loop, nothing decoded, nothing called.
    Bare,
    /// The same loop; each event is decoded and given to a function.
    Native,
    /// `sandbar run` with a handler that does nothing, in a fresh instance for each event.
    NoopFresh,
    /// The same with instances that are kept for 1,000 events.
    NoopReuse,
    /// `noop_fresh` with `isolation = "process"`: each call is made in another process.
    NoopIsolated,
    /// Watermill's subscriber for Redis Streams.
    Watermill,
    /// The Python consumer with a receiver that does nothing, logging off.
    Python,
    /// `sandbar run` with the example handler xapi.
    XapiFresh,
    /// The Python consumer with a receiver that does what xapi does.
    XapiPython,
    /// The loop with decoding and a function that computes for 100 µs.
    CpuNative,
    /// `sandbar run` with a handler that computes the same.
    CpuFresh,
}

// === impl Contender ===

impl Contender {
    /// Starts draining the stream, once for each group. The groups are made at the beginning of the stream.
    pub(crate) fn start(self, paths: &Paths, stream: &Stream<'_>, groups: &[String]) -> Result<Running> {
        match self {
            Self::Smallest => smallest::start(stream, &groups[0]),
            Self::Bare => bare::start(stream, groups, AtTheEnd::Stop),
            Self::Native => native::start(paths.root(), stream, groups, false),
            Self::CpuNative => native::start(paths.root(), stream, groups, true),
            Self::NoopFresh => host::start(paths, stream, groups, &host::NOOP),
            Self::NoopReuse => host::start(paths, stream, groups, &host::NOOP_REUSE),
            Self::NoopIsolated => host::start(paths, stream, groups, &host::NOOP_ISOLATED),
            Self::CpuFresh => host::start(paths, stream, groups, &host::BUSY),
            Self::XapiFresh => host::start(paths, stream, groups, &host::XAPI),
            Self::Watermill => peers::watermill(paths, stream, &groups[0]),
            Self::Python => peers::python(paths, stream, &groups[0]),
            Self::XapiPython => peers::python_xapi(paths, stream, &groups[0]),
        }
    }

    /// How many of `all` events it is measured with.
    pub(crate) fn share(self, all: u64) -> u64 {
        match self {
            Self::Watermill => all.min(2 * SLOW_EVENTS),
            Self::Python => all.min(SLOW_EVENTS),
            Self::XapiPython => all.min(SLOW_EVENTS / 2),
            _ => all,
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Smallest => "the smallest client: one socket, ids picked out by hand",
            Self::Bare => "bare XREADGROUP COUNT 200 / XACK loop in Rust",
            Self::Native => "the same loop, decoding, and a native function instead of a sandbox",
            Self::NoopFresh => "Sandbar, no-op Rust handler, fresh instance per event",
            Self::NoopReuse => "Sandbar, no-op Rust handler, an instance for 1,000 events",
            Self::NoopIsolated => "Sandbar, no-op Rust handler, isolation = \"process\", fresh instance per event",
            Self::Watermill => "Watermill's Redis Streams subscriber (Go), no-op",
            Self::Python => "Python consumer, no-op receiver, logging off",
            Self::XapiFresh => "Sandbar, xapi: parse, publish with the acknowledgement, fresh instance per event",
            Self::XapiPython => "Python consumer and producer doing the same",
            Self::CpuNative => "the loop with decoding and a native function that computes for about 100 µs",
            Self::CpuFresh => "Sandbar, handler that computes the same, fresh instance per event",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Smallest => "smallest",
            Self::Bare => "bare",
            Self::Native => "native",
            Self::NoopFresh => "noop_fresh",
            Self::NoopReuse => "noop_reuse",
            Self::NoopIsolated => "noop_isolated",
            Self::Watermill => "watermill",
            Self::Python => "python",
            Self::XapiFresh => "xapi_fresh",
            Self::XapiPython => "xapi_python",
            Self::CpuNative => "cpu_native",
            Self::CpuFresh => "cpu_fresh",
        })
    }
}
