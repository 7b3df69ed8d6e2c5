//! Publishes what it gets, with the same type, to the topic `echoed`.

use sandbar_sdk::{Event, Failure, handler, outbox::Draft};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    let data = event.json().ok_or_else(|| Failure::reject("raw", "this event has no document"))?;
    Draft::new("echoed", event.kind()).json_text(data).publish()?;
    Ok(())
}
