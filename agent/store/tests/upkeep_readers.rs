//! Readers that hold a place while upkeep moves the log under them, and everybody at work at once.

mod common;

use common::*;
use mew_store::{MemDisk, Place, Store, Stored, Upkeep};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reads so many pieces; fewer if there are no more.
fn pieces(store: &Store, place: &mut Place, superseded: bool, n: usize) -> Vec<Row> {
    let mut out = Vec::new();
    for _ in 0..n {
        let more = if superseded { store.history(place, &mut out) } else { store.feed(place, &mut out) };
        if !more.expect("the feed can be read") {
            break;
        }
    }
    out.iter().map(row).collect()
}

fn ascending(rows: &[Row]) -> bool {
    rows.windows(2).all(|w| w[0].1 < w[1].1)
}

/// A reader stops after each number of pieces, upkeep runs, and the reader goes on.
fn readers_go_on(disk: &MemDisk, segment_bytes: u32, m: &Model, most: usize) {
    for n in 0..=most {
        for superseded in [false, true] {
            // Upkeep up to where the reader is, or past it: then no tombstone goes, and what was replaced may be missing.
            for past in [false, true] {
                let when = format!("after {n} pieces, superseded: {superseded}, past the reader: {past}");
                let disk = disk.copy();
                let (store, mut m) = (open(&disk, segment_bytes), m.clone());
                let (all, feed_before) = (m.history(0), m.feed(0));
                let mut place = Place::default();
                let mut seen = pieces(&store, &mut place, superseded, n);
                let read = place.seq;
                let u = if past { Upkeep::thorough(m.seq, 0) } else { Upkeep::thorough(read, u64::MAX) };
                let kept = store.maintain(&u).expect("upkeep succeeds");
                assert!(!past || kept.rewritten > 0, "{when}");
                m.maintained(&store, &u);
                seen.extend(drain(&store, &mut place, superseded));
                assert_eq!(place.seq, m.seq, "{when}");
                if !superseded {
                    assert!(seen == feed_before, "{when}: each entity once, at its newest");
                } else if !past {
                    assert!(seen == all, "{when}: every version");
                } else {
                    let kept_are_there = feed_before.iter().all(|r| seen.contains(r));
                    let early = all.iter().filter(|r| r.1 <= read).all(|r| seen.contains(r));
                    assert!(ascending(&seen) && kept_are_there && early, "{when}: every version that is left");
                }
                // It follows what is new from there.
                commit(&store, &m.batch(&[put_task(0, 3, None), put_task(1, 3, None), put_task(0, 4, None)]));
                let new = drain(&store, &mut place, superseded);
                let expected = if superseded { m.history(m.seq - 3) } else { m.feed(m.seq - 3) };
                assert!(new == expected, "{when}: what is new");
                // Who comes later, from anywhere.
                for after in [0, 1, read, m.seq - 1, m.seq] {
                    assert!(feed(&store, after) == m.feed(after), "{when}: from {after}");
                }
            }
        }
    }
}

#[test]
fn a_reader_between_segments_goes_on_after_upkeep() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    for n in 0..30 {
        let mut ops = vec![put_task(n % 7, 20, None), Op::Person { n: n % 4, size: 5 }, fact(1, &[n + 1])];
        if n % 4 == 3 {
            ops.push(Op::Delete { which: n.into() });
        }
        commit(&store, &m.batch(&ops));
    }
    drop(store);
    assert!(segments(&disk).len() > 20);
    readers_go_on(&disk, 300, &m, 40);
}

/// A segment is longer than one piece, so that a place is in the middle of it.
#[test]
fn a_reader_within_a_segment_goes_on_after_upkeep() {
    let segment_bytes = 4 << 20;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    for n in 0..14 {
        commit(&store, &m.batch(&[put_task(n % 8, 400_000, None)]));
    }
    drop(store);
    assert_eq!(segments(&disk).len(), 2);
    readers_go_on(&disk, segment_bytes, &m, 3);
}

