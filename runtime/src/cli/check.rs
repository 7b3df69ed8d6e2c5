//! `sandbar check`: everything that is wrong, at once, each with its line.

use std::fs;
use std::time::Duration;

use sandbar::bus;
use sandbar::config::{self, Config, Environment, HandlerConfig, Place, Problem, Problems};
use sandbar::decode::Decoder;
use sandbar::dispatch::Filter;
use sandbar::sandbox::{self, Sandbox};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, compiler, exit_of, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Leave the bus alone
    #[arg(long)]
    offline: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A bus that has not answered by then is not there: the longest time-out of the clients underneath is shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was looked at, and what was found.
#[derive(Default)]
struct Findings {
    errors: Vec<(Exit, Problem)>,
    warnings: Vec<Problem>,
    modules: Vec<Value>,
    schemas: usize,
    bus: Option<&'static str>,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (config, Problems(problems)) = config::inspect(&args.config.config, &Environment::of_process());
    let mut findings = Findings::default();
    findings.errors.extend(problems.into_iter().map(|problem| (Exit::Usage, problem)));
    if let Some(config) = &config {
        findings.check_schemas(config);
        findings.check_modules(config)?;
        findings.check_secrets(config, args.offline);
        findings.check_roots(config);
        if config.handlers.is_empty() && findings.errors.is_empty() {
            findings.warnings.push(config.problem(&Place::File, "no handler is enabled: `run` has nothing to do"));
        }
        if !args.offline && !config.bus.url.is_empty() {
            findings.check_bus(config).await;
        }
    }
    // What is wrong with the configuration comes first: it may be the reason for the rest.
    let exit = findings.errors.iter().map(|(exit, _)| *exit).min_by_key(|exit| *exit as u8).unwrap_or(Exit::Clean);
    if args.json {
        out::json(&findings.document())?;
    } else {
        findings.tell()?;
    }
    Ok(exit)
}

// === impl Findings ===

impl Findings {
    fn check_schemas(&mut self, config: &Config) {
        let decoder = match Decoder::load(&config.schemas) {
            Ok(decoder) => decoder,
            Err(errors) => {
                let problems = errors.iter().map(|error| config.problem(&config.schemas_place, error.to_string()));
                self.errors.extend(problems.map(|problem| (Exit::Usage, problem)));
                return;
            }
        };
        self.schemas = decoder.kinds().count();
        for handler in &config.handlers {
            for (glob, place) in handler.types.iter().zip(&handler.places.types) {
                let Ok(filter) = Filter::new(std::slice::from_ref(glob)) else { continue };
                if !decoder.kinds().any(|kind| filter.matches(kind)) {
                    let message = format!(
                        "`types` in [[handler]] {:?}: {glob:?} matches no type that a schema is known for",
                        handler.name
                    );
                    self.warnings.push(config.problem(place, message));
                }
            }
        }
    }

