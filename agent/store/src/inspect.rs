//! Reading a log without opening it: what is damaged, and what can still be read.
//!
//! Nothing is derived and nothing is changed, so no ontology is needed, and what lies behind a damage is read as well. It
//! takes the directory's lock: an agent must be stopped, or a backup of it be looked at.

use crate::checkpoint::{self, CHECKPOINT, CheckpointError, MAGIC as CHECKPOINT_MAGIC};
use crate::disk::{Disk, DiskFile};
use crate::log::{
    Kind, LogError, RECORD, Record, check_frame, for_each_record, frame_number, next_whole_frame, u32_at, written,
};
use crate::recover::NEW;
use crate::segment::{SEGMENT_HEADER, SEGMENT_MAGIC, Segment, id_of, segment_name};
use crate::store::{FACT_INCARNATION, FACT_KERNEL};
use crate::types::Result;
use mew_model::{EntityRef, KernelKey};
use roaring::RoaringBitmap;
use std::cmp::Reverse;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// Files are read in pieces of this size, and where that fails in blocks, so that a bad sector costs only its block.
const PIECE: usize = 1 << 20;
const BLOCK: usize = 4096;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.file, self.offset, self.why)
    }
}

/// What was found. The counts are of what can be read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whose log it is, as far as that can be read.
    pub kernel_id: Option<String>,
    pub incarnation: Option<String>,
    pub damages: Vec<Damage>,
    /// A last commit that is not whole. A crash leaves such a thing of what was never acknowledged, and opening cuts it off;
    /// damage of the very last commit looks the same.
    pub torn: Option<Damage>,
    /// Files that nothing needs; opening removes them.
    pub leftovers: Vec<String>,
    pub segments: u64,
    pub bytes: u64,
    pub commits: u64,
    pub records: u64,
    /// With tombstones.
    pub entities: u64,
    pub last_seq: u64,
}

/// A record that is whole, of a commit that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    pub file: &'a str,
    pub offset: u64,
    pub commit: u64,
    pub content: Content<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    Entity {
        ent: u32,
        seq: u64,
        /// The kernel that introduced the entity here; `KernelKey(0)` is this one.
        origin: KernelKey,
        bytes: &'a [u8],
    },
    /// An empty value takes the fact away.
    Fact { key: &'a [u8], value: &'a [u8] },
}

/// Reads every byte of the log and lists what is damaged.
pub fn check(disk: &dyn Disk) -> Result<Report> {
    salvage(disk, |_| {})
}

