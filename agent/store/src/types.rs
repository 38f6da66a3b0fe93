//! What goes in and comes out of a store, and what can go wrong.

use crate::checkpoint::CheckpointError;
use crate::log::{Loc, LogError, MAX_FACT_KEY, MAX_FRAME};
use bytes::Bytes;
use mew_model::entity::MAX_ENTITY;
use mew_model::{EntityRef, KernelKey};
use std::io;
use thiserror::Error;

/// How many entities a data directory can ever have: numbers are below this. None is given out twice, so that one always means
/// the same entity, and the number itself stays unused: it is what comes next when none is left.
pub const MOST_ENTITIES: u32 = u32::MAX;

const MIB: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing was written; it works again once there is space.
    #[error("the disk is full; free some space, then it goes on by itself")]
    Full,
    /// Upkeep has no room for the least that it can do, of about so many bytes: one rewritten group, if any is due, and the
    /// checkpoint that lets it count. What was done before that stays done.
    #[error("the disk is full: compaction and a checkpoint need about {} MiB", .0.div_ceil(MIB))]
    NoRoom(u64),
    /// A sync failed, so it is unknown what is on disk. Nothing can be written until the store is opened again.
    #[error("nothing can be written until the store is opened again, as a restart does: {0}")]
    Broken(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the data directory belongs to kernel {found}, not {expected}")]
    OtherKernel { found: String, expected: String },
    #[error("commit of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLarge(usize),
    /// Nothing was written. What is there can still be changed and deleted.
    #[error("this data directory has had {MOST_ENTITIES} entities, and can number no more; a new one can")]
    NoNumbers,
    /// More was committed since a look began than is kept for it.
    #[error("the read took too long: too much was changed since it began; read less at once, or again")]
    Outdated,
    #[error("the store holds what it should not: {0}")]
    Inconsistent(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

#[derive(Clone, Debug)]
pub struct Options {
    pub kernel_id: String,
    /// For a new data directory: its random incarnation.
    pub new_incarnation: String,
    /// A segment is closed when the next frame would take it past this size.
    pub segment_bytes: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Records that were replayed; what the checkpoint covers is not among them.
    pub records: u64,
    /// Bytes of a torn last commit, never acknowledged, that were cut off.
    pub cut_bytes: u64,
    /// What is wrong with a checkpoint that was thrown away. Nothing is lost with it.
    pub bad_checkpoint: Option<String>,
}

/// One commit, in the order in which it takes effect.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// (key, value); an empty value deletes the fact.
    pub facts: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether a fact can be kept: a commit with one that cannot is refused as a whole.
pub fn is_fact(key: &[u8], value: &[u8]) -> bool {
    !key.is_empty() && key.len() <= MAX_FACT_KEY && key.len() + value.len() <= MAX_ENTITY + MAX_FACT_KEY
}

#[derive(Clone, Debug)]
pub struct Change {
    /// Numbers of new entities follow [`crate::View::next_entity`], below [`MOST_ENTITIES`].
    pub ent: u32,
    pub origin: KernelKey,
    pub bytes: Bytes,
    /// What the writer found to replace, if it looked: if that is still so, it is not read again.
    pub found: Option<Stored>,
}

/// A stored version.
#[derive(Clone, Debug)]
pub struct Stored {
    pub ent: u32,
    pub seq: u64,
    /// The kernel that introduced the entity here; `KernelKey(0)` is this one.
    pub origin: KernelKey,
    pub crc: u32,
    pub bytes: Bytes,
    /// Where it was found; nowhere, if it is not committed.
    pub place: Loc,
}

impl Stored {
    /// The store only holds what was validated on its way in, and every read is checked against its checksum.
    pub fn entity(&self) -> Result<EntityRef<'_>> {
        EntityRef::read(&self.bytes).map_err(|e| StoreError::Inconsistent(format!("entity {}: {e}", self.ent)))
    }
}

/// A reader's place in the feed: everything up to `seq` is behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub seq: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Place {
    pub fn after(seq: u64) -> Place {
        Place { seq, ..Place::default() }
    }
}

/// What upkeep may do.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// History up to this seq is needed by nobody: older versions and, if they are old enough, tombstones may go.
    pub floor: u64,
    /// Tombstones up to this seq are old enough. Their versions' times say when something was deleted somewhere, and not since
    /// when that is known here.
    pub tombstones_up_to: u64,
    /// Segments are rewritten from this share of dead records on, in percent; tombstones that may go count as dead.
    pub dead_percent: u32,
    /// A checkpoint is written when more bytes of commits than these came after the last,
    pub checkpoint_bytes: u64,
    /// and more than this share of its size, in percent: writing it must not cost much more than what it is of.
    pub checkpoint_percent: u64,
}

impl Upkeep {
    /// What a running kernel does: half dead is rewritten, and a restart replays a few segments at most.
    pub fn routine(floor: u64, tombstones_up_to: u64) -> Self {
        let (checkpoint_bytes, checkpoint_percent) = (192 << 20, 50);
        Upkeep { floor, tombstones_up_to, dead_percent: 50, checkpoint_bytes, checkpoint_percent }
    }

    /// Nothing that takes long: a spare, and a look whether a disk that refused takes commits again.
    pub fn small() -> Self {
        let never = u64::MAX;
        Upkeep { floor: 0, tombstones_up_to: 0, dead_percent: 100, checkpoint_bytes: never, checkpoint_percent: 0 }
    }

    /// Everything that can be done.
    pub fn thorough(floor: u64, tombstones_up_to: u64) -> Self {
        Upkeep { floor, tombstones_up_to, dead_percent: 1, checkpoint_bytes: 0, checkpoint_percent: 0 }
    }
}

/// What upkeep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of the checkpoint that was written; 0 if none was.
    pub checkpoint_bytes: u64,
    /// Segments that were rewritten, and what became smaller by it.
    pub rewritten: u64,
    pub freed_bytes: u64,
    /// Tombstones that were forgotten.
    pub forgotten: u64,
}
