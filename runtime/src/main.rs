//! The command line: parse, run, exit code. The only place with `anyhow`, print and signals.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;

use cli::{Cli, Exit, Failure, Prepared};

/// An event is allocated on one thread and freed on another, which the system's allocator takes badly: with this one
/// the benchmark's `noop_fresh` handled 7 to 9 % more events.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that has gone away is no reason to fail; nothing else can go wrong here.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Clean }.into();
        }
    };
    // What a process gives up for good it gives up before it has threads, which inherit that.
    let work = match cli.prepare() {
        Ok(Prepared::Done(exit)) => return exit.into(),
        Ok(Prepared::Work(work)) => work,
        Err(failure) => return failure.report(),
    };
    // One thread of the runtime can wait on the bus while another settles; calls have threads of their own.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::unexpected(anyhow::Error::new(error).context("start the runtime")).report(),
    };
    let ended = runtime.block_on(work.run());
    // After a drain that was cut short there are threads that must not be waited for.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}
