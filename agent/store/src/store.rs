//! A store: opening, commits, and its upkeep beside them.

use crate::checkpoint::{self, UNFINISHED};
use crate::compact::{self, Rewritten};
use crate::disk::Disk;
use crate::history::History;
use crate::index::{OrderKey, OrderScope, order_keys};
use crate::log::{Frame, Kind, Loc, MAX_FRAME, Record};
use crate::recover::{Extent, NEW, Recovered, SPARE, recover};
use crate::segment::{SEGMENT_HEADER, Segment, segment_name};
use crate::state::State;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Batch, Change, Kept, Opened, Options, Result, StoreError, Stored, Upkeep, is_fact};
use crate::view::View;
use bytes::Bytes;
use mew_model::entity::MAX_ENTITY;
use mew_model::ontology::Attribute;
use mew_model::{EntityRef, Ontology};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// A spare file is zeroed in pieces of this size: larger ones make the system use pages of which each small commit would
/// later write the whole.
const ZEROES: [u8; 4096] = [0; 4096];

#[derive(Default)]
struct Writer {
    frame: Frame,
    /// Number of the next frame.
    next_frame: u64,
    /// A segment was begun and not finished, and may still be there: nothing may be written before it any more.
    begun: bool,
}

/// A change with what is needed to make it visible.
struct Resolved<'b> {
    entity: EntityRef<'b>,
    ends: Option<[u32; 2]>,
    /// What it replaces, where something is derived from that, and where that is.
    old: Option<(Loc, Stored)>,
}

pub struct Store {
    disk: Arc<dyn Disk>,
    options: Options,
    incarnation: String,
    writer: Mutex<Writer>,
    /// Apart from the writer, which is held while the disk syncs.
    broken: Mutex<Option<String>>,
    /// Why the last commit could not be written, though the next one may be.
    refused: Mutex<Option<String>>,
    pub(crate) state: RwLock<State>,
    /// Looks that are open, by the commit that they see. Taken last, and only for a moment.
    looks: Mutex<BTreeMap<u64, usize>>,
    /// Something may be kept for a look.
    keeps: AtomicBool,
    /// Files that upkeep is done with, to be removed from the last to the first.
    upkeep: Mutex<Vec<String>>,
    /// Bytes of closed segments that the checkpoint does not cover.
    behind: AtomicU64,
    next_id: Mutex<u32>,
    _lock: Box<dyn Send + Sync>,
}

