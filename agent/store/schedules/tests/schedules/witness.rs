//! What everybody did and saw, and whether it fits together.

use crate::common::*;
use mew_model::name::number;
use mew_store::{Backup, Batch, Disk, MemDisk, Place, Store, Upkeep, View};
use std::collections::BTreeMap;
// Not shuttle's: to watch must not change what can happen.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Witness {
    /// What the store held before.
    before: Model,
    /// What was committed, by the seq that it got.
    commits: Mutex<BTreeMap<u64, Batch>>,
    /// What was seen, and whether titles were indexed there.
    seen: Mutex<Vec<(Dump, bool)>>,
    /// Everything up to this seq was acknowledged, or seen.
    known: AtomicU64,
    /// Upkeep may have taken away what was replaced up to here, and tombstones up to there.
    floor: AtomicU64,
    buried: AtomicU64,
}

impl Witness {
    pub fn new(before: &Model) -> Self {
        Witness {
            before: before.clone(),
            commits: Mutex::default(),
            seen: Mutex::default(),
            known: AtomicU64::new(before.seq),
            floor: AtomicU64::new(0),
            buried: AtomicU64::new(0),
        }
    }

    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    fn knows(&self, seq: u64) {
        self.known.fetch_max(seq, Ordering::Relaxed);
    }

    pub fn commit(&self, store: &Store, b: &Batch) {
        let seq = commit(store, b);
        let other = lock(&self.commits).insert(seq, b.clone());
        assert!(other.is_none(), "two commits end with seq {seq}");
        self.knows(seq);
    }

    /// All upkeep that is possible now, with tombstones or without.
    pub fn maintain(&self, store: &Store, tombstones: bool) {
        let head = store.view().last_seq();
        self.floor.fetch_max(head, Ordering::Relaxed);
        if tombstones {
            self.buried.fetch_max(head, Ordering::Relaxed);
        }
        let old = if tombstones { u64::MAX } else { 0 };
        store.maintain(&Upkeep::thorough(head, old)).expect("upkeep succeeds");
    }

    /// Opens a look and looks twice.
    pub fn look(&self, store: &Store) {
        let known = self.known();
        let v = store.view();
        assert!(v.last_seq() >= known, "a look sees {}, and {known} was there before it", v.last_seq());
        self.knows(v.last_seq());
        let first = all_of(&v);
        same(&all_of(&v), &first, "the same look, again");
        self.saw(first, has_index(&v));
    }

    pub fn saw(&self, found: Dump, has_index: bool) {
        lock(&self.seen).push((found, has_index));
    }

    /// Takes a backup; what a store from it holds is seen.
    pub fn back_up(&self, store: &Store) -> (u64, MemDisk) {
        let known = self.known();
        let b = store.backup().expect("a backup");
        assert!(b.head >= known, "a backup has {}, and {known} was there before it", b.head);
        self.knows(b.head);
        (b.head, restore(&b))
    }

    /// All that was seen was there after one commit, and what the store holds now is what was committed.
    pub fn judge(&self, store: &Store) -> Model {
        let (floor, buried) = (self.floor.load(Ordering::Relaxed), self.buried.load(Ordering::Relaxed));
        let mut m = self.before.clone();
        let mut after = BTreeMap::from([(m.seq, m.clone())]);
        for (seq, b) in &*lock(&self.commits) {
            follow(&mut m, b);
            assert_eq!(m.seq, *seq, "seqs are given out without a gap");
            after.insert(m.seq, m.clone());
        }
        for (found, has_index) in &*lock(&self.seen) {
            let seq = found.last_seq;
            let then = after.get(&seq).unwrap_or_else(|| panic!("no commit ends with seq {seq}"));
            let mut expected = as_left(then.clone(), found, buried).look();
            if !has_index {
                expected.titles.clear();
            }
            same(found, &expected, &format!("at seq {seq}"));
        }
        m.maintained(store, &Upkeep::thorough(floor, if buried > 0 { u64::MAX } else { 0 }));
        agrees(store, &m, "in the end");
        m
    }
}

fn has_index(v: &View<'_>) -> bool {
    let task = v.ontology().by_number(number("Task"));
    task.and_then(|t| t.attrs.get("title")).is_some_and(|a| a.indexed_in.is_some())
}

/// Without what no index is asked for.
fn all_of(v: &View<'_>) -> Dump {
    let mut all = look(v);
    if !has_index(v) {
        all.titles.clear();
    }
    all
}

/// Does what a commit does that makes no new entities.
fn follow(m: &mut Model, b: &Batch) {
    for c in &b.changes {
        m.seq += 1;
        let row = (c.ent, m.seq, c.origin.0, c.bytes.to_vec());
        m.newest[c.ent as usize] = Some(row.clone());
        m.history.push(row);
    }
    for (key, value) in &b.facts {
        match value.is_empty() {
            true => drop(m.facts.remove(key)),
            false => drop(m.facts.insert(key.clone(), value.clone())),
        }
    }
}

/// Upkeep may have taken tombstones away before it was looked at.
fn as_left(mut m: Model, found: &Dump, buried: u64) -> Model {
    for newest in &mut m.newest {
        let is_gone = |r: &Row| r.1 <= buried && entity(r).deleted && !found.newest.contains(r);
        if newest.as_ref().is_some_and(is_gone) {
            *newest = None;
        }
    }
    m
}

pub fn restore(b: &Backup) -> MemDisk {
    let disk = MemDisk::new();
    for e in &b.entries {
        let mut bytes = vec![0; e.len as usize];
        assert_eq!(e.read_at(&mut bytes, 0).expect("the backup can be read"), bytes.len());
        let file = disk.create(&e.name).expect("a file");
        file.write_at(&bytes, 0).and_then(|()| file.sync()).expect("it is written");
    }
    disk
}

/// One who reads the feed piece by piece.
pub struct Follower {
    from: u64,
    superseded: bool,
    place: Place,
    /// What each piece held, and what was known before it was read.
    pieces: Vec<(u64, Vec<Row>)>,
}

impl Follower {
    pub fn new(from: u64, superseded: bool) -> Self {
        Follower { from, superseded, place: Place::after(from), pieces: Vec::new() }
    }

    /// Reads up to where it ends now.
    pub fn read(&mut self, store: &Store, w: &Witness) {
        loop {
            let (known, mut out) = (w.known(), Vec::new());
            let more = match self.superseded {
                true => store.history(&mut self.place, &mut out),
                false => store.feed(&mut self.place, &mut out),
            };
            self.pieces.push((known, out.iter().map(row).collect()));
            if !more.expect("the feed can be read") {
                return;
            }
        }
    }

    /// It got each entity at its newest, and nothing twice, late, or after it was replaced.
    pub fn judge(&self, m: &Model) {
        let all: Vec<&Row> = self.pieces.iter().flat_map(|(_, rows)| rows).collect();
        let seqs: Vec<u64> = all.iter().map(|r| r.1).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "the feed goes forward: {seqs:?}");
        assert!(all.iter().all(|r| r.1 > self.from && m.history.contains(*r)), "all of it was committed: {seqs:?}");
        for newest in m.feed(self.from) {
            assert!(all.contains(&&newest), "{newest:?} is missing");
        }
        if self.superseded {
            return;
        }
        for (known, rows) in &self.pieces {
            for r in rows {
                let is_newer = |h: &Row| h.0 == r.0 && h.1 > r.1 && h.1 <= *known;
                assert!(!m.history.iter().any(is_newer), "{} was replaced before {known}", r.1);
            }
        }
    }
}
