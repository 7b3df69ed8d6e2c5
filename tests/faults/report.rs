//! What a soak came to: a JSON document, and a table for the README.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Ran;
use super::checker::Figures;

/// The table stands between these in the README.
const BEGIN: &str = "<!-- soak: `make soak` writes it here -->\n";
/// See [`BEGIN`].
const END: &str = "<!-- end of the soak -->";

/// Writes the summary to the folder that `SOAK_OUT` names, and the table into the file that `SOAK_INTO` names; neither
/// without them.
pub(super) fn write(ran: &BTreeMap<u64, Ran>) {
    if let Some(folder) = std::env::var_os("SOAK_OUT").map(PathBuf::from) {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("summary.json"), format!("{:#}\n", summary(ran))).unwrap();
        fs::write(folder.join("table.md"), table(ran)).unwrap();
    }
    if let Some(file) = std::env::var_os("SOAK_INTO") {
        into(Path::new(&file), &table(ran));
    }
}

/// Keeps all that the hosts of a failed seed have logged, in the folder that `SOAK_OUT` names.
pub(super) fn keep_log(seed: u64, lines: &[String]) {
    if let Some(folder) = std::env::var_os("SOAK_OUT").map(PathBuf::from) {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("seed-{seed}.log")), lines.join("\n")).unwrap();
    }
}

fn into(file: &Path, table: &str) {
    let text = fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the mark of the table's beginning");
    let (_, after) = rest.split_once(END).expect("the mark of the table's end");
    fs::write(file, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
}

/// How often each fault happened, and in how many seeds.
fn faults(ran: &BTreeMap<u64, Ran>) -> BTreeMap<&'static str, (usize, usize)> {
    let mut faults: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ran in ran.values() {
        let mut of_this: BTreeMap<&str, usize> = BTreeMap::new();
        for fault in ran.plan.faults() {
            *of_this.entry(fault.name()).or_default() += 1;
        }
        for (name, count) in of_this {
            let sum = faults.entry(name).or_default();
            *sum = (sum.0 + count, sum.1 + 1);
        }
    }
    faults
}

fn total(ran: &BTreeMap<u64, Ran>) -> Figures {
    let mut total = Figures::default();
    for figures in ran.values().filter_map(|ran| ran.outcome.as_ref().ok()) {
        total.events += figures.events;
        total.calls += figures.calls;
        total.effects += figures.effects;
        total.dead += figures.dead;
        total.quarantined += figures.quarantined;
        total.lost += figures.lost;
    }
    total
}

fn failed(ran: &BTreeMap<u64, Ran>) -> Vec<u64> {
    ran.iter().filter(|(_, ran)| ran.outcome.is_err()).map(|(seed, _)| *seed).collect()
}

fn summary(ran: &BTreeMap<u64, Ran>) -> serde_json::Value {
    let total = total(ran);
    let seeds: Vec<_> = ran
        .iter()
        .map(|(seed, ran)| {
            let mode = &ran.plan.mode;
            json!({
                "seed": seed,
                "bus": format!("{:?}", mode.bus),
                "order": mode.order,
                "hosts": mode.hosts,
                "faults": ran.plan.faults().count(),
                "seconds": ran.took.as_secs_f64(),
                "ok": ran.outcome.is_ok(),
                "why": ran.outcome.as_ref().err(),
            })
        })
        .collect();
    json!({
        "seeds": ran.len(),
        "failed": failed(ran),
        "events": total.events,
        "calls": total.calls,
        "effects": total.effects,
        "dead_letters": total.dead,
        "quarantined": total.quarantined,
        "lost_to_trimming": total.lost,
        "faults": faults(ran).into_iter().map(|(name, (count, _))| (name.to_owned(), count.into()))
            .collect::<serde_json::Map<String, serde_json::Value>>(),
        "runs": seeds,
    })
}

fn table(ran: &BTreeMap<u64, Ran>) -> String {
    let mut text = "| fault | times | in so many seeds |\n|---|---:|---:|\n".to_owned();
    for (name, (count, seeds)) in faults(ran) {
        writeln!(text, "| {name} | {count} | {seeds} |").unwrap();
    }
    let total = total(ran);
    let failed = failed(ran);
    let verdict = match failed.len() {
        0 => "every seed passed".to_owned(),
        count => format!("{count} seeds failed: {failed:?}"),
    };
    writeln!(
        text,
        "\n{} seeds, {} events, {} calls, {} published effects, {} dead letters, {} events trimmed before they were read \
         and counted as lost: {verdict}.",
        ran.len(),
        total.events,
        total.calls,
        total.effects,
        total.dead,
        total.lost
    )
    .unwrap();
    text
}
