//! Commit, read, feed and open.

use crate::disk::Disk;
use crate::index::{Index, uniques};
use crate::log::{
    Frame, Kind, Loc, LogError, MAX_FACT_KEY, MAX_FRAME, RECORD, Record, SEGMENT_HEADER, Segment, for_each_record,
    frame_number, record_at,
};
use bytes::{Bytes, BytesMut};
use mew_model::entity::MAX_ENTITY;
use mew_model::{EntityRef, KernelKey, Number, Ontology, ValueRef};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use thiserror::Error;

/// The feed is read in pieces of this size.
const FEED_CHUNK: usize = 1 << 20;
/// A point read asks for this much, which is nearly always all of an entity.
const READ_AHEAD: usize = 512;

#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing was written; it works again once there is space.
    #[error("the disk is full")]
    Full,
    /// A sync failed, so it is unknown what is on disk. Nothing can be written until the store is opened again.
    #[error("the store failed to sync its log and must be opened again: {0}")]
    Broken(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the data directory belongs to kernel {found}, not {expected}")]
    OtherKernel { found: String, expected: String },
    #[error("commit of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLarge(usize),
    #[error("the store holds what it should not: {0}")]
    Inconsistent(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

#[derive(Clone, Debug)]
pub struct Options {
    pub kernel_id: String,
    /// For a new data directory: its random incarnation.
    pub new_incarnation: String,
    /// A segment is closed when the next frame would take it past this size.
    pub segment_bytes: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub records: u64,
    /// Bytes of a torn last commit, never acknowledged, that were cut off.
    pub cut_bytes: u64,
}

/// One commit, in the order in which it takes effect.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// (key, value); an empty value deletes the fact.
    pub facts: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub struct Change {
    /// Numbers of new entities follow [`View::next_entity`].
    pub ent: u32,
    pub origin: KernelKey,
    pub bytes: Bytes,
}

/// A stored version.
#[derive(Clone, Debug)]
pub struct Stored {
    pub ent: u32,
    pub seq: u64,
    /// The kernel that introduced the entity here; `KernelKey(0)` is this one.
    pub origin: KernelKey,
    pub crc: u32,
    pub bytes: Bytes,
}

impl Stored {
    /// The store only holds what was validated on its way in, and every read is checked against its checksum.
    pub fn entity(&self) -> Result<EntityRef<'_>> {
        EntityRef::read(&self.bytes).map_err(|e| StoreError::Inconsistent(format!("entity {}: {e}", self.ent)))
    }
}

/// A reader's place in the feed: everything up to `seq` is behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub seq: u64,
    segment: u32,
    offset: u32,
}

impl Place {
    pub fn after(seq: u64) -> Place {
        Place { seq, ..Place::default() }
    }
}

struct State {
    index: Index,
    segments: BTreeMap<u32, Segment>,
    ontology: Arc<Ontology>,
}

#[derive(Default)]
struct Writer {
    frame: Frame,
    /// Number of the next frame.
    frames: u32,
}

pub struct Store {
    disk: Arc<dyn Disk>,
    options: Options,
    incarnation: String,
    writer: Mutex<Writer>,
    /// Apart from the writer, which is held while the disk syncs.
    broken: Mutex<Option<String>>,
    state: RwLock<State>,
    _lock: Box<dyn Send + Sync>,
}

const FACT_KERNEL: &[u8] = b"kernel";
const FACT_INCARNATION: &[u8] = b"incarnation";

