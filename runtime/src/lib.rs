//! Sandbar runs event handlers in a sandbox.
//!
//! ```text
//!     bus ──► decode ──► dispatch ──► sandbox ──► settle ──► bus
//! ```
//!
//! One direction, five steps, each blind to the others, joined in [`pipeline`]. In reading order:
//!
//! - [`event`]: the words all steps share. Names no other module.
//! - [`bus`]: where an event enters, and where it is acknowledged. One backend per file.
//! - [`wire`]: headers and payload, as one wire profile or another writes them.
//! - [`decode`]: schema look-up, Avro to JSON and back.
//! - [`dispatch`]: which events a handler gets, and what must wait for what.
//! - [`sandbox`]: where the guest is called, what it may ask for, and what stops it.
//! - [`settle`]: what becomes of a delivery; a pure function.
//! - [`pipeline`]: joins the five.
//! - [`config`], [`telemetry`]: settings in, logs out.

pub mod bus;
pub mod config;
pub mod decode;
pub mod dispatch;
pub mod event;
pub mod pipeline;
pub mod sandbox;
pub mod settle;
pub mod telemetry;
pub mod wire;
