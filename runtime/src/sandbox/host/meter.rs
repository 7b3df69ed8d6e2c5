//! Counts what an instance holds: all its memories and tables together.

use wasmtime::ResourceLimiter;

use crate::sandbox::limits;

/// One instance's account of memory. wasmtime's own limiter counts each memory by itself.
pub(in crate::sandbox) struct Meter {
    limit: u64,
    used: u64,
    /// What it had when it was made, before its first call.
    first: u64,
    /// What the last growth that was allowed added; taken back if it fails after all.
    last: u64,
    refused: bool,
    /// A table would have become larger than any may be.
    refused_table: bool,
}

// === impl Meter ===

impl Meter {
    pub(in crate::sandbox) fn new(limit: u64) -> Self {
        Self { limit, used: 0, first: 0, last: 0, refused: false, refused_table: false }
    }

    /// True once a growth was refused: an abort that follows is for lack of memory.
    pub(in crate::sandbox) fn refused(&self) -> bool {
        self.refused
    }

    /// True once a table was to have more than [`limits::TABLE_ELEMENTS`].
    pub(in crate::sandbox) fn refused_table(&self) -> bool {
        self.refused_table
    }

    /// The instance is made: what it holds more from here on it took while it was called.
    pub(in crate::sandbox) fn made(&mut self) {
        self.first = self.used;
    }

    /// Whether calls have taken no more than half of what there was for them: another finds at least as much again.
    pub(in crate::sandbox) fn has_room(&self) -> bool {
        !self.refused && self.used - self.first <= (self.limit - self.first) / 2
    }

    /// Bytes that the instance holds.
    #[cfg(test)]
    pub(in crate::sandbox) fn used(&self) -> u64 {
        self.used
    }

    fn grow(&mut self, more: u64) -> bool {
        match self.used.checked_add(more).filter(|sum| *sum <= self.limit) {
            Some(sum) => {
                (self.used, self.last) = (sum, more);
                true
            }
            None => {
                self.refused = true;
                false
            }
        }
    }

    fn take_back(&mut self) {
        self.used -= std::mem::take(&mut self.last);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        if desired > limits::TABLE_ELEMENTS {
            self.refused_table = true;
            return Ok(false);
        }
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(limits::TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        limits::TABLES as usize
    }

    fn memories(&self) -> usize {
        limits::MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_are_counted_together() {
        let mut meter = Meter::new(100_000);
        assert!(meter.memory_growing(0, 60_000, None).unwrap());
        assert!(!meter.memory_growing(0, 60_000, None).unwrap(), "the second memory is over");
        assert!(meter.refused());
        assert!(meter.table_growing(0, 2_500, None).unwrap(), "40,000 bytes of table fill it up");
        assert!(!meter.table_growing(2_500, 2_501, None).unwrap());
    }

    #[test]
    fn a_table_has_so_many_elements_and_no_more() {
        let mut meter = Meter::new(1 << 30);
        assert!(meter.table_growing(0, limits::TABLE_ELEMENTS, None).unwrap() && !meter.refused_table());
        assert!(!meter.table_growing(0, limits::TABLE_ELEMENTS + 1, None).unwrap() && meter.refused_table());
        assert!(!meter.refused(), "it is another limit");
    }

    #[test]
    fn an_instance_has_room_until_calls_have_taken_half_of_what_there_was() {
        let mut meter = Meter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        meter.made();
        assert!(meter.memory_growing(60, 80, None).unwrap());
        assert!(meter.has_room());
        assert!(meter.memory_growing(80, 81, None).unwrap());
        assert!(!meter.has_room());
        let mut meter = Meter::new(100);
        meter.made();
        assert!(!meter.memory_growing(0, 101, None).unwrap());
        assert!(!meter.has_room(), "it was refused memory");
    }

    #[test]
    fn a_growth_that_failed_after_all_is_not_charged() {
        let mut meter = Meter::new(100);
        assert!(meter.memory_growing(0, 80, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("over the memory's own maximum")).unwrap();
        assert!(meter.memory_growing(0, 100, None).unwrap());
        assert!(!meter.refused());
    }
}