impl Store {
    /// Opens or makes the data directory. The ontology says which attributes are unique.
    pub fn open(disk: Arc<dyn Disk>, ontology: Arc<Ontology>, options: Options) -> Result<(Store, Opened)> {
        let lock = disk.lock()?;
        let mut numbers: Vec<u32> = disk.list()?.iter().filter_map(|n| n.strip_suffix(".seg")?.parse().ok()).collect();
        numbers.sort_unstable();
        let mut state = State { index: Index::new(), segments: BTreeMap::new(), ontology };
        let mut how = Opened::default();
        if let Some(last) = numbers.last().copied()
            && Segment::open(&*disk, last)?.is_none()
        {
            numbers.pop(); // made, but nothing in it was ever acknowledged; it is made again
        }
        let mut frames = 0u32;
        for (i, no) in numbers.iter().enumerate() {
            let is_last = i + 1 == numbers.len();
            let missing = |no: u32, why: &str| LogError::Damaged { segment: no, offset: 0, why: why.into() };
            if *no != i as u32 {
                return Err(missing(i as u32, "the file is missing").into());
            }
            let mut segment = Segment::open(&*disk, *no)?.ok_or_else(|| missing(*no, "the header is cut off"))?;
            let mut todo = Vec::new();
            how.cut_bytes += segment.replay(is_last, |off, frame| {
                if frame_number(frame) != frames {
                    let why = format!("commit {frames} is missing; {} is here", frame_number(frame));
                    return Err(LogError::Damaged { segment: *no, offset: off.into(), why });
                }
                frames = frames.wrapping_add(1);
                for_each_record(frame, |at, r| todo.push((Loc::new(*no, off + at as u32), r)));
                Ok(())
            })?;
            how.records += todo.len() as u64;
            state.segments.insert(*no, segment);
            for (loc, r) in todo {
                state.replay(loc, r)?;
            }
        }
        if state.segments.is_empty() {
            state.segments.insert(0, Segment::create(&*disk, 0)?);
        }
        let store = Store {
            disk,
            incarnation: String::new(),
            writer: Mutex::new(Writer { frames, ..Writer::default() }),
            broken: Mutex::default(),
            state: RwLock::new(state),
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

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is committed now. Commits wait while it is held: keep it for one statement.
    pub fn view(&self) -> View<'_> {
        View(self.read())
    }

    pub fn set_ontology(&self, o: Arc<Ontology>) {
        self.write().ontology = o;
    }

    /// Why nothing can be written until the store is opened again, if so.
    pub fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_broken(&self, why: String) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Writes everything in one frame and one sync; returns the newest seq. Durable and visible when it returns. On
    /// [`StoreError::Full`] nothing has changed; a failed sync leaves it unknown what is on disk, so the store refuses
    /// everything after it.
    pub fn commit(&self, batch: Batch) -> Result<u64> {
        let mut guard = self.writer();
        let w = &mut *guard;
        if let Some(why) = self.broken() {
            return Err(StoreError::Broken(why));
        }
        // Everything that replay would refuse is refused here, before it is on disk.
        let ends = self.resolve(&batch)?;
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
            let r = Record {
                len: (k.len() + v.len()) as u32,
                kind: Kind::Fact,
                ent: k.len() as u32,
                seq: 0,
                origin: 0,
                crc,
            };
            offsets.push(w.frame.push(r, &[k, v]));
        }
        if w.frame.is_empty() {
            return Ok(seq);
        }
        if w.frame.buf.len() > MAX_FRAME {
            return Err(StoreError::TooLarge(w.frame.buf.len()));
        }
        w.frame.finish(w.frames);
        let (segment, at) = self.append(w)?;
        w.frames = w.frames.wrapping_add(1);

        let mut st = self.write();
        let o = st.ontology.clone();
        for ((c, off), ends) in batch.changes.iter().zip(&offsets).zip(ends) {
            // It is on disk, so memory must follow; if it cannot (a read failed), only a replay can tell the truth.
            st.publish(c, ends, Loc::new(segment, at + off), &o).inspect_err(|e| self.set_broken(e.to_string()))?;
        }
        for ((k, v), off) in batch.facts.iter().zip(&offsets[batch.changes.len()..]) {
            st.index.set_fact(k, (!v.is_empty()).then(|| Loc::new(segment, at + off)));
        }
        st.index.last_seq = seq;
        if let Some(s) = st.segments.get_mut(&segment) {
            s.extend(w.frame.first_seq, w.frame.last_seq, w.frame.buf.len());
        }
        Ok(seq)
    }

