//! `sandbar status`: how far each handler is.

use sandbar::bus::GroupStatus;
use sandbar::config::HandlerConfig;
use sandbar::event::Topic;
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Failure, open, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const HEADER: [&str; 10] =
    ["HANDLER", "TOPIC", "GROUP", "LAG", "PENDING", "RETRYING", "DEAD LETTERS", "LOST", "CONSUMERS", "HELD UP BY"];

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    let bus = open(&config).await?;
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for handler in config.all_handlers() {
        let enabled = config.handlers.iter().any(|known| known.name == handler.name);
        for topic in &handler.group.topics {
            let status = bus.status(topic, &handler.group.name).await?;
            rows.push(row(handler, topic, &status, enabled));
            documents.push(document(handler, topic, &status, enabled));
        }
    }
    if args.json {
        out::json(&json!({ "handlers": documents }))?;
    } else {
        out::table(&HEADER, &rows)?;
    }
    Ok(Exit::Clean)
}

fn row(handler: &HandlerConfig, topic: &Topic, status: &GroupStatus, enabled: bool) -> Vec<String> {
    let name = if enabled { handler.name.clone() } else { format!("{} (disabled)", handler.name) };
    let group =
        if status.exists { handler.group.name.clone() } else { format!("{} (not made yet)", handler.group.name) };
    vec![
        name,
        topic.to_string(),
        group,
        status.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
        status.pending.to_string(),
        status.retrying.to_string(),
        status.dead_letters.to_string(),
        status.lost.to_string(),
        status.consumers.len().to_string(),
        status.held_up_by.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn document(handler: &HandlerConfig, topic: &Topic, status: &GroupStatus, enabled: bool) -> Value {
    json!({
        "handler": handler.name,
        "enabled": enabled,
        "topic": &**topic,
        "group": handler.group.name,
        "exists": status.exists,
        "lag": status.lag,
        "pending": status.pending,
        "retrying": status.retrying,
        "dead_letters": status.dead_letters,
        "lost": status.lost,
        "consumers": status.consumers,
        "held_up_by": status.held_up_by,
    })
}
