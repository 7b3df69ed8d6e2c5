//! Enrollments and grades of Open edX as xAPI statements on another topic.
//!
//! The lesson: publishing. A statement leaves with the acknowledgement of its event, once, however often the event had
//! to be run.
//!
//! Needs `publish = ["xapi-statements"]` and `config = { base = "https://lms.example.org" }`.

use sandbar_sdk::{Event, Failure, config, handler, log, outbox};

mod statement;

const TOPIC: &str = "xapi-statements";
/// No schema has this name, so the host publishes the statement as the JSON document that a record store expects.
const KIND: &str = "xapi.statement.v1";

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let base = config::require("base")?;
    let Some(said) = statement::of(&event, base.trim_end_matches('/'))? else {
        log::debug!("{} says nothing that xAPI has words for", event.kind());
        return Ok(());
    };
    // Statements about one course stay in order.
    outbox::Draft::new(TOPIC, KIND).json(&said.statement)?.key(said.course_key).publish()?;
    Ok(())
}
