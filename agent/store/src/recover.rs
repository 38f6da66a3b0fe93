//! From files to state: the checkpoint, then the frames after it; without a checkpoint all frames.

use crate::checkpoint::{self, CHECKPOINT, Checkpoint, UNFINISHED};
use crate::disk::Disk;
use crate::index::Index;
use crate::log::{Kind, Loc, LogError, RECORD, Record, for_each_record};
use crate::segment::{Segment, id_of, segment_name};
use crate::state::State;
use crate::types::{MOST_ENTITIES, Opened, Result, StoreError};
use mew_model::{EntityRef, Ontology};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A spare segment, full of zeroes.
pub const SPARE: &str = "spare";
/// Ends the name of a compacted segment until it is whole.
pub const NEW: &str = ".new";

pub struct Recovered {
    pub state: State,
    pub next_frame: u64,
    pub next_id: u32,
    pub how: Opened,
    /// Bytes of segments that were replayed.
    pub replayed_bytes: u64,
    /// Files that nothing needs any more. To be removed from the last to the first, each durably before the next: a crash
    /// meanwhile must leave what is understood the same way.
    pub leftovers: Vec<String>,
}

/// What a checkpoint knows.
struct Covered {
    state: State,
    next_frame: u64,
    /// The segment that commits went to, as far as it knows that.
    active: Option<Segment>,
}

/// Reads all that there is; a torn last commit is cut off.
pub fn recover(disk: &dyn Disk, ontology: Arc<Ontology>) -> Result<Recovered> {
    let names = disk.list()?;
    let ids: Vec<u32> = names.iter().filter_map(|n| id_of(n)).collect();
    let has_checkpoint = names.iter().any(|n| n == CHECKPOINT);
    let mut leftovers: Vec<String> = names.into_iter().filter(|n| n.ends_with(NEW) || n == UNFINISHED).collect();
    let mut found: BTreeMap<u32, Segment> = BTreeMap::new();
    for id in &ids {
        match Segment::open(disk, *id)? {
            Some(s) => drop(found.insert(*id, s)),
            None => leftovers.push(segment_name(*id)), // made, but nothing in it was ever acknowledged
        }
    }
    let next_id = ids.iter().max().map_or(0, |m| m + 1);
    let (checkpoint, bad_checkpoint) = match checkpoint::read(disk, &ontology)? {
        Ok(c) => (c, None),
        Err(why) => (None, Some(why)),
    };
    let covered = match checkpoint {
        Some(c) => from_checkpoint(c, &ontology, &mut found)?,
        None => None,
    };
    let is_covered = covered.is_some();
    let Covered { mut state, mut next_frame, active } = covered.unwrap_or_else(|| {
        let state = State::new(Index::new(), ontology);
        Covered { state, next_frame: 0, active: None }
    });
    let how = Opened { bad_checkpoint, ..Opened::default() };
    let mut r = Replay { state: &mut state, unresolved: Vec::new(), how };
    let mut replayed_bytes = 0;
    let mut rest: Vec<Segment> = found.into_values().collect();
    // Of two with the same frames, the one that compaction made counts.
    rest.sort_by_key(|s| (s.first_frame, Reverse(s.id)));
    let last = rest.iter().chain(&active).filter(|s| !s.compacted).max_by_key(|s| (s.first_frame, s.id)).map(|s| s.id);
    if let Some(s) = active {
        let (is_last, from) = (last == Some(s.id), s.end);
        let s = r.segment(s, is_last)?;
        next_frame = s.end_frame;
        replayed_bytes += u64::from(s.end - from);
    }
    for s in rest {
        // What compaction made belongs together: a checkpoint lists all of it, or none. Without the rest of it, something
        // deleted could be back; what it was made from is still there then.
        let is_unlisted = s.compacted && is_covered;
        if is_unlisted || s.first_frame < next_frame || r.state.segments.contains_key(&s.first_frame) {
            leftovers.push(segment_name(s.id));
            continue;
        }
        if s.first_frame > next_frame {
            let why = format!("commits {next_frame} to {} are missing", s.first_frame - 1);
            return Err(LogError::Damaged { segment: s.id, offset: 0, why }.into());
        }
        let is_last = last == Some(s.id);
        let s = r.segment(s, is_last)?;
        next_frame = s.end_frame;
        replayed_bytes += u64::from(s.end);
    }
    r.resolve()?;
    let how = r.how;
    // Segments that it lists may be gone, and their ids be given to others.
    if has_checkpoint && !is_covered {
        leftovers.push(CHECKPOINT.to_owned());
    }
    Ok(Recovered { state, next_frame, next_id, how, replayed_bytes, leftovers })
}

