//! `sandbar inspect`: what a component is, and whether a handler would be given it.

use std::fs;
use std::path::PathBuf;

use sandbar::sandbox::{self, Acceptance, Inspection, Signatures};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The component
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Say whether this handler of the configuration would run it
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const NOT_CHECKED: &str = "not compiled: whether the types of its imports and exports fit, and whether it fits the pool, `sandbar check` says";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let path = args.file.display();
    let wasm = fs::read(&args.file)
        .map_err(|error| Failure::usage(anyhow::Error::new(error).context(format!("{path} cannot be read"))))?;
    let found = sandbox::inspect(&wasm);
    let accepted = match &args.handler {
        Some(name) => Some(accepted(args, name, &wasm, &found)?),
        None => None,
    };
    if args.json {
        out::json(&document(args, &found, accepted.as_ref()))?;
    } else {
        tell(args, &found, accepted.as_ref())?;
    }
    let refused = accepted.map_or(found.refusal.is_some(), |accepted| !accepted.refusals.is_empty());
    Ok(if refused { Exit::Refused } else { Exit::Clean })
}

fn accepted(args: &Args, name: &str, wasm: &[u8], found: &Inspection) -> Result<Acceptance, Failure> {
    let config = args.config.load()?;
    let Some(handler) = config.all_handlers().find(|handler| handler.name == *name) else {
        let known: Vec<_> = config.all_handlers().map(|handler| format!("{:?}", handler.name)).collect();
        let path = config.path.display();
        return Err(Failure::usage(anyhow::anyhow!("{path} has no handler {name:?}; it has {}", known.join(", "))));
    };
    Ok(found.accepted(wasm, &handler.trust, &handler.spec))
}

fn tell(args: &Args, found: &Inspection, accepted: Option<&Acceptance>) -> std::io::Result<()> {
    let line = |what: &str, text: &str| out::line(&format!("{what:<10} {text}"));
    let lines = |what: &str, texts: &[String], none: &str| {
        for (index, text) in texts.iter().enumerate() {
            line(if index == 0 { what } else { "" }, text)?;
        }
        if texts.is_empty() { line(what, none) } else { Ok(()) }
    };
    line("file", &args.file.display().to_string())?;
    line("sha256", &found.digest)?;
    line("size", &format!("{} bytes", found.size))?;
    let contracts: Vec<_> = found.contracts.iter().map(|version| format!("sandbar:handler@{version}")).collect();
    lines("contract", &contracts, "none: it is no handler")?;
    lines("exports", &found.exports, "nothing")?;
    lines("imports", &found.imports, "nothing")?;
    let (optional, needed): (Vec<_>, Vec<_>) = found.capabilities.iter().partition(|one| one.is_served_without());
    let shown = |all: Vec<&sandbox::Capability>| all.iter().map(|one| one.line().to_owned()).collect::<Vec<_>>();
    lines("grants", &shown(needed), "it asks for none")?;
    let optional = shown(optional);
    if !optional.is_empty() {
        lines("optional", &optional, "")?;
    }
    let producers: Vec<_> = found
        .producers
        .iter()
        .map(|one| format!("{}: {} {}", one.field, one.name, one.version).trim_end().to_owned())
        .collect();
    lines("producers", &producers, "not said")?;
    match accepted.and_then(|accepted| accepted.signed_by.as_ref()) {
        Some(key) => line("signature", &format!("by {key}, which is trusted"))?,
        None => line("signature", &signatures(&found.signatures))?,
    }
    match accepted {
        None => match &found.refusal {
            None => line("loads", "as far as can be seen")?,
            Some(error) => line("refused", &format!("it {error}"))?,
        },
        Some(accepted) => {
            let name = args.handler.as_deref().unwrap_or_default();
            if accepted.refusals.is_empty() {
                line("accepted", &format!("by handler {name:?}"))?;
            }
            for why in &accepted.refusals {
                line("refused", &format!("by handler {name:?}: it {why}"))?;
            }
            for missing in &accepted.missing {
                let interface = missing.capability.interface();
                line("missing", &format!("{interface} is imported and not granted: {}", missing.line))?;
            }
        }
    }
    out::line(NOT_CHECKED)
}

fn signatures(found: &Signatures) -> String {
    match found {
        Signatures::None => "none".to_owned(),
        Signatures::Malformed(error) => format!("cannot be read: {error}"),
        Signatures::Unverified(keys) => {
            let ids: Vec<_> = keys.iter().filter(|id| !id.is_empty()).map(String::as_str).collect();
            let ids = if ids.is_empty() { String::new() } else { format!(" (key ids {})", ids.join(", ")) };
            format!("{}, not verified{ids}", keys.len())
        }
    }
}

fn document(args: &Args, found: &Inspection, accepted: Option<&Acceptance>) -> Value {
    let grants: Vec<_> = found
        .capabilities
        .iter()
        .map(|one| json!({ "imports": one.interface(), "line": one.line(), "optional": one.is_served_without() }))
        .collect();
    let producers: Vec<_> = found
        .producers
        .iter()
        .map(|one| json!({ "field": one.field, "name": one.name, "version": one.version }))
        .collect();
    let signature = match &found.signatures {
        Signatures::None => json!({ "state": "none" }),
        Signatures::Malformed(error) => json!({ "state": "malformed", "error": error.to_string() }),
        Signatures::Unverified(keys) => json!({ "state": "signed", "key_ids": keys }),
    };
    let accepted = accepted.map(|accepted| {
        let missing: Vec<_> = accepted
            .missing
            .iter()
            .map(|one| json!({ "imports": one.capability.interface(), "line": one.line }))
            .collect();
        json!({
            "handler": args.handler,
            "accepted": accepted.refusals.is_empty(),
            "refusals": accepted.refusals,
            "signed_by": accepted.signed_by.as_ref().map(ToString::to_string),
            "missing": missing,
        })
    });
    json!({
        "file": args.file,
        "sha256": found.digest,
        "size": found.size,
        "contracts": found.contracts,
        "exports": found.exports,
        "imports": found.imports,
        "grants": grants,
        "producers": producers,
        "signature": signature,
        "first_memory": found.first_memory,
        "refusal": found.refusal.as_ref().map(ToString::to_string),
        "handler": accepted,
        "compiled": false,
    })
}
