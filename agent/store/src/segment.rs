//! Segment files: a header, then frames.
//!
//! ```text
//! <id>.seg   "MEWLOG01" | id u32 | kind u32 | first frame u64 | end frame u64 | last seq u64 | entities u32 | crc32c u32 | frame …   48 bytes
//! ```
//! Kind 0 is written by commits, one after the other; its end frame is 0, because it is not known yet. Kind 1 was made by
//! compaction: it stands for all frames from the first to before the end, keeps what still counts of them, and ends with
//! the last of them, empty if need be, so that a lost tail is noticed. It also says how far seqs and entity numbers had
//! come, as the records that had them may be gone. Ids are never used twice: a compacted segment has
//! a higher id than those it replaces, and segments are in the order of their first frames.

use crate::disk::{Disk, DiskFile};
use crate::log::{FRAME, LogError, check_frame, for_each_record, frame_number};
use crate::log::{next_whole_frame, u32_at, u64_at, written};
use std::io;
use std::sync::Arc;

pub const SEGMENT_HEADER: u32 = 48;
pub const SEGMENT_MAGIC: &[u8; 8] = b"MEWLOG01";
const COMPACTED: u32 = 1;
/// One entry of the sparse seq index for each so many bytes.
const MARK_EVERY: u32 = 64 << 10;
/// Replay reads in pieces of this size.
const REPLAY_CHUNK: usize = 4 << 20;

pub fn segment_name(id: u32) -> String {
    format!("{id:010}.seg")
}

/// The id in a segment's file name. Only as it is written: another spelling would name a file that is not there. The
/// highest one is no segment's, see [`Loc`](crate::log::Loc).
pub fn id_of(name: &str) -> Option<u32> {
    name.strip_suffix(".seg")?.parse().ok().filter(|id| *id < u32::MAX && segment_name(*id) == name)
}

#[derive(Clone)]
pub struct Segment {
    pub id: u32,
    pub compacted: bool,
    pub first_frame: u64,
    /// Number after that of the last frame.
    pub end_frame: u64,
    /// Entity numbers given out when compaction made it; 0 otherwise.
    pub entities: u32,
    pub file: Arc<dyn DiskFile>,
    /// Durable end; nothing beyond it is ever read.
    pub end: u32,
    pub last_seq: u64,
    pub records: u32,
    /// Records that later ones have replaced.
    pub dead: u32,
    /// As many of them had to stay when compaction made it.
    pub stuck: u32,
    /// Tombstones in it.
    pub buried: u32,
    /// (first seq of a frame, its offset), ascending.
    pub marks: Vec<(u64, u32)>,
}

/// What a compacted segment stands for.
#[derive(Clone, Copy)]
pub struct Span {
    pub first_frame: u64,
    pub end_frame: u64,
    pub last_seq: u64,
    /// Entity numbers given out when it was made.
    pub entities: u32,
}

fn header(id: u32, kind: u32, s: Span) -> Vec<u8> {
    let mut h = SEGMENT_MAGIC.to_vec();
    h.extend_from_slice(&id.to_le_bytes());
    h.extend_from_slice(&kind.to_le_bytes());
    h.extend_from_slice(&s.first_frame.to_le_bytes());
    h.extend_from_slice(&s.end_frame.to_le_bytes());
    h.extend_from_slice(&s.last_seq.to_le_bytes());
    h.extend_from_slice(&s.entities.to_le_bytes());
    let crc = crc32c::crc32c(&h);
    h.extend_from_slice(&crc.to_le_bytes());
    h
}

impl Segment {
    fn new(id: u32, first_frame: u64, file: Arc<dyn DiskFile>) -> Self {
        Segment {
            id,
            compacted: false,
            first_frame,
            end_frame: first_frame,
            entities: 0,
            file,
            end: SEGMENT_HEADER,
            last_seq: 0,
            records: 0,
            dead: 0,
            stuck: 0,
            buried: 0,
            marks: vec![],
        }
    }

    /// The same file, to be read from its start again.
    pub fn rewound(&self) -> Segment {
        let mut s = Segment::new(self.id, self.first_frame, self.file.clone());
        if self.compacted {
            (s.compacted, s.entities) = (true, self.entities);
            (s.end_frame, s.last_seq) = (self.end_frame, self.last_seq);
        }
        s
    }

