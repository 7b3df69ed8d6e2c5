//! `sandbar test`: a module's fixtures, run in the sandbox without a bus.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use sandbar::config::{Config, HandlerConfig};
use sandbar::decode::{self, Decoder};
use sandbar::pipeline::selftest::{Bench, Fixture, Invalid, Outcome, Tried, folder_of};
use sandbar::sandbox::{self, Module, Sandbox, limits};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, decoder, isolator_of, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The component
    file: PathBuf,
    /// The folder of its fixtures, *.event.json; else the one beside the component with its name
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Run it as this handler of the configuration: with its limits and grants, and only events of its types
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// A directory of schemas, if there is no --handler
    #[arg(long = "schemas", value_name = "DIR", conflicts_with = "handler")]
    schemas: Vec<PathBuf>,
    /// Print one JSON document per fixture
    #[arg(long)]
    json: bool,
}

/// Numbers that are derived from it are the same in every test.
const SECRET: &[u8] = b"the secret of all self-tests";

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let folder = args.fixtures.clone().unwrap_or_else(|| folder_of(&args.file));
    let fixtures = read(&folder)?;
    let path = args.file.display();
    let wasm = fs::read(&args.file).with_context(|| format!("{path} cannot be read")).map_err(Failure::usage)?;
    let config = args.handler.as_ref().map(|_| args.config.load()).transpose()?;
    let handler = match (&config, &args.handler) {
        (Some(config), Some(name)) => Some((config, handler_of(config, name)?)),
        _ => None,
    };
    let (bench, sandbox, module) = prepare(&args, &wasm, handler)?;
    // Calls block.
    let tried = tokio::task::spawn_blocking(move || bench.run(&sandbox, &module, &fixtures));
    let tried = tried.await.map_err(Failure::unexpected)?;
    for one in &tried {
        if args.json { out::json(&document(one))? } else { tell(one)? }
    }
    let count = |is: fn(&Outcome) -> bool| tried.iter().filter(|one| is(&one.outcome)).count();
    let failed = count(Outcome::is_failure);
    if !args.json {
        let skipped = count(|outcome| *outcome == Outcome::Skipped);
        out::line(&format!("{} passed, {failed} failed, {skipped} skipped", tried.len() - failed - skipped))?;
    }
    Ok(if failed > 0 { Exit::Failures } else { Exit::Clean })
}

fn read(folder: &std::path::Path) -> Result<Vec<Fixture>, Failure> {
    let fixtures = Fixture::read_folder(folder).map_err(|error| {
        let missing = matches!(&error, Invalid::Unreadable { .. });
        let failure = Failure::usage(error);
        if missing { failure.with("--fixtures names the folder of the fixtures") } else { failure }
    })?;
    if fixtures.is_empty() {
        return Err(Failure::usage(anyhow!("{} has no file *.event.json", folder.display())));
    }
    Ok(fixtures)
}

fn handler_of<'a>(config: &'a Config, name: &str) -> Result<&'a HandlerConfig, Failure> {
    config.all_handlers().find(|handler| handler.name == name).ok_or_else(|| {
        let known: Vec<_> = config.all_handlers().map(|handler| format!("{:?}", handler.name)).collect();
        let path = config.path.display();
        Failure::usage(anyhow!("{path} has no handler {name:?}; it has {}", known.join(", ")))
    })
}

fn prepare(
    args: &Args,
    wasm: &[u8],
    handler: Option<(&Config, &HandlerConfig)>,
) -> Result<(Bench, Arc<Sandbox>, Module), Failure> {
    let mut settings = sandbox::Settings {
        threads: 1,
        secret: Some(sandbox::Secret::new(SECRET)),
        max_memory: limits::MEMORY,
        ..sandbox::Settings::default()
    };
    let bench = match handler {
        Some((config, handler)) => {
            settings.max_memory = handler.spec.limits.memory;
            settings.isolator = isolator_of(std::slice::from_ref(handler))?;
            Bench::of(config, handler, Arc::new(decoder(config)?))
        }
        None => {
            let schemas = decode::Settings { dirs: args.schemas.clone(), ..decode::Settings::default() };
            let max_payload = schemas.max_payload;
            let decoder = Decoder::load(&schemas).map_err(|errors| Failure {
                exit: Exit::Usage,
                errors: errors.into_iter().map(|error| anyhow!("{error}")).collect(),
            })?;
            Bench::new(Arc::new(decoder), max_payload)
        }
    };
    let refused = |error: anyhow::Error| Failure::new(Exit::Refused, error);
    let sandbox = Sandbox::new(&settings).map_err(|error| refused(error.into()))?;
    let loaded = match handler {
        Some((_, handler)) => sandbox.load_trusted(wasm, &handler.trust),
        None => sandbox.load(wasm),
    };
    let module = loaded.with_context(|| format!("{} is refused", args.file.display())).map_err(refused)?;
    Ok((bench, sandbox, module))
}

fn tell(tried: &Tried) -> std::io::Result<()> {
    match &tried.outcome {
        Outcome::Passed => out::line(&format!("passed   {}", tried.name)),
        Outcome::Skipped => out::line(&format!("skipped  {}: its type is none of the handler's", tried.name)),
        Outcome::Failed(differences) => {
            differences.iter().try_for_each(|difference| out::line(&format!("failed   {}: {difference}", tried.name)))
        }
    }
}

fn document(tried: &Tried) -> Value {
    let (outcome, differences) = match &tried.outcome {
        Outcome::Passed => ("passed", &[][..]),
        Outcome::Skipped => ("skipped", &[][..]),
        Outcome::Failed(differences) => ("failed", &differences[..]),
    };
    json!({
        "fixture": tried.name,
        "outcome": outcome,
        "differences": differences,
        "seconds": tried.elapsed.as_secs_f64(),
    })
}
