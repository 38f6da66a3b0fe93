//! The bytes of the log. A commit is one frame: a header, then records. Every byte is covered by a checksum: a record's
//! body by the record's own CRC (which, for an entity, also travels), everything else by the frame's. A record's header has
//! a check of its own besides, because most reads are of one record, without its frame.
//!
//! ```text
//! frame    magic u32 | length u32 | count u32 | number u64 | crc32c u32 | record …            24 bytes
//! record   length u32 | kind u8 | check u24 | entity number u32 | seq u64 | origin u64 | crc32c u32 | body   32 bytes
//! ```
//! An entity record's body is the entity. A fact record's body is a key and a value, `entity number` is the key's
//! length, and an empty value deletes. Frames are numbered without a gap, so that a lost one is noticed. The magic has its
//! top bit set and a length has not, so that a reader can start at any frame or record.

use mew_model::entity::MAX_ENTITY;
use std::io;
use thiserror::Error;

pub const FRAME: usize = 24;
pub const RECORD: usize = 32;
/// A frame must fit twice into a segment's 32-bit offsets.
pub const MAX_FRAME: usize = 1 << 28;
pub const FRAME_MAGIC: u32 = 0xF2AE_3EB7;

#[derive(Debug, Error)]
pub enum LogError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("segment {segment} is damaged at offset {offset}: {why}")]
    Damaged { segment: u32, offset: u64, why: String },
    #[error("{name} was written by a newer version of this program, or is not ours (it begins with {magic:?})")]
    Version { name: String, magic: String },
}

/// Where a record is: segment id and offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loc(u64);

impl Default for Loc {
    fn default() -> Self {
        Loc::NONE
    }
}

impl Loc {
    pub const NONE: Loc = Loc(u64::MAX);
    pub fn new(segment: u32, offset: u32) -> Self {
        Loc(u64::from(segment) << 32 | u64::from(offset))
    }
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
    /// An offset from the start of a frame whose place is not known yet.
    pub fn relative(offset: u32) -> Self {
        Loc::new(u32::MAX, offset)
    }
    pub fn as_relative(self) -> Option<u32> {
        (self.segment() == u32::MAX && self != Loc::NONE).then_some(self.offset())
    }
    pub fn raw(self) -> u64 {
        self.0
    }
    pub fn from_raw(v: u64) -> Self {
        Loc(v)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Entity,
    Fact,
}

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub len: u32,
    pub kind: Kind,
    /// Entity number, or the length of a fact's key.
    pub ent: u32,
    /// 0 for a fact.
    pub seq: u64,
    /// Key of the kernel that introduced the entity here; 0 for this kernel itself.
    pub origin: u64,
    pub crc: u32,
}

pub fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// What the check of a record's header must be.
fn header_check(h: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&h[..5]), &h[8..RECORD]) >> 8
}

pub fn record_at(b: &[u8], at: usize) -> Option<Record> {
    let b = b.get(at..at + RECORD)?;
    if u32_at(b, 4) >> 8 != header_check(b) {
        return None;
    }
    let kind = match b[4] {
        0 => Kind::Entity,
        1 => Kind::Fact,
        _ => return None,
    };
    let r = Record {
        len: u32_at(b, 0),
        kind,
        ent: u32_at(b, 8),
        seq: u64_at(b, 12),
        origin: u64_at(b, 20),
        crc: u32_at(b, 28),
    };
    (r.len > 0 && r.len as usize <= MAX_ENTITY + MAX_FACT_KEY).then_some(r)
}

/// Most bytes of a fact's key.
pub const MAX_FACT_KEY: usize = 4096;

/// A frame under construction.
#[derive(Default)]
pub struct Frame {
    pub buf: Vec<u8>,
    count: u32,
    crc: u32,
    pub first_seq: u64,
    pub last_seq: u64,
}

