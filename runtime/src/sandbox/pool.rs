//! How the engine is set: what code depends on, and how many instances there are places for.

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use super::limits;

/// What the pool has places for.
pub(super) struct Room {
    pub(super) calls: usize,
    /// Memories of one component.
    pub(super) memories: u32,
}

/// The settings of an engine with a pool; `max_memory`: bytes of each of its memories.
pub(super) fn config(room: &Room, max_memory: u64) -> Config {
    let mut config = compiling();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(room, max_memory)));
    config
}

/// What code depends on: an engine of these settings makes code that another one takes, whatever pool it has.
pub(super) fn compiling() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .shared_memory(false)
        .wasm_memory64(false)
        .epoch_interruption(true)
        .max_wasm_stack(limits::GUEST_STACK)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true);
    config
}

fn pool(room: &Room, max_memory: u64) -> PoolingAllocationConfig {
    let calls = u32::try_from(room.calls).unwrap_or(u32::MAX);
    let bytes = usize::try_from(max_memory).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(limits::CORE_INSTANCES))
        .total_memories(calls.saturating_mul(room.memories))
        .total_tables(calls.saturating_mul(limits::TABLES))
        .max_core_instances_per_component(limits::CORE_INSTANCES)
        .max_memories_per_component(room.memories)
        .max_tables_per_component(limits::TABLES)
        .max_memories_per_module(limits::PER_MODULE.min(room.memories))
        .max_tables_per_module(limits::PER_MODULE)
        .table_elements(limits::TABLE_ELEMENTS)
        .max_memory_size(bytes)
        .linear_memory_keep_resident(limits::KEEP_RESIDENT)
        .table_keep_resident(limits::TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    pool
}