    /// A segment for commits; `spare` is a file full of zeroes that becomes it, so that growing costs a commit nothing. Its name
    /// is durable before anything is in it: a commit must not be lost with the name, nor a spare come back that is no longer
    /// full of zeroes.
    pub fn create(disk: &dyn Disk, id: u32, first_frame: u64, spare: Option<&str>) -> io::Result<Segment> {
        let name = segment_name(id);
        let file = match spare {
            Some(s) => {
                disk.rename(s, &name)?;
                disk.open(&name)?
            }
            None => disk.create(&name)?,
        };
        let h = header(id, 0, Span { first_frame, end_frame: 0, last_seq: 0, entities: 0 });
        let begin = || -> io::Result<()> {
            disk.sync_names()?;
            file.write_at(&h, 0)?;
            file.sync()
        };
        if let Err(e) = begin() {
            let _ = disk.remove(&name); // the next attempt has another id
            return Err(e);
        }
        Ok(Segment::new(id, first_frame, file))
    }

    /// The header of a compacted segment under its temporary name.
    pub fn begin_compacted(file: &dyn DiskFile, id: u32, span: Span) -> io::Result<()> {
        file.write_at(&header(id, COMPACTED, span), 0)
    }

    /// `None` if the file was made but a crash came before its header was durable: then nothing was written behind it.
    pub fn open(disk: &dyn Disk, id: u32) -> Result<Option<Segment>, LogError> {
        let name = segment_name(id);
        let file = disk.open(&name)?;
        let mut h = [0; SEGMENT_HEADER as usize];
        let n = file.read_at(&mut h, 0)?;
        let torn = n < h.len() || crc32c::crc32c(&h[..44]) != u32_at(&h, 44);
        let ours = h.iter().zip(SEGMENT_MAGIC).all(|(a, b)| a == b || torn && *a == 0);
        if !ours {
            return Err(LogError::Version { name, magic: String::from_utf8_lossy(&h[..8]).into_owned() });
        }
        let mut s = Segment::new(id, u64_at(&h, 16), file);
        if torn && s.rest(s.file.len()?)?.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let (kind, end) = (u32_at(&h, 12), u64_at(&h, 24));
        let damaged = |why: &str| LogError::Damaged { segment: id, offset: 8, why: why.into() };
        if torn {
            return Err(damaged("header checksum"));
        }
        if u32_at(&h, 8) != id {
            return Err(damaged("it carries another segment's id"));
        }
        let (last_seq, entities) = (u64_at(&h, 32), u32_at(&h, 40));
        match kind {
            COMPACTED => {
                s.compacted = true;
                (s.end_frame, s.last_seq, s.entities) = (end, last_seq, entities);
            }
            // Only compaction knows these.
            0 if (end, last_seq, entities) == (0, 0, 0) => {}
            _ => return Err(damaged("it is of an unknown kind")),
        }
        Ok(Some(s))
    }

    /// Takes a frame that is on disk at `self.end` into account.
    pub fn extend(&mut self, frame: u64, first_seq: u64, last_seq: u64, len: usize, records: u32) {
        if first_seq > 0 && self.marks.last().is_none_or(|m| self.end - m.1 >= MARK_EVERY) {
            self.marks.push((first_seq, self.end));
        }
        self.end += len as u32;
        self.last_seq = self.last_seq.max(last_seq);
        self.records += records;
        self.end_frame = self.end_frame.max(frame + 1);
    }

    /// Records that compaction takes. If nothing older holds what was replaced (`clean`), also what only takes something away,
    /// and tombstones, once all of it is as old as those that may go.
    pub fn gone(&self, clean: bool, tombstones_up_to: u64) -> u32 {
        let n = match clean {
            true if self.last_seq <= tombstones_up_to => self.dead + self.buried,
            true => self.dead,
            // That has to stay as long as what it takes away may lie in something older.
            false => self.dead.saturating_sub(self.stuck),
        };
        n.min(self.records)
    }

    /// About how many bytes so many of its records take.
    pub fn bytes_of(&self, records: u32) -> u64 {
        u64::from(self.end) * u64::from(records) / u64::from(self.records.max(1))
    }

