//! `sandbar pause` and `sandbar resume`: said to every host of the configuration that runs on this machine.

use sandbar::config::{Config, ControlSocket};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, out, socket};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The handlers
    #[arg(value_name = "HANDLER", required_unless_present = "all", conflicts_with = "all")]
    handlers: Vec<String>,
    /// All handlers
    #[arg(long)]
    all: bool,
}

/// What the hosts are told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    Pause,
    Resume,
}

pub(super) async fn run(args: Args, wish: Wish) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    for name in &args.handlers {
        known(&config, name)?;
    }
    if config.host.control == ControlSocket::Off {
        return Err(Failure::usage(anyhow::anyhow!(
            "host.control is false: hosts of this configuration do not listen"
        )));
    }
    let mut command = json!({ "do": wish.word() });
    if !args.all {
        command["handlers"] = json!(args.handlers);
    }
    let (mut hosts, mut failures) = (0, Vec::new());
    for path in socket::sockets(&config) {
        let shown = path.display();
        match socket::ask(&path, &command).await {
            // Nobody listens any more.
            Ok(None) => {}
            Ok(Some(answer)) if answer["ok"] == Value::Bool(true) => hosts += 1,
            Ok(Some(answer)) => {
                let why = answer["error"].as_str().unwrap_or("an answer that makes no sense").to_owned();
                failures.push(anyhow::anyhow!("the host at {shown} refuses: {why}"));
            }
            Err(error) => {
                failures.push(anyhow::Error::new(error).context(format!("the host at {shown} does not answer")))
            }
        }
    }
    if !failures.is_empty() {
        return Err(Failure { exit: Exit::Unexpected, errors: failures });
    }
    if hosts == 0 {
        let path = config.path.display();
        let error = anyhow::anyhow!("no host of {path} that this user started runs on this machine");
        return Err(Failure::unexpected(error));
    }
    let what = if args.all { "all handlers".to_owned() } else { args.handlers.join(", ") };
    let on = if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") };
    out::line(&format!("{} {what} on {on}", wish.done()))?;
    Ok(Exit::Clean)
}

pub(super) fn known(config: &Config, name: &str) -> Result<(), Failure> {
    if config.handlers.iter().any(|handler| handler.name == name) {
        return Ok(());
    }
    let path = config.path.display();
    let names: Vec<_> = config.handlers.iter().map(|handler| handler.name.as_str()).collect();
    Err(Failure::usage(anyhow::anyhow!("{path} has no enabled handler {name:?}: it has {}", names.join(", "))))
}

// === impl Wish ===

impl Wish {
    fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
        }
    }
}
