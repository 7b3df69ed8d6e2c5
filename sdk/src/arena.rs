//! An allocator that serves from a block of the initial memory first.
//!
//! A handler usually runs one call in a fresh instance. An ordinary allocator soon grows the memory (where the system's
//! has the rest of the last page to begin with, at the first larger event; elsewhere at the first allocation), and that
//! costs the host two changes of page protection, each of which interrupts every thread of the process. The block here
//! is part of the memory the instance starts with, takes no room in the component's file, and costs only the pages that
//! are touched.
//!
//! Allocation moves a pointer; freeing gives memory back only for the block that was allocated last, or for all when
//! nothing is left. The last block grows and shrinks in place, so that a string or a JSON document that is being built
//! is not copied along. What does not fit goes to the system's allocator, which grows the memory.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};

/// Room for an event of 100 KB with what is parsed out of it; events are 1 to 2 KB as a rule, and 64 KB where Open edX
/// follows its own advice (OEP-41). More would cost nothing but the limit on memory that it counts against.
#[cfg(all(feature = "arena", target_family = "wasm", not(target_feature = "atomics")))]
const ROOM: usize = 256 * 1024;

#[cfg(all(feature = "arena", target_family = "wasm", not(target_feature = "atomics")))]
#[global_allocator]
static ARENA: Arena<ROOM, std::alloc::System> = Arena::new(std::alloc::System);

/// The allocator. Not for several threads at once: a guest has one.
pub(crate) struct Arena<const ROOM: usize, F> {
    /// Where the free part begins.
    top: Cell<usize>,
    /// Blocks handed out of the arena and not freed yet.
    live: Cell<usize>,
    fallback: F,
    block: Block<ROOM>,
}

/// Aligned like the strictest thing that is commonly allocated, so that offsets need no correction for it.
#[repr(C, align(16))]
struct Block<const ROOM: usize>(UnsafeCell<[u8; ROOM]>);

// SAFETY: a component without the threads proposal has one thread, and the static above exists in no other.
unsafe impl<const ROOM: usize, F> Sync for Arena<ROOM, F> {}

// === impl Arena ===

impl<const ROOM: usize, F> Arena<ROOM, F> {
    pub(crate) const fn new(fallback: F) -> Self {
        Self { top: Cell::new(0), live: Cell::new(0), fallback, block: Block(UnsafeCell::new([0; ROOM])) }
    }

    fn base(&self) -> *mut u8 {
        self.block.0.get().cast()
    }

    /// The offset of a block, if it is one of the arena's.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        let offset = (pointer as usize).checked_sub(self.base() as usize)?;
        (offset < ROOM).then_some(offset)
    }

    /// Takes the next free part, if it is large enough.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let base = self.base() as usize;
        let start = (base + self.top.get()).checked_next_multiple_of(layout.align())? - base;
        let end = start.checked_add(layout.size())?;
        if end > ROOM {
            return None;
        }
        self.top.set(end);
        self.live.set(self.live.get() + 1);
        // SAFETY: start <= end <= ROOM, so the pointer lies in the block or one past it, and in that case the layout is
        // of size zero, which no caller of a global allocator passes.
        Some(unsafe { self.base().add(start) })
    }
}

