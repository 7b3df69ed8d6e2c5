//! Medians and ratios, for people and for scripts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sample::Sample;

mod plots;
mod svg;
mod table;

/// Two figures whose quotient is reported when both were measured: its name, the figure over the line, the one under it.
pub(crate) type Ratio = (&'static str, &'static str, &'static str);

/// Between these lines of a document stand the figures, and whatever stood there before is replaced.
const BEGIN: &str = "<!-- figures: `make bench` writes them here -->";
const END: &str = "<!-- end of the figures -->";

/// Everything that was measured.
pub(crate) struct Summary {
    machine: String,
    pairs: Vec<Ratio>,
    series: Vec<Series>,
    notes: Vec<String>,
}

/// The samples of one name, each with its round.
struct Series {
    name: String,
    what: String,
    unit: &'static str,
    rounds: Vec<(usize, f64)>,
}

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    figures: &'a [Figure],
    ratios: &'a [Figure],
}

/// One line of the summary.
#[derive(Serialize)]
struct Figure {
    name: String,
    #[serde(skip)]
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    median: f64,
    min: f64,
    max: f64,
}

// === impl Summary ===

impl Summary {
    /// With the ratios of those pairs of which both sides will have been measured.
    pub(crate) fn new(machine: String, pairs: Vec<Ratio>) -> Self {
        Self { machine, pairs, series: Vec::new(), notes: Vec::new() }
    }

    /// Adds what was measured in one round. Lines stand in the order in which their names come first.
    pub(crate) fn add(&mut self, round: usize, sample: Sample) {
        match self.series.iter_mut().find(|known| known.name == sample.name) {
            Some(series) => series.rounds.push((round, sample.value)),
            None => {
                let Sample { name, what, unit, value } = sample;
                self.series.push(Series { name, what, unit, rounds: vec![(round, value)] });
            }
        }
    }

    /// Adds a line to what stands below the tables.
    pub(crate) fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Writes `summary.json`, `summary.md` and the plots.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let (figures, ratios) = (self.figures(), self.ratios());
        let json = Json { machine: &self.machine, figures: &figures, ratios: &ratios };
        put(out, "summary.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
        put(out, "summary.md", &self.markdown(None))?;
        self.draw(out, &figures).map(drop)
    }

    /// The tables and, if the plots lie in a folder that the document can name, these.
    pub(crate) fn markdown(&self, plots: Option<(&str, &[&str])>) -> String {
        table::write(&self.machine, &self.notes, &self.figures(), &self.ratios(), plots)
    }

    /// Puts the tables between the two marks of a document, and the plots that it shows into `folder` beside it.
    pub(crate) fn put_into(&self, document: &Path, folder: &str) -> Result<()> {
        let text = fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let (before, rest) = text.split_once(BEGIN).context("the document has no mark where the figures begin")?;
        let (_, after) = rest.split_once(END).context("the document has no mark where the figures end")?;
        let beside = document.parent().unwrap_or(Path::new("")).join(folder);
        let drawn = self.draw(&beside, &self.figures())?;
        let tables = self.markdown(Some((folder, &drawn)));
        fs::write(document, format!("{before}{BEGIN}\n{tables}{END}{after}"))
            .with_context(|| format!("cannot write {}", document.display()))
    }

