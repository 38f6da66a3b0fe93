//! Counts what each thread has allocated. The one place in the repository that is not safe Rust: an allocator cannot be.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

/// More at once by one thread is refused, and ends the process with the size that was asked for: what believes a length
/// would otherwise take the machine's memory before anybody could say which input it was.
const MOST: isize = 1 << 30;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

/// Whether that much more may be taken.
fn grows(by: isize) -> bool {
    // A thread that ends is not counted any more.
    let counted = NOW.try_with(|now| {
        let next = now.get() + by;
        if next > MOST && by > 0 {
            return false;
        }
        now.set(next);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(next)));
        true
    });
    counted.unwrap_or(true)
}

// SAFETY: everything is the system's; what is counted are numbers of the thread that asks.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        match grows(l.size() as isize) {
            true => unsafe { System.alloc(l) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        match grows(l.size() as isize) {
            true => unsafe { System.alloc_zeroed(l) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        grows(-(l.size() as isize));
        unsafe { System.dealloc(p, l) }
    }

    unsafe fn realloc(&self, p: *mut u8, l: Layout, size: usize) -> *mut u8 {
        match grows(size as isize - l.size() as isize) {
            true => unsafe { System.realloc(p, l, size) },
            false => std::ptr::null_mut(),
        }
    }
}

/// The most that was allocated at once by this thread while `f` ran, in bytes, beyond what it had before.
pub fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let out = f();
    (out, usize::try_from(PEAK.get() - before).unwrap_or(0))
}