/// As [`check`], and calls back with every record that can be read, in the order of the log.
pub fn salvage(disk: &dyn Disk, mut each: impl FnMut(Whole<'_>)) -> Result<Report> {
    let _lock = disk.lock()?;
    let mut i = Inspection { report: Report::default(), entities: RoaringBitmap::new(), each: &mut each };
    let listed = i.checkpoint(disk)?;
    let mut found = Vec::new();
    let mut names = disk.list()?;
    names.sort_unstable();
    for name in names {
        match id_of(&name).filter(|id| segment_name(*id) == name) {
            Some(id) => found.extend(i.find(disk, id, name)?),
            None if name.ends_with(NEW) => i.report.leftovers.push(name),
            None => {}
        }
    }
    // As the store does when it opens: of two with the same commits, the one that compaction made counts.
    found.sort_by_key(|s| (s.first_frame, Reverse(s.id)));
    if let Some(l) = &listed
        && !found.iter().any(|s| s.id == l.active)
    {
        i.damage(&segment_name(l.active), 0, "the file is missing".to_owned());
    }
    for s in &mut found {
        s.known = listed.as_ref().and_then(|l| l.end_of(s.id)).unwrap_or(0);
    }
    let covered = listed.filter(|l| l.is_there(&found));
    let last = found.iter().filter(|s| !s.is_compacted()).max_by_key(|s| (s.first_frame, s.id)).map(|s| s.id);
    let mut numbers = Numbers { least: 0, sure: true };
    let mut before = None;
    for s in &mut found {
        let is_unlisted =
            covered.as_ref().is_some_and(|l| l.end_of(s.id).is_none() && (s.is_compacted() || l.covers(s)));
        if is_unlisted || s.first_frame < numbers.least || before == Some(s.first_frame) {
            s.role = Role::Leftover;
            i.report.leftovers.push(s.name.clone());
            i.segment(s, &mut Numbers { least: s.first_frame, sure: s.head.is_some() });
            continue;
        }
        if last == Some(s.id) {
            s.role = Role::Last;
        }
        if s.head.is_some() && numbers.sure && s.first_frame > numbers.least {
            let why = format!("commits {} to {} are missing", numbers.least, s.first_frame - 1);
            i.damage(&s.name, 0, why);
        }
        numbers = Numbers { least: s.first_frame, sure: s.head.is_some() };
        before = Some(s.first_frame);
        i.segment(s, &mut numbers);
    }
    i.report.entities = i.entities.len();
    Ok(i.report)
}

/// A segment file.
struct Found {
    id: u32,
    name: String,
    file: Arc<dyn DiskFile>,
    /// `None` if it is damaged.
    head: Option<Segment>,
    /// As the header says, or else the number of the first whole commit.
    first_frame: u64,
    role: Role,
    /// As far as a checkpoint knows it: up to there nothing was torn.
    known: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Closed,
    /// The one that commits went to.
    Last,
    Leftover,
}

impl Found {
    fn is_compacted(&self) -> bool {
        self.head.as_ref().is_some_and(|h| h.compacted)
    }
}

/// What the next commit's number must be: at least this, and exactly this where nothing was lost and nothing may be left out.
struct Numbers {
    least: u64,
    sure: bool,
}

/// What a checkpoint says of segments. The rest of it means nothing without an ontology.
struct Listed {
    next_frame: u64,
    active: u32,
    /// Id and durable end.
    segments: Vec<(u32, u32)>,
}

impl Listed {
    fn read(b: &[u8]) -> Option<Listed> {
        let h = checkpoint::head(b.get(CHECKPOINT_MAGIC.len()..)?)?;
        let segments = h.segments.iter().map(|s| (s.id, s.end)).collect();
        Some(Listed { next_frame: h.next_frame, active: h.active, segments })
    }

    fn is_there(&self, found: &[Found]) -> bool {
        self.segments.iter().all(|(id, end)| {
            let there = |s: &Found| s.id == *id && s.file.len().is_ok_and(|len| len >= u64::from(*end));
            found.iter().any(there)
        })
    }

    /// How far it knows the segment.
    fn end_of(&self, id: u32) -> Option<u32> {
        self.segments.iter().find(|s| s.0 == id).map(|s| s.1)
    }

    fn covers(&self, s: &Found) -> bool {
        s.first_frame < self.next_frame
    }
}

struct Inspection<'f> {
    report: Report,
    entities: RoaringBitmap,
    each: &'f mut dyn FnMut(Whole<'_>),
}

