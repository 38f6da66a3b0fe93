//! Commits: checked, written, synced, and only then visible.

use super::refusal::{is_lost, unreadable, unsynced, unwritten};
use super::{Store, Writer, lock};
use crate::log::{Kind, Loc, MAX_FRAME, Record};
use crate::recover::SPARE;
use crate::segment::{SEGMENT_HEADER, Segment, segment_name};
use crate::sync::atomic::Ordering;
use crate::types::{Batch, Change, MOST_ENTITIES, Result, StoreError, Stored, is_fact};
use mew_model::EntityRef;
use mew_model::entity::MAX_ENTITY;
use std::collections::HashMap;

/// A change with what is needed to make it visible.
struct Resolved<'b> {
    entity: EntityRef<'b>,
    ends: Option<[u32; 2]>,
    /// What it replaces, where something is derived from that.
    old: Option<Stored>,
}

impl Store {
    /// Writes everything in one frame and one sync; returns the newest seq. Durable and visible when it returns. On
    /// [`StoreError::Full`] and [`StoreError::Io`] nothing has changed, and the next commit tries again; if the process ends
    /// before that, what was refused may be there after all. A failed sync leaves it unknown what is on disk, so the store
    /// refuses everything after it.
    pub fn commit(&self, batch: Batch) -> Result<u64> {
        let mut guard = lock(&self.writer);
        let w = &mut *guard;
        if let Some(why) = self.broken() {
            return Err(StoreError::Broken(why));
        }
        // Everything that replay would refuse is refused here, before it is on disk.
        let resolved = self.resolve(&batch)?;
        let mut seq = self.read().index.last_seq;
        w.frame.clear();
        let mut offsets = Vec::with_capacity(batch.changes.len() + batch.facts.len());
        for c in &batch.changes {
            seq += 1;
            let (len, crc) = (c.bytes.len() as u32, crc32c::crc32c(&c.bytes));
            let r = Record { len, kind: Kind::Entity, ent: c.ent, seq, origin: c.origin.0, crc };
            offsets.push(w.frame.push(r, &[&c.bytes]));
        }
        for (k, v) in &batch.facts {
            let crc = crc32c::crc32c_append(crc32c::crc32c(k), v);
            let len = (k.len() + v.len()) as u32;
            let r = Record { len, kind: Kind::Fact, ent: k.len() as u32, seq: 0, origin: 0, crc };
            offsets.push(w.frame.push(r, &[k, v]));
        }
        if w.frame.is_empty() {
            return Ok(seq);
        }
        if w.frame.buf.len() > MAX_FRAME {
            return Err(StoreError::TooLarge(w.frame.buf.len()));
        }
        w.frame.finish(w.next_frame);
        let (segment, at) = self.append(w).inspect_err(|e| self.refuses(e))?;
        if !self.full.load(Ordering::Relaxed) {
            *lock(&self.refused) = None;
        }
        let number = w.next_frame;
        w.next_frame += 1;
        self.behind.fetch_add(w.frame.buf.len() as u64, Ordering::Relaxed);

        let _dropped;
        let mut st = self.write();
        _dropped = self.look_out(&mut st.history);
        st.history.begin();
        if let Some(s) = st.segment_mut(segment) {
            s.extend(number, w.frame.first_seq, w.frame.last_seq, w.frame.buf.len(), offsets.len() as u32);
        }
        for ((c, x), off) in batch.changes.iter().zip(&resolved).zip(&offsets) {
            // It is on disk, so memory must follow; if it cannot (a read failed), only a replay can tell the truth.
            let done = st.publish(c.ent, &x.entity, x.ends, Loc::new(segment, at + off), x.old.as_ref());
            done.map_err(|e| self.breaks(format!("what a commit replaced cannot be read: {e}")))?;
        }
        for ((k, v), off) in batch.facts.iter().zip(&offsets[batch.changes.len()..]) {
            st.publish_fact(k, !v.is_empty(), Loc::new(segment, at + off));
        }
        st.index.last_seq = seq;
        Ok(seq)
    }

