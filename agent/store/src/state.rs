//! What is derived from the log together with the segments that it points into: reading a record, making a change visible.

use crate::cache::Cache;
use crate::disk::DiskFile;
use crate::history::{History, Old};
use crate::index::Index;
use crate::log::{Loc, LogError, RECORD, Record, record_at};
use crate::segment::Segment;
use crate::types::{Result, StoreError, Stored};
use bytes::Bytes;
use hashbrown::HashMap;
use mew_model::{EntityRef, KernelKey, Ontology};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A point read asks for this much, which is nearly always all of an entity.
const READ_AHEAD: usize = 512;

pub struct State {
    pub index: Index,
    /// By first frame: in the order of the log. The last is the one that commits go to.
    pub segments: BTreeMap<u64, Segment>,
    /// First frame and file by id.
    files: HashMap<u32, (u64, Arc<dyn DiskFile>)>,
    pub ontology: Arc<Ontology>,
    pub cache: Arc<Cache>,
    pub history: History,
}

impl State {
    pub fn new(index: Index, ontology: Arc<Ontology>) -> Self {
        let cache = Arc::new(Cache::new());
        State { index, segments: BTreeMap::new(), files: HashMap::new(), ontology, cache, history: History::new() }
    }

    pub fn add_segment(&mut self, s: Segment) {
        self.files.insert(s.id, (s.first_frame, s.file.clone()));
        self.segments.insert(s.first_frame, s);
    }

    pub fn remove_segment(&mut self, id: u32) -> Option<Arc<dyn DiskFile>> {
        let (first, file) = self.files.remove(&id)?;
        if self.segments.get(&first).is_some_and(|s| s.id == id) {
            self.segments.remove(&first);
        }
        Some(file)
    }

    pub fn segment(&self, id: u32) -> Option<&Segment> {
        self.segments.get(&self.files.get(&id)?.0)
    }

    pub fn segment_mut(&mut self, id: u32) -> Option<&mut Segment> {
        self.segments.get_mut(&self.files.get(&id)?.0)
    }

    pub fn last(&self) -> Result<&Segment> {
        self.segments.values().next_back().ok_or_else(|| StoreError::Inconsistent("no segment".into()))
    }

    /// A record that a later one replaces, or that only takes something away.
    pub fn dead(&mut self, loc: Loc) {
        if let Some(s) = self.segment_mut(loc.segment()) {
            s.dead += 1;
        }
    }

    /// The file that a record is in.
    pub fn file_of(&self, loc: Loc) -> Result<&Arc<dyn DiskFile>> {
        let id = loc.segment();
        let file = self.files.get(&id).map(|(_, file)| file).or_else(|| self.history.file(id));
        file.ok_or_else(|| StoreError::Inconsistent(format!("no segment for {loc:?}")))
    }

    pub fn read_record(&self, loc: Loc) -> Result<(Record, Bytes)> {
        match self.cache.get(loc) {
            Some(hit) => Ok(hit),
            None => read_from(&**self.file_of(loc)?, loc, &self.cache),
        }
    }

    pub fn get(&self, ent: u32) -> Result<Option<Stored>> {
        match self.index.loc(ent) {
            Loc::NONE => Ok(None),
            loc => {
                let (r, bytes) = self.read_record(loc)?;
                Ok(Some(Stored { ent, seq: r.seq, origin: KernelKey(r.origin), crc: r.crc, bytes, place: loc }))
            }
        }
    }

