//! Compaction: closed segments are rewritten without what later records replaced.
//!
//! A record that something later has replaced is left out: what replaced it is durable, as nothing is seen before. New files are
//! written beside the old ones while the store goes on; it is asked, for a moment, what still counts of a commit. Once a
//! checkpoint knows the new files, the store learns where each record lies now. What was replaced meanwhile stays replaced.

use crate::disk::{Disk, DiskFile};
use crate::log::{Frame, Kind, Loc, LogError, RECORD, Record, for_each_record, frame_number};
use crate::recover::NEW;
use crate::segment::{SEGMENT_HEADER, Segment, Span, segment_name};
use crate::state::State;
use crate::store::Store;
use crate::types::{Result, StoreError, Upkeep};
use mew_model::EntityRef;
use std::collections::BTreeSet;
use std::io;

/// Output is written in pieces of this size.
const PIECE: usize = 1 << 20;

/// What became of a record that stays.
pub enum Move {
    Entity { ent: u32, from: Loc, to: Loc },
    Fact { key: Box<[u8]>, from: Loc, to: Loc },
}

/// A tombstone that nobody needs.
pub struct Forgotten {
    pub ent: u32,
    pub from: Loc,
    pub sync_id: Box<str>,
}

pub struct Rewritten {
    pub old: Vec<u32>,
    pub new: Segment,
    pub moves: Vec<Move>,
    pub forgotten: Vec<Forgotten>,
    pub freed_bytes: u64,
}

/// Most bytes that one group reads: records differ in size, so more may be left than their share says, and offsets have
/// 32 bits.
const MOST_READ: u64 = 1 << 31;

/// How many segments from the oldest on are worth rewriting together. In all of them nothing older is left of what is replaced, so
/// that tombstones go as well: one record that is dead at the beginning must not keep them for ever.
fn worth(closed: &[&Segment], u: &Upkeep, damaged: &BTreeSet<u32>) -> usize {
    let (mut all, mut gone, mut worth) = (0_u64, 0_u64, 0);
    for (i, s) in closed.iter().enumerate().take_while(|(_, s)| !damaged.contains(&s.id)) {
        let here = s.gone(true, u.tombstones_up_to);
        // Where nothing is gone nothing is rewritten.
        if here == 0 {
            continue;
        }
        all += u64::from(s.records);
        gone += u64::from(here);
        if gone * 100 >= all * u64::from(u.dead_percent) {
            worth = i + 1;
        }
    }
    worth
}

/// Neighbours that become one segment.
pub struct Group {
    /// Their first frames.
    pub of: Vec<u64>,
    /// Everything older is free of replaced records, so that what only takes something away may go as well.
    pub clean: bool,
}

/// What is worth rewriting. Segments that turned out to be `damaged` stay, with whatever they hold.
pub fn groups<'a>(
    closed: impl Iterator<Item = &'a Segment>,
    u: &Upkeep,
    segment_bytes: u32,
    damaged: &BTreeSet<u32>,
) -> Vec<Group> {
    let small = |s: &Segment| s.compacted && s.end < segment_bytes / 4 && !damaged.contains(&s.id);
    let closed: Vec<&Segment> = closed.take_while(|s| s.last_seq <= u.floor).collect();
    let worth = worth(&closed, u, damaged);
    let mut out: Vec<Group> = Vec::new();
    let (mut open, mut clean) = (false, true);
    let (mut size, mut read) = (0_u64, 0_u64);
    for (i, s) in closed.iter().enumerate() {
        if damaged.contains(&s.id) {
            (open, clean) = (false, false);
            continue;
        }
        let gone = s.gone(clean, u.tombstones_up_to);
        let pays = u64::from(gone) * 100 >= u64::from(s.records) * u64::from(u.dead_percent);
        let dirty = gone > 0 && (i < worth || pays);
        // Two small neighbours are better as one, also if nothing is dead in them.
        let joins = small(s) && (open || closed.get(i + 1).is_some_and(|next| small(next)));
        if !dirty && !joins {
            clean &= s.dead == 0;
            open = false;
            continue;
        }
        let left = s.bytes_of(s.records - s.dead.min(s.records));
        let fits = open && size + left <= u64::from(segment_bytes) && read + u64::from(s.end) <= MOST_READ;
        match out.last_mut().filter(|_| fits) {
            Some(group) => group.of.push(s.first_frame),
            None => {
                out.push(Group { of: vec![s.first_frame], clean });
                (size, read) = (0, 0);
            }
        }
        (open, size, read) = (true, size + left, read + u64::from(s.end));
    }
    out
}