impl Inspection<'_> {
    fn damage(&mut self, file: &str, offset: u64, why: String) {
        self.report.damages.push(Damage { file: file.to_owned(), offset, why });
    }

    /// The segments that a whole checkpoint lists. A damaged one is no loss but of time.
    fn checkpoint(&mut self, disk: &dyn Disk) -> Result<Option<Listed>> {
        let file = match disk.open(CHECKPOINT) {
            Ok(f) => f,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                self.damage(CHECKPOINT, 0, format!("it cannot be opened: {e}"));
                return Ok(None);
            }
        };
        let b = self.read(CHECKPOINT, &*file);
        let (ours, whole) = (b.starts_with(CHECKPOINT_MAGIC), is_whole_checkpoint(&b));
        if b.starts_with(b"MEWCKP") && b.len() >= 8 && !ours && !whole {
            return Err(CheckpointError::Version(String::from_utf8_lossy(&b[..8]).into_owned()).into());
        }
        let listed = if ours && whole { Listed::read(&b) } else { None };
        if listed.is_none() {
            let why = "its checksum is wrong; it can be removed, and the next start replays the whole log";
            self.damage(CHECKPOINT, 0, why.to_owned());
        }
        Ok(listed)
    }

    /// Opens a segment as far as that is possible; nothing if it was made and never written to.
    fn find(&mut self, disk: &dyn Disk, id: u32, name: String) -> Result<Option<Found>> {
        let refused = match Segment::open(disk, id) {
            Ok(Some(s)) => {
                let (first_frame, file) = (s.first_frame, s.file.clone());
                return Ok(Some(Found { id, name, file, head: Some(s), first_frame, role: Role::Closed, known: 0 }));
            }
            Ok(None) => {
                self.report.leftovers.push(name);
                return Ok(None);
            }
            Err(e) => e,
        };
        let file = match disk.open(&name) {
            Ok(f) => f,
            Err(e) => {
                self.damage(&name, 0, format!("it cannot be opened: {e}"));
                return Ok(None);
            }
        };
        match refused {
            LogError::Version { .. } if is_newer(&*file) => return Err(refused.into()),
            LogError::Version { .. } => self.damage(&name, 0, "it does not begin as a segment does".to_owned()),
            LogError::Damaged { offset, why, .. } => self.damage(&name, offset, why),
            // It is met again, and listed, where all of the file is read.
            LogError::Io(_) => {}
        }
        // What that lists is listed again where the segment has its turn.
        let known = self.report.damages.len();
        let b = self.read(&name, &*file);
        self.report.damages.truncate(known);
        let first = next_whole_frame(&b, SEGMENT_HEADER as usize - 1, written(&b), 0);
        let Some(first_frame) = first.map(|at| frame_number(&b[at..])) else {
            let offset = u64::from(SEGMENT_HEADER).min(b.len() as u64);
            self.damage(&name, offset, "no whole commit is in it".to_owned());
            return Ok(None);
        };
        Ok(Some(Found { id, name, file, head: None, first_frame, role: Role::Closed, known: 0 }))
    }

    /// All bytes of a file. What cannot be read is listed, and zero.
    fn read(&mut self, name: &str, file: &dyn DiskFile) -> Vec<u8> {
        let len = match file.len() {
            Ok(n) => n as usize,
            Err(e) => {
                self.damage(name, 0, format!("it cannot be read: {e}"));
                return Vec::new();
            }
        };
        let mut all = vec![0; len];
        let mut bad_to = None;
        for (i, piece) in all.chunks_mut(PIECE).enumerate() {
            let start = i * PIECE;
            if read_whole(file, piece, start).is_ok() {
                continue;
            }
            for (j, block) in piece.chunks_mut(BLOCK).enumerate() {
                let at = start + j * BLOCK;
                if let Err(e) = read_whole(file, block, at) {
                    block.fill(0);
                    if bad_to.replace(at + BLOCK) != Some(at) {
                        self.damage(name, at as u64, format!("it cannot be read: {e}"));
                    }
                }
            }
        }
        all
    }

    /// Reads a segment to its end.
    fn segment(&mut self, s: &Found, n: &mut Numbers) {
        let b = match s.file.len() {
            Ok(len) if len > u64::from(u32::MAX) => {
                self.damage(&s.name, 0, format!("{len} bytes; a segment is smaller than 4 GiB"));
                Vec::new()
            }
            _ => self.read(&s.name, &*s.file),
        };
        let (mut at, end) = (SEGMENT_HEADER as usize, written(&b));
        loop {
            let rest = b.get(at..).unwrap_or_default();
            let why = match check_frame(rest) {
                Ok(Some(len)) => {
                    self.commit(s, at, &rest[..len], n);
                    at += len;
                    continue;
                }
                Ok(None) => "the frame is cut off",
                Err(why) => why,
            };
            // A spare file's zeroes are no damage.
            if rest.iter().all(|b| *b == 0) {
                if s.role == Role::Last && at < s.known as usize {
                    self.wrong(s, at, format!("its end is missing: {} bytes were written", s.known));
                }
                break;
            }
            n.sure = false;
            match next_whole_frame(&b, at, end, n.least) {
                Some(to) => {
                    self.wrong(s, at, format!("{why}; whole commits follow at offset {to}"));
                    at = to;
                }
                None if s.role == Role::Last && at >= s.known as usize => {
                    let why = format!("{why}; nothing whole follows");
                    self.report.torn = Some(Damage { file: s.name.clone(), offset: at as u64, why });
                    break;
                }
                None => {
                    self.wrong(s, at, format!("{why}; nothing whole follows"));
                    break;
                }
            }
        }
        match &s.head {
            Some(h) if h.compacted => {
                if n.sure && n.least != h.end_frame {
                    let (last, end) = (n.least.saturating_sub(1), h.end_frame.saturating_sub(1));
                    self.wrong(s, at, format!("its last commit is {last}, not {end}"));
                }
                *n = Numbers { least: h.end_frame.max(n.least), sure: true };
            }
            Some(_) => {}
            // Of what kind it was is unknown, and so is where it ends.
            None => n.sure = false,
        }
        if s.role != Role::Leftover {
            self.report.segments += 1;
            self.report.bytes += at as u64;
            self.report.last_seq = self.report.last_seq.max(s.head.as_ref().map_or(0, |h| h.last_seq));
        }
    }

    fn wrong(&mut self, s: &Found, at: usize, why: String) {
        let unneeded = if s.role == Role::Leftover { " (nothing needs this file any more)" } else { "" };
        self.damage(&s.name, at as u64, format!("{why}{unneeded}"));
    }

    fn commit(&mut self, s: &Found, at: usize, frame: &[u8], n: &mut Numbers) {
        let number = frame_number(frame);
        // Compaction leaves commits out; of a segment without a header it is not known.
        let exactly = n.sure && s.head.is_some() && !s.is_compacted();
        if number < n.least || exactly && number > n.least {
            self.wrong(s, at, format!("commit {} is missing; {number} is here", n.least));
        }
        if number < n.least {
            return; // what it holds is older than what came before it
        }
        *n = Numbers { least: number.saturating_add(1), sure: true };
        if s.role != Role::Leftover {
            self.report.commits += 1;
        }
        for_each_record(frame, |off, r| self.record(s, at + off, number, r, &frame[off + RECORD..]));
    }

    fn record(&mut self, s: &Found, at: usize, commit: u64, r: Record, body: &[u8]) {
        let body = &body[..r.len as usize];
        let content = match r.kind {
            Kind::Entity if EntityRef::read(body).is_ok() => {
                Content::Entity { ent: r.ent, seq: r.seq, origin: KernelKey(r.origin), bytes: body }
            }
            Kind::Entity => return self.wrong(s, at, format!("entity {} is none", r.ent)),
            Kind::Fact => match body.split_at_checked(r.ent as usize) {
                Some((key, value)) => Content::Fact { key, value },
                None => return self.wrong(s, at, "the key of a fact is longer than the fact".to_owned()),
            },
        };
        if s.role == Role::Leftover {
            return;
        }
        self.report.records += 1;
        self.report.last_seq = self.report.last_seq.max(r.seq);
        match content {
            Content::Entity { ent, .. } => {
                self.entities.insert(ent);
            }
            Content::Fact { key, value } => {
                let text = || Some(String::from_utf8_lossy(value).into_owned());
                if key == FACT_KERNEL {
                    self.report.kernel_id = text();
                } else if key == FACT_INCARNATION {
                    self.report.incarnation = text();
                }
            }
        }
        (self.each)(Whole { file: &s.name, offset: at as u64, commit, content });
    }
}

fn read_whole(file: &dyn DiskFile, buf: &mut [u8], at: usize) -> io::Result<()> {
    match file.read_at(buf, at as u64)? {
        n if n == buf.len() => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Whether a header is of another format; one whose checksum is right but for its first bytes is a damaged one of ours.
fn is_newer(file: &dyn DiskFile) -> bool {
    let mut h = [0; SEGMENT_HEADER as usize];
    let n = file.read_at(&mut h, 0).unwrap_or(0);
    let ours = crc32c::crc32c_append(crc32c::crc32c(SEGMENT_MAGIC), &h[8..44]) == u32_at(&h, 44);
    n >= 8 && h.starts_with(b"MEWLOG") && !ours
}

/// Whether the checksum is right, whatever the first bytes are.
fn is_whole_checkpoint(b: &[u8]) -> bool {
    let Some((body, crc)) = b.split_last_chunk::<4>() else { return false };
    let rest = body.get(CHECKPOINT_MAGIC.len()..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(CHECKPOINT_MAGIC), rest).to_le_bytes() == *crc
}
