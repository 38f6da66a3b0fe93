//! Writing a checkpoint: of one commit, read in parts, so that neither commits nor memory feel it.

use super::{CHECKPOINT, MAGIC, UNFINISHED, fingerprint};
use crate::compact::{Move, Rewritten};
use crate::disk::{Disk, DiskFile};
use crate::index::{Keys, OrderScope, PAGE, SHARDS, UNIQUE_SHARDS};
use crate::log::Loc;
use crate::segment::Segment;
use crate::state::State;
use crate::types::{Result, StoreError};
use crate::view::{PART, View};
use mew_model::Number;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

/// Written at once.
const CHUNK: usize = 1 << 20;
/// Some of it is on disk before the end: a commit that syncs a file must not wait for all of it.
const SYNC_EVERY: u64 = 32 << 20;

/// What a segment takes in it, without marks, and a fact with a key as most are.
const SEGMENT: usize = 44;
const FACT: usize = 64;

/// One commit, and what is known of it at the moment of that commit only.
pub struct Image<'a> {
    pub view: View<'a>,
    /// Number of the first frame that it does not know.
    next_frame: u64,
    active: u32,
    /// As far as they went.
    segments: Vec<Segment>,
    keys: Keys,
    entities: usize,
    types: Vec<(Number, RoaringBitmap)>,
    uniques: usize,
    ends: usize,
    facts: usize,
    ordered: Vec<(OrderScope, usize)>,
}

impl<'a> Image<'a> {
    /// `state` is what `view` sees: no commit may come between.
    pub fn of(view: View<'a>, state: &State, next_frame: u64) -> Result<Image<'a>> {
        let i = &state.index;
        Ok(Image {
            view,
            next_frame,
            active: state.last()?.id,
            segments: state.segments.values().cloned().collect(),
            keys: i.keys,
            entities: i.held() as usize,
            types: i.types.iter().map(|(ty, all)| (*ty, all.clone())).collect(),
            uniques: i.uniques(),
            ends: i.ends.len(),
            facts: i.facts.len(),
            ordered: i.ordered.iter().map(|(scope, set)| (*scope, set.len())).collect(),
        })
    }

    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.view.ontology())
    }

    /// Segments in the order of the log, with those that compaction made in the place of what they were made from.
    fn listed(&self, rewritten: &[Rewritten], moved: &Moved) -> Vec<Segment> {
        let is_old = |s: &Segment| rewritten.iter().any(|x| x.old.contains(&s.id));
        let mut all: Vec<Segment> = self.segments.iter().filter(|s| !is_old(s)).cloned().collect();
        all.extend(rewritten.iter().map(|x| {
            let mut s = x.new.clone();
            s.dead += moved.replaced.get(&s.id).copied().unwrap_or(0);
            s
        }));
        all.sort_by_key(|s| s.first_frame);
        all
    }
}

/// Where records of a commit lie once compaction counts.
#[derive(Default)]
pub struct Moved<'m> {
    /// Ascending; [`Loc::NONE`] for what is forgotten.
    entities: Vec<(u32, Loc)>,
    forgotten: RoaringBitmap,
    facts: BTreeMap<&'m [u8], Loc>,
    /// By new segment: records that a commit replaced after they were moved.
    replaced: HashMap<u32, u32>,
}

impl<'m> Moved<'m> {
    pub fn of(view: &View<'_>, rewritten: &'m [Rewritten]) -> Result<Moved<'m>> {
        let mut all = Moved::default();
        let mut entities: Vec<(u32, Loc, Loc, u32)> = Vec::new();
        for x in rewritten {
            for m in &x.moves {
                match m {
                    Move::Entity { ent, from, to } => entities.push((*ent, *from, *to, x.new.id)),
                    Move::Fact { key, from, to } if view.place_of_fact(key)? == Some(*from) => {
                        all.facts.insert(key, *to);
                    }
                    Move::Fact { .. } => *all.replaced.entry(x.new.id).or_default() += 1,
                }
            }
            entities.extend(x.forgotten.iter().map(|f| (f.ent, f.from, Loc::NONE, x.new.id)));
        }
        entities.sort_unstable_by_key(|e| e.0);
        for part in entities.chunks(PART) {
            let now = view.places_of(part.iter().map(|e| e.0))?;
            for ((ent, from, to, id), now) in part.iter().zip(now) {
                match (now == *from, *to == Loc::NONE) {
                    (true, is_forgotten) => {
                        all.entities.push((*ent, *to));
                        if is_forgotten {
                            all.forgotten.insert(*ent);
                        }
                    }
                    (false, false) => *all.replaced.entry(*id).or_default() += 1,
                    (false, true) => {}
                }
            }
        }
        Ok(all)
    }
}

