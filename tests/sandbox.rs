//! The sandbox, called as the pipeline calls it: real guests, real pool, real threads.

mod calls;
pub(crate) mod component;
mod contract;
mod effects;
mod loading;
mod reuse;
mod said;
mod secret;
pub(crate) mod support;
mod wasi;
mod workers;