struct Output<'a> {
    file: &'a dyn DiskFile,
    buf: Vec<u8>,
    written: u64,
}

impl Output<'_> {
    fn push(&mut self, b: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(b);
        if self.buf.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buf, self.written)?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}

/// Rewrites a group; the store does not know of it yet.
pub fn rewrite(store: &Store, disk: &dyn Disk, group: &Group, id: u32, u: &Upkeep) -> Result<Rewritten> {
    let (inputs, entities) = {
        let st = store.read();
        let inputs: Vec<Segment> = group.of.iter().filter_map(|f| st.segments.get(f)).cloned().collect();
        (inputs, st.index.next())
    };
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(StoreError::Inconsistent("nothing to compact".into()));
    };
    let (first_frame, end_frame) = (first.first_frame, last.end_frame);
    let name = segment_name(id);
    let part = format!("{name}{NEW}");
    let file = disk.create(&part)?;
    // The last input may hold facts alone, which have no seq.
    let last_seq = inputs.iter().map(|s| s.last_seq).max().unwrap_or(0);
    Segment::begin_compacted(&*file, id, Span { first_frame, end_frame, last_seq, entities })?;
    let mut out = Output { file: &*file, buf: Vec::new(), written: SEGMENT_HEADER.into() };
    let (mut moves, mut forgotten) = (Vec::new(), Vec::new());
    let mut frame = Frame::default();
    let mut next = first_frame;
    for input in &inputs {
        let mut failed = None;
        let mut again = input.rewound();
        let r = again.replay(false, |off, b| {
            frame.clear();
            let at_out = out.written + out.buf.len() as u64;
            let kept =
                keep(&store.read(), Loc::new(input.id, off), b, &mut frame, group.clean, u, &mut moves, &mut forgotten);
            let wrote = kept.and_then(|()| {
                if frame.is_empty() {
                    return Ok(());
                }
                let number = frame_number(b);
                frame.finish(number);
                next = number + 1;
                settle(&mut moves, id, at_out)?;
                Ok(out.push(&frame.buf)?)
            });
            wrote.map_err(|e| {
                failed = Some(e);
                LogError::Damaged { segment: input.id, offset: off.into(), why: "compaction".into() }
            })
        });
        if let Err(e) = r {
            return Err(failed.unwrap_or_else(|| damaged(&again, e)));
        }
        // Zeroes in place of the last commits look like an end.
        if again.end != input.end {
            let (segment, offset, why) = (input.id, again.end.into(), "commits that were here are gone".into());
            return Err(LogError::Damaged { segment, offset, why }.into());
        }
    }
    if next < end_frame {
        frame.clear();
        frame.finish(end_frame - 1);
        out.push(&frame.buf)?;
    }
    out.flush()?;
    file.sync()?;
    disk.rename(&part, &name)?;
    // Before the next one has its name: a tombstone that is left out there may be of what only this one leaves out.
    disk.sync_names()?;
    let new = Segment::open(disk, id).map_err(unusable)?;
    let new = new.ok_or_else(|| StoreError::Inconsistent(format!("{name} has no header")))?;
    let new = counted(store, new, &moves)?;
    let before: u64 = inputs.iter().map(|s| u64::from(s.end)).sum();
    let freed_bytes = before.saturating_sub(new.end.into());
    Ok(Rewritten { old: inputs.iter().map(|s| s.id).collect(), new, moves, forgotten, freed_bytes })
}

/// Why an input cannot be read on. A bad sector is damage as well, and has a place.
fn damaged(input: &Segment, e: LogError) -> StoreError {
    let e = match e {
        LogError::Io(e) => LogError::Damaged { segment: input.id, offset: input.end.into(), why: e.to_string() },
        e => e,
    };
    e.into()
}

/// What was just written cannot be read: no damage of an input, without which the rest could go on.
fn unusable(e: LogError) -> StoreError {
    match e {
        LogError::Io(e) => e.into(),
        e => io::Error::other(e).into(),
    }
}