    /// Checks a batch, and finds the entity numbers of its edges' ends, which may be in the batch itself.
    fn resolve(&self, batch: &Batch) -> Result<Vec<Option<[u32; 2]>>> {
        let wrong = |m: String| StoreError::Inconsistent(m);
        for (k, v) in &batch.facts {
            if k.is_empty() || k.len() > MAX_FACT_KEY || k.len() + v.len() > MAX_ENTITY + MAX_FACT_KEY {
                return Err(wrong(format!("a fact of {} + {} bytes", k.len(), v.len())));
            }
        }
        let st = self.read();
        let mut new: HashMap<&str, u32> = HashMap::new();
        let mut out = Vec::with_capacity(batch.changes.len());
        for c in &batch.changes {
            if c.bytes.len() > MAX_ENTITY {
                return Err(wrong(format!("an entity of {} bytes", c.bytes.len())));
            }
            let e = EntityRef::read(&c.bytes).map_err(|e| wrong(e.to_string()))?;
            if c.ent >= st.index.next() {
                new.insert(e.sync_id, c.ent);
            }
            out.push(if e.deleted { None } else { st.ends_of(&e, |id| new.get(id).copied())? });
        }
        Ok(out)
    }

    /// One write and one sync; returns the segment and where in it the frame lies.
    fn append(&self, w: &Writer) -> Result<(u32, u32)> {
        let len = w.frame.buf.len() as u32;
        let (mut no, mut at, mut file) = {
            let st = self.read();
            let s = st.segments.values().next_back().ok_or_else(|| StoreError::Inconsistent("no segment".into()))?;
            (s.no, s.end, s.file.clone())
        };
        if at > SEGMENT_HEADER && at.checked_add(len).is_none_or(|e| e > self.options.segment_bytes) {
            // What a failed write left behind the end must not look like damage in the middle of the log.
            file.set_len(at.into()).map_err(full_or_io)?;
            file.sync().map_err(full_or_io)?;
            no += 1;
            let s = Segment::create(&*self.disk, no).map_err(full_or_io)?;
            (at, file) = (s.end, s.file.clone());
            self.write().segments.insert(no, s);
        }
        // Bytes behind the durable end are never read, so a write that failed half-way is simply written over.
        file.write_at(&w.frame.buf, at.into()).map_err(full_or_io)?;
        file.sync().map_err(|e| {
            self.set_broken(e.to_string());
            StoreError::Broken(e.to_string())
        })?;
        Ok((no, at))
    }

    /// The next piece of the feed: each entity once, at its newest seq. Returns false when there is nothing after
    /// `place`.
    pub fn feed(&self, place: &mut Place, out: &mut Vec<Stored>) -> Result<bool> {
        self.scan(place, out, false)
    }

    /// As [`Store::feed`], with the versions that were superseded since.
    pub fn history(&self, place: &mut Place, out: &mut Vec<Stored>) -> Result<bool> {
        self.scan(place, out, true)
    }

    fn scan(&self, place: &mut Place, out: &mut Vec<Stored>, superseded: bool) -> Result<bool> {
        let (file, end) = {
            let st = self.read();
            if place.seq >= st.index.last_seq {
                return Ok(false);
            }
            let here = st.segments.get(&place.segment).filter(|s| place.offset > 0 && place.offset < s.end);
            let s = match here {
                Some(s) => s,
                None => match st.segments.values().find(|s| s.last_seq > place.seq) {
                    Some(s) => {
                        (place.segment, place.offset) = (s.no, s.seek(place.seq));
                        s
                    }
                    None => return Ok(false),
                },
            };
            (s.file.clone(), s.end)
        };
        let mut chunk = BytesMut::zeroed(((end - place.offset) as usize).min(FEED_CHUNK + 2 * MAX_ENTITY));
        let n = file.read_at(&mut chunk, place.offset.into())?;
        if n < chunk.len() {
            return Err(StoreError::Inconsistent(format!("segment {} is shorter than it was", place.segment)));
        }
        let chunk = chunk.freeze();
        let start = out.len();
        let mut offs = Vec::new();
        let base = place.offset;
        let used = for_each_record(&chunk, |at, r| {
            if r.kind == Kind::Entity && r.seq > place.seq {
                place.seq = r.seq;
                let bytes = chunk.slice(at + RECORD..at + RECORD + r.len as usize);
                out.push(Stored { ent: r.ent, seq: r.seq, origin: KernelKey(r.origin), crc: r.crc, bytes });
                offs.push(base + at as u32);
            }
        });
        if used == 0 {
            let why = "the record cannot be read".to_owned();
            return Err(LogError::Damaged { segment: place.segment, offset: base.into(), why }.into());
        }
        place.offset += used as u32;
        if !superseded {
            // Its newer version comes later in the feed.
            let st = self.read();
            let mut i = 0;
            out.retain(|c| {
                i += 1;
                i <= start || st.index.loc(c.ent) == Loc::new(place.segment, offs[i - 1 - start])
            });
        }
        Ok(true)
    }