    pub fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        let mut failed = None;
        let hit = self.index.candidates(sync_id).find(|ent| match self.get(*ent) {
            Ok(Some(s)) => EntityRef::read(&s.bytes).is_ok_and(|e| e.sync_id == sync_id),
            Ok(None) => false,
            Err(e) => {
                failed = Some(e);
                false
            }
        });
        failed.map_or(Ok(hit), Err)
    }

    /// The entity numbers of a living edge's ends; `None` for a node. `Err` of the inner result names an end that is not
    /// there.
    pub fn ends_of(
        &self,
        e: &EntityRef<'_>,
        new: impl Fn(&str) -> Option<u32>,
    ) -> Result<std::result::Result<Option<[u32; 2]>, String>> {
        let mut out = [0; 2];
        let mut n = 0;
        for end in e.ends() {
            let found = match new(end) {
                Some(ent) => Some(ent),
                None => self.find(end)?,
            };
            match found {
                Some(ent) if n < 2 => out[n] = ent,
                _ => return Ok(Err(format!("end {end:?} of edge {:?} is not there", e.sync_id))),
            }
            n += 1;
        }
        Ok(Ok((n == 2).then_some(out)))
    }

    /// Makes a written version visible. `ends` are those of a living edge.
    /// `old` is what was found before, if somebody looked.
    pub fn publish(
        &mut self,
        ent: u32,
        new: &EntityRef<'_>,
        ends: Option<[u32; 2]>,
        loc: Loc,
        old: Option<&Stored>,
    ) -> Result<()> {
        let o = self.ontology.clone();
        let old_loc = self.index.loc(ent);
        // It has its type for ever, and only a living one is among those of its type.
        let is_of_type = |i: &Index| i.of_type(new.ty).is_some_and(|b| b.contains(ent));
        let replaced = self.history.is_kept().then(|| {
            let ty = is_of_type(&self.index).then_some(new.ty);
            Old { loc: old_loc, ty, ..Old::default() }
        });
        let mut was = None;
        if old_loc == Loc::NONE {
            self.index.insert_id(new.sync_id, ent);
        } else {
            if self.index.needs_old(new.ty, &o) {
                // A change of the same batch may have come between, or compaction.
                was = match old.filter(|old| old.place == old_loc) {
                    Some(old) => Some(old.clone()),
                    None => self.get(ent)?,
                };
                if was.is_none() {
                    return Err(StoreError::Inconsistent(format!("entity {ent} is gone")));
                }
            }
            self.dead(old_loc);
        }
        let was = was.as_ref().map(Stored::entity).transpose()?;
        if new.deleted
            && let Some(s) = self.segment_mut(loc.segment())
        {
            s.buried += 1;
        }
        if let Some(mut replaced) = replaced {
            if let Some(was) = &was {
                self.index.places(ent, was, &o, &mut replaced);
            }
            self.history.replaced(ent, replaced);
        }
        self.index.set_loc(ent, loc);
        self.index.replace(ent, was.as_ref(), new, ends, &o);
        Ok(())
    }

    /// Makes a written fact visible, or takes one away.
    pub fn publish_fact(&mut self, key: &[u8], there: bool, loc: Loc) {
        let old = self.index.fact(key);
        self.history.fact_replaced(key, old.unwrap_or(Loc::NONE));
        if let Some(old) = old {
            self.dead(old);
        }
        if !there {
            self.dead(loc);
        }
        self.index.set_fact(key, there.then_some(loc));
    }
}

/// Reads a record that is not in the cache.
pub fn read_from(file: &dyn DiskFile, loc: Loc, cache: &Cache) -> Result<(Record, Bytes)> {
    let damaged = |why: &str| {
        let (segment, offset) = (loc.segment(), loc.offset().into());
        StoreError::Log(LogError::Damaged { segment, offset, why: why.to_owned() })
    };
    let mut first = [0; RECORD + READ_AHEAD];
    let n = file.read_at(&mut first, loc.offset().into())?;
    let r = record_at(&first[..n], 0).ok_or_else(|| damaged("record header"))?;
    let len = RECORD + r.len as usize;
    let body = if len <= n {
        // What is kept takes no more than it needs.
        Bytes::copy_from_slice(&first[RECORD..len])
    } else {
        let mut all = vec![0; len - RECORD];
        let have = n - RECORD;
        all[..have].copy_from_slice(&first[RECORD..n]);
        if file.read_at(&mut all[have..], u64::from(loc.offset()) + n as u64)? < len - n {
            return Err(damaged("the record is cut off"));
        }
        Bytes::from(all)
    };
    if crc32c::crc32c(&body) != r.crc {
        return Err(damaged("record checksum"));
    }
    cache.put(loc, r, &body);
    Ok((r, body))
}
