//! From the host's call to the author's function.

use crate::bindings::exports::sandbar::handler::guest;
use crate::{Event, Failure, logger};

/// Runs the author's function for one event.
///
/// # Errors
///
/// What the function answered.
#[doc(hidden)]
pub fn run(event: guest::Event, handler: fn(Event) -> Result<(), Failure>) -> Result<(), guest::Failure> {
    logger::install();
    report_panics();
    handler(Event::new(event)).map_err(Failure::into_wire)
}

/// A panic ends the call in a trap, which by itself says nothing. What the panic said becomes one log line, which the
/// host takes into the reason of the failure; Rust's own report has three, of a thread and a variable that mean nothing
/// here, and where there is no standard error it goes nowhere. A hook that the author sets stands over this one.
#[cfg(target_family = "wasm")]
fn report_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| logger::write(log::Level::Error, &panic.to_string(), &[])));
    });
}

/// The author's tests report panics in their own way.
#[cfg(not(target_family = "wasm"))]
fn report_panics() {}
