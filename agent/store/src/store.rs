//! A store: opening, looks, ontologies. Commits and upkeep are in files of their own.

mod commit;
mod refusal;
mod upkeep;

use crate::checkpoint;
use crate::disk::Disk;
use crate::history::History;
use crate::index::{OrderKey, OrderScope, order_keys};
use crate::log::Frame;
use crate::recover::{Recovered, recover};
use crate::segment::Segment;
use crate::state::State;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Batch, Opened, Options, Result, StoreError};
use crate::view::View;
use bytes::Bytes;
use mew_model::Ontology;
use mew_model::ontology::Attribute;
use refusal::{full_or_io, is_full};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

#[derive(Default)]
struct Writer {
    frame: Frame,
    /// Number of the next frame.
    next_frame: u64,
    /// A segment was begun and not finished, and may still be there: nothing may be written before it any more.
    begun: bool,
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
    /// It was for want of room. That a small commit fits does not mean that there is room again.
    full: AtomicBool,
    /// The file `spare`, if it is there, is known to be full of zeroes.
    blank: AtomicBool,
    pub(crate) state: RwLock<State>,
    /// Looks that are open, by the commit that they see. Taken last, and only for a moment.
    looks: Mutex<BTreeMap<u64, usize>>,
    /// Something may be kept for a look.
    keeps: AtomicBool,
    /// Files that upkeep is done with, to be removed from the last to the first.
    upkeep: Mutex<Vec<String>>,
    /// See [`Store::hold_segments`].
    segments: Mutex<()>,
    /// Bytes of commits that the checkpoint does not cover.
    behind: AtomicU64,
    next_id: Mutex<u32>,
    _lock: Box<dyn Send + Sync>,
}

pub const FACT_KERNEL: &[u8] = b"kernel";
pub const FACT_INCARNATION: &[u8] = b"incarnation";

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens or makes the data directory. The ontology says which attributes are unique.
    pub fn open(disk: Arc<dyn Disk>, ontology: Arc<Ontology>, options: Options) -> Result<(Store, Opened)> {
        let lock = disk.lock()?;
        let Recovered { mut state, next_frame, mut next_id, how, replayed_bytes, leftovers } =
            recover(&*disk, ontology)?;
        // Who was killed may not have synced the names that were found, and what is removed now was replaced by those.
        disk.sync_names()?;
        for name in leftovers.iter().rev() {
            disk.remove(name)?;
            disk.sync_names()?;
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
            full: AtomicBool::new(false),
            blank: AtomicBool::new(false),
            state: RwLock::new(state),
            looks: Mutex::default(),
            keeps: AtomicBool::new(false),
            upkeep: Mutex::default(),
            segments: Mutex::default(),
            behind: AtomicU64::new(replayed_bytes),
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

    /// Upkeep holds it from when it forgets tombstones until segments without them are in the place of those with them. An id
    /// that is free again may be given to another entity meanwhile: who copied both would have it twice. Taken before the
    /// state, and neither by readers nor by commits.
    pub(crate) fn hold_segments(&self) -> MutexGuard<'_, ()> {
        lock(&self.segments)
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
            let is_new = |a: &&Arc<Attribute>| was.and_then(|w| w.attrs.get(&a.name)?.indexed_in) != a.indexed_in;
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
            let all = st.segments.values().map(|s| u64::from(s.end)).sum();
            self.behind.store(all, Ordering::Relaxed);
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
        let broken = self.broken().map(|why| StoreError::Broken(why).to_string());
        broken.or_else(|| lock(&self.refused).clone())
    }

    fn refuses(&self, e: &StoreError) {
        self.full.store(matches!(e, StoreError::Full), Ordering::Relaxed);
        *lock(&self.refused) = Some(e.to_string());
    }

    fn breaks(&self, why: String) -> StoreError {
        *lock(&self.broken) = Some(why.clone());
        StoreError::Broken(why)
    }

    fn new_id(&self) -> u32 {
        let mut next = lock(&self.next_id);
        *next += 1;
        *next - 1
    }

    /// (bytes of all segments, entities with the tombstones that are there).
    pub fn usage(&self) -> (u64, u64) {
        let st = self.read();
        (st.segments.values().map(|s| u64::from(s.end)).sum(), u64::from(st.index.held()))
    }
}

/// The last commit, or the header of a segment that was just begun, may be in the system's memory alone, if the process was
/// killed before its sync or the sync failed: it is read as if it were on disk. Nobody may see it, and nothing may follow it,
/// before it is there.
fn write_end_again(s: &Segment) -> io::Result<()> {
    let from = s.marks.last().map_or(0, |m| m.1);
    let mut bytes = vec![0; s.end.saturating_sub(from) as usize];
    let n = s.file.read_at(&mut bytes, from.into())?;
    match s.file.write_at(&bytes[..n], from.into()) {
        // What is there needs no room, but where nothing is written in place. Then the sync has to do.
        Err(e) if is_full(&e) => {}
        written => written?,
    }
    s.file.sync()
}