impl Frame {
    pub fn clear(&mut self) {
        self.buf.clear();
        self.buf.resize(FRAME, 0);
        (self.count, self.crc, self.first_seq, self.last_seq) = (0, 0, 0, 0);
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the record's offset from the start of the frame.
    pub fn push(&mut self, r: Record, body: &[&[u8]]) -> u32 {
        let at = self.buf.len();
        self.buf.extend_from_slice(&r.len.to_le_bytes());
        self.buf.extend_from_slice(&(r.kind as u32).to_le_bytes());
        self.buf.extend_from_slice(&r.ent.to_le_bytes());
        self.buf.extend_from_slice(&r.seq.to_le_bytes());
        self.buf.extend_from_slice(&r.origin.to_le_bytes());
        self.buf.extend_from_slice(&r.crc.to_le_bytes());
        let kind = r.kind as u32 | header_check(&self.buf[at..]) << 8;
        self.buf[at + 4..at + 8].copy_from_slice(&kind.to_le_bytes());
        self.crc = crc32c::crc32c_append(self.crc, &self.buf[at..]);
        for b in body {
            self.buf.extend_from_slice(b);
        }
        self.count += 1;
        if r.seq > 0 {
            if self.first_seq == 0 {
                self.first_seq = r.seq;
            }
            self.last_seq = r.seq;
        }
        at as u32
    }

    pub fn finish(&mut self, number: u64) {
        let len = (self.buf.len() - FRAME) as u32;
        let h = &mut self.buf[..FRAME];
        h[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        h[4..8].copy_from_slice(&len.to_le_bytes());
        h[8..12].copy_from_slice(&self.count.to_le_bytes());
        h[12..20].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c_append(self.crc, &h[..20]);
        h[20..24].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Length of a whole and correct frame at the start of `b`; `None` asks for more bytes, an error says what is wrong.
pub fn check_frame(b: &[u8]) -> Result<Option<usize>, &'static str> {
    if b.len() < FRAME {
        return Ok(None);
    }
    if u32_at(b, 0) != FRAME_MAGIC {
        return Err("no frame begins here");
    }
    let len = FRAME + u32_at(b, 4) as usize;
    if len > MAX_FRAME {
        return Err("frame length");
    }
    if b.len() < len {
        return Ok(None);
    }
    let (mut crc, mut at) = (0, FRAME);
    for _ in 0..u32_at(b, 8) {
        let r = record_at(&b[..len], at).ok_or("record header")?;
        let body = b[..len].get(at + RECORD..at + RECORD + r.len as usize).ok_or("record length")?;
        if crc32c::crc32c(body) != r.crc {
            return Err("record checksum");
        }
        crc = crc32c::crc32c_append(crc, &b[at..at + RECORD]);
        at += RECORD + r.len as usize;
    }
    if at != len || crc32c::crc32c_append(crc, &b[..20]) != u32_at(b, 20) {
        return Err("frame checksum");
    }
    Ok(Some(len))
}

/// Number of the frame that begins `b`.
pub fn frame_number(b: &[u8]) -> u64 {
    u64_at(b, 12)
}

/// The records of a run of bytes that starts at a frame or a record: calls back with the offset and the record; returns
/// how far it got.
pub fn for_each_record(b: &[u8], mut f: impl FnMut(usize, Record)) -> usize {
    let mut at = 0;
    while at + 4 <= b.len() {
        if u32_at(b, at) == FRAME_MAGIC {
            if at + FRAME > b.len() {
                break;
            }
            at += FRAME;
            continue;
        }
        match record_at(b, at) {
            Some(r) if at + RECORD + r.len as usize <= b.len() => {
                f(at, r);
                at += RECORD + r.len as usize;
            }
            _ => break,
        }
    }
    at
}

/// The end of what is written; a spare file's zeroes may follow.
pub fn written(b: &[u8]) -> usize {
    b.iter().rposition(|x| *x != 0).map_or(0, |last| last + 1)
}

/// The next whole commit behind a damage at `from` that begins before `end` (see [`written`]) and has this number or a later
/// one. What lies in a record is the application's and may look like a commit, so a damaged commit is stepped over as a
/// whole where its length leads to the next, and whole records are in any case.
pub fn next_whole_frame(b: &[u8], from: usize, end: usize, least: u64) -> Option<usize> {
    let magic = FRAME_MAGIC.to_le_bytes();
    let whole = |at: usize| {
        let rest = b.get(at..).unwrap_or_default();
        rest.starts_with(&magic) && matches!(check_frame(rest), Ok(Some(_))) && frame_number(rest) >= least
    };
    if let Some(h) = b.get(from..from + FRAME).filter(|h| h.starts_with(&magic)) {
        let next = from + FRAME + u32_at(h, 4) as usize;
        if whole(next) {
            return Some(next);
        }
    }
    let mut at = from + 1;
    while at < end {
        if whole(at) {
            return Some(at);
        }
        // The kind says most often that no record begins here, and costs less than a checksum.
        let record = b.get(at + 4).filter(|kind| **kind < 2).and_then(|_| record_at(b, at));
        let body = record.and_then(|r| Some((r, b.get(at + RECORD..at + RECORD + r.len as usize)?)));
        at += match body {
            Some((r, body)) if crc32c::crc32c(body) == r.crc => RECORD + body.len(),
            _ => 1,
        };
    }
    None
}
