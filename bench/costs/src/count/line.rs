//! The whole line in a process of its own: what one more event costs there, all threads together.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sandbar::bus;
use sandbar::config::{Config, Environment};
use sandbar::event::Outgoing;
use sandbar::pipeline::{self, Control, Quiet, Until};
use sandbar_costs::events::{TRACKING, Vector};
use sandbar_costs::root;
use sandbar_costs::server::Server;
use tokio::runtime::{Builder, Runtime};

use super::baseline::Figure;
use super::child;

/// The name of its figures.
pub(crate) const NAME: &str = "line_noop";

/// Events in the topics that are drained. Starting up costs the same for both, so that the difference is what the events
/// cost.
const FEW: u32 = 2_000;
const MANY: u32 = 12_000;

/// A topic is filled in writes of this many events.
const FILL: u32 = 500;

/// Counts the page faults of the host's process per event.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let server = Server::start()?;
    let url = server.url();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let few = drained(&runtime, &url, FEW)?;
    let many = drained(&runtime, &url, MANY)?;
    // What starting up costs differs by a few, so that none per event can come out as less than none.
    let faults = ((many - few) / f64::from(MANY - FEW)).max(0.0);
    Ok(vec![Figure::new(format!("{NAME}.faults"), faults)])
}

/// Fills a topic, and answers how many faults the process had that drained it.
fn drained(runtime: &Runtime, url: &str, events: u32) -> Result<f64> {
    let fields = Vector::read(TRACKING)?.fields()?;
    let topic = format!("events-{events}");
    let one = Outgoing { topic: topic.as_str().into(), fields };
    runtime.block_on(async {
        let bus = bus::open(&bus::Settings { url: url.to_owned(), ..bus::Settings::default() }).await?;
        for _ in 0..events / FILL {
            let all: Vec<Outgoing> = (0..FILL).map(|_| one.clone()).collect();
            bus.publish(&all).await?;
        }
        Ok::<_, bus::Error>(())
    })?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--line", url, &topic, &events.to_string()])
        .envs(child::ENVIRONMENT)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the child prints no number")
}

/// In the process of its own: drains the topic and prints the page faults of all threads.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [url, topic, events] = arguments else { bail!("URL TOPIC EVENTS are wanted") };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sandbar.toml");
    let (schemas, module) = (root().join("schemas/openedx"), root().join("bench/guests/noop.wasm"));
    // Debug of a Rust string is a TOML basic string for the characters that occur in paths and URLs.
    fs::write(
        &file,
        format!(
            "[bus]\nurl = {url:?}\n[schemas]\ndirs = [{schemas:?}]\n[host]\nthreads = 1\n\
             [[handler]]\nname = \"noop\"\nmodule = {module:?}\ntopics = [{topic:?}]\nstart = \"beginning\"\n"
        ),
    )?;
    let config = Config::load(&file, &Environment::default()).map_err(|problems| anyhow!("{problems}"))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let control = Control::new(&config);
    let never = std::future::pending();
    let ran = runtime.block_on(pipeline::run(&config, Until::Idle, std::sync::Arc::new(Quiet), &control, never))?;
    let acked: u64 = ran.handlers.iter().map(|tally| tally.acked).sum();
    ensure!(acked.to_string() == *events, "{acked} of {events} events are acknowledged");
    println!("{}", child::faults("/proc/self/stat")?);
    Ok(())
}