    /// (bytes of all segments, entities with tombstones).
    pub fn usage(&self) -> (u64, u64) {
        let st = self.read();
        (st.segments.values().map(|s| u64::from(s.end)).sum(), u64::from(st.index.next()))
    }
}

fn full_or_io(e: io::Error) -> StoreError {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::Full,
        _ => StoreError::Io(e),
    }
}

impl State {
    fn read_record(&self, loc: Loc) -> Result<(Record, Bytes)> {
        let gone = || StoreError::Inconsistent(format!("no record at {loc:?}"));
        let s = self.segments.get(&loc.segment()).ok_or_else(gone)?;
        let mut buf = BytesMut::zeroed(RECORD + READ_AHEAD);
        let n = s.file.read_at(&mut buf, loc.offset().into())?;
        let r = record_at(&buf[..n], 0).ok_or_else(gone)?;
        let len = RECORD + r.len as usize;
        if len > n {
            buf.resize(len, 0);
            if s.file.read_at(&mut buf[n..], u64::from(loc.offset()) + n as u64)? < len - n {
                return Err(gone());
            }
        }
        buf.truncate(len);
        let body = buf.freeze().slice(RECORD..);
        if crc32c::crc32c(&body) != r.crc {
            let why = "record checksum".to_owned();
            return Err(LogError::Damaged { segment: loc.segment(), offset: loc.offset().into(), why }.into());
        }
        Ok((r, body))
    }

    fn get(&self, ent: u32) -> Result<Option<Stored>> {
        match self.index.loc(ent) {
            Loc::NONE => Ok(None),
            loc => {
                let (r, bytes) = self.read_record(loc)?;
                Ok(Some(Stored { ent, seq: r.seq, origin: KernelKey(r.origin), crc: r.crc, bytes }))
            }
        }
    }

    fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        let mut failed = None;
        let hit = self.index.find(sync_id, |ent| match self.get(ent) {
            Ok(Some(s)) => EntityRef::read(&s.bytes).is_ok_and(|e| e.sync_id == sync_id),
            Ok(None) => false,
            Err(e) => {
                failed = Some(e);
                false
            }
        });
        failed.map_or(Ok(hit), Err)
    }

    /// The entity numbers of a living edge's ends; `None` for a node.
    fn ends_of(&self, e: &EntityRef<'_>, new: impl Fn(&str) -> Option<u32>) -> Result<Option<[u32; 2]>> {
        let mut out = [0; 2];
        let mut n = 0;
        for end in e.ends() {
            let found = match new(end) {
                Some(ent) => Some(ent),
                None => self.find(end)?,
            };
            match found {
                Some(ent) if n < 2 => out[n] = ent,
                _ => return Err(StoreError::Inconsistent(format!("end {end:?} of edge {:?} is not there", e.sync_id))),
            }
            n += 1;
        }
        Ok((n == 2).then_some(out))
    }

    /// Makes a written change visible. `ends` are those of a living edge.
    fn publish(&mut self, c: &Change, ends: Option<[u32; 2]>, loc: Loc, o: &Ontology) -> Result<()> {
        let new = EntityRef::read(&c.bytes).map_err(|e| StoreError::Inconsistent(e.to_string()))?;
        if self.index.loc(c.ent) == Loc::NONE {
            self.index.insert_id(new.sync_id, c.ent);
        } else if self.index.needs_old(new.ty, o) {
            let old = self.get(c.ent)?.ok_or_else(|| StoreError::Inconsistent(format!("entity {} is gone", c.ent)))?;
            self.index.remove(c.ent, &old.entity()?, o);
        } else if new.deleted {
            // Without unique values and ends, type membership is all there is; a tombstone carries the type.
            let mut living = new;
            living.deleted = false;
            self.index.remove(c.ent, &living, o);
        }
        self.index.set_loc(c.ent, loc);
        self.index.insert(c.ent, &new, ends, o);
        Ok(())
    }

    fn replay(&mut self, loc: Loc, r: Record) -> Result<()> {
        let (_, body) = self.read_record(loc)?;
        match r.kind {
            Kind::Fact => {
                let key = body.get(..r.ent as usize).ok_or_else(|| StoreError::Inconsistent("key of a fact".into()))?;
                self.index.set_fact(key, (body.len() > key.len()).then_some(loc));
            }
            Kind::Entity => {
                let o = self.ontology.clone();
                let e = EntityRef::read(&body).map_err(|e| StoreError::Inconsistent(e.to_string()))?;
                let ends = if e.deleted { None } else { self.ends_of(&e, |_| None)? };
                self.publish(&Change { ent: r.ent, origin: KernelKey(r.origin), bytes: body.clone() }, ends, loc, &o)?;
                self.index.last_seq = r.seq;
            }
        }
        Ok(())
    }
}

