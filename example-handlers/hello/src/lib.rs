use sandbar_sdk::{Event, Failure, handler, log};

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    log::info!("hello, {} from {}", event.kind(), event.source());
    Ok(())
}
