//! A look at what is committed.

mod parts;

use crate::history::Old;
use crate::index::{OrderKey, between};
use crate::log::Loc;
use crate::state::{State, read_from};
use crate::store::Store;
use crate::sync::RwLockReadGuard;
use crate::types::{Result, StoreError, Stored};
use bytes::Bytes;
use mew_model::{EntityRef, KernelKey, Number, Ontology, ValueRef};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

pub(crate) use parts::PART;

/// One commit, whole, for as long as it is held. It holds up nobody: commits go on beside it, and what they replace is kept
/// for it. When that grows beyond a bound, the look ends: everything answers [`StoreError::Outdated`].
pub struct View<'a> {
    store: &'a Store,
    commit: u64,
    ontology: Arc<Ontology>,
    last_seq: u64,
    next_entity: u32,
}

impl<'a> View<'a> {
    pub(crate) fn open(store: &'a Store) -> Self {
        let st = store.read();
        // Under the lock: no commit comes between.
        let commit = st.history.commit();
        store.look_begins(commit);
        let (ontology, last_seq, next_entity) = (st.ontology.clone(), st.index.last_seq, st.index.next());
        View { store, commit, ontology, last_seq, next_entity }
    }

    fn state(&self) -> Result<RwLockReadGuard<'a, State>> {
        let st = self.store.read();
        if st.history.serves(self.commit) { Ok(st) } else { Err(StoreError::Outdated) }
    }

    /// Nothing was committed since; most looks are short.
    fn is_newest(&self, st: &State) -> bool {
        st.history.commit() == self.commit
    }

    fn old<'s>(&self, st: &'s State, ent: u32) -> Option<&'s Old> {
        st.history.entity(ent, self.commit)
    }

    pub fn ontology(&self) -> &Arc<Ontology> {
        &self.ontology
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn next_entity(&self) -> u32 {
        self.next_entity
    }

    /// Also finds tombstones.
    pub fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        Ok(self.found(sync_id)?.map(|s| s.ent))
    }

    /// What [`View::find`] finds: it is read for that.
    pub fn found(&self, sync_id: &str) -> Result<Option<Stored>> {
        let (first, others) = {
            let st = self.state()?;
            let older = (!self.is_newest(&st)).then(|| st.history.find(sync_id));
            one_and_others(st.index.candidates(sync_id).chain(older.into_iter().flatten()))
        };
        for ent in first.into_iter().chain(others) {
            if let Some(s) = self.get(ent)?
                && EntityRef::read(&s.bytes).is_ok_and(|e| e.sync_id == sync_id)
            {
                return Ok(Some(s));
            }
        }
        Ok(None)
    }

    /// The newest version, tombstones included.
    pub fn get(&self, ent: u32) -> Result<Option<Stored>> {
        let st = self.state()?;
        let loc = self.old(&st, ent).map_or_else(|| st.index.loc(ent), |old| old.loc);
        if loc == Loc::NONE {
            return Ok(None);
        }
        let (r, bytes) = read(st, loc)?;
        Ok(Some(Stored { ent, seq: r.seq, origin: KernelKey(r.origin), crc: r.crc, bytes, place: loc }))
    }

    /// Living entities of exactly this type.
    pub fn of_type(&self, ty: Number) -> Result<RoaringBitmap> {
        let st = self.state()?;
        let mut all = st.index.of_type(ty).cloned().unwrap_or_default();
        // Others may look at older commits, and much may be kept for them.
        if self.is_newest(&st) {
            return Ok(all);
        }
        for (ent, old) in st.history.all(self.commit) {
            if old.ty == Some(ty) {
                all.insert(ent);
            } else {
                all.remove(ent);
            }
        }
        Ok(all)
    }

    /// About how many living entities of exactly this type there are.
    pub fn size(&self, ty: Number) -> Result<u64> {
        Ok(self.state()?.index.of_type(ty).map_or(0, RoaringBitmap::len))
    }

    /// Types that have ever had a living entity.
    pub fn types(&self) -> Result<Vec<Number>> {
        Ok(self.state()?.index.types().map(|(t, _)| t).collect())
    }

    pub fn edges_of(&self, ent: u32) -> Result<Vec<u32>> {
        let st = self.state()?;
        if self.is_newest(&st) {
            return Ok(st.index.edges_of(ent).collect());
        }
        let old = |edge: &u32| self.old(&st, *edge).map(|old| old.ends.is_some_and(|e| e.contains(&ent)));
        let now = st.index.edges_of(ent).filter(|edge| old(edge).is_none());
        let then = st.history.edges_of(ent).filter(|edge| old(edge) == Some(true));
        let all: BTreeSet<u32> = now.chain(then).collect();
        Ok(all.into_iter().collect())
    }

    pub fn ends(&self, edge: u32) -> Result<Option<[u32; 2]>> {
        let st = self.state()?;
        Ok(self.old(&st, edge).map_or_else(|| st.index.ends(edge), |old| old.ends))
    }

    /// The living entity that holds a unique value.
    pub fn unique(&self, scope: Number, attr: Number, v: ValueRef<'_>) -> Result<Option<Stored>> {
        let (first, others) = {
            let st = self.state()?;
            let hash = st.index.unique_hash(scope, attr, v);
            one_and_others(st.index.unique_with(hash).chain(st.history.unique(hash)))
        };
        for ent in first.into_iter().chain(others) {
            if let Some(s) = self.get(ent)? {
                let e = s.entity()?;
                let is_of = || self.ontology.by_number(e.ty).is_some_and(|t| t.unique.contains(&(scope, attr)));
                if !e.deleted && e.attr_ref(attr).query_eq(v) && is_of() {
                    return Ok(Some(s));
                }
            }
        }
        Ok(None)
    }

    /// Living entities with a value of an indexed attribute whose key (see [`ValueRef::order_key`]) is in the range, by
    /// ascending key.
    pub fn ordered(
        &self,
        scope: Number,
        attr: Number,
        range: RangeInclusive<OrderKey>,
    ) -> Result<Vec<(OrderKey, u32)>> {
        let st = self.state()?;
        if !st.history.serves_indexes(self.commit) {
            return Err(StoreError::Outdated);
        }
        let of = (scope, attr);
        if self.is_newest(&st) {
            return Ok(st.index.ordered(of, between(range), false).collect());
        }
        let old = |x: &(OrderKey, u32)| self.old(&st, x.1).map(|old| old.ordered.contains(&(of, x.0)));
        let now = st.index.ordered(of, between(range.clone()), false).filter(|x| old(x).is_none());
        let then = st.history.ordered(of, between(range), false).filter(|x| old(x) == Some(true));
        let all: BTreeSet<_> = now.chain(then).collect();
        Ok(all.into_iter().collect())
    }

    /// The first `most` of what [`View::ordered`] would find in the range, in this direction, behind `after`.
    pub fn first_ordered(
        &self,
        scope: Number,
        attr: Number,
        range: RangeInclusive<OrderKey>,
        after: Option<(OrderKey, u32)>,
        descending: bool,
        most: usize,
    ) -> Result<Vec<(OrderKey, u32)>> {
        let st = self.state()?;
        if !st.history.serves_indexes(self.commit) {
            return Err(StoreError::Outdated);
        }
        let (of, mut between) = ((scope, attr), between(range));
        if let Some(after) = after {
            *if descending { &mut between.1 } else { &mut between.0 } = Bound::Excluded(after);
        }
        let now = st.index.ordered(of, between, descending);
        if self.is_newest(&st) {
            return Ok(now.take(most).collect());
        }
        let old = |x: &(OrderKey, u32)| self.old(&st, x.1).map(|old| old.ordered.contains(&(of, x.0)));
        // The first of both together are among the first of each.
        let then = st.history.ordered(of, between, descending).filter(|x| old(x) == Some(true)).take(most);
        let mut all: Vec<_> = now.filter(|x| old(x).is_none()).take(most).chain(then).collect();
        all.sort_unstable();
        all.dedup();
        if descending {
            all.reverse();
        }
        all.truncate(most);
        Ok(all)
    }

    /// About how many [`View::ordered`] would find; at most `most`.
    pub fn count_ordered(
        &self,
        scope: Number,
        attr: Number,
        range: RangeInclusive<OrderKey>,
        most: usize,
    ) -> Result<usize> {
        Ok(self.state()?.index.ordered((scope, attr), between(range), false).take(most).count())
    }

    pub fn fact(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.place_of_fact(key)? {
            None => Ok(None),
            Some(loc) => Ok(Some(fact_at(self.state()?, loc)?)),
        }
    }

    /// Facts whose key begins with `prefix`, ascending by key.
    pub fn facts(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let all = self.places(prefix)?;
        all.into_iter().map(|(k, loc)| Ok((k, fact_at(self.state()?, loc)?))).collect()
    }

    fn places(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Loc)>> {
        let st = self.state()?;
        let now = st.index.facts(prefix).map(|(k, loc)| (k.to_vec(), loc));
        if self.is_newest(&st) {
            return Ok(now.collect());
        }
        let mut all: BTreeMap<Vec<u8>, Loc> = now.collect();
        let replaced = st.history.facts_from(prefix, self.commit);
        all.extend(replaced.take_while(|(k, _)| k.starts_with(prefix)).map(|(k, loc)| (k.to_vec(), loc)));
        all.retain(|_, loc| *loc != Loc::NONE);
        Ok(all.into_iter().collect())
    }

    pub fn has_fact(&self, key: &[u8]) -> Result<bool> {
        Ok(self.place_of_fact(key)?.is_some())
    }

    /// Whether there is a fact whose key begins with `prefix`.
    pub fn has_facts(&self, prefix: &[u8]) -> Result<bool> {
        let st = self.state()?;
        if self.is_newest(&st) {
            return Ok(st.index.facts(prefix).next().is_some());
        }
        drop(st);
        Ok(!self.places(prefix)?.is_empty())
    }

    /// Keys that begin with `prefix`, ascending.
    pub fn fact_keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.places(prefix)?.into_iter().map(|(k, _)| k).collect())
    }

    pub fn count_facts(&self, prefix: &[u8]) -> Result<usize> {
        let st = self.state()?;
        if self.is_newest(&st) {
            return Ok(st.index.facts(prefix).count());
        }
        drop(st);
        Ok(self.places(prefix)?.len())
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.store.look_ends(self.commit);
    }
}

