//! Computes for about 100 µs: what is left of the cost of the line when handlers have something to do.

use std::hint::black_box;

use sandbar_sdk::{Event, Failure, handler};

mod work;

#[handler]
fn handle(event: Event) -> Result<(), Failure> {
    black_box(work::compute(event.id().len() as u64));
    Ok(())
}
