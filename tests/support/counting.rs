//! The system's allocator, and a count of what it was asked for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

/// To be the global allocator of whoever includes this file.
pub(crate) struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static OCTETS: AtomicI64 = AtomicI64::new(0);

/// Allocations so far, of all threads.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Octets that are held now.
#[allow(dead_code, reason = "not every program that counts weighs, too")]
pub(crate) fn octets() -> i64 {
    OCTETS.load(Relaxed)
}

fn count(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

#[expect(unsafe_code, reason = "an allocator can be written in no other way; it hands everything to the system's")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        OCTETS.fetch_add(count(layout.size()), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(count(layout.size()), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}