struct Out {
    file: Arc<dyn DiskFile>,
    buf: Vec<u8>,
    written: u64,
    synced: u64,
    crc: u32,
}

impl Out {
    fn put(&mut self, b: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(b);
        if self.buf.len() >= CHUNK { self.flush() } else { Ok(()) }
    }
    fn u32(&mut self, v: u32) -> io::Result<()> {
        self.put(&v.to_le_bytes())
    }
    fn u64(&mut self, v: u64) -> io::Result<()> {
        self.put(&v.to_le_bytes())
    }
    fn count(&mut self, n: usize) -> io::Result<()> {
        self.u32(n as u32)
    }
    fn bytes(&mut self, b: &[u8]) -> io::Result<()> {
        self.count(b.len())?;
        self.put(b)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &self.buf);
        self.file.write_at(&self.buf, self.written)?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        if self.written - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

/// About how many bytes one of this state takes.
pub fn about(state: &State) -> u64 {
    let i = &state.index;
    let types: usize = i.types.values().map(RoaringBitmap::serialized_size).sum();
    let ordered: usize = i.ordered.values().map(|set| set.len()).sum();
    let marks: usize = state.segments.values().map(|s| s.marks.len()).sum();
    // Each has an id and a place.
    let of_8 = 2 * i.held() as usize;
    let of_12 = i.uniques() + i.ends.len() + ordered + marks;
    (8 * of_8 + 12 * of_12 + types + FACT * i.facts.len() + SEGMENT * state.segments.len()) as u64
}

/// Writes it under its temporary name, durably, and gives it its name. That is durable as well when it returns: the one that it
/// replaces wants segments that may be removed then. `is_read` is called when the image is not needed any more.
pub fn write(disk: &dyn Disk, image: Image<'_>, rewritten: &[Rewritten], is_read: impl FnOnce()) -> Result<u64> {
    let file = disk.create(UNFINISHED)?;
    let mut out = Out { file, buf: Vec::with_capacity(2 * CHUNK), written: 0, synced: 0, crc: 0 };
    let moved = Moved::of(&image.view, rewritten)?;
    head(&mut out, &image, &image.listed(rewritten, &moved))?;
    ids(&mut out, &image.view, &moved)?;
    places(&mut out, &image, &moved)?;
    out.count(image.types.len())?;
    for (ty, all) in &image.types {
        let mut bytes = Vec::with_capacity(all.serialized_size());
        all.serialize_into(&mut bytes)?;
        out.u32(*ty)?;
        out.bytes(&bytes)?;
    }
    uniques(&mut out, &image)?;
    ends(&mut out, &image)?;
    facts(&mut out, &image, &moved)?;
    ordered(&mut out, &image)?;
    // From here on commits need keep nothing for it.
    drop(image);
    is_read();
    out.flush()?;
    out.file.write_at(&out.crc.to_le_bytes(), out.written)?;
    out.file.sync()?;
    disk.rename(UNFINISHED, CHECKPOINT)?;
    disk.sync_names()?;
    Ok(out.written + 4)
}

fn head(out: &mut Out, image: &Image<'_>, segments: &[Segment]) -> io::Result<()> {
    out.put(MAGIC)?;
    out.u64(image.fingerprint())?;
    out.u64(image.keys.0)?;
    out.u64(image.keys.1)?;
    out.u64(image.next_frame)?;
    out.u32(image.active)?;
    out.u64(image.view.last_seq())?;
    out.count(segments.len())?;
    for s in segments {
        out.u32(s.id)?;
        out.u32(s.end)?;
        out.u64(s.end_frame)?;
        out.u64(s.last_seq)?;
        out.u32(s.records)?;
        out.u32(s.dead)?;
        out.u32(s.stuck)?;
        out.count(s.marks.len())?;
        for (seq, at) in &s.marks {
            out.u64(*seq)?;
            out.u32(*at)?;
        }
    }
    for s in segments {
        out.u32(s.buried)?;
    }
    Ok(())
}

fn ids(out: &mut Out, view: &View<'_>, moved: &Moved<'_>) -> Result<()> {
    for shard in 0..SHARDS {
        let mut ids = view.ids_of(shard)?;
        ids.retain(|(_, ent)| !moved.forgotten.contains(*ent));
        out.count(ids.len())?;
        for (tag, ent) in ids {
            out.u32(tag)?;
            out.u32(ent)?;
        }
    }
    Ok(())
}

/// Pages in which nothing lies are left out.
fn places(out: &mut Out, image: &Image<'_>, moved: &Moved<'_>) -> Result<()> {
    let mut left = image.entities.saturating_sub(moved.forgotten.len() as usize);
    out.u32(image.view.next_entity())?;
    out.count(left)?;
    let mut moved = moved.entities.iter().peekable();
    let mut from = Some(0);
    while let Some(ent) = from
        && let Some((first, mut page)) = image.view.places_from(ent)?
    {
        let before = left;
        for (ent, loc) in (first..=u32::MAX).zip(&mut page) {
            if let Some((_, to)) = moved.next_if(|m| m.0 == ent) {
                *loc = *to;
            }
            if *loc != Loc::NONE {
                left = counted(left, "entities")?;
            }
        }
        if left < before {
            out.u32(first)?;
            out.count(page.len())?;
            page.iter().try_for_each(|loc| out.u64(loc.raw()))?;
        }
        from = first.checked_add(PAGE);
    }
    none_left(left, "entities")
}

fn uniques(out: &mut Out, image: &Image<'_>) -> Result<()> {
    let mut left = image.uniques;
    out.count(left)?;
    for shard in 0..UNIQUE_SHARDS {
        for (hash, ent) in image.view.uniques_of(shard)? {
            out.u64(hash)?;
            out.u32(ent)?;
            left = counted(left, "unique values")?;
        }
    }
    none_left(left, "unique values")
}

fn ends(out: &mut Out, image: &Image<'_>) -> Result<()> {
    let mut left = image.ends;
    out.count(left)?;
    let o = image.view.ontology();
    for (ty, all) in &image.types {
        if o.by_number(*ty).is_some_and(|t| t.edge.is_none()) {
            continue;
        }
        let mut all = all.iter();
        loop {
            let part: Vec<u32> = all.by_ref().take(PART).collect();
            if part.is_empty() {
                break;
            }
            for (edge, ends) in image.view.ends_of(&part)? {
                out.u32(edge)?;
                out.u32(ends[0])?;
                out.u32(ends[1])?;
                left = counted(left, "edges")?;
            }
        }
    }
    none_left(left, "edges")
}

fn facts(out: &mut Out, image: &Image<'_>, moved: &Moved<'_>) -> Result<()> {
    let mut left = image.facts;
    out.count(left)?;
    let mut after = Some(Box::default());
    while let Some(last) = after {
        let (part, more) = image.view.facts_behind(&last)?;
        for (key, loc) in part {
            out.bytes(&key)?;
            out.u64(moved.facts.get(&*key).copied().unwrap_or(loc).raw())?;
            left = counted(left, "facts")?;
        }
        after = more;
    }
    none_left(left, "facts")
}

fn ordered(out: &mut Out, image: &Image<'_>) -> Result<()> {
    out.count(image.ordered.len())?;
    for ((ty, attr), n) in &image.ordered {
        out.u32(*ty)?;
        out.u32(*attr)?;
        out.count(*n)?;
        let (mut left, mut after) = (*n, None);
        loop {
            let part = image.view.ordered_behind((*ty, *attr), after)?;
            for (key, ent) in &part {
                out.u64(*key)?;
                out.u32(*ent)?;
                left = counted(left, "ordered values")?;
            }
            after = part.last().copied();
            if after.is_none() {
                break;
            }
        }
        none_left(left, "ordered values")?;
    }
    Ok(())
}

/// A checkpoint that does not hold what was there must never get its name.
fn counted(left: usize, of: &str) -> Result<usize> {
    left.checked_sub(1).ok_or_else(|| StoreError::Inconsistent(format!("more {of} than there were")))
}

fn none_left(left: usize, of: &str) -> Result<()> {
    match left {
        0 => Ok(()),
        n => Err(StoreError::Inconsistent(format!("{n} {of} less than there were"))),
    }
}
