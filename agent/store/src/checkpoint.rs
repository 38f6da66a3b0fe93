//! The derived state after one commit, in one file, so that opening replays only what came after.
//!
//! ```text
//! checkpoint   "MEWCKP03" | ontology u64 | hash keys u64 u64 | next frame u64 | active segment u32 | last seq u64
//!              | segments | their tombstones | ids by shard | next entity u32 | entities u32
//!              | pages, until they hold all entities: first number u32 | positions
//!              | types | unique values | ends | facts | ordered values | crc32c u32
//! ```
//! Every list is its length and its items, little-endian. Numbers that are in no page, or have no position in theirs, were given
//! out and are forgotten. The active segment is listed as far as it went; opening replays the rest of it. All of it follows from
//! the log, so it can be thrown away; one that is damaged or cannot be read, or that was made under other unique or indexed
//! attributes, is.

mod writing;

pub use writing::{Image, about, write};

use crate::disk::Disk;
use crate::index::{Index, Keys, SHARDS};
use crate::log::{Loc, RECORD, u32_at};
use mew_model::Ontology;
use roaring::RoaringBitmap;
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::io;
use thiserror::Error;

pub const CHECKPOINT: &str = "checkpoint";
/// Its name until it is whole.
pub const UNFINISHED: &str = "checkpoint.new";
pub const MAGIC: &[u8; 8] = b"MEWCKP03";

#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the checkpoint was written by a newer version of this program (it begins with {0:?})")]
    Version(String),
}

/// What a checkpoint says of a segment, without its file.
pub struct Listed {
    pub id: u32,
    pub end: u32,
    pub end_frame: u64,
    pub last_seq: u64,
    pub records: u32,
    pub dead: u32,
    pub stuck: u32,
    pub buried: u32,
    pub marks: Vec<(u64, u32)>,
}

pub struct Checkpoint {
    pub index: Index,
    pub segments: Vec<Listed>,
    /// Number of the first frame that it does not know.
    pub next_frame: u64,
    /// The segment that was written to when it was made: it must be there.
    pub active: u32,
}

/// What of an ontology decides about derived state.
pub fn fingerprint(o: &Ontology) -> u64 {
    let mut h = SipHasher13::new_with_keys(0, 0);
    for t in o.types() {
        (t.number, t.edge.is_some()).hash(&mut h);
        for a in t.attrs.values() {
            (a.number, a.unique_in, a.indexed_in).hash(&mut h);
        }
    }
    h.finish()
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(a)
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(n as usize)
    }
    /// A length that the rest can hold, at `size` bytes an item.
    fn count(&mut self, size: usize) -> Option<usize> {
        let n = self.u32()? as usize;
        (n.checked_mul(size)? <= self.0.len()).then_some(n)
    }
}

/// `None` if there is none, or one that was not made for this ontology. `Err` of the inner result says what is wrong with one
/// that is as good as none.
pub fn read(disk: &dyn Disk, o: &Ontology) -> Result<Result<Option<Checkpoint>, String>, CheckpointError> {
    let file = match disk.open(CHECKPOINT) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
        Err(e) => return Err(e.into()),
    };
    let mut all = vec![0; file.len()? as usize];
    match file.read_at(&mut all, 0) {
        Ok(n) => all.truncate(n),
        // If more of the disk is bad than this, reading the log tells.
        Err(e) => return Ok(Err(format!("it cannot be read: {e}"))),
    }
    if all.len() >= 8 && all.starts_with(b"MEWCKP") && all[..8] > MAGIC[..] {
        return Err(CheckpointError::Version(String::from_utf8_lossy(&all[..8]).into_owned()));
    }
    match all.len().checked_sub(4) {
        Some(body) if all.starts_with(MAGIC) && all[body..] == crc32c::crc32c(&all[..body]).to_le_bytes() => {
            Ok(Ok(decode(&all[8..body], fingerprint(o))))
        }
        _ if all.starts_with(b"MEWCKP") && all.len() >= 8 && all[..8] < MAGIC[..] => {
            Ok(Err("it is of an older version".to_owned()))
        }
        _ => Ok(Err("its checksum is wrong".to_owned())),
    }
}

