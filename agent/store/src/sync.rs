//! The locks and atomics of this crate. The package in `schedules` compiles the same sources with shuttle's in their place
//! and explores in which order threads come to them; everything that threads share must be in one of these, or never change.

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
