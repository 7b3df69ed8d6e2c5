//! `sandbar swap` and `sandbar rollback`: said to one host of the configuration that runs on this machine; the others of the
//! handler's group follow through the bus.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, anyhow};
use sandbar::config::{Config, ControlSocket};
use sandbar::pipeline::selftest::{Fixture, folder_of, texts};
use serde_json::{Value, json};

use super::status::DIGEST_CHARS;
use super::{ConfigArgs, Exit, Failure, out, socket, steer};

#[derive(Debug, clap::Args)]
pub(super) struct Swap {
    #[command(flatten)]
    config: ConfigArgs,
    /// The handler
    handler: String,
    /// The component that is to be served from now on
    file: PathBuf,
    /// The folder of its fixtures, *.event.json; else the one beside the component with its name, if there is one
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    config: ConfigArgs,
    /// The handler
    handler: String,
}

pub(super) async fn swap(args: Swap) -> Result<Exit, Failure> {
    let config = load(&args.config, &args.handler)?;
    let path = args.file.display();
    let wasm = fs::read(&args.file).with_context(|| format!("{path} cannot be read")).map_err(Failure::usage)?;
    let fixtures = fixtures(&args)?;
    let count = fixtures.len();
    let fixtures = if fixtures.is_empty() { Vec::new() } else { json!(fixtures).to_string().into_bytes() };
    let command = json!({
        "do": "swap", "handler": args.handler, "by": who(), "module": wasm.len(), "fixtures": fixtures.len(),
    });
    let answer = ask(&config, &command, &[&wasm, &fixtures]).await?;
    let (now, before) = (short(&answer["module"]), short(&answer["before"]));
    if now == before {
        out::line(&format!("{} serves {now} already", args.handler))?;
        return Ok(Exit::Clean);
    }
    let tested = match count {
        0 => "it brought no fixtures".to_owned(),
        _ => format!("{} of {count} fixtures passed, the others are of no type that it gets", answer["passed"]),
    };
    let tested = if answer["passed"] == count && count > 0 { format!("{count} fixtures passed") } else { tested };
    out::line(&format!("{} serves {now}, before {before}; {tested}; its group's other hosts follow", args.handler))?;
    Ok(Exit::Clean)
}

pub(super) async fn roll_back(args: Rollback) -> Result<Exit, Failure> {
    let config = load(&args.config, &args.handler)?;
    let command = json!({ "do": "rollback", "handler": args.handler, "by": who() });
    let answer = ask(&config, &command, &[]).await?;
    let (now, before) = (short(&answer["module"]), short(&answer["before"]));
    out::line(&format!("{} serves {now} again, before {before}; its group's other hosts follow", args.handler))?;
    Ok(Exit::Clean)
}

fn load(config: &ConfigArgs, handler: &str) -> Result<Config, Failure> {
    let config = config.load()?;
    steer::known(&config, handler)?;
    if config.host.control == ControlSocket::Off {
        let error = anyhow!("host.control is false: hosts of this configuration do not listen");
        return Err(Failure::usage(error));
    }
    Ok(config)
}

/// Names and texts. They are read here too, so that a slip is told by the file's name.
fn fixtures(args: &Swap) -> Result<Vec<(String, String)>, Failure> {
    let folder = match &args.fixtures {
        Some(folder) => folder.clone(),
        None => folder_of(&args.file),
    };
    if args.fixtures.is_none() && !folder.is_dir() {
        return Ok(Vec::new());
    }
    let texts = texts(&folder).map_err(Failure::usage)?;
    for (name, text) in &texts {
        Fixture::parse(name, text).map_err(Failure::usage)?;
    }
    Ok(texts)
}

/// Says it to the first host that answers.
async fn ask(config: &Config, command: &Value, body: &[&[u8]]) -> Result<Value, Failure> {
    for path in socket::sockets(config) {
        let shown = path.display();
        match socket::ask_to_swap(&path, command, body).await {
            // Nobody listens any more.
            Ok(None) => {}
            Ok(Some(answer)) if answer["ok"] == Value::Bool(true) => return Ok(answer),
            Ok(Some(answer)) => {
                let why = answer["error"].as_str().unwrap_or("an answer that makes no sense");
                return Err(Failure::new(Exit::Refused, anyhow!("nothing was changed: {why}")));
            }
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("the host at {shown} does not answer"));
                return Err(Failure::unexpected(error));
            }
        }
    }
    let path = config.path.display();
    Err(Failure::unexpected(anyhow!("no host of {path} that this user started runs on this machine")))
}

/// For the history.
fn who() -> String {
    let named = env::var("USER").or_else(|_| env::var("LOGNAME")).ok().filter(|name| !name.is_empty());
    let user = named.unwrap_or_else(|| format!("uid {}", rustix::process::geteuid().as_raw()));
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if machine.trim().is_empty() { user } else { format!("{user} on {}", machine.trim()) }
}

fn short(digest: &Value) -> String {
    digest.as_str().unwrap_or_default().chars().take(DIGEST_CHARS).collect()
}