/// A consistent look at what is committed.
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl View<'_> {
    pub fn ontology(&self) -> &Arc<Ontology> {
        &self.0.ontology
    }

    pub fn last_seq(&self) -> u64 {
        self.0.index.last_seq
    }

    pub fn next_entity(&self) -> u32 {
        self.0.index.next()
    }

    /// Also finds tombstones.
    pub fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        self.0.find(sync_id)
    }

    /// The newest version, tombstones included.
    pub fn get(&self, ent: u32) -> Result<Option<Stored>> {
        self.0.get(ent)
    }

    /// Living entities of exactly this type.
    pub fn of_type(&self, ty: Number) -> Option<&RoaringBitmap> {
        self.0.index.of_type(ty)
    }

    /// Types that have ever had a living entity.
    pub fn types(&self) -> impl Iterator<Item = (Number, &RoaringBitmap)> {
        self.0.index.types()
    }

    pub fn edges_of(&self, ent: u32) -> impl Iterator<Item = u32> + '_ {
        self.0.index.edges_of(ent)
    }

    pub fn ends(&self, edge: u32) -> Option<[u32; 2]> {
        self.0.index.ends(edge)
    }

    /// The living entity that holds a unique value.
    pub fn unique(&self, scope: Number, attr: Number, v: ValueRef<'_>) -> Result<Option<u32>> {
        for ent in self.0.index.unique_candidates(scope, attr, v) {
            if let Some(s) = self.get(ent)? {
                let e = s.entity()?;
                if uniques(&e, &self.0.ontology).any(|(s, a, x)| s == scope && a == attr && x.query_eq(v)) {
                    return Ok(Some(ent));
                }
            }
        }
        Ok(None)
    }

    pub fn fact(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.index.fact(key).map(|l| self.fact_at(l)).transpose()
    }

    fn fact_at(&self, loc: Loc) -> Result<Bytes> {
        let (r, body) = self.0.read_record(loc)?;
        Ok(body.slice((r.ent as usize).min(body.len())..))
    }

    /// Facts whose key begins with `prefix`, ascending by key.
    pub fn facts(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
        self.0.index.facts(prefix).map(|(k, l)| Ok((k.to_vec(), self.fact_at(l)?))).collect()
    }

    pub fn has_fact(&self, key: &[u8]) -> bool {
        self.0.index.fact(key).is_some()
    }

    /// Keys that begin with `prefix`, ascending.
    pub fn fact_keys(&self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.0.index.facts(prefix).map(|(k, _)| k)
    }

    pub fn count_facts(&self, prefix: &[u8]) -> usize {
        self.0.index.facts(prefix).count()
    }
}