/// If the checkpoint's segments are all there; takes those out of `found`.
fn from_checkpoint(c: Checkpoint, o: &Arc<Ontology>, found: &mut BTreeMap<u32, Segment>) -> Result<Option<Covered>> {
    let lost = |offset, why: &str| LogError::Damaged { segment: c.active, offset, why: why.to_owned() };
    let Some(active) = found.get(&c.active) else { return Err(lost(0, "the file is missing").into()) };
    let len = active.file.len()?;
    for k in &c.segments {
        match found.get(&k.id) {
            Some(s) if s.file.len()? >= u64::from(k.end) => {}
            // Read without the checkpoint it would look like one with a torn last commit.
            Some(_) if k.id == c.active => return Err(lost(len, "its end is missing").into()),
            _ => return Ok(None), // a replay of everything says what is missing
        }
    }
    let mut state = State::new(c.index, o.clone());
    let mut active = None;
    for k in c.segments {
        let Some(mut s) = found.remove(&k.id) else { continue };
        (s.end, s.end_frame, s.last_seq, s.marks) = (k.end, k.end_frame, k.last_seq, k.marks);
        (s.records, s.dead, s.stuck, s.buried) = (k.records, k.dead, k.stuck, k.buried);
        if s.id == c.active {
            active = Some(s);
        } else {
            state.add_segment(s);
        }
    }
    // What is not listed and older than the checkpoint was replaced by what is listed, or was to replace it.
    Ok(Some(Covered { state, next_frame: c.next_frame, active }))
}

struct Replay<'a> {
    state: &'a mut State,
    /// Edges that came before an end: compaction keeps only the newest version of a node, which may be later.
    unresolved: Vec<(u32, Loc)>,
    how: Opened,
}

impl Replay<'_> {
    fn segment(&mut self, mut s: Segment, is_last: bool) -> Result<Segment> {
        let (id, entities) = (s.id, s.entities);
        self.state.add_segment(s.clone());
        let mut failed = None;
        self.how.cut_bytes += s
            .replay(is_last, |off, frame| {
                let mut todo = Vec::new();
                for_each_record(frame, |at, r| todo.push((at, r)));
                let known = (self.state.index.next().max(entities) as usize + todo.len()).min(MOST_ENTITIES as usize);
                for (at, r) in todo {
                    let body = &frame[at + RECORD..at + RECORD + r.len as usize];
                    if let Err(e) = self.record(Loc::new(id, off + at as u32), r, body, known) {
                        failed = Some(e);
                        return Err(LogError::Damaged { segment: id, offset: off.into(), why: "replay".into() });
                    }
                }
                Ok(())
            })
            .or_else(|e| failed.map_or(Err(e.into()), Err))?;
        if let Some(k) = self.state.segment(id) {
            (s.dead, s.buried) = (k.dead, k.buried);
        }
        if s.entities > 0 {
            self.state.index.raise_next(s.entities);
        }
        self.state.index.last_seq = self.state.index.last_seq.max(s.last_seq);
        self.state.add_segment(s.clone());
        Ok(s)
    }

    /// Entities are numbered without a gap, so in what is known there are at most `known` of them: a number may cost memory for
    /// a page of others.
    fn record(&mut self, loc: Loc, r: Record, body: &[u8], known: usize) -> Result<()> {
        self.how.records += 1;
        if (r.kind == Kind::Fact) != (r.seq == 0) || r.kind == Kind::Entity && r.ent as usize >= known {
            let why = format!("a {:?} with number {} and seq {}, after {known} entities", r.kind, r.ent, r.seq);
            return Err(StoreError::Inconsistent(why));
        }
        if r.kind == Kind::Fact {
            let key = body.get(..r.ent as usize).ok_or_else(|| StoreError::Inconsistent("key of a fact".into()))?;
            self.state.publish_fact(key, body.len() > key.len(), loc);
            return Ok(());
        }
        let e = EntityRef::read(body).map_err(|e| StoreError::Inconsistent(e.to_string()))?;
        let ends = if e.deleted {
            None
        } else {
            match self.state.ends_of(&e, |_| None)? {
                Ok(ends) => ends,
                Err(_) => {
                    self.unresolved.push((r.ent, loc));
                    None
                }
            }
        };
        self.state.publish(r.ent, &e, ends, loc, None)?;
        self.state.index.last_seq = r.seq;
        Ok(())
    }

    fn resolve(&mut self) -> Result<()> {
        for (ent, loc) in std::mem::take(&mut self.unresolved) {
            if self.state.index.loc(ent) != loc {
                continue;
            }
            let (_, body) = self.state.read_record(loc)?;
            let e = EntityRef::read(&body).map_err(|e| StoreError::Inconsistent(e.to_string()))?;
            if let Some(ends) = self.state.ends_of(&e, |_| None)?.map_err(StoreError::Inconsistent)? {
                self.state.index.restore_ends(ent, ends);
            }
        }
        Ok(())
    }
}