    /// Start of a frame at or before the first record after `seq`.
    pub fn seek(&self, seq: u64) -> u32 {
        let i = self.marks.partition_point(|m| m.0 <= seq + 1);
        if i == 0 { SEGMENT_HEADER } else { self.marks[i - 1].1 }
    }

    /// Replays whole frames from `self.end` on, which must be numbered without a gap. Damage at the very end of
    /// the last segment is a torn write of something never acknowledged: it is cut off. Damage with a whole frame behind
    /// it is corruption, and refused with its place. Returns the bytes cut off.
    pub fn replay(
        &mut self,
        is_last: bool,
        mut f: impl FnMut(u32, &[u8]) -> Result<(), LogError>,
    ) -> Result<u64, LogError> {
        let size = self.file.len()?;
        if size > u64::from(u32::MAX) {
            return Err(self.damaged(format!("{size} bytes; a segment is smaller than 4 GiB")));
        }
        let promised = self.end_frame;
        let mut next = if self.compacted { self.first_frame } else { self.end_frame };
        let mut buf = vec![0; REPLAY_CHUNK.min(size as usize + FRAME)];
        let (mut have, mut at) = (0usize, 0usize); // buf[at..have] is unread; buf[at] lies at self.end
        loop {
            match check_frame(&buf[at..have]) {
                Ok(Some(len)) => {
                    let b = &buf[at..at + len];
                    let number = frame_number(b);
                    let wrong = if self.compacted { number < next } else { number != next };
                    let Some(after) = number.checked_add(1).filter(|_| !wrong) else {
                        let why = format!("commit {next} is missing; {number} is here");
                        return Err(self.damaged(why));
                    };
                    next = after;
                    let (mut first, mut last) = (0, 0);
                    for_each_record(b, |_, r| {
                        if r.seq > 0 {
                            first = if first == 0 { r.seq } else { first };
                            last = r.seq;
                        }
                    });
                    let off = self.end;
                    self.extend(number, first, last, len, u32_at(b, 8));
                    f(off, b)?;
                    at += len;
                }
                Ok(None) => {
                    buf.copy_within(at..have, 0);
                    (have, at) = (have - at, 0);
                    let want = if have >= FRAME { FRAME + u32_at(&buf, 4) as usize } else { FRAME };
                    // A torn frame may say any length: no more is made room for than the file has.
                    let left = size.saturating_sub(self.end.into()) as usize;
                    let want = want.min(left).max(have + 1);
                    if want > buf.len() {
                        buf.resize(want, 0);
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
        if self.compacted && next != promised {
            let (last, end) = (next.saturating_sub(1), promised.saturating_sub(1));
            return Err(self.damaged(format!("its last commit is {last}, not {end}")));
        }
        let cut = self.written_behind(size)?;
        if cut > 0 && !is_last {
            return Err(self.damaged("a closed segment does not end with a commit".to_owned()));
        }
        if cut > 0 {
            self.file.set_len(self.end.into())?;
            self.file.sync()?;
        }
        Ok(cut)
    }

    fn damaged(&self, why: String) -> LogError {
        LogError::Damaged { segment: self.id, offset: self.end.into(), why }
    }

    /// Bytes behind the end up to the last that is not zero: a spare file's zeroes are no damage.
    fn written_behind(&self, size: u64) -> Result<u64, LogError> {
        Ok(written(&self.rest(size)?) as u64)
    }

    fn rest(&self, size: u64) -> Result<Vec<u8>, LogError> {
        let mut rest = vec![0; size.saturating_sub(u64::from(self.end)) as usize];
        self.file.read_at(&mut rest, self.end.into())?;
        Ok(rest)
    }

    fn refuse_if_followed(&self, is_last: bool, size: u64, why: &str) -> Result<(), LogError> {
        let rest = self.rest(size)?;
        if rest.iter().all(|b| *b == 0) {
            return Ok(()); // the ordinary end
        }
        if !is_last {
            return Err(self.damaged(why.to_owned()));
        }
        match next_whole_frame(&rest, 0, written(&rest), self.end_frame) {
            Some(at) => {
                let place = self.end as usize + at;
                Err(self.damaged(format!("{why}; whole commits follow at offset {place}")))
            }
            None => Ok(()),
        }
    }
}
