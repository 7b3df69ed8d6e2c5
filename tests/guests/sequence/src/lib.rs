//! Fails as often as the event's header `fail` says, then publishes the event's number, so that a test sees in which
//! order events were handled and how often each was tried.

use sandbar_sdk::{Event, Failure, handler, outbox::Draft};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let text = |name| String::from_utf8_lossy(event.header(name).unwrap_or_default()).into_owned();
    let attempt = event.delivery().attempt();
    if attempt <= text("fail").parse().unwrap_or(0) {
        return Err(Failure::retry("not yet"));
    }
    Draft::new("out", "test.handled.v1")
        .header("number", text("number"))
        .header("attempt", attempt.to_string())
        .publish()?;
    Ok(())
}
