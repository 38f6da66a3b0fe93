//! The kernel's durable log and what is derived from it.
//!
//! The log is the truth and the change feed. Everything else (entities by id, by type, unique values, edges by end) is
//! derived from it, kept in memory, and rebuilt by replay, from a checkpoint on. A commit is one frame: whole or not at
//! all, durable when it returns. One writer at a time; the kernel decides what to write, this crate only keeps it, and
//! keeps it small.

mod backup;
mod cache;
mod canonical;
mod checkpoint;
mod compact;
pub mod disk;
mod feed;
mod history;
mod hooked;
mod index;
pub mod inspect;
mod log;
mod mem;
mod readonly;
mod recover;
mod segment;
mod state;
mod store;
mod sync;
mod types;
mod view;

pub use backup::{Backup, Entry};
pub use checkpoint::CheckpointError;
pub use disk::{DirDisk, Disk, DiskFile};
pub use hooked::{DiskOp, Hook, Hooked};
pub use index::OrderKey;
pub use log::{Loc, LogError, MAX_FRAME};
pub use mem::{Fault, MemDisk};
pub use readonly::ReadOnlyDir;
pub use store::Store;
pub use types::{
    Batch, Change, Kept, MOST_ENTITIES, Opened, Options, Place, Result, StoreError, Stored, Upkeep, is_fact,
};
pub use view::View;
