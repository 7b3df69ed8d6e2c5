//! What was counted before, and how today's counts compare with it.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sandbar_costs::{Place, STEPS};
use serde::{Deserialize, Serialize};

use super::line;

/// How much a figure may grow, where the baseline says nothing else.
const TOLERANCE: f64 = 0.05;
/// What a count of faults may grow by besides: there are none, which cannot grow by a part of itself, and a page now and
/// then is the kernel's business.
const FAULTS: f64 = 0.1;

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Baseline {
    pub(crate) kind: Kind,
    pub(crate) figures: Vec<Figure>,
}

/// What must be the same for counts to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    arch: String,
    rustc: String,
    profile: String,
    /// Whether the kernel tells which pages were written (PAGEMAP_SCAN, Linux 6.7): calls are emptied in another way
    /// without.
    pagemap_scan: bool,
}

/// One count per event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The part of it by which it may grow.
    pub(crate) tolerance: f64,
}

/// All figures beside their baseline.
#[derive(Debug)]
pub(crate) struct Comparison {
    rows: Vec<Row>,
    left_out: bool,
}

#[derive(Debug)]
struct Row {
    name: String,
    before: Option<f64>,
    now: Option<f64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Grown,
    Shrunk,
    /// Not in the baseline.
    Unknown,
    /// In the baseline and not counted any more.
    Missing,
}

// === impl Baseline ===

impl Baseline {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// The same figures with the values of these, and those of these that it does not have.
    pub(crate) fn with(self, new: &[Figure]) -> Vec<Figure> {
        let mut figures = self.figures;
        for new in new {
            match figures.iter_mut().find(|figure| figure.name == new.name) {
                Some(figure) => figure.value = new.value,
                None => figures.push(new.clone()),
            }
        }
        figures
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) fn of_this_machine() -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            rustc: env!("SANDBAR_COSTS_RUSTC").to_owned(),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" }.to_owned(),
            pagemap_scan: scans_pages(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        }
    }

    /// Why nothing can be compared with counts of the other kind, if that is so.
    pub(crate) fn differs(&self, other: &Self) -> Option<String> {
        let pairs = [(&self.arch, &other.arch), (&self.rustc, &other.rustc), (&self.profile, &other.profile)];
        let (is, here) = pairs.into_iter().find(|(is, here)| is != here)?;
        Some(format!("the baseline is of {is}, this is {here}; `make bench-count UPDATE=1` writes one of this machine"))
    }
}

/// Whether this release of Linux knows PAGEMAP_SCAN, and lets this process use it.
fn scans_pages(release: &str) -> bool {
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 7) && fs::File::open("/proc/self/pagemap").is_ok()
}

// === impl Figure ===

impl Figure {
    pub(crate) fn new(name: String, value: f64) -> Self {
        // Four digits after the point are more than any count is good for.
        Self { name, value: (value * 10_000.0).round() / 10_000.0, tolerance: TOLERANCE }
    }

    fn judge(&self, now: f64) -> Verdict {
        let room = self.value * self.tolerance + if self.name.ends_with(".faults") { FAULTS } else { 0.0 };
        if now > self.value + room {
            Verdict::Grown
        } else if now < self.value - room {
            Verdict::Shrunk
        } else {
            Verdict::Same
        }
    }
}

// === impl Comparison ===

impl Comparison {
    /// Puts figures beside those of the baseline. With `only`, figures of other steps are not expected; what depends on
    /// the kernel is left out if the kernels differ.
    pub(crate) fn new(known: &Baseline, kind: &Kind, figures: &[Figure], only: &str) -> Self {
        let left_out = known.kind.pagemap_scan != kind.pagemap_scan;
        let is_compared = |name: &str| name.contains(only) && !(left_out && in_guests(name));
        let mut rows = Vec::new();
        for figure in figures.iter().filter(|figure| is_compared(&figure.name)) {
            let before = known.figures.iter().find(|before| before.name == figure.name);
            let verdict = before.map_or(Verdict::Unknown, |before| before.judge(figure.value));
            let (name, before) = (figure.name.clone(), before.map(|before| before.value));
            rows.push(Row { name, before, now: Some(figure.value), verdict });
        }
        let is_counted = |name: &str| figures.iter().any(|figure| figure.name == name);
        for before in known.figures.iter().filter(|before| is_compared(&before.name) && !is_counted(&before.name)) {
            let (name, before) = (before.name.clone(), Some(before.value));
            rows.push(Row { name, before, now: None, verdict: Verdict::Missing });
        }
        Self { rows, left_out }
    }

    /// The figures that have grown by more than they may.
    pub(crate) fn grown(&self) -> Vec<&str> {
        self.of(Verdict::Grown).map(|row| row.name.as_str()).collect()
    }