/// Puts what still counts of a frame into `out`; the places in the new moves are relative to the frame.
fn keep(
    state: &State,
    frame: Loc,
    b: &[u8],
    out: &mut Frame,
    clean: bool,
    u: &Upkeep,
    moves: &mut Vec<Move>,
    forgotten: &mut Vec<Forgotten>,
) -> Result<()> {
    let mut records: Vec<(usize, Record)> = Vec::new();
    for_each_record(b, |at, r| records.push((at, r)));
    for (at, r) in records {
        let from = Loc::new(frame.segment(), frame.offset() + at as u32);
        let body = &b[at + RECORD..at + RECORD + r.len as usize];
        if r.kind == Kind::Fact {
            let key = body.get(..r.ent as usize).ok_or_else(|| StoreError::Inconsistent("key of a fact".into()))?;
            match state.index.fact(key) {
                Some(l) if l == from => {
                    let to = Loc::relative(out.push(r, &[body]));
                    moves.push(Move::Fact { key: key.into(), from, to });
                }
                // It was taken away, and an older segment may still hold what it was.
                None if !clean && body.len() == key.len() => drop(out.push(r, &[body])),
                _ => {}
            }
            continue;
        }
        if state.index.loc(r.ent) != from {
            continue;
        }
        let e = EntityRef::read(body).map_err(|e| StoreError::Inconsistent(e.to_string()))?;
        let is_old = e.deleted && r.seq <= u.tombstones_up_to;
        // An edge must find its ends again when the log is replayed.
        if is_old && clean && state.index.edges_of(r.ent).next().is_none() {
            forgotten.push(Forgotten { ent: r.ent, from, sync_id: e.sync_id.into() });
        } else {
            let to = Loc::relative(out.push(r, &[body]));
            moves.push(Move::Entity { ent: r.ent, from, to });
        }
    }
    Ok(())
}

/// The frame's place is known: makes the relative places of its moves absolute.
fn settle(moves: &mut [Move], id: u32, frame_at: u64) -> Result<()> {
    let base = u32::try_from(frame_at).map_err(|_| StoreError::Inconsistent("a segment of 4 GiB".into()))?;
    for m in moves.iter_mut().rev() {
        match m {
            Move::Entity { to, .. } | Move::Fact { to, .. } => match to.as_relative() {
                Some(at) => *to = Loc::new(id, base + at),
                None => break,
            },
        }
    }
    Ok(())
}

/// Reads the new file's frames for its end, its marks and what is in it.
fn counted(store: &Store, mut new: Segment, moves: &[Move]) -> Result<Segment> {
    let mut buried = 0;
    new.replay(false, |_, frame| {
        let state = store.read();
        for_each_record(frame, |at, r| {
            if r.kind == Kind::Entity
                && let Ok(e) = EntityRef::read(&frame[at + RECORD..at + RECORD + r.len as usize])
                && e.deleted
                && state.index.edges_of(r.ent).next().is_none()
            {
                buried += 1;
            }
        });
        Ok(())
    })
    .map_err(unusable)?;
    new.buried = buried;
    new.dead = new.records.saturating_sub(moves.len() as u32);
    new.stuck = new.dead;
    Ok(new)
}

/// Tells the store where records lie now.
pub fn apply(state: &mut State, moves: &[Move], id: u32) {
    let mut dead = 0;
    for m in moves {
        match m {
            Move::Entity { ent, from, to } => {
                if state.index.loc(*ent) == *from {
                    state.index.set_loc(*ent, *to);
                } else {
                    dead += 1;
                }
            }
            Move::Fact { key, from, to } => {
                if state.index.fact(key) == Some(*from) {
                    state.index.set_fact(key, Some(*to));
                } else {
                    dead += 1;
                }
            }
        }
    }
    if let Some(s) = state.segment_mut(id) {
        s.dead += dead;
    }
}

/// Forgets what has not come back meanwhile.
pub fn forget(state: &mut State, all: &[Forgotten]) {
    for f in all {
        if state.index.loc(f.ent) == f.from {
            state.index.forget(f.ent, &f.sync_id);
            state.history.forgotten(&f.sync_id, f.ent, f.from);
        }
    }
}
