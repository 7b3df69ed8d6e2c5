//! The process whose doings are counted.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{callgrind, strace};

/// Set for it: mimalloc gives no memory back after a while, which would be a matter of the clock.
pub(crate) const ENVIRONMENT: [(&str, &str); 1] = [("MIMALLOC_PURGE_DELAY", "-1")];

/// Where the kernel tells about the thread that asks.
const THREAD: &str = "/proc/thread-self/stat";

/// Does a step: first so often that everything is in its place, then counted. Prints the page faults of the second part.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [name, warm, runs] = arguments else { bail!("STEP WARM RUNS are wanted") };
    let (warm, runs): (u64, u64) = (warm.parse()?, runs.parse()?);
    let mut step = sandbar_costs::step(name).with_context(|| format!("there is no step {name}"))?.make()?;
    for _ in 0..warm {
        step.prepare()?;
        step.run()?;
    }
    callgrind::start();
    let before = faults(THREAD)?;
    for _ in 0..runs {
        step.prepare()?;
        // Each does nothing without its own tool; what they ask for is not counted.
        strace::begin();
        callgrind::toggle();
        let ended = step.run();
        callgrind::toggle();
        strace::end();
        ended?;
    }
    println!("{}", faults(THREAD)? - before);
    Ok(())
}

/// The minor page faults so far, by the `stat` of this thread or of the process.
pub(crate) fn faults(stat: &str) -> Result<u64> {
    let text = fs::read_to_string(stat)?;
    // The name, in parentheses, may hold anything. The field is the eighth after it.
    let (_, fields) = text.rsplit_once(") ").with_context(|| format!("{stat} has another shape"))?;
    let field = fields.split(' ').nth(7).with_context(|| format!("{stat} is too short"))?;
    Ok(field.parse()?)
}
