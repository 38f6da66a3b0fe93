//! The derived state of all closed segments, in one file, so that opening replays only what came after.
//!
//! ```text
//! checkpoint   "MEWCKP01" | ontology u64 | hash keys u64 u64 | next frame u64 | active segment u32 | last seq u64
//!              | segments | their tombstones | ids by shard | positions | types | unique values | ends | facts
//!              | ordered values | crc32c u32
//! ```
//! Every list is its length and its items, little-endian. It is made from the log alone, so it can be thrown away; a
//! damaged one, or one that was made under other unique or indexed attributes, is.

use crate::disk::Disk;
use crate::index::{Index, Keys, SHARDS};
use crate::log::{Loc, RECORD, u32_at};
use crate::segment::Segment;
use mew_model::Ontology;
use roaring::RoaringBitmap;
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::io;
use thiserror::Error;

pub const CHECKPOINT: &str = "checkpoint";
/// Its name until it is whole.
pub const UNFINISHED: &str = "checkpoint.new";
pub const MAGIC: &[u8; 8] = b"MEWCKP01";
const CHUNK: usize = 4 << 20;

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
    pub buried_ms: u64,
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

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn bytes(&mut self, b: &[u8]) {
        self.u32(b.len() as u32);
        self.0.extend_from_slice(b);
    }
}

/// Writes it under its temporary name, durably, and gives it its name. That is durable as well when it returns: the one that it
/// replaces wants segments that may be removed then.
pub fn write<'a>(
    disk: &dyn Disk,
    o: &Ontology,
    index: &Index,
    segments: impl Iterator<Item = &'a Segment>,
    next_frame: u64,
    active: u32,
) -> io::Result<u64> {
    let mut out = Out::default();
    out.0.extend_from_slice(MAGIC);
    out.u64(fingerprint(o));
    out.u64(index.keys.0);
    out.u64(index.keys.1);
    out.u64(next_frame);
    out.u32(active);
    out.u64(index.last_seq);
    let segments: Vec<_> = segments.collect();
    out.u32(segments.len() as u32);
    for s in &segments {
        out.u32(s.id);
        out.u32(s.end);
        out.u64(s.end_frame);
        out.u64(s.last_seq);
        out.u32(s.records);
        out.u32(s.dead);
        out.u32(s.stuck);
        out.u32(s.marks.len() as u32);
        for (seq, at) in &s.marks {
            out.u64(*seq);
            out.u32(*at);
        }
    }
    for s in segments {
        out.u32(s.buried);
        out.u64(s.buried_ms);
    }
    for shard in &index.ids {
        out.u32(shard.len() as u32);
        for (tag, ent) in shard {
            out.u32(*tag);
            out.u32(*ent);
        }
    }
    out.u32(index.locs.len() as u32);
    index.locs.iter().for_each(|l| out.u64(l.raw()));
    out.u32(index.types.len() as u32);
    for (ty, b) in &index.types {
        let mut bytes = Vec::with_capacity(b.serialized_size());
        b.serialize_into(&mut bytes)?;
        out.u32(*ty);
        out.bytes(&bytes);
    }
    out.u32(index.unique.len() as u32);
    for (hash, ent) in &index.unique {
        out.u64(*hash);
        out.u32(*ent);
    }
    out.u32(index.ends.len() as u32);
    for (edge, ends) in &index.ends {
        out.u32(*edge);
        out.u32(ends[0]);
        out.u32(ends[1]);
    }
    out.u32(index.facts.len() as u32);
    for (k, l) in &index.facts {
        out.bytes(k);
        out.u64(l.raw());
    }
    out.u32(index.ordered.len() as u32);
    for ((ty, attr), set) in &index.ordered {
        out.u32(*ty);
        out.u32(*attr);
        out.u32(set.len() as u32);
        for (key, ent) in set {
            out.u64(*key);
            out.u32(*ent);
        }
    }
    let crc = crc32c::crc32c(&out.0);
    out.u32(crc);
    let file = disk.create(UNFINISHED)?;
    for (i, chunk) in out.0.chunks(CHUNK).enumerate() {
        file.write_at(chunk, (i * CHUNK) as u64)?;
    }
    file.sync()?;
    disk.rename(UNFINISHED, CHECKPOINT)?;
    disk.sync_names()?;
    Ok(out.0.len() as u64)
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

/// `None` if there is none, or none that can be used.
pub fn read(disk: &dyn Disk, o: &Ontology) -> Result<Option<Checkpoint>, CheckpointError> {
    let file = match disk.open(CHECKPOINT) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut all = vec![0; file.len()? as usize];
    let n = file.read_at(&mut all, 0)?;
    all.truncate(n);
    if all.len() >= 8 && all.starts_with(b"MEWCKP") && &all[..8] != MAGIC {
        return Err(CheckpointError::Version(String::from_utf8_lossy(&all[..8]).into_owned()));
    }
    let Some(body) = all.len().checked_sub(4) else { return Ok(None) };
    if !all.starts_with(MAGIC) || all[body..] != crc32c::crc32c(&all[..body]).to_le_bytes() {
        return Ok(None);
    }
    Ok(decode(&all[8..body], fingerprint(o)))
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
            buried_ms: 0,
            marks: Vec::new(),
        };
        for _ in 0..r.count(12)? {
            k.marks.push((r.u64()?, r.u32()?));
        }
        segments.push(k);
    }
    for k in &mut segments {
        (k.buried, k.buried_ms) = (r.u32()?, r.u64()?);
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
    let n = r.count(8)?;
    index.locs = r.take(8 * n)?.chunks_exact(8).map(|c| Loc::from_raw(u64_of(c))).collect();
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

fn u64_of(b: &[u8]) -> u64 {
    b.try_into().map_or(0, u64::from_le_bytes)
}