    /// Checks a batch, finds the entity numbers of its edges' ends, which may be in the batch itself, and reads what it
    /// replaces: memory must be able to follow what is on disk.
    fn resolve<'b>(&self, batch: &'b Batch) -> Result<Vec<Resolved<'b>>> {
        let wrong = |m: String| StoreError::Inconsistent(m);
        for (k, v) in &batch.facts {
            if !is_fact(k, v) {
                return Err(wrong(format!("a fact of {} + {} bytes", k.len(), v.len())));
            }
        }
        let st = self.read();
        let mut new = HashMap::new();
        let mut entities = Vec::with_capacity(batch.changes.len());
        for c in &batch.changes {
            if c.ent == MOST_ENTITIES {
                return Err(StoreError::NoNumbers);
            }
            if c.bytes.len() > MAX_ENTITY {
                return Err(wrong(format!("an entity of {} bytes", c.bytes.len())));
            }
            entities.push(EntityRef::read(&c.bytes).map_err(|e| wrong(e.to_string()))?);
        }
        // Only edges ask for it.
        if entities.iter().any(|e| e.ends().next().is_some()) {
            new = batch
                .changes
                .iter()
                .zip(&entities)
                .filter(|(c, _)| st.index.loc(c.ent) == Loc::NONE)
                .map(|(c, e)| (e.sync_id, c.ent))
                .collect();
        }
        let one = |(c, entity): (&Change, EntityRef<'b>)| {
            let ends = match entity.deleted {
                true => None,
                false => st.ends_of(&entity, |id| new.get(id).copied())?.map_err(wrong)?,
            };
            let now = st.index.loc(c.ent);
            let old = match &c.found {
                _ if now == Loc::NONE || !st.index.needs_old(entity.ty, &st.ontology) => None,
                Some(found) if found.place == now => Some(found.clone()),
                _ => st.get(c.ent).map_err(unreadable)?,
            };
            Ok(Resolved { entity, ends, old })
        };
        batch.changes.iter().zip(entities).map(one).collect()
    }

    /// One write and one sync; returns the segment and where in it the frame lies.
    fn append(&self, w: &mut Writer) -> Result<(u32, u32)> {
        let len = w.frame.buf.len() as u32;
        let (mut id, mut at, mut file) = {
            let st = self.read();
            let s = st.last()?;
            (s.id, s.end, s.file.clone())
        };
        // Who removes the directory leaves us files that are open and gone when we are.
        if let Err(e) = self.disk.open(&segment_name(id))
            && is_lost(&e)
        {
            return Err(unwritten(e));
        }
        let is_over = at.checked_add(len).is_none_or(|e| e > self.options.segment_bytes);
        if at > SEGMENT_HEADER && (is_over || w.begun) {
            // What a failed write left behind the end must not look like damage in the middle of the log.
            file.set_len(at.into()).map_err(unwritten)?;
            file.sync().map_err(|e| self.breaks(unsynced(&e)))?;
            let s = self.begin_segment(w)?;
            (id, at, file) = (s.id, s.end, s.file.clone());
            self.write().add_segment(s);
        }
        // Bytes behind the durable end are never read, so a write that failed half-way is simply written over.
        file.write_at(&w.frame.buf, at.into()).map_err(unwritten)?;
        file.sync().map_err(|e| self.breaks(unsynced(&e)))?;
        Ok((id, at))
    }

    fn begin_segment(&self, w: &mut Writer) -> Result<Segment> {
        let names = self.disk.list().map_err(unwritten)?;
        // What lies in it behind the last commit is read as commits when the store is opened after a crash.
        let spare = names.into_iter().find(|n| n == SPARE).filter(|_| self.blank.swap(false, Ordering::Relaxed));
        let id = self.new_id();
        match Segment::create(&*self.disk, id, w.next_frame, spare.as_deref()) {
            Ok(s) => {
                w.begun = false;
                Ok(s)
            }
            Err(e) => {
                let name = segment_name(id);
                let _ = self.disk.remove(&name); // what it took is better free
                let is_removed = self.disk.list().is_ok_and(|names| !names.contains(&name));
                // As long as that is not durable, it may come back with a power loss.
                w.begun |= !is_removed || self.disk.sync_names().is_err();
                Err(unwritten(e))
            }
        }
    }
}
