//! Publishes every event to the topic it came from.

use sandbar_sdk::{Event, Failure, handler, outbox::Draft};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    Draft::new(event.topic(), event.kind()).publish()?;
    Ok(())
}