/// Nearly always there is one candidate at most, and no list has to be made for it.
fn one_and_others(mut all: impl Iterator<Item = u32>) -> (Option<u32>, Vec<u32>) {
    (all.next(), all.collect())
}

/// Reads a record, from the file without the lock: commits do not wait for the disk.
fn read(st: RwLockReadGuard<'_, State>, loc: Loc) -> Result<(crate::log::Record, Bytes)> {
    if let Some(hit) = st.cache.get(loc) {
        return Ok(hit);
    }
    let (file, cache) = (st.file_of(loc)?.clone(), st.cache.clone());
    drop(st);
    read_from(&*file, loc, &cache)
}

fn fact_at(st: RwLockReadGuard<'_, State>, loc: Loc) -> Result<Bytes> {
    let (r, body) = read(st, loc)?;
    Ok(body.slice((r.ent as usize).min(body.len())..))
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::{CHECKPOINT, UNFINISHED};
    use crate::{Batch, Disk, DiskOp, Hook, Hooked, MemDisk, Opened, Options, Store, StoreError, Upkeep};
    use mew_model::Ontology;
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, OnceLock, Weak};
    use std::thread::{self, JoinHandle};

    fn open(disk: Arc<dyn Disk>) -> (Store, Opened) {
        let o = Options { kernel_id: "k".into(), new_incarnation: "i".into(), segment_bytes: 1 << 20 };
        Store::open(disk, Arc::new(Ontology::default()), o).expect("the store opens")
    }

    fn store() -> Store {
        open(Arc::new(MemDisk::new())).0
    }

    fn put(store: &Store, value: &str) {
        let facts = vec![(b"f".to_vec(), value.as_bytes().to_vec())];
        store.commit(Batch { changes: vec![], facts }).expect("the commit succeeds");
    }

    /// What is kept is bounded: the look that is too old for it ends and says so, a younger one goes on.
    #[test]
    fn a_look_that_is_too_old_ends_with_an_error() {
        let store = store();
        store.state.write().expect("nobody panicked").history.bound(3);
        put(&store, "1");
        let old = store.view();
        put(&store, "2");
        let young = store.view();
        for n in 3..=4 {
            put(&store, &n.to_string());
            assert_eq!(old.fact(b"f").expect("it is kept").as_deref(), Some(&b"1"[..]));
        }
        put(&store, "5");
        assert!(matches!(old.fact(b"f"), Err(StoreError::Outdated)));
        assert!(matches!(old.get(0), Err(StoreError::Outdated)));
        assert_eq!(young.fact(b"f").expect("it is kept").as_deref(), Some(&b"2"[..]));
        drop((old, young));
        assert!(store.read().history.is_empty(), "nothing is kept for nobody");
        assert_eq!(store.view().fact(b"f").expect("it is there").as_deref(), Some(&b"5"[..]));
    }

    /// More than is kept for a look.
    const WRITES: usize = 10;

    fn write(store: &Store) {
        (0..WRITES).for_each(|n| put(store, &format!("written beside a checkpoint, {n}")));
    }

    /// Much is committed each time that a checkpoint is begun.
    #[derive(Default)]
    struct Busy {
        store: OnceLock<Weak<Store>>,
        begun: AtomicUsize,
        /// Who may have to wait for the checkpoint.
        writers: Mutex<Vec<JoinHandle<()>>>,
    }

    impl Hook for Busy {
        fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
            if op == DiskOp::Create(UNFINISHED)
                && let Some(store) = self.store.get().and_then(Weak::upgrade)
            {
                match self.begun.fetch_add(1, Ordering::Relaxed) {
                    0 | 1 => write(&store),
                    _ => self.writers.lock().expect("nobody panicked").push(thread::spawn(move || write(&store))),
                }
            }
            Ok(())
        }
    }

    fn canonical(store: &Store) -> Vec<u8> {
        let mut out = Vec::new();
        store.canonical(&mut out).expect("it can be read");
        out
    }

    /// A store under steady writing gets its checkpoint all the same: in the end writers wait until it is read.
    #[test]
    fn a_checkpoint_that_is_overtaken_is_made_again() {
        let Hooked { disk, hook: busy } = Hooked::<MemDisk, Busy>::default();
        let store = Arc::new(open(Arc::new(Hooked { disk: disk.clone(), hook: busy.clone() })).0);
        store.state.write().expect("nobody panicked").history.bound(3);
        put(&store, "before");
        busy.store.set(Arc::downgrade(&store)).expect("it is set once");
        let kept = store.maintain(&Upkeep::thorough(0, 0)).expect("upkeep succeeds");
        assert!(kept.checkpoint_bytes > 0, "{kept:?}");
        let writers: Vec<_> = busy.writers.lock().expect("nobody panicked").drain(..).collect();
        let waiting = writers.len();
        assert!(waiting > 0, "it was begun {} times", busy.begun.load(Ordering::Relaxed));
        for w in writers {
            w.join().expect("commits succeed");
        }
        let (again, how) = open(Arc::new(disk.copy()));
        assert!(how.records as usize <= waiting * WRITES, "the checkpoint is of what came before: {how:?}");
        assert!(canonical(&again) == canonical(&store));
        drop(again);
        let copy = disk.copy();
        copy.remove(CHECKPOINT).expect("it is there");
        assert!(canonical(&open(Arc::new(copy)).0) == canonical(&store), "without the checkpoint");
    }
}
