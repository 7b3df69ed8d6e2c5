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

/// A panic ends the call in a trap, which by itself says nothing. Where there is no standard error that the host reads,
/// what the panic said becomes a log line.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
fn report_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| logger::write(log::Level::Error, &panic.to_string(), &[])));
    });
}

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
fn report_panics() {}
