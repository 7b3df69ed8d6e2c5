//! Which figures there are, and how each is got.

use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use sandbar_costs::{Named, Place, STEPS};

use super::baseline::Figure;
use super::{callgrind, child, line, strace};

/// Runs before counting: caches are filled, places of the pool have been used, buffers have grown.
const WARM: u64 = 40;
/// Calls over which faults are counted. Ten are the kernel's, whatever they are for: not to be seen in so many.
const FAULT_RUNS: u64 = 2_000;

/// The step whose answers fill several reads, and by how much its system calls may grow: in how many pieces such an answer
/// comes depends on who is faster, so that a batch takes 10, 11 or 12.
const LONG_ANSWER: &str = "redis_read";
const PIECES: f64 = 0.25;

/// Runs under callgrind: fewer where one run is for many events.
fn runs(step: &Named) -> u64 {
    (400 / step.events).clamp(10, 100)
}

/// Counts everything of the steps whose name contains `only`.
pub(crate) fn all(only: &str) -> Result<Vec<Figure>> {
    let steps: Vec<Named> = STEPS.iter().copied().filter(|step| step.name.contains(only)).collect();
    let mut figures = of(&steps)?;
    if line::NAME.contains(only) {
        figures.extend(line::measure().context(line::NAME)?);
    }
    Ok(figures)
}

/// Counts the steps of these figures again and keeps what is less.
pub(crate) fn again(figures: &mut [Figure], names: &[&str]) -> Result<()> {
    let is_wanted = |step: &Named| names.iter().any(|name| name.split('.').next() == Some(step.name));
    let steps: Vec<Named> = STEPS.iter().copied().filter(is_wanted).collect();
    let mut second = of(&steps)?;
    if names.iter().any(|name| name.split('.').next() == Some(line::NAME)) {
        second.extend(line::measure()?);
    }
    for new in second {
        if let Some(figure) = figures.iter_mut().find(|figure| figure.name == new.name) {
            figure.value = figure.value.min(new.value);
        }
    }
    Ok(())
}

/// Several at once: no count depends on how long it takes.
fn of(steps: &[Named]) -> Result<Vec<Figure>> {
    let left = Mutex::new(steps.iter().enumerate());
    let counted = Mutex::new(Vec::new());
    let next = || left.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((place, step)) = next() {
                    let figures = one(step).with_context(|| step.name.to_owned());
                    if let Ok(mut counted) = counted.lock() {
                        counted.push((place, figures));
                    }
                }
            });
        }
    });
    let mut counted = counted.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    counted.sort_by_key(|(place, _)| *place);
    let each: Result<Vec<Vec<Figure>>> = counted.into_iter().map(|(_, figures)| figures).collect();
    Ok(each?.concat())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn one(step: &Named) -> Result<Vec<Figure>> {
    if step.place == Place::Elsewhere {
        return Ok(Vec::new());
    }
    let folder = tempfile::tempdir()?;
    let (warm, runs) = (WARM.to_string(), runs(step));
    let again = runs.to_string();
    let arguments = ["--child", step.name, &warm, &again];
    let events = step.events as f64;
    let figure = |what: &str, value: f64| Figure::new(format!("{}.{what}", step.name), value / events);
    let instructions = callgrind::count(&arguments, folder.path())? / runs as f64;
    let mut figures = vec![figure("instructions", instructions)];
    if step.place != Place::Here {
        let mut calls = figure("system_calls", strace::count(&arguments, folder.path())? as f64);
        if step.name == LONG_ANSWER {
            calls.tolerance = PIECES;
        }
        figures.push(calls);
    }
    if step.place == Place::HereInGuests {
        figures.push(figure("faults", faults(step, &warm)? / FAULT_RUNS as f64));
    }
    Ok(figures)
}

fn faults(step: &Named, warm: &str) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--child", step.name, warm, &FAULT_RUNS.to_string()])
        .envs(child::ENVIRONMENT)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the child prints no number")
}