    /// Writes the plots there is something for, and tells their names.
    fn draw(&self, folder: &Path, figures: &[Figure]) -> Result<Vec<&'static str>> {
        let mut names = Vec::new();
        for (name, plot) in plots::of(figures) {
            put(folder, name, &plot)?;
            names.push(name);
        }
        Ok(names)
    }

    fn figures(&self) -> Vec<Figure> {
        let figure = |series: &Series| {
            let values: Vec<f64> = series.rounds.iter().map(|(_, value)| *value).collect();
            Figure::of(series.name.clone(), series.what.clone(), Some(series.unit), &values)
        };
        self.series.iter().map(figure).collect()
    }

    /// Each is taken within a round, so whatever else the machine did in it met both sides.
    fn ratios(&self) -> Vec<Figure> {
        let series = |name: &str| self.series.iter().find(|series| series.name == name);
        let mut ratios = Vec::new();
        for (name, over, under) in &self.pairs {
            let (Some(over), Some(under)) = (series(over), series(under)) else { continue };
            let mut each = Vec::new();
            for (round, value) in &over.rounds {
                each.extend(under.rounds.iter().filter(|(other, _)| other == round).map(|(_, under)| value / under));
            }
            if !each.is_empty() {
                ratios.push(Figure::of((*name).to_owned(), format!("`{name}`"), None, &each));
            }
        }
        ratios
    }
}

// === impl Figure ===

impl Figure {
    fn of(name: String, what: String, unit: Option<&'static str>, values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { name, what, unit, median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let file = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(rounds: &[&[(&str, f64)]]) -> Summary {
        let pairs =
            vec![("noop_fresh/python", "noop_fresh", "python"), ("xapi_fresh/python", "xapi_fresh", "xapi_python")];
        let mut summary = Summary::new("machine".into(), pairs);
        for (round, samples) in rounds.iter().enumerate() {
            for (name, value) in *samples {
                summary.add(round, Sample::new(*name, format!("what {name} is"), "events/s", *value));
            }
        }
        summary
    }

    fn three(figure: &Figure) -> (f64, f64, f64) {
        (figure.median, figure.min, figure.max)
    }

    #[test]
    fn medians_and_ratios_are_taken_over_rounds() {
        // The order within a round does not matter, and a round without one side has no ratio.
        let summary = summary(&[
            &[("noop_fresh", 30.0), ("python", 3.0)],
            &[("python", 2.0), ("noop_fresh", 10.0)],
            &[("noop_fresh", 20.0), ("python", 1.0)],
            &[("noop_fresh", 20.0)],
        ]);
        assert_eq!(three(&summary.figures()[0]), (20.0, 10.0, 30.0));
        let ratios = summary.ratios();
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].name, "noop_fresh/python");
        assert_eq!(three(&ratios[0]), (10.0, 5.0, 20.0));
    }

    #[test]
    fn a_ratio_has_the_name_that_it_was_given() {
        let summary = summary(&[&[("xapi_fresh", 8.0), ("xapi_python", 2.0)]]);
        assert_eq!((summary.ratios()[0].name.as_str(), summary.ratios()[0].median), ("xapi_fresh/python", 4.0));
    }

    #[test]
    fn the_summary_for_scripts_has_figures_and_ratios() {
        let folder = tempfile::tempdir().unwrap();
        summary(&[&[("noop_fresh", 8.0), ("python", 2.0)]]).write(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join("summary.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "machine": "machine",
            "figures": [
                { "name": "noop_fresh", "unit": "events/s", "median": 8.0, "min": 8.0, "max": 8.0 },
                { "name": "python", "unit": "events/s", "median": 2.0, "min": 2.0, "max": 2.0 },
            ],
            "ratios": [{ "name": "noop_fresh/python", "median": 4.0, "min": 4.0, "max": 4.0 }],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn figures_replace_what_stood_between_the_marks() {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("README.md");
        fs::write(&document, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        summary(&[&[("bare", 1234.0), ("noop_fresh", 7.0)]]).put_into(&document, "plots").unwrap();
        let text = fs::read_to_string(&document).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("\nafter\n"), "{text}");
        assert!(
            text.contains("| what bare is | 1,234 | 1,234 | 1,234 | events/s |") && !text.contains("old"),
            "{text}"
        );
        // Every plot that it shows is there.
        let shown: Vec<&str> = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
        assert!(shown.contains(&"plots/throughput.svg"), "{text}");
        for plot in shown {
            assert!(folder.path().join(plot).exists(), "{plot} is missing");
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Figure::of("x".into(), String::new(), None, &[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