    /// Whether something has grown, or the baseline speaks of other figures.
    pub(crate) fn is_failure(&self) -> bool {
        self.rows.iter().any(|row| !matches!(row.verdict, Verdict::Same | Verdict::Shrunk))
    }

    fn of(&self, verdict: Verdict) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.verdict == verdict)
    }
}

fn in_guests(figure: &str) -> bool {
    let step = figure.split('.').next().unwrap_or_default();
    step == line::NAME || STEPS.iter().any(|known| known.name == step && known.place == Place::HereInGuests)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        writeln!(f, "{:<32}{:>14}{:>14}{:>10}", "per event", "baseline", "now", "change")?;
        for row in &self.rows {
            let change = match (row.before, row.now) {
                (Some(before), Some(now)) if before > 0.0 => format!("{:+.1} %", (now / before - 1.0) * 100.0),
                _ => "-".to_owned(),
            };
            let remark = match row.verdict {
                Verdict::Same => "",
                Verdict::Grown => "  GROWN",
                Verdict::Shrunk => "  less",
                Verdict::Unknown => "  NOT IN THE BASELINE",
                Verdict::Missing => "  NO LONGER COUNTED",
            };
            writeln!(f, "{:<32}{:>14}{:>14}{change:>10}{remark}", row.name, number(row.before), number(row.now))?;
        }
        if self.left_out {
            writeln!(f, "bench-count: CALLS WERE NOT COMPARED: this kernel empties their memory in another way")?;
        }
        if self.is_failure() {
            writeln!(
                f,
                "bench-count: failed. If it has to be so, `make bench-count UPDATE=1` writes a new baseline, to be committed with the reason."
            )
        } else if self.of(Verdict::Shrunk).next().is_some() {
            writeln!(f, "bench-count: passed, and some cost less: `make bench-count UPDATE=1` keeps it so")
        } else {
            writeln!(f, "bench-count: passed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        Kind { arch: "a".into(), rustc: "r".into(), profile: "dev".into(), pagemap_scan: true }
    }

    fn figure(name: &str, value: f64) -> Figure {
        Figure::new(name.into(), value)
    }

    fn compared(before: &[Figure], now: &[Figure]) -> Comparison {
        Comparison::new(&Baseline { kind: kind(), figures: before.to_vec() }, &kind(), now, "")
    }

    #[test]
    fn more_than_the_tolerance_fails_and_less_is_only_told() {
        for (now, failure, word) in
            [(105.0, false, "passed\n"), (105.1, true, "GROWN"), (95.0, false, "passed\n"), (94.0, false, "cost less")]
        {
            let comparison = compared(&[figure("x", 100.0)], &[figure("x", now)]);
            assert_eq!(comparison.is_failure(), failure, "{now}");
            assert!(comparison.to_string().contains(word), "{now}: {comparison}");
        }
    }

    #[test]
    fn no_faults_may_not_become_one() {
        let faults = |value| [figure("x.faults", value)];
        assert!(!compared(&faults(0.0), &faults(0.1)).is_failure());
        assert!(compared(&faults(0.0), &faults(0.2)).is_failure());
    }

    #[test]
    fn figures_without_a_partner_fail() {
        let (one, two) = ([figure("x", 1.0)], [figure("x", 1.0), figure("y", 1.0)]);
        assert!(compared(&one, &two).to_string().contains("NOT IN THE BASELINE"));
        assert!(compared(&two, &one).to_string().contains("NO LONGER COUNTED"));
        assert!(compared(&one, &two).is_failure() && compared(&two, &one).is_failure());
    }

    #[test]
    fn another_kernel_leaves_out_the_calls_and_no_more() {
        let before =
            Baseline { kind: kind(), figures: vec![figure("call_noop.faults", 1.0), figure("dispatch.x", 1.0)] };
        let now = [figure("call_noop.faults", 9.0), figure("dispatch.x", 1.0)];
        let older = Kind { pagemap_scan: false, ..kind() };
        assert!(!Comparison::new(&before, &older, &now, "").is_failure());
        assert!(Comparison::new(&before, &kind(), &now, "").is_failure());
        assert!(scans_pages("6.18.44-x") && !scans_pages("6.6.1") && !scans_pages("5.19") && !scans_pages(""));
    }

    #[test]
    fn another_compiler_or_machine_is_said() {
        let other = Kind { rustc: "s".into(), ..kind() };
        assert!(kind().differs(&other).unwrap().contains("of r, this is s"));
        assert_eq!(kind().differs(&Kind { pagemap_scan: false, ..kind() }), None);
    }

    #[test]
    fn a_part_of_the_baseline_can_be_renewed() {
        let baseline = Baseline { kind: kind(), figures: vec![figure("x", 1.0), figure("y", 1.0)] };
        assert_eq!(
            baseline.with(&[figure("y", 2.0), figure("z", 3.0)]),
            [figure("x", 1.0), figure("y", 2.0), figure("z", 3.0)]
        );
    }
}
