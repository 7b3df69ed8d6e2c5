//! Event handlers for Sandbar.
//!
//! ```no_run
//! use sandbar_sdk::{Event, Failure, handler, log};
//!
//! #[handler]
//! fn handle(event: Event) -> Result<(), Failure> {
//!     log::info!("{} from {}", event.kind(), event.source());
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! The host calls the function once per event, each time in a fresh instance unless the operator chose otherwise: what a
//! call leaves in memory is gone with it. Whatever outlives the call goes through the host, and is committed together
//! with the acknowledgement, only if the function returns `Ok`:
//!
//! - [`outbox`] publishes events,
//! - [`keys`] keeps small values,
//! - [`config`] and [`secrets`] read what the operator set,
//! - [`log`] writes log lines.
//!
//! A handler that cannot go on returns a [`Failure`]: run the event again later, or give it up. A panic is logged and
//! ends the call; the event is run again.
//!
//! Build with `cargo build --release --target wasm32-wasip2`, crate type `cdylib`.
//!
//! Features: `arena` (default; a global allocator that makes fresh instances cheap), `kv` (key-values of log records
//! become attributes), `tracing` (its events become log lines).

pub mod config;
pub mod keys;
pub mod outbox;
pub mod secrets;

#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "installed in guests only; tested on the host"))]
mod arena;
#[doc(hidden)]
pub mod bindings;
mod entry;
mod event;
mod failure;
mod logger;

pub use log;
pub use sandbar_sdk_macros::handler;
#[cfg(feature = "tracing")]
pub use tracing;

pub use event::{Delivery, Event};
pub use failure::Failure;

/// What `#[handler]` expands to. No part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::{self, __export_handler as export, exports::sandbar::handler::guest};
    pub use crate::entry::run;
}