fn lock(m: &Mutex<Model>) -> MutexGuard<'_, Model> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the feed until everything is done, and tells how far it is. Returns the last version of each entity.
fn follow(store: &Store, done: &AtomicBool, cursor: &AtomicU64) -> BTreeMap<u32, Row> {
    let (mut place, mut seen) = (Place::default(), BTreeMap::new());
    loop {
        let is_last = done.load(Ordering::Acquire);
        let mut out: Vec<Stored> = Vec::new();
        while store.feed(&mut place, &mut out).expect("the feed can be read") {}
        let rows: Vec<Row> = out.iter().map(row).collect();
        assert!(ascending(&rows), "the feed goes forward");
        seen.extend(rows.into_iter().map(|r| (r.0, r)));
        cursor.store(place.seq, Ordering::Release);
        if is_last {
            return seen;
        }
        std::thread::yield_now();
    }
}

/// Every look is consistent.
fn look(store: &Store, done: &AtomicBool) {
    loop {
        let is_last = done.load(Ordering::Acquire);
        let v = store.view();
        for ent in 0..v.next_entity() {
            let Some(s) = v.get(ent).expect("an entity can be read") else { continue };
            let e = s.entity().expect("it is an entity");
            assert_eq!(v.find(e.sync_id).expect("an id can be looked up"), Some(ent));
            assert!(v.ends(ent).expect("ends").is_none() || !e.deleted, "a dead edge has no ends");
        }
        drop(v);
        if is_last {
            return;
        }
        std::thread::yield_now();
    }
}

/// Upkeep up to where the slowest reader is, until everything is done. Returns how far it went.
fn keep_up(store: &Store, done: &AtomicBool, cursors: &[AtomicU64]) -> u64 {
    let mut highest = 0;
    loop {
        let is_last = done.load(Ordering::Acquire);
        let floor = cursors.iter().map(|c| c.load(Ordering::Acquire)).min().unwrap_or(0);
        store.maintain(&Upkeep::thorough(floor, u64::MAX)).expect("upkeep succeeds");
        highest = highest.max(floor);
        if is_last {
            return highest;
        }
        std::thread::yield_now();
    }
}

#[test]
fn writers_readers_and_upkeep_work_beside_each_other() {
    let segment_bytes = 1500;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let model = Mutex::new(Model::new());
    let done = AtomicBool::new(false);
    let cursors = [AtomicU64::new(0), AtomicU64::new(0)];
    let write = |w: u8| {
        for i in 0..100 {
            let mut ops = vec![put_task(w * 10 + i % 7, i.into(), Some(i % CODES)), fact(w, &[i + 1])];
            match i % 6 {
                0 => ops.push(Op::Person { n: w, size: 3 }),
                2 => ops.push(Op::Owns { n: w, person: w, task: w * 10 }),
                4 => ops.push(Op::Delete { which: i.into() }),
                _ => {}
            }
            // One writer at a time, as in a kernel.
            let mut m = lock(&model);
            let b = m.batch(&ops);
            assert_eq!(commit(&store, &b), m.seq);
        }
    };
    let (seen, floor) = std::thread::scope(|s| {
        let (store, done, cursors, write) = (&store, &done, &cursors, &write);
        let readers: Vec<_> = cursors.iter().map(|c| s.spawn(move || follow(store, done, c))).collect();
        let looking = s.spawn(move || look(store, done));
        let upkeep = s.spawn(move || keep_up(store, done, cursors));
        let writers: Vec<_> = (0..3).map(|w| s.spawn(move || write(w))).collect();
        // Whatever becomes of them, the others must end.
        let written: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::Release);
        for w in written {
            w.expect("a writer succeeds");
        }
        looking.join().expect("every look is consistent");
        let seen: Vec<_> = readers.into_iter().map(|r| r.join().expect("a reader succeeds")).collect();
        (seen, upkeep.join().expect("upkeep succeeds"))
    });
    let mut m = lock(&model).clone();
    for s in &seen {
        let missed = m.newest.iter().flatten().find(|r| s.get(&r.0) != Some(*r));
        assert!(missed.is_none(), "a reader missed the last version {missed:?}");
    }
    m.maintained(&store, &Upkeep::thorough(floor, u64::MAX));
    agrees(&store, &m, "when all have ended");
    let u = EVERYTHING.of(&m);
    store.maintain(&u).expect("upkeep succeeds");
    m.maintained(&store, &u);
    agrees(&store, &m, "after the last upkeep");
    agrees_from_everywhere(&store, &m);
    assert!(!compacted(&disk).is_empty());
    tidy(&disk, "when all have ended");
    drop(store);
    rebuilds_alike(&disk, segment_bytes, "when all have ended");
    agrees(&open(&disk, segment_bytes), &m, "reopened");
}