pub const FACT_KERNEL: &[u8] = b"kernel";
/// Never there.
const FACT_TRIAL: &[u8] = b"trial";
pub const FACT_INCARNATION: &[u8] = b"incarnation";

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens or makes the data directory. The ontology says which attributes are unique.
    pub fn open(disk: Arc<dyn Disk>, ontology: Arc<Ontology>, options: Options) -> Result<(Store, Opened)> {
        let lock = disk.lock()?;
        let Recovered { mut state, next_frame, mut next_id, how, replayed_bytes, leftovers } =
            recover(&*disk, ontology, &Extent::All)?;
        for name in leftovers.iter().rev() {
            disk.remove(name)?;
        }
        // Commits go to a segment that commits made; after a compacted one a new one begins.
        let active = match state.segments.values().next_back().filter(|s| !s.compacted) {
            Some(s) => {
                write_end_again(s).map_err(full_or_io)?;
                s.end
            }
            None => 0,
        };
        if active == 0 {
            state.add_segment(Segment::create(&*disk, next_id, next_frame, None)?);
            next_id += 1;
        }
        let store = Store {
            disk,
            incarnation: String::new(),
            writer: Mutex::new(Writer { next_frame, ..Writer::default() }),
            broken: Mutex::default(),
            refused: Mutex::default(),
            state: RwLock::new(state),
            looks: Mutex::default(),
            keeps: AtomicBool::new(false),
            upkeep: Mutex::default(),
            behind: AtomicU64::new(replayed_bytes.saturating_sub(active.into())),
            next_id: Mutex::new(next_id),
            _lock: lock,
            options,
        };
        let incarnation = store.claim()?;
        Ok((Store { incarnation, ..store }, how))
    }

    /// Writes who this store belongs to, or compares it.
    fn claim(&self) -> Result<String> {
        let (kernel, incarnation) = {
            let v = self.view();
            (v.fact(FACT_KERNEL)?, v.fact(FACT_INCARNATION)?)
        };
        let text = |b: Bytes| String::from_utf8_lossy(&b).into_owned();
        match (kernel.map(text), incarnation.map(text)) {
            (Some(k), Some(i)) if k == self.options.kernel_id => Ok(i),
            (Some(found), _) => Err(StoreError::OtherKernel { found, expected: self.options.kernel_id.clone() }),
            (None, _) => {
                let facts = vec![
                    (FACT_KERNEL.to_vec(), self.options.kernel_id.clone().into_bytes()),
                    (FACT_INCARNATION.to_vec(), self.options.new_incarnation.clone().into_bytes()),
                ];
                self.commit(Batch { changes: vec![], facts })?;
                Ok(self.options.new_incarnation.clone())
            }
        }
    }

    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    pub fn kernel_id(&self) -> &str {
        &self.options.kernel_id
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is committed now.
    pub fn view(&self) -> View<'_> {
        View::open(self)
    }

    pub(crate) fn look_begins(&self, commit: u64) {
        *lock(&self.looks).entry(commit).or_default() += 1;
    }

    pub(crate) fn look_ends(&self, commit: u64) {
        let mut looks = lock(&self.looks);
        if let Some(n) = looks.get_mut(&commit) {
            *n -= 1;
            if *n == 0 {
                looks.remove(&commit);
            }
        }
        let is_oldest = looks.keys().next().is_none_or(|c| *c > commit);
        drop(looks);
        // What was kept for it goes now, or else with the next commit.
        if is_oldest
            && self.keeps.load(Ordering::Relaxed)
            && let Ok(mut st) = self.state.try_write()
        {
            let dropped = self.look_out(&mut st.history);
            drop(st);
            drop(dropped);
        }
    }

    /// Under the lock of the state, so that no look begins meanwhile.
    #[must_use]
    fn look_out(&self, history: &mut History) -> Option<History> {
        let oldest = lock(&self.looks).range(history.floor()..).next().map(|x| *x.0);
        self.keeps.store(oldest.is_some(), Ordering::Relaxed);
        history.look_out(oldest)
    }

    /// Takes another ontology. Indexes that it adds are built first; commits wait for it, reads do not.
    pub fn set_ontology(&self, o: Arc<Ontology>) -> Result<()> {
        let _no_commits = lock(&self.writer);
        let view = self.view();
        let mut built: BTreeMap<OrderScope, BTreeSet<(OrderKey, u32)>> = BTreeMap::new();
        for t in o.types() {
            let was = view.ontology().by_number(t.number);
            let is_new = |a: &&Attribute| was.and_then(|w| w.attrs.get(&a.name)?.indexed_in) != a.indexed_in;
            let new: Vec<_> = t.attrs.values().filter(is_new).filter_map(|a| Some((a.indexed_in?, a.number))).collect();
            if new.is_empty() {
                continue;
            }
            for ent in view.of_type(t.number)? {
                let Some(s) = view.get(ent)? else { continue };
                for (scope, key) in order_keys(&s.entity()?, &o).filter(|x| new.contains(&x.0)) {
                    built.entry(scope).or_default().insert((key, ent));
                }
            }
        }
        drop(view);
        let all: BTreeSet<OrderScope> =
            o.types().flat_map(|t| t.attrs.values()).filter_map(|a| Some((a.indexed_in?, a.number))).collect();
        // Dropped when the lock is free again.
        let (_dropped, mut removed);
        let mut st = self.write();
        removed = Vec::new();
        let gone: Vec<OrderScope> = st.index.ordered.keys().filter(|scope| !all.contains(scope)).copied().collect();
        let changed = !built.is_empty() || !gone.is_empty();
        for (scope, mut set) in built {
            st.index.ordered.entry(scope).or_default().append(&mut set);
        }
        removed.extend(gone.iter().map(|scope| st.index.ordered.remove(scope)));
        _dropped = self.look_out(&mut st.history);
        if changed {
            st.history.begin();
            st.history.reindexed();
        }
        if checkpoint::fingerprint(&o) != checkpoint::fingerprint(&st.ontology) {
            // The checkpoint that is there is of no use any more.
            let active = st.last()?.id;
            let closed = st.segments.values().filter(|s| s.id != active).map(|s| u64::from(s.end)).sum();
            self.behind.store(closed, Ordering::Relaxed);
        }
        st.ontology = o;
        Ok(())
    }

    /// Why nothing can be written until the store is opened again, if so.
    pub fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    /// Why nothing can be written now, if so: until the store is opened again, or until the disk works again, which upkeep
    /// tries.
    pub fn stuck(&self) -> Option<String> {
        self.broken().or_else(|| lock(&self.refused).clone())
    }

    fn breaks(&self, why: String) -> StoreError {
        *lock(&self.broken) = Some(why.clone());
        StoreError::Broken(why)
    }

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
        let (segment, at) = self.append(w).inspect_err(|e| *lock(&self.refused) = Some(e.to_string()))?;
        *lock(&self.refused) = None;
        let number = w.next_frame;
        w.next_frame += 1;

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
            let needed = st.index.needs_old(entity.ty, &st.ontology);
            let old = if needed { st.get(c.ent).map_err(unreadable)? } else { None };
            Ok(Resolved { entity, ends, old: old.map(|old| (st.index.loc(c.ent), old)) })
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
            file.sync().map_err(|e| self.breaks(e.to_string()))?;
            let s = self.begin_segment(w)?;
            let closed = at;
            (id, at, file) = (s.id, s.end, s.file.clone());
            self.write().add_segment(s);
            self.behind.fetch_add(closed.into(), Ordering::Relaxed);
        }
        // Bytes behind the durable end are never read, so a write that failed half-way is simply written over.
        file.write_at(&w.frame.buf, at.into()).map_err(unwritten)?;
        file.sync().map_err(|e| self.breaks(e.to_string()))?;
        Ok((id, at))
    }

    fn begin_segment(&self, w: &mut Writer) -> Result<Segment> {
        let spare = self.disk.list().map_err(unwritten)?.into_iter().find(|n| n == SPARE);
        let id = self.new_id();
        match Segment::create(&*self.disk, id, w.next_frame, spare.as_deref()) {
            Ok(s) => {
                w.begun = false;
                Ok(s)
            }
            Err(e) => {
                let name = segment_name(id);
                let _ = self.disk.remove(&name); // what it took is better free
                w.begun |= !self.disk.list().is_ok_and(|names| !names.contains(&name));
                Err(unwritten(e))
            }
        }
    }

    fn new_id(&self) -> u32 {
        let mut next = lock(&self.next_id);
        *next += 1;
        *next - 1
    }

    /// (bytes of all segments, entities with tombstones).
    pub fn usage(&self) -> (u64, u64) {
        let st = self.read();
        (st.segments.values().map(|s| u64::from(s.end)).sum(), u64::from(st.index.next()))
    }

    // ---------------------------------------------------------------- upkeep

    /// Prepares a spare segment, compacts, writes a checkpoint: whatever is due. Commits and readers go on meanwhile; it
    /// blocks only whoever else calls it. When it fails, nothing that counts is lost, and it can be called again.
    pub fn maintain(&self, u: &Upkeep) -> Result<Kept> {
        let mut rubbish = lock(&self.upkeep);
        if let Some(why) = self.broken() {
            return Err(StoreError::Broken(why));
        }
        if lock(&self.refused).is_some() {
            // Who waits for a sign that writing works may send no write; this one changes nothing.
            let _ = self.commit(Batch { changes: vec![], facts: vec![(FACT_TRIAL.to_vec(), vec![])] });
        }
        let kept = self.compact_and_checkpoint(u, &mut rubbish);
        // Last: compaction may have made the room for it. On a full disk commits do without.
        let spare = self.prepare_spare();
        let kept = kept?;
        match spare {
            Err(StoreError::Full) | Ok(()) => Ok(kept),
            Err(e) => Err(e),
        }
    }

    fn compact_and_checkpoint(&self, u: &Upkeep, rubbish: &mut Vec<String>) -> Result<Kept> {
        // Segments of two compactions must not lie beside each other.
        self.sweep(rubbish)?;
        // Before it is known what is closed: what closes meanwhile is counted again.
        let covered = self.behind.load(Ordering::Relaxed);
        let is_due = covered > u.checkpoint_bytes;
        let (closed, active, end) = {
            let st = self.read();
            let active = st.last()?;
            let closed: BTreeSet<u32> = st.segments.values().map(|s| s.id).filter(|id| *id != active.id).collect();
            let segments = st.segments.values().filter(|s| s.id != active.id);
            if !is_due && compact::groups(segments, u, self.options.segment_bytes).is_empty() || closed.is_empty() {
                return Ok(Kept::default());
            }
            (closed, active.id, active.first_frame)
        };
        let o = self.read().ontology.clone();
        let mut r = recover(&*self.disk, o, &Extent::Closed(&closed))?;
        if r.next_frame != end {
            return Err(StoreError::Inconsistent(format!("closed segments end at commit {}, not {end}", r.next_frame)));
        }
        let rewritten = self.compact(&mut r.state, u, rubbish);
        let written = rewritten.and_then(|x| {
            if x.is_empty() && !is_due {
                return Ok((x, 0)); // it was replaced by what is not closed yet
            }
            rubbish.push(UNFINISHED.to_owned());
            let (index, segments) = (&r.state.index, r.state.segments.values());
            let bytes = checkpoint::write(&*self.disk, &r.state.ontology, index, segments, end, active)?;
            // Under another ontology than it was made for it covers nothing.
            let o = self.read().ontology.clone();
            if checkpoint::fingerprint(&o) == checkpoint::fingerprint(&r.state.ontology) {
                self.behind.fetch_sub(covered, Ordering::Relaxed);
            }
            Ok((x, bytes))
        });
        let (rewritten, checkpoint_bytes) = written.map_err(|e| {
            // What it took is better free; what cannot be removed now is before the next compaction.
            let _ = self.sweep(rubbish);
            full_or(e)
        })?;
        drop(r);
        rubbish.clear();
        let mut done = Kept { checkpoint_bytes, ..Kept::default() };
        for x in rewritten {
            done.rewritten += x.old.len() as u64;
            done.freed_bytes += x.freed_bytes;
            done.forgotten += x.moves.iter().filter(|m| matches!(m, compact::Move::Forgotten { .. })).count() as u64;
            let mut st = self.write();
            let dropped = self.look_out(&mut st.history);
            st.history.begin();
            for id in &x.old {
                if let Some(file) = st.remove_segment(*id) {
                    st.history.put_away(*id, file);
                }
            }
            let id = x.new.id;
            st.add_segment(x.new);
            compact::apply(&mut st, &x.moves, id);
            drop(st);
            drop(dropped);
            rubbish.extend(x.old.into_iter().map(segment_name));
        }
        self.sweep(rubbish)?;
        Ok(done)
    }

    /// `rubbish` becomes what to remove if not everything succeeds.
    fn compact(&self, state: &mut State, u: &Upkeep, rubbish: &mut Vec<String>) -> Result<Vec<Rewritten>> {
        let mut out = Vec::new();
        for (group, clean) in compact::groups(state.segments.values(), u, self.options.segment_bytes) {
            let id = self.new_id();
            let name = segment_name(id);
            rubbish.extend([name.clone(), format!("{name}{NEW}")]);
            out.push(compact::rewrite(&*self.disk, state, &group, clean, id, u)?);
        }
        Ok(out)
    }

    fn sweep(&self, rubbish: &mut Vec<String>) -> Result<()> {
        while let Some(name) = rubbish.last() {
            if let Err(e) = self.disk.remove(name) {
                // Where the directory is lost nothing is found, and it may come back with everything.
                if e.kind() != ErrorKind::NotFound || self.disk.list().is_err() {
                    return Err(e.into());
                }
            }
            rubbish.pop();
        }
        Ok(())
    }

    /// Before the segment in use is full: a file of zeroes to go on in, so that commits neither wait for a new file nor
    /// write its growing length with each sync, and that a full disk is met here and not there.
    fn prepare_spare(&self) -> Result<()> {
        let used = self.read().last()?.end;
        if used < self.options.segment_bytes / 2 || self.disk.list()?.iter().any(|n| n == SPARE) {
            return Ok(());
        }
        let part = format!("{SPARE}{NEW}");
        let make = || -> io::Result<()> {
            let file = self.disk.create(&part)?;
            for at in (0..u64::from(self.options.segment_bytes)).step_by(ZEROES.len()) {
                file.write_at(&ZEROES, at)?;
            }
            file.sync()?;
            self.disk.rename(&part, SPARE)
        };
        make().map_err(|e| {
            let _ = self.disk.remove(&part); // what it took is better free
            full_or_io(e)
        })
    }
}

