//! Does nothing: what is left is the cost of the line.

use sandbar_sdk::{Event, Failure, handler};

#[handler]
fn handle(_event: Event) -> Result<(), Failure> {
    Ok(())
}
