//! Medians and ratios, for people and for scripts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::contender::Contender;

/// Ratios that are reported when both sides were measured. They are taken within each round.
const RATIOS: [(Contender, Contender); 3] = [
    (Contender::NoopFresh, Contender::Python),
    (Contender::NoopFresh, Contender::Bare),
    (Contender::NoopFresh, Contender::Native),
];

/// Between these lines of a document stand the figures, and whatever stood there before is replaced.
const BEGIN: &str = "<!-- figures: `make bench` writes them here -->";
const END: &str = "<!-- end of the figures -->";

/// Everything that was measured.
pub(crate) struct Summary {
    machine: String,
    events: String,
    rates: Vec<(Contender, Vec<f64>)>,
}

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    events: &'a str,
    figures: Vec<Figure>,
    ratios: Vec<Figure>,
}

/// One line of the summary.
#[derive(Serialize)]
struct Figure {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    median: f64,
    min: f64,
    max: f64,
}

// === impl Summary ===

impl Summary {
    pub(crate) fn new(machine: String, events: String) -> Self {
        Self { machine, events, rates: Vec::new() }
    }

    /// Adds the rate of one round. Rounds come in order for each contender.
    pub(crate) fn add(&mut self, contender: Contender, rate: f64) {
        match self.rates.iter_mut().find(|(known, _)| *known == contender) {
            Some((_, rates)) => rates.push(rate),
            None => self.rates.push((contender, vec![rate])),
        }
    }

    /// Writes `summary.json` and `summary.md`.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out)?;
        let json =
            Json { machine: &self.machine, events: &self.events, figures: self.figures(), ratios: self.ratios() };
        let write = |name: &str, text: String| {
            let file = out.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("summary.json", serde_json::to_string_pretty(&json)? + "\n")?;
        write("summary.md", self.markdown())
    }

    /// A table, and below it what it was measured with.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| | events/s, median | min | max |\n|---|---:|---:|---:|\n");
        let mut row = |name: &str, figure: &Figure, digits: usize| {
            let Figure { median, min, max, .. } = figure;
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {name} | {median:.digits$} | {min:.digits$} | {max:.digits$} |");
        };
        for ((contender, _), figure) in self.rates.iter().zip(self.figures()) {
            row(contender.describe(), &figure, 0);
        }
        for figure in self.ratios() {
            row(&format!("`{}`", figure.name), &figure, 2);
        }
        let _ = writeln!(text, "\n{}; {}.", self.events, self.machine);
        text
    }

    /// Puts the table between the two marks of a document.
    pub(crate) fn put_into(&self, document: &Path) -> Result<()> {
        let text = fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let (before, rest) = text.split_once(BEGIN).context("the document has no mark where the figures begin")?;
        let (_, after) = rest.split_once(END).context("the document has no mark where the figures end")?;
        fs::write(document, format!("{before}{BEGIN}\n{}{END}{after}", self.markdown()))
            .with_context(|| format!("cannot write {}", document.display()))
    }

    fn figures(&self) -> Vec<Figure> {
        self.rates.iter().map(|(contender, rates)| Figure::of(contender.to_string(), Some("events/s"), rates)).collect()
    }

    fn ratios(&self) -> Vec<Figure> {
        let rates = |wanted| self.rates.iter().find(|(contender, _)| *contender == wanted).map(|(_, rates)| rates);
        let mut ratios = Vec::new();
        for (over, under) in RATIOS {
            if let (Some(over_rates), Some(under_rates)) = (rates(over), rates(under)) {
                let each: Vec<f64> = over_rates.iter().zip(under_rates).map(|(over, under)| over / under).collect();
                ratios.push(Figure::of(format!("{over}/{under}"), None, &each));
            }
        }
        ratios
    }
}

// === impl Figure ===

impl Figure {
    fn of(name: String, unit: Option<&'static str>, values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { name, unit, median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_over_rounds() {
        let mut summary = Summary::new("machine".into(), "events".into());
        for (noop, python) in [(30.0, 3.0), (10.0, 2.0), (20.0, 1.0)] {
            summary.add(Contender::NoopFresh, noop);
            summary.add(Contender::Python, python);
        }
        let figures = summary.figures();
        assert_eq!((figures[0].median, figures[0].min, figures[0].max), (20.0, 10.0, 30.0));
        let ratios = summary.ratios();
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].name, "noop_fresh/python");
        assert_eq!((ratios[0].median, ratios[0].min, ratios[0].max), (10.0, 5.0, 20.0));
    }

    #[test]
    fn figures_replace_what_stood_between_the_marks() {
        let mut summary = Summary::new("machine".into(), "events".into());
        summary.add(Contender::Bare, 7.0);
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("README.md");
        fs::write(&document, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        summary.put_into(&document).unwrap();
        let text = fs::read_to_string(&document).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("\nafter\n"), "{text}");
        assert!(text.contains("| 7 | 7 | 7 |") && !text.contains("old"), "{text}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Figure::of("x".into(), None, &[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