/// The last commit may be in the system's memory alone, if the process was killed before its sync or the sync failed: it is
/// read as if it were on disk. Nobody may see it, and nothing may follow it, before it is there.
fn write_end_again(s: &Segment) -> io::Result<()> {
    let from = s.marks.last().map_or(SEGMENT_HEADER, |m| m.1);
    let mut bytes = vec![0; s.end.saturating_sub(from) as usize];
    let n = s.file.read_at(&mut bytes, from.into())?;
    match s.file.write_at(&bytes[..n], from.into()) {
        // What is there needs no room, but where nothing is written in place. Then the sync has to do.
        Err(e) if is_full(&e) => {}
        written => written?,
    }
    s.file.sync()
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn is_lost(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Why nothing was written, and what there is to do.
fn unwritten(e: io::Error) -> StoreError {
    let what = match e.kind() {
        ErrorKind::ReadOnlyFilesystem => "the disk is read-only: writes go on when it can be written to again",
        _ if is_lost(&e) => "the data directory is gone: writes go on when it is back",
        _ => "the log cannot be written: look at the disk, each write tries again",
    };
    full_or(because(e, what))
}

fn unreadable(e: StoreError) -> StoreError {
    match e {
        StoreError::Io(e) => because(e, "what is to be replaced cannot be read, so it stays: look at the disk"),
        e => e,
    }
}

fn because(e: io::Error, what: &str) -> StoreError {
    StoreError::Io(io::Error::new(e.kind(), format!("{what} ({e})")))
}

fn full_or_io(e: io::Error) -> StoreError {
    if is_full(&e) { StoreError::Full } else { StoreError::Io(e) }
}

fn full_or(e: StoreError) -> StoreError {
    match e {
        StoreError::Io(e) => full_or_io(e),
        e => e,
    }
}
