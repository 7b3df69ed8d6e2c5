//! `sandbar versions`: which modules a handler was to run, since when, and who asked.

use std::time::SystemTime;

use sandbar::config::HandlerConfig;
use sandbar::event::from_unix_millis;
use sandbar::pipeline::versions::{Entry, Record, ledger_of};
use serde_json::json;

use super::status::{DIGEST_CHARS, age, short};
use super::{ConfigArgs, Exit, Failure, open, out, steer};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The handlers; all if none is named
    #[arg(value_name = "HANDLER")]
    handlers: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const HEADER: [&str; 6] = ["HANDLER", "MODULE", "AGE", "BY", "CALLS", "FAILED"];

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    for name in &args.handlers {
        steer::known(&config, name)?;
    }
    let bus = open(&config).await?;
    let wanted = |handler: &&HandlerConfig| args.handlers.is_empty() || args.handlers.contains(&handler.name);
    let mut found = Vec::new();
    for handler in config.all_handlers().filter(wanted) {
        let ledger = bus.ledger(&ledger_of(handler)).await?;
        let record = ledger.map(|ledger| Record::parse(&ledger.text)).transpose().map_err(Failure::unexpected)?;
        found.push((handler, record.unwrap_or_default()));
    }
    if args.json {
        let handlers: Vec<_> = found
            .iter()
            .map(|(handler, record)| json!({ "handler": handler.name, "versions": record.history }))
            .collect();
        out::json(&json!({ "handlers": handlers }))?;
        return Ok(Exit::Clean);
    }
    let now = SystemTime::now();
    let row = |handler: &HandlerConfig, entry: &Entry| {
        vec![
            handler.name.clone(),
            entry.digest.chars().take(DIGEST_CHARS).collect(),
            short(age(from_unix_millis(entry.at_ms), now)),
            entry.by.clone(),
            entry.events.to_string(),
            entry.failures.to_string(),
        ]
    };
    let rows: Vec<_> =
        found.iter().flat_map(|(handler, record)| record.history.iter().map(|entry| row(handler, entry))).collect();
    out::table(&HEADER, &rows)?;
    for (handler, _) in found.iter().filter(|(_, record)| record.history.is_empty()) {
        out::line(&format!("{} runs what the configuration names: it was never swapped", handler.name))?;
    }
    Ok(Exit::Clean)
}
