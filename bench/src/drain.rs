//! Backlogs: everything is there when the contenders start, and the time to the last acknowledgement is taken.

use anyhow::{Context, Result};

use crate::Bench;
use crate::contender::Contender;
use crate::event::Event;
use crate::report::Summary;
use crate::sample::Sample;
use crate::stream::Stream;

/// A backlog and who drains it.
pub(crate) struct Drain {
    pub(crate) contenders: &'static [Contender],
    /// What the names of the figures, and their words in the table, have after the contender's.
    pub(crate) suffix: &'static str,
    pub(crate) what: &'static str,
    pub(crate) topics: usize,
    /// Each reads all topics, in a group of its own.
    pub(crate) handlers: usize,
    /// In each topic.
    pub(crate) events: u64,
}

// === impl Drain ===

impl Drain {
    /// Lets all contenders drain the same streams, in rounds that alternate.
    pub(crate) fn run(&self, bench: &Bench<'_>, workload: &str, event: Event, summary: &mut Summary) -> Result<()> {
        let contenders = bench.among(self.contenders);
        if contenders.is_empty() {
            return Ok(());
        }
        let stream = Stream::fill(bench.server, event, self.topics, self.events)?;
        summary.note(format!("`{workload}`: {}", stream.describe()));
        for round in 0..bench.rounds {
            for place in 0..contenders.len() {
                // Whoever comes first in one round comes later in the next.
                let contender = contenders[(round + place) % contenders.len()];
                let rate = self
                    .once(bench, &stream, contender)
                    .with_context(|| format!("{contender}{} in round {}", self.suffix, round + 1))?;
                let name = format!("{contender}{}", self.suffix);
                bench.say(round, &format!("{name:<24} {rate:>9.0} events/s"));
                let what = format!("{}{}", contender.describe(), self.what);
                summary.add(round, Sample::new(name, what, "events/s", rate));
            }
        }
        Ok(())
    }

    /// Events per second, each counted once for each handler.
    fn once(&self, bench: &Bench<'_>, stream: &Stream<'_>, contender: Contender) -> Result<f64> {
        let groups: Vec<String> = (1..=self.handlers).map(|number| format!("{contender}-{number}")).collect();
        let all = self.events * (self.topics * self.handlers) as u64;
        let mut running = contender.start(bench.paths, stream, &groups)?;
        let rate = stream.watch(contender.share(all), &mut running);
        drop(running);
        stream.forget_readers()?;
        rate
    }
}