/// What a checkpoint begins with; it means something without an ontology, too.
pub struct Head {
    fingerprint: u64,
    keys: Keys,
    pub next_frame: u64,
    pub active: u32,
    last_seq: u64,
    pub segments: Vec<Listed>,
}

/// Of what follows the magic.
pub fn head(b: &[u8]) -> Option<Head> {
    head_of(&mut In(b))
}

fn head_of(r: &mut In<'_>) -> Option<Head> {
    let (fingerprint, keys) = (r.u64()?, Keys(r.u64()?, r.u64()?));
    let (next_frame, active, last_seq) = (r.u64()?, r.u32()?, r.u64()?);
    let mut segments = Vec::new();
    for _ in 0..r.count(40)? {
        let mut k = Listed {
            id: r.u32()?,
            end: r.u32()?,
            end_frame: r.u64()?,
            last_seq: r.u64()?,
            records: r.u32()?,
            dead: r.u32()?,
            stuck: r.u32()?,
            buried: 0,
            marks: Vec::new(),
        };
        for _ in 0..r.count(12)? {
            k.marks.push((r.u64()?, r.u32()?));
        }
        segments.push(k);
    }
    for k in &mut segments {
        k.buried = r.u32()?;
        // What no segment of that size can have.
        let most = k.end / (RECORD as u32 + 1);
        if [k.records, k.dead, k.stuck, k.buried].iter().any(|n| *n > most) || k.marks.iter().any(|m| m.1 >= k.end) {
            return None;
        }
    }
    Some(Head { fingerprint, keys, next_frame, active, last_seq, segments })
}

fn decode(b: &[u8], fingerprint: u64) -> Option<Checkpoint> {
    let mut r = In(b);
    let h = head_of(&mut r)?;
    if h.fingerprint != fingerprint {
        return None;
    }
    let mut index = Index::with_keys(h.keys);
    index.last_seq = h.last_seq;
    for shard in 0..SHARDS {
        let n = r.count(8)?;
        index.reserve_ids(shard, n);
        for _ in 0..n {
            index.restore_id(shard, r.u32()?, r.u32()?);
        }
    }
    places(&mut r, &mut index)?;
    for _ in 0..r.count(8)? {
        let ty = r.u32()?;
        index.types.insert(ty, RoaringBitmap::deserialize_from(r.bytes()?).ok()?);
    }
    let n = r.count(12)?;
    index.reserve_unique(n);
    for _ in 0..n {
        index.restore_unique(r.u64()?, r.u32()?);
    }
    for _ in 0..r.count(12)? {
        index.restore_ends(r.u32()?, [r.u32()?, r.u32()?]);
    }
    for _ in 0..r.count(12)? {
        let key = r.bytes()?;
        index.facts.insert(key.into(), Loc::from_raw(r.u64()?));
    }
    for _ in 0..r.count(12)? {
        let scope = (r.u32()?, r.u32()?);
        let n = r.count(12)?;
        let items = r.take(12 * n)?.chunks_exact(12);
        index.ordered.insert(scope, items.map(|c| (u64_of(&c[..8]), u32_at(c, 8))).collect());
    }
    let Head { segments, next_frame, active, .. } = h;
    r.0.is_empty().then_some(Checkpoint { index, segments, next_frame, active })
}

fn places(r: &mut In<'_>, index: &mut Index) -> Option<()> {
    let (next, mut left) = (r.u32()?, r.u32()?);
    // Whatever has a number was written, and each write has a seq.
    if u64::from(next) > index.last_seq {
        return None;
    }
    index.raise_next(next);
    let mut end = 0;
    while left > 0 {
        let (first, n) = (r.u32()?, r.count(8)?);
        if first < end {
            return None;
        }
        end = first.checked_add(u32::try_from(n).ok()?).filter(|end| *end <= next)?;
        for (ent, c) in (first..end).zip(r.take(8 * n)?.chunks_exact(8)) {
            let loc = Loc::from_raw(u64_of(c));
            if loc != Loc::NONE {
                index.set_loc(ent, loc);
                left = left.checked_sub(1)?;
            }
        }
    }
    Some(())
}

fn u64_of(b: &[u8]) -> u64 {
    b.try_into().map_or(0, u64::from_le_bytes)
}
