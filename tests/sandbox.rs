//! The sandbox, called as the pipeline calls it: real guests, real pool, real threads.

mod calls;
mod contract;
mod effects;
mod loading;
mod reuse;
mod said;
mod secret;
mod support;
mod wasi;
mod workers;