    fn check_modules(&mut self, config: &Config) -> Result<(), Failure> {
        let max_memory = config.handlers.iter().map(|handler| handler.spec.limits.memory).max().unwrap_or_default();
        if max_memory == 0 {
            return Ok(());
        }
        // Nothing is called, so one place in the pool is enough.
        let (secret, code_cache) = (config.host.secret.clone(), config.host.code_cache.clone());
        let compiling = compiler(config)?;
        let settings =
            sandbox::Settings { threads: 1, max_memory, secret, code_cache, compiling, ..Default::default() };
        let sandbox = match Sandbox::new(&settings) {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.errors.push((Exit::Refused, config.problem(&Place::File, format!("the sandbox: {error}"))));
                return Ok(());
            }
        };
        for handler in &config.handlers {
            self.check_module(config, handler, &sandbox);
        }
        Ok(())
    }

    fn check_module(&mut self, config: &Config, handler: &HandlerConfig, sandbox: &Sandbox) {
        let path = handler.module.display();
        let loaded = match fs::read(&handler.module) {
            Ok(wasm) => {
                let module =
                    sandbox.load_trusted(&wasm, &handler.trust).map_err(|error| format!("module {path} {error}"));
                module.and_then(|module| {
                    sandbox.fits(&module, &handler.spec).map_err(|error| format!("module {path}: {error}"))?;
                    Ok(module)
                })
            }
            Err(error) => Err(format!("module {path} cannot be read: {error}")),
        };
        match loaded {
            Ok(module) => {
                for missing in sandbox::missing_grants(&module, &handler.spec.grants) {
                    let message = format!(
                        "module {path} imports {}, which [[handler]] {:?} is not granted: {}",
                        missing.capability.interface(),
                        handler.name,
                        missing.line
                    );
                    self.warnings.push(config.problem(&handler.places.grants, message));
                }
                self.modules.push(json!({ "handler": handler.name, "module": handler.module }));
            }
            Err(message) => {
                let message = format!("[[handler]] {:?}: {message}", handler.name);
                self.errors.push((Exit::Refused, config.problem(&handler.places.module, message)));
            }
        }
    }

    /// Secrets are there where the host runs: where the bus is not to be asked, they need not be either.
    fn check_secrets(&mut self, config: &Config, offline: bool) {
        for handler in &config.handlers {
            match config.secrets_of(handler) {
                Ok(found) => self.warnings.extend(found.warnings),
                Err(Problems(missing)) if offline => self.warnings.extend(missing),
                Err(Problems(missing)) => {
                    self.errors.extend(missing.into_iter().map(|problem| (Exit::Refused, problem)));
                }
            }
        }
    }

    /// Nothing is asked of any server.
    fn check_roots(&mut self, config: &Config) {
        let Some(path) = &config.host.http_ca_file else { return };
        if let Err(error) = sandbox::check_roots(path) {
            let message = format!("`http_ca_file` in [host], {}: {:#}", path.display(), anyhow::Error::new(error));
            self.errors.push((Exit::Usage, config.problem(&Place::File, message)));
        }
    }

    async fn check_bus(&mut self, config: &Config) {
        let groups: Vec<bus::Group> = config.handlers.iter().map(|handler| handler.group.clone()).collect();
        let bus = match bus::open(&config.bus).await {
            Ok(bus) => bus,
            Err(error) => return self.bus_error(config, &error),
        };
        for handler in &config.handlers {
            match bus.prepare(&handler.needs()) {
                Ok(weaker) => {
                    let weaker = weaker.into_iter().map(|text| config.problem(&handler.places.grants, text));
                    self.warnings.extend(weaker);
                }
                Err(error) => {
                    self.errors.push((exit_of(&error), config.problem(&handler.places.topics, error.to_string())));
                }
            }
        }
        let probe = bus.probe(&groups);
        let found = match tokio::time::timeout(PATIENCE, probe).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => vec![error],
            Err(_) => {
                let problem =
                    config.problem(&config.bus_place, format!("the bus has not answered within {PATIENCE:?}"));
                self.errors.push((Exit::Bus, problem));
                return;
            }
        };
        self.bus = Some("reachable");
        for error in found {
            self.bus_error(config, &error);
        }
    }

    fn bus_error(&mut self, config: &Config, error: &bus::Error) {
        let exit = exit_of(error);
        if matches!(exit, Exit::Bus | Exit::Usage) {
            self.bus = None;
        }
        self.errors.push((exit, config.problem(&place_of(config, error), error.to_string())));
    }

    fn tell(&self) -> std::io::Result<()> {
        for (_, problem) in &self.errors {
            out::note(format_args!("error: {problem}"));
        }
        for problem in &self.warnings {
            out::note(format_args!("warning: {problem}"));
        }
        for module in &self.modules {
            out::line(&format!("handler {}: module {} loads", text(&module["handler"]), text(&module["module"])))?;
        }
        if self.schemas > 0 {
            out::line(&format!("schemas: {} types", self.schemas))?;
        }
        if let Some(state) = self.bus {
            out::line(&format!("bus: {state}"))?;
        }
        out::line(&format!("{} errors, {} warnings", self.errors.len(), self.warnings.len()))
    }

    fn document(&self) -> Value {
        let list = |problems: &mut dyn Iterator<Item = &Problem>| problems.map(problem_document).collect::<Vec<_>>();
        json!({
            "ok": self.errors.is_empty(),
            "errors": list(&mut self.errors.iter().map(|(_, problem)| problem)),
            "warnings": list(&mut self.warnings.iter()),
            "modules": self.modules,
            "schemas": self.schemas,
            "bus": self.bus,
        })
    }
}

/// The handler whose group or topic an error names, else where the bus is set.
fn place_of(config: &Config, error: &bus::Error) -> Place {
    let handler = match error {
        bus::Error::Foreign { group, .. } => config.handlers.iter().find(|handler| handler.group.name == *group),
        bus::Error::WrongType { key, .. } => config.handlers.iter().find(|handler| {
            let prefix = config.bus.topic_prefix.as_deref();
            handler.group.topics.iter().any(|topic| bus::stream_name(prefix, topic) == *key)
        }),
        _ => None,
    };
    handler.map_or_else(|| config.bus_place.clone(), |handler| handler.places.topics.clone())
}

fn problem_document(problem: &Problem) -> Value {
    let (line, variable) = match &problem.place {
        Place::File => (None, None),
        Place::Line(line) => (Some(line), None),
        Place::Environment(name) => (None, Some(name)),
    };
    let file = variable.is_none().then_some(&problem.file);
    json!({ "file": file, "line": line, "variable": variable, "message": problem.message })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
