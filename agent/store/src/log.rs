//! Segment files. A commit is one frame: a header, then records. Every byte is covered by a checksum exactly once: a
//! record's body by the record's own CRC (which, for an entity, also travels), everything else by the frame's.
//!
//! ```text
//! segment  "MEWLOG01" | number u64 | frame …                                   named <number>.seg
//! frame    magic u32 | length u32 | count u32 | number u32 | crc32c u32 | record …            20 bytes
//! record   length u32 | kind u32 | entity number u32 | seq u64 | origin u64 | crc32c u32 | body   32 bytes
//! ```
//! An entity record's body is the entity. A fact record's body is a key and a value, `entity number` is the key's
//! length, and an empty value deletes. Frames are numbered without a gap, so that a lost one is noticed. The magic has its top bit set and a length has not, so that a reader can start at
//! any frame or record.

use crate::disk::{Disk, DiskFile};
use mew_model::entity::MAX_ENTITY;
use std::io;
use std::sync::Arc;
use thiserror::Error;

pub const SEGMENT_HEADER: u32 = 16;
pub const FRAME: usize = 20;
pub const RECORD: usize = 32;
/// A frame must fit twice into a segment's 32-bit offsets.
pub const MAX_FRAME: usize = 1 << 28;
const FRAME_MAGIC: u32 = 0xF2AE_3EB7;
const SEGMENT_MAGIC: &[u8; 8] = b"MEWLOG01";
/// One entry of the sparse seq index for each so many bytes.
const MARK_EVERY: u32 = 64 << 10;
/// Replay reads in pieces of this size.
const REPLAY_CHUNK: usize = 4 << 20;

#[derive(Debug, Error)]
pub enum LogError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("segment {segment} is damaged at offset {offset}: {why}")]
    Damaged { segment: u32, offset: u64, why: String },
    #[error("{name} was written by another version of this program (it begins with {magic:?})")]
    Version { name: String, magic: String },
}

/// Where a record is: segment number and offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loc(u64);

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

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

