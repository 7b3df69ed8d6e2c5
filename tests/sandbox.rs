//! The sandbox, called as the pipeline calls it: real guests, real pool, real threads.

mod behind;
mod calls;
pub(crate) mod compiling;
pub(crate) mod component;
mod contract;
mod effects;
mod hosts_world;
mod http;
mod inspect;
pub(crate) mod isolated;
mod loading;
mod reuse;
mod said;
mod secret;
mod secrets;
pub(crate) mod support;
mod trust;
mod wasi;
mod workers;
