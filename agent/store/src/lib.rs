//! The kernel's durable log and what is derived from it.
//!
//! The log is the truth and the change feed. Everything else (entities by id, by type, unique values, edges by end) is
//! derived from it, kept in memory, and rebuilt by replay. A commit is one frame: whole or not at all, durable when it
//! returns. One writer at a time; the kernel decides what to write, this crate only keeps it.

pub mod disk;
mod index;
mod log;
mod mem;
mod store;

pub use disk::{DirDisk, Disk, DiskFile};
pub use log::LogError;
pub use mem::{Fault, MemDisk};
pub use store::{Batch, Change, Opened, Options, Place, Store, StoreError, Stored, View};
