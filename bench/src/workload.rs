//! What is measured: each workload with the contenders that say something about it.

use anyhow::Result;
use clap::ValueEnum;

use crate::contender::Contender::{
    self, Bare, CpuFresh, CpuNative, Native, NoopFresh, NoopIsolated, NoopReuse, Python, Smallest, Watermill,
    XapiFresh, XapiPython,
};
use crate::drain::Drain;
use crate::event::Event;
use crate::report::{Ratio, Summary};
use crate::sample::Sample;
use crate::{Bench, calls, latency};

/// What is compared with what.
pub(crate) const RATIOS: [Ratio; 14] = [
    ("noop_fresh/python", "noop_fresh", "python"),
    ("noop_fresh/bare", "noop_fresh", "bare"),
    ("noop_fresh/native", "noop_fresh", "native"),
    ("noop_fresh/watermill", "noop_fresh", "watermill"),
    ("xapi_fresh/python", "xapi_fresh", "xapi_python"),
    ("noop_fresh/smallest", "noop_fresh", "smallest"),
    ("noop_reuse/noop_fresh", "noop_reuse", "noop_fresh"),
    ("noop_reuse/native", "noop_reuse", "native"),
    ("noop_isolated/noop_fresh", "noop_isolated", "noop_fresh"),
    ("cpu_fresh/native", "cpu_fresh", "cpu_native"),
    ("noop_fresh_100b/bare", "noop_fresh_100b", "bare_100b"),
    ("noop_fresh_16kib/bare", "noop_fresh_16kib", "bare_16kib"),
    ("noop_fresh_100_handlers/bare", "noop_fresh_100_handlers", "bare_100_handlers"),
    ("noop_fresh_100_topics/bare", "noop_fresh_100_topics", "bare_100_topics"),
];

/// Topics, and handlers, where there are many.
const MANY: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A handler that does nothing, events of 1 KiB: the main comparison.
    Noop,
    /// A handler that parses the event and publishes another.
    Xapi,
    /// A handler that computes for about 100 µs.
    Cpu,
    /// Payloads of 100 bytes.
    #[value(name = "100b")]
    Small,
    /// Payloads of 16 KiB.
    #[value(name = "16kib")]
    Large,
    /// 100 handlers on one topic.
    Handlers,
    /// One handler on 100 topics.
    Topics,
    /// The time to the acknowledgement at fixed rates.
    Latency,
    /// Calls of an Extism plugin, without a bus.
    Calls,
}

// === impl Workload ===

impl Workload {
    /// Adds what all rounds of it measure.
    pub(crate) fn run(self, bench: &Bench<'_>, summary: &mut Summary) -> Result<()> {
        let Some(drain) = self.drain(bench.events) else {
            for round in 0..bench.rounds {
                for sample in self.figures(bench, round)? {
                    bench.say(round, &format!("{:<24} {:>9.0} {}", sample.name, sample.value, sample.unit));
                    summary.add(round, sample);
                }
            }
            return Ok(());
        };
        let event = self.event(bench)?;
        let name = self.to_possible_value();
        drain.run(bench, name.as_ref().map_or("", |name| name.get_name()), event, summary)
    }

    /// One round of what is no backlog.
    fn figures(self, bench: &Bench<'_>, round: usize) -> Result<Vec<Sample>> {
        match self {
            Self::Latency => latency::measure(bench.paths, bench.server, round, &bench.among(latency::CONTENDERS)),
            _ => match bench.paths.extism() {
                Ok(program) => calls::measure(program),
                Err(why) => {
                    bench.leave_out("extism", &why);
                    Ok(Vec::new())
                }
            },
        }
    }

    /// None if nothing is drained.
    fn drain(self, events: u64) -> Option<Drain> {
        let many = events.div_ceil(MANY as u64);
        let contenders: &[Contender] = match self {
            Self::Noop => &[Smallest, Bare, Native, NoopFresh, NoopReuse, NoopIsolated, Watermill, Python],
            Self::Xapi => &[XapiFresh, XapiPython],
            Self::Cpu => &[CpuNative, CpuFresh],
            Self::Small | Self::Large => &[Smallest, Bare, Native, NoopFresh],
            Self::Handlers | Self::Topics => &[Bare, NoopFresh],
            Self::Latency | Self::Calls => return None,
        };
        let (suffix, what, topics, handlers, events) = match self {
            Self::Small => ("_100b", ", 100 B payload", 1, 1, events),
            Self::Large => ("_16kib", ", 16 KiB payload", 1, 1, events / 8),
            Self::Handlers => ("_100_handlers", ", 100 handlers", 1, MANY, many),
            Self::Topics => ("_100_topics", ", 100 topics", MANY, 1, many),
            Self::Xapi => ("", "", 1, 1, events / 4),
            Self::Cpu => ("", "", 1, 1, events / 10),
            Self::Noop | Self::Latency | Self::Calls => ("", "", 1, 1, events),
        };
        Some(Drain { contenders, suffix, what, topics, handlers, events })
    }

    fn event(self, bench: &Bench<'_>) -> Result<Event> {
        let vector = |name: &str| Event::of_vector(&bench.paths.root().join("tests/vectors").join(name));
        match self {
            Self::Xapi => vector("11_course_enrollment_changed_created_by.json"),
            Self::Small => tracking(bench)?.with_payload(100),
            Self::Large => tracking(bench)?.with_payload(16 << 10),
            _ => tracking(bench),
        }
    }
}

fn tracking(bench: &Bench<'_>) -> Result<Event> {
    Event::of_vector(&bench.paths.root().join("tests/vectors/13_tracking_event_emitted.json"))
}