pub fn record_at(b: &[u8], at: usize) -> Option<Record> {
    let b = b.get(at..at + RECORD)?;
    let kind = match u32_at(b, 4) {
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

    pub fn finish(&mut self, number: u32) {
        let len = (self.buf.len() - FRAME) as u32;
        let h = &mut self.buf[..FRAME];
        h[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        h[4..8].copy_from_slice(&len.to_le_bytes());
        h[8..12].copy_from_slice(&self.count.to_le_bytes());
        h[12..16].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c_append(self.crc, &h[..16]);
        h[16..20].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Length of a whole and correct frame at the start of `b`; `None` asks for more bytes, an error says what is wrong.
fn check_frame(b: &[u8]) -> Result<Option<usize>, &'static str> {
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
    if at != len || crc32c::crc32c_append(crc, &b[..16]) != u32_at(b, 16) {
        return Err("frame checksum");
    }
    Ok(Some(len))
}

/// Number of the frame that begins `b`.
pub fn frame_number(b: &[u8]) -> u32 {
    u32_at(b, 12)
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

#[derive(Clone)]
pub struct Segment {
    pub no: u32,
    pub file: Arc<dyn DiskFile>,
    /// Durable end; nothing beyond it is ever read.
    pub end: u32,
    pub last_seq: u64,
    /// (first seq of a frame, its offset), ascending.
    marks: Vec<(u64, u32)>,
}

pub fn segment_name(no: u32) -> String {
    format!("{no:010}.seg")
}

impl Segment {
    pub fn create(disk: &dyn Disk, no: u32) -> io::Result<Segment> {
        let file = disk.create(&segment_name(no))?;
        let mut h = SEGMENT_MAGIC.to_vec();
        h.extend_from_slice(&u64::from(no).to_le_bytes());
        file.write_at(&h, 0)?;
        file.sync()?;
        Ok(Segment { no, file, end: SEGMENT_HEADER, last_seq: 0, marks: vec![] })
    }

    /// `None` if the file was made but a crash came before its header was durable.
    pub fn open(disk: &dyn Disk, no: u32) -> Result<Option<Segment>, LogError> {
        let name = segment_name(no);
        let file = disk.open(&name)?;
        let mut h = [0; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut h, 0)?;
        if n < h.len() {
            return Ok(None);
        }
        if &h[..8] != SEGMENT_MAGIC {
            return Err(LogError::Version { name, magic: String::from_utf8_lossy(&h[..8]).into_owned() });
        }
        if u64_at(&h, 8) != u64::from(no) {
            return Err(LogError::Damaged {
                segment: no,
                offset: 8,
                why: "it carries another segment's number".into(),
            });
        }
        Ok(Some(Segment { no, file, end: SEGMENT_HEADER, last_seq: 0, marks: vec![] }))
    }

    /// Takes a frame that is on disk at `self.end` into account.
    pub fn extend(&mut self, first_seq: u64, last_seq: u64, len: usize) {
        if first_seq > 0 && self.marks.last().is_none_or(|m| self.end - m.1 >= MARK_EVERY) {
            self.marks.push((first_seq, self.end));
        }
        self.end += len as u32;
        self.last_seq = self.last_seq.max(last_seq);
    }

    /// Start of a frame at or before the first record after `seq`.
    pub fn seek(&self, seq: u64) -> u32 {
        let i = self.marks.partition_point(|m| m.0 <= seq + 1);
        if i == 0 { SEGMENT_HEADER } else { self.marks[i - 1].1 }
    }

    /// Replays whole frames from `self.end` on. Damage at the very end of the last segment is a torn write of something
    /// never acknowledged: it is cut off. Damage with a whole frame behind it is corruption, and refused with its place.
    /// Returns the bytes cut off.
    pub fn replay(
        &mut self,
        is_last: bool,
        mut f: impl FnMut(u32, &[u8]) -> Result<(), LogError>,
    ) -> Result<u64, LogError> {
        let size = self.file.len()?;
        let mut buf = vec![0; REPLAY_CHUNK];
        let (mut have, mut at) = (0usize, 0usize); // buf[at..have] is unread; buf[at] lies at self.end
        loop {
            match check_frame(&buf[at..have]) {
                Ok(Some(len)) => {
                    let b = &buf[at..at + len];
                    let (mut first, mut last) = (0, 0);
                    for_each_record(b, |_, r| {
                        if r.seq > 0 {
                            first = if first == 0 { r.seq } else { first };
                            last = r.seq;
                        }
                    });
                    let off = self.end;
                    self.extend(first, last, len);
                    f(off, b)?;
                    at += len;
                }
                Ok(None) => {
                    buf.copy_within(at..have, 0);
                    (have, at) = (have - at, 0);
                    let want = if have >= FRAME { FRAME + u32_at(&buf, 4) as usize } else { FRAME };
                    if want.max(have + 1) > buf.len() {
                        buf.resize(want.max(have + 1), 0);
                    }
                    let n = self.file.read_at(&mut buf[have..], u64::from(self.end) + have as u64)?;
                    have += n;
                    if n == 0 {
                        self.refuse_if_followed(is_last, size, "the frame is cut off")?;
                        break;
                    }
                }
                Err(why) => {
                    self.refuse_if_followed(is_last, size, why)?;
                    break;
                }
            }
        }
        let cut = size - u64::from(self.end);
        if cut > 0 && !is_last {
            let why = "a closed segment does not end with a commit".to_owned();
            return Err(LogError::Damaged { segment: self.no, offset: self.end.into(), why });
        }
        if cut > 0 {
            self.file.set_len(self.end.into())?;
            self.file.sync()?;
        }
        Ok(cut)
    }

    fn refuse_if_followed(&self, is_last: bool, size: u64, why: &str) -> Result<(), LogError> {
        let mut rest = vec![0; (size - u64::from(self.end)) as usize];
        self.file.read_at(&mut rest, self.end.into())?;
        if rest.iter().all(|b| *b == 0) {
            return Ok(()); // the ordinary end
        }
        let damaged = |why: String| Err(LogError::Damaged { segment: self.no, offset: self.end.into(), why });
        if !is_last {
            return damaged(why.to_owned());
        }
        let magic = FRAME_MAGIC.to_le_bytes();
        for at in 1..rest.len().saturating_sub(FRAME) {
            if rest[at..at + 4] == magic && matches!(check_frame(&rest[at..]), Ok(Some(_))) {
                return damaged(format!("{why}; whole commits follow at offset {}", self.end as usize + at));
            }
        }
        Ok(())
    }
}