// SAFETY: blocks come from disjoint parts of the arena (top only moves back over a block that was freed, the last one,
// or over all when none is live) or from the fallback; `offset` tells which, since the fallback owns no part of the arena.
unsafe impl<const ROOM: usize, F: GlobalAlloc> GlobalAlloc for Arena<ROOM, F> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(pointer) => pointer,
            // SAFETY: the caller's promises are the same.
            None => unsafe { self.fallback.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: it is not the arena's, so it came from the fallback, with this layout.
            return unsafe { self.fallback.dealloc(pointer, layout) };
        };
        let live = self.live.get() - 1;
        self.live.set(live);
        if live == 0 {
            // An instance that serves several calls starts each with the whole arena, unless it keeps something.
            self.top.set(0);
        } else if offset + layout.size() == self.top.get() {
            self.top.set(offset);
        }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: it is not the arena's, so it came from the fallback, with this layout.
            return unsafe { self.fallback.realloc(pointer, layout, new_size) };
        };
        if offset + layout.size() == self.top.get() && new_size <= ROOM - offset {
            self.top.set(offset + new_size);
            return pointer;
        }
        if new_size <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller promises that new_size is not zero and does not overflow when rounded up to the alignment.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are live blocks of at least layout.size() bytes, and do not overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(pointer, new, layout.size());
                self.dealloc(pointer, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    /// Counts what reaches the fallback.
    #[derive(Default)]
    struct Counting {
        allocated: Cell<usize>,
        freed: Cell<usize>,
    }

    // SAFETY: passes everything on.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.allocated.set(self.allocated.get() + 1);
            // SAFETY: as for the caller.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            self.freed.set(self.freed.get() + 1);
            // SAFETY: as for the caller.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    type Small = Arena<1024, Counting>;

    fn arena() -> Box<Small> {
        Box::new(Arena::new(Counting::default()))
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// Allocates and fills, so that an overlap would be seen.
    fn filled(arena: &Small, layout: Layout, byte: u8) -> *mut u8 {
        // SAFETY: the size is not zero, and the block is written within its size.
        unsafe {
            let pointer = arena.alloc(layout);
            assert!(!pointer.is_null());
            assert_eq!(pointer as usize % layout.align(), 0, "{layout:?}");
            pointer.write_bytes(byte, layout.size());
            pointer
        }
    }

    fn holds(pointer: *mut u8, size: usize, byte: u8) -> bool {
        // SAFETY: called with live blocks of at least that size.
        unsafe { std::slice::from_raw_parts(pointer, size) }.iter().all(|found| *found == byte)
    }

    #[test]
    fn blocks_are_aligned_and_disjoint() {
        let arena = arena();
        let blocks: Vec<_> = [(1, 1), (8, 8), (3, 1), (16, 16), (1, 1), (64, 64), (5, 4), (256, 256)]
            .iter()
            .zip(1u8..)
            .map(|(&(size, align), byte)| (filled(&arena, layout(size, align), byte), size, byte))
            .collect();
        for (pointer, size, byte) in blocks {
            assert!(holds(pointer, size, byte), "block {byte}");
            assert!(arena.offset(pointer).is_some(), "block {byte}");
        }
        assert_eq!(arena.fallback.allocated.get(), 0);
    }

    #[test]
    fn the_last_block_grows_and_shrinks_in_place() {
        let arena = arena();
        let first = filled(&arena, layout(8, 8), 1);
        let last = filled(&arena, layout(16, 8), 2);
        // SAFETY: the layouts are those the blocks have.
        unsafe {
            assert_eq!(arena.realloc(last, layout(16, 8), 900), last);
            assert_eq!(arena.top.get(), 908);
            assert_eq!(arena.realloc(last, layout(900, 8), 20), last);
            assert_eq!(arena.top.get(), 28);
            assert!(holds(last, 16, 2));
            // One that is not the last moves, with what it holds, and leaves the other alone.
            let moved = arena.realloc(first, layout(8, 8), 64);
            assert_ne!(moved, first);
            assert!(holds(moved, 8, 1) && holds(last, 16, 2));
            // Shrinking never moves.
            assert_eq!(arena.realloc(last, layout(20, 8), 4), last);
        }
    }

    #[test]
    fn what_does_not_fit_goes_to_the_fallback_and_back_to_it() {
        let arena = arena();
        let inside = filled(&arena, layout(1000, 1), 1);
        let outside = filled(&arena, layout(25, 1), 2);
        assert!(arena.offset(outside).is_none());
        assert_eq!(arena.fallback.allocated.get(), 1);
        // The rest of the arena still serves what does fit, to the last byte.
        let rest = filled(&arena, layout(24, 1), 3);
        assert!(arena.offset(rest).is_some());
        // SAFETY: the layouts are those the blocks have.
        unsafe {
            // The last block cannot grow beyond the arena: it moves out, with what it holds.
            let grown = arena.realloc(rest, layout(24, 1), 25);
            assert!(arena.offset(grown).is_none());
            assert!(holds(grown, 24, 3) && holds(inside, 1000, 1) && holds(outside, 25, 2));
            arena.dealloc(grown, layout(25, 1));
            let outside = arena.realloc(outside, layout(25, 1), 4000);
            assert!(holds(outside, 25, 2));
            arena.dealloc(outside, layout(4000, 1));
            arena.dealloc(inside, layout(1000, 1));
        }
        assert_eq!(arena.fallback.allocated.get(), arena.fallback.freed.get());
        assert_eq!((arena.live.get(), arena.top.get()), (0, 0));
    }

    #[test]
    fn an_arena_with_nothing_in_it_is_whole_again() {
        let arena = arena();
        for byte in 0..50 {
            let first = filled(&arena, layout(500, 8), byte);
            let second = filled(&arena, layout(500, 8), byte);
            // SAFETY: the layouts are those the blocks have. Freed in the order that leaves a hole.
            unsafe {
                arena.dealloc(first, layout(500, 8));
                arena.dealloc(second, layout(500, 8));
            }
        }
        assert_eq!(arena.fallback.allocated.get(), 0, "the arena leaks");
    }

    #[test]
    fn zeroed_memory_is_zero_where_other_data_was() {
        let arena = arena();
        let used = filled(&arena, layout(512, 8), 0xff);
        // SAFETY: the layouts are those the blocks have.
        unsafe {
            arena.dealloc(used, layout(512, 8));
            let zeroed = arena.alloc_zeroed(layout(512, 8));
            assert_eq!(zeroed, used);
            assert!(holds(zeroed, 512, 0));
        }
    }

    #[test]
    fn sizes_near_the_end_of_memory_do_not_wrap() {
        let arena = arena();
        assert!(arena.take(layout(isize::MAX as usize, 1)).is_none());
        assert!(arena.take(layout(1025, 1)).is_none());
        assert!(arena.take(layout(1024, 1)).is_some());
        assert!(arena.take(layout(1, 1)).is_none());
    }
}
