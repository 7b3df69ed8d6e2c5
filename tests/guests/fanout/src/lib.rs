//! Leaves three effects of every event, each naming it: a message in two topics and a key.

use sandbar_sdk::{Event, Failure, handler, keys, outbox::Draft};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    for topic in ["out-a", "out-b"] {
        Draft::new(topic, "test.fanned.v1").header("cause", event.id()).publish()?;
    }
    keys::set(event.id(), b"1")?;
    Ok(())
}
