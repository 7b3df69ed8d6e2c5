//! How long a start takes: from starting the process until its first acknowledgement is on the bus.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::event::{Event, ORDINARY};
use super::host::{Config, Host, guest, variant};
use super::progress::{Watched, fill};
use crate::paths::Paths;
use crate::sample::Sample;
use crate::server::Server;

const TOPIC: &str = "start";
/// A start takes some milliseconds, which others on the machine move: the middle one of so many is told.
const STARTS: usize = 7;

/// With one module and a warm cache; with `modules` different ones, cold and warm.
pub(super) fn measure(paths: &Paths, modules: usize) -> Result<Vec<Sample>> {
    let dir = tempfile::tempdir()?;
    let one = guest(paths, "noop.wasm")?;
    let many = variants(&one, modules, dir.path())?;
    let event = Event::of_size(paths.root(), ORDINARY)?;
    let start = |modules: &[PathBuf], cache: &Path| start(paths, &event, modules, cache);

    let one = std::slice::from_ref(&one);
    let one_cold = middle(|number| start(one, &dir.path().join(format!("one-{number}"))))?;
    let one_warm = middle(|_| start(one, &dir.path().join("one-0")))?;
    let cache_of_many = dir.path().join("many");
    let many_cold = start(&many, &cache_of_many)?;
    let many_warm = middle(|_| start(&many, &cache_of_many))?;
    let first = "from starting the process to its first acknowledgement, one Rust module";
    let all = format!("from starting the process until each of {modules} different modules has acknowledged an event");
    Ok(vec![
        Sample::new("cold_start_ms", format!("{first}, compiled before"), "ms", one_warm),
        Sample::new("cold_start_compiling_ms", format!("{first}, compiling it"), "ms", one_cold),
        Sample::new(format!("start_{modules}_modules_warm_ms"), format!("{all}, compiled before"), "ms", many_warm),
        Sample::new(format!("start_{modules}_modules_cold_ms"), format!("{all}, compiling them"), "ms", many_cold),
    ])
}

/// The middle of so many, each of which gets its number.
fn middle(start: impl FnMut(usize) -> Result<f64>) -> Result<f64> {
    let mut times = (0..STARTS).map(start).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[STARTS / 2])
}

/// Milliseconds from starting a host until each of its handlers, one per module, has acknowledged the one event there is.
fn start(paths: &Paths, event: &Event, modules: &[PathBuf], cache: &Path) -> Result<f64> {
    let server = Server::start()?;
    fill(&server, TOPIC, event, 1)?;
    let mut config = Config::new(&server.url()).with_code_cache(cache);
    for (index, module) in modules.iter().enumerate() {
        config.handler(&format!("handler-{index}"), module, &[TOPIC.to_owned()], "");
    }
    let mut watched = Watched::new(&server, vec![TOPIC.to_owned()])?;
    let start = Instant::now();
    let mut host = Host::start(paths, &config)?;
    watched.wait(&mut host, modules.len() as u64)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Modules that do the same and are none the same.
fn variants(module: &Path, count: usize, dir: &Path) -> Result<Vec<PathBuf>> {
    let wasm = fs::read(module)?;
    let mut files = Vec::with_capacity(count);
    for number in 0..count {
        let file = dir.join(format!("variant-{number}.wasm"));
        fs::write(&file, variant(&wasm, number))?;
        files.push(file);
    }
    Ok(files)
}
