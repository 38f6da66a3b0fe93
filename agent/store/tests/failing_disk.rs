//! A disk that fails in each way, from each of its operations on: commits stop and say why, reads go on, nothing that was
//! acknowledged is lost, and it all goes on when the disk works again, unless a sync has failed.

mod common;

use common::interrupted::{Interrupted, Interruption};
use common::*;
use mew_store::{DirDisk, Fault, MemDisk, Store, StoreError, Upkeep};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const GONE: &str = "the data directory is gone: writes go on when it is back";
const UNWRITTEN: &str = "the log cannot be written: look at the disk, each write tries again";

/// What a disk does until it works again, and what a commit says of it.
fn faults() -> Vec<(Fault, &'static str)> {
    let none = Fault::default();
    let writes_fail = |after| Fault { writes_fail: Some(after), ..none };
    vec![
        (Fault { room: Some(0), ..none }, "the disk is full"),
        (Fault { room: Some(60), ..none }, "the disk is full"),
        (writes_fail(0), UNWRITTEN),
        (writes_fail(50), UNWRITTEN),
        // It has all arrived, and nobody knows.
        (writes_fail(usize::MAX), UNWRITTEN),
        (Fault { read_only: true, ..none }, "the disk is read-only: writes go on when it can be written to again"),
        (Fault { lost: true, ..none }, GONE),
        (Fault { names_fail: true, ..none }, UNWRITTEN),
    ]
}

fn reopened(disk: &MemDisk, segment_bytes: u32, when: &str) -> Store {
    try_open(disk, segment_bytes).unwrap_or_else(|e| panic!("{when}: {e}")).0
}

/// A new store, perhaps with a spare file for its next segment.
fn ready(disk: &MemDisk, segment_bytes: u32, with_spare: bool) -> Store {
    let store = open(disk, segment_bytes);
    if with_spare {
        store.maintain(&Upkeep::routine(0, 0)).expect("upkeep succeeds");
        assert!(files(disk).iter().any(|n| n == "spare"));
    }
    store
}

/// Whoever opens it now, and after a power loss, finds one of these.
fn holds_one_of(disk: &MemDisk, segment_bytes: u32, may_be: &[Dump], when: &str) {
    for power_is_lost in [false, true] {
        let (copy, when) = (disk.copy(), format!("{when}, power lost: {power_is_lost}"));
        if power_is_lost {
            copy.crash(0);
        }
        let found = dump(&reopened(&copy, segment_bytes, &when));
        if !may_be.contains(&found) {
            same(&found, &may_be[0], &when);
        }
        // What was seen once stays.
        copy.crash(0);
        same(&dump(&reopened(&copy, segment_bytes, &when)), &found, &format!("{when}, and once more"));
    }
}

#[test]
fn commits_stop_with_a_reason_and_go_on_when_the_disk_works_again() {
    let (batches, expected) = workload();
    let last = &expected[batches.len()];
    for (fault, says) in faults() {
        let mut failed = 0;
        for (segment_bytes, with_spare) in [(1, false), (1, true), (300, false), (300, true), (ONE, false)] {
            for n in 0.. {
                let when = format!("{fault:?} after {n}, segments of {segment_bytes}, spare: {with_spare}");
                let disk = MemDisk::new();
                let store = ready(&disk, segment_bytes, with_spare);
                disk.set_fault(Fault { begins_after: n, ..fault });
                let done = batches.iter().take_while(|b| store.commit((*b).clone()).is_ok()).count();
                if done == batches.len() {
                    break;
                }
                failed += 1;
                for _ in 0..2 {
                    // A begun segment that was removed gave its room back, and somebody else took that.
                    disk.set_fault(Fault { room: fault.room.map(|_| 0), ..fault });
                    let e = store.commit(batches[done].clone()).expect_err(&when);
                    assert!(e.to_string().starts_with(says), "{when}: {e}");
                    assert_eq!(store.broken(), None, "{when}");
                    same(&dump(&store), &expected[done], &when);
                }
                holds_one_of(&disk, segment_bytes, &expected[done..=done + 1], &when);

                disk.set_fault(Fault::default());
                for b in &batches[done..] {
                    commit(&store, b);
                }
                same(&dump(&store), last, &format!("in the end: {when}"));
                drop(store);
                holds_one_of(&disk, segment_bytes, &expected[batches.len()..], &format!("in the end: {when}"));
            }
        }
        assert!(failed > batches.len(), "{fault:?} failed {failed} times");
    }
}

#[test]
fn a_failed_sync_breaks_the_store_wherever_it_comes() {
    let (batches, expected) = workload();
    for segment_bytes in [1, 300, ONE] {
        for n in 0.. {
            let when = format!("syncs fail after {n}, segments of {segment_bytes}");
            let disk = MemDisk::new();
            let store = open(&disk, segment_bytes);
            disk.set_fault(Fault { sync_fails: true, begins_after: n, ..Fault::default() });
            let done = batches.iter().take_while(|b| store.commit((*b).clone()).is_ok()).count();
            if done == batches.len() {
                assert!(n >= 2 * batches.len() as u64, "each commit takes a write and a sync");
                break;
            }
            // A segment that could not be begun does not count, but the next attempt syncs the one before it.
            store.commit(batches[done].clone()).expect_err(&when);
            disk.set_fault(Fault::default());
            let why = store.broken().unwrap_or_else(|| panic!("{when}: it is not broken"));
            assert!(why.contains("sync failed"), "{when}: {why}");
            for b in &batches {
                let e = store.commit(b.clone()).expect_err(&when);
                let says = e.to_string();
                assert!(matches!(e, StoreError::Broken(_)) && says.contains("opened again"), "{when}: {says}");
            }
            assert!(matches!(store.maintain(&Upkeep::thorough(0, 0)), Err(StoreError::Broken(_))), "{when}");
            same(&dump(&store), &expected[done], &when);
            drop(store);
            holds_one_of(&disk, segment_bytes, &expected[done..=done + 1], &when);

            let store = reopened(&disk, segment_bytes, &when);
            let at = if dump(&store) == expected[done] { done } else { done + 1 };
            same(&dump(&store), &expected[at], &when);
            for b in &batches[at..] {
                commit(&store, b);
            }
            drop(store);
            holds_one_of(&disk, segment_bytes, &expected[batches.len()..], &format!("in the end: {when}"));
        }
    }
}

/// A commit reads what it replaces. If it cannot, nothing is written.
#[test]
fn a_failed_read_refuses_a_commit_before_it_is_written() {
    // Longer ones are not kept in memory, and are read in two pieces.
    for (size, refuses) in [(10, 1), (5000, 2)] {
        let mut refused = 0;
        for n in 0.. {
            let when = format!("{size} bytes, reads fail after {n}");
            let (disk, mut m) = (MemDisk::new(), Model::new());
            commit(&open(&disk, ONE), &m.batch(&[put_task(0, size, None), put_task(1, size, None)]));
            let store = open(&disk, ONE);
            let before = m.dump();
            let batch = m.batch(&[put_task(0, size, Some(1))]);
            disk.set_fault(Fault { reads_fail: true, begins_after: n, ..Fault::default() });
            let done = store.commit(batch.clone());
            disk.set_fault(Fault::default());
            match done {
                Ok(_) => break,
                Err(e) => {
                    refused += 1;
                    let says = "what is to be replaced cannot be read, so it stays: look at the disk";
                    assert!(e.to_string().starts_with(says), "{when}: {e}");
                    assert_eq!(store.broken(), None, "{when}");
                    same(&dump(&store), &before, &when);
                    commit(&store, &batch);
                    same(&dump(&store), &m.dump(), &when);
                }
            }
        }
        assert_eq!(refused, refuses, "{size} bytes");
    }
}

/// An entity that is damaged on disk stops what would replace it, and nothing else.
#[test]
fn what_is_damaged_cannot_be_replaced_and_everything_else_can() {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    commit(&open(&disk, ONE), &m.batch(&[put_task(0, 50, None), put_task(1, 50, None)]));
    let store = open(&disk, ONE);
    let at = bytes_of(&disk, FIRST).windows(9).position(|w| *w == [b'x'; 9]).expect("the first task is there");
    disk.edit(FIRST, |b| b[at] ^= 1);
    let e = store.commit(m.clone().batch(&[put_task(0, 5, None)])).expect_err("it cannot be read");
    assert!(e.to_string().starts_with("segment 0 is damaged at offset "), "{e}");
    commit(&store, &m.batch(&[put_task(1, 5, Some(1)), put_task(2, 5, None), fact(1, b"x")]));
    assert_eq!(store.broken(), None);
    disk.edit(FIRST, |b| b[at] ^= 1);
    same(&dump(&store), &m.dump(), "mended");
    drop(store);
    same(&dump(&open(&disk, ONE)), &m.dump(), "reopened");
}

/// The segment is closed with what a write left behind its end, and nothing of that is in the log.
#[test]
fn what_a_failed_write_left_behind_is_cut_off_before_the_next_segment() {
    let segment_bytes = 3000;
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, segment_bytes);
    commit(&store, &m.batch(&[put_task(0, 10, None)]));
    let fits = m.clone().batch(&[put_task(1, 1000, None), put_task(2, 1000, None)]);
    disk.set_fault(Fault { writes_fail: Some(1500), ..Fault::default() });
    store.commit(fits).expect_err("it comes half-way");
    disk.set_fault(Fault::default());
    assert_eq!(segments(&disk).len(), 1);
    assert!(bytes_of(&disk, FIRST).len() as u64 > store.usage().0 + 1000, "half of it is there");
    commit(&store, &m.batch(&[put_task(3, 2900, None)]));
    assert_eq!(segments(&disk).len(), 2);
    drop(store);
    holds_one_of(&disk, segment_bytes, &[m.dump()], "in the end");
}

/// The directory is lost just as a segment was begun in it whose sync failed. It comes back with that segment, empty: what
/// is committed next must not go before it, or a torn commit would be in the middle of the log.
#[test]
fn a_segment_that_was_begun_and_cannot_be_removed_is_not_in_the_way() {
    let (segment_bytes, mut stayed) = (600, 0);
    for n in 0.. {
        let when = format!("lost after {n}");
        let (disk, mut m) = (MemDisk::new(), Model::new());
        let store = open(&disk, segment_bytes);
        commit(&store, &m.batch(&[put_task(0, 5, Some(0))]));
        disk.set_fault(Fault { sync_fails: true, lost: true, begins_after: n, ..Fault::default() });
        let done = store.commit(m.clone().batch(&[put_task(1, 550, None)]));
        disk.set_fault(Fault::default());
        if done.is_ok() {
            break;
        }
        if store.broken().is_some() {
            continue;
        }
        stayed += segments(&disk).len() - 1;
        // Both would fit into the first segment.
        commit(&store, &m.batch(&[put_task(2, 5, None)]));
        disk.set_fault(Fault { writes_fail: Some(30), ..Fault::default() });
        store.commit(m.clone().batch(&[put_task(3, 5, None)])).expect_err(&when);
        drop(store);
        disk.set_fault(Fault::default());
        holds_one_of(&disk, segment_bytes, &[m.dump()], &when);
        let store = reopened(&disk, segment_bytes, &when);
        commit(&store, &m.batch(&[put_task(3, 5, None)]));
        drop(store);
        holds_one_of(&disk, segment_bytes, &[m.dump()], &when);
        tidy(&disk, &when);
    }
    assert!(stayed > 0, "a segment was there when the directory came back");
}

/// Work that leaves something to compact, a tombstone to forget, and no spare.
fn worn(disk: &MemDisk, segment_bytes: u32) -> Model {
    let store = open(disk, segment_bytes);
    let mut m = Model::new();
    for n in 0..10 {
        commit(&store, &m.batch(&[put_task(n % 4, 40, Some(n % 3)), fact(1, &[n + 1; 20])]));
    }
    commit(&store, &m.batch(&[Op::Person { n: 0, size: 30 }, Op::Delete { which: 1 }]));
    for _ in 0..3 {
        commit(&store, &m.batch(&[put_task(7, 200, None)]));
    }
    m
}

/// After upkeep that was done, or not, or in part.
fn agrees_after(store: &Store, m: &Model, u: &Upkeep, when: &str) {
    let mut m = m.clone();
    m.maintained(store, u);
    agrees(store, &m, when);
}

/// Besides what was synced alone, so many of those that a disk may leave when the power is lost.
const LOSSES: u64 = 8;

#[test]
fn upkeep_that_fails_anywhere_loses_nothing_and_is_done_later() {
    fails_anywhere(600);
}

/// Each segment becomes one: some are rewritten, and others are not.
#[test]
fn upkeep_that_fails_between_segments_loses_nothing_and_is_done_later() {
    fails_anywhere(1);
}

fn fails_anywhere(segment_bytes: u32) {
    let worn_out = MemDisk::new();
    let m = worn(&worn_out, segment_bytes);
    let none = Fault::default();
    let more = [Fault { sync_fails: true, ..none }, Fault { reads_fail: true, ..none }];
    for fault in faults().into_iter().map(|f| f.0).chain(more) {
        for n in 0.. {
            let when = format!("{fault:?} after {n}");
            let (disk, mut m) = (worn_out.copy(), m.clone());
            let store = open(&disk, segment_bytes);
            let u = EVERYTHING.of(&m);
            disk.set_fault(Fault { begins_after: n, ..fault });
            let kept = store.maintain(&u);
            disk.set_fault(none);
            assert_eq!(store.broken(), None, "{when}");
            agrees_after(&store, &m, &u, &when);
            let killed = [("killed", disk.copy()), ("killed, without its checkpoint", without_checkpoint(&disk))];
            let killed = killed.map(|(how, copy)| (how.to_owned(), copy));
            let lost = (0..=LOSSES).map(|seed| {
                let copy = disk.copy();
                match seed {
                    0 => copy.crash(0),
                    seed => copy.crash_with(seed),
                }
                (format!("power lost, {seed}"), copy)
            });
            for (how, copy) in killed.into_iter().chain(lost) {
                let when = format!("{when}, {how}");
                agrees_after(&reopened(&copy, segment_bytes, &when), &m, &u, &when);
            }

            m.maintained(&store, &u);
            commit(&store, &m.batch(&[put_task(9, 1, None)]));
            store.maintain(&u).unwrap_or_else(|e| panic!("with a disk that works again, {when}: {e}"));
            m.maintained(&store, &u);
            agrees(&store, &m, &format!("with a disk that works again, {when}"));
            assert!(!compacted(&disk).is_empty(), "{when}");
            tidy(&disk, &when);
            drop(store);
            disk.crash(0);
            rebuilds_alike(&disk, segment_bytes, &when);
            agrees(&reopened(&disk, segment_bytes, &when), &m, &when);
            if kept.is_ok() {
                assert!(n > 0, "{fault:?} harms upkeep");
                break;
            }
        }
    }
}

/// The disk works again before upkeep is at its end: what could not be taken away meanwhile is not forgotten.
#[test]
fn upkeep_that_fails_for_a_moment_leaves_nothing_behind() {
    let segment_bytes = 1;
    let worn_out = MemDisk::new();
    let m = worn(&worn_out, segment_bytes);
    for (fault, moment) in faults().into_iter().flat_map(|f| [0, 1, 3].map(|moment| (f.0, moment))) {
        for n in 0.. {
            let when = format!("{fault:?} after {n}, and for {moment} more");
            let (disk, mut m) = (Interrupted::new(worn_out.copy(), Interruption::default()), m.clone());
            let opened = Store::open(Arc::new(disk.clone()), ontology(), options(segment_bytes));
            let store = opened.expect("the store opens").0;
            let u = EVERYTHING.of(&m);
            let failing = disk.clone();
            disk.hook.plan(
                n,
                Box::new(move || {
                    failing.disk.set_fault(fault);
                    let works = failing.disk.clone();
                    failing.hook.plan(moment, Box::new(move || works.set_fault(Fault::default())));
                }),
            );
            let kept = store.maintain(&u);
            let (fails_still, waits) = (disk.disk.has_fault(), disk.hook.leftover().is_some());
            disk.disk.set_fault(Fault::default());
            if waits && !fails_still {
                assert!(n > 20 && kept.is_ok(), "{when}: {kept:?}");
                break;
            }
            agrees_after(&store, &m, &u, &when);
            m.maintained(&store, &u);
            commit(&store, &m.batch(&[put_task(9, 1, None)]));
            store.maintain(&u).unwrap_or_else(|e| panic!("with a disk that works again, {when}: {e}"));
            m.maintained(&store, &u);
            agrees(&store, &m, &when);
            tidy(&disk.disk, &when);
            drop(store);
            for copy in [without_checkpoint(&disk.disk), disk.disk.copy()] {
                agrees(&reopened(&copy, segment_bytes, &when), &m, &format!("opened again, {when}"));
            }
        }
    }
}

/// A directory of the machine that is moved away, has a file in its place, comes back, and is removed for good.
#[test]
fn a_directory_that_is_lost_stops_commits_and_no_reads() {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a_directory_that_is_lost");
    let (dir, away) = (base.join("data"), base.join("away"));
    let _ = fs::remove_dir_all(&base); // of an earlier run
    let opened = || {
        let disk = DirDisk::new(&dir).expect("a directory");
        Store::open(Arc::new(disk), ontology(), options(300)).expect("the store opens").0
    };
    let (batches, expected) = workload();
    let stops = |store: &Store, done: usize, when: &str| {
        let e = store.commit(batches[done].clone()).expect_err(when);
        assert!(e.to_string().starts_with(GONE), "{when}: {e}");
        assert!(store.maintain(&Upkeep::thorough(u64::MAX, 0)).is_err(), "{when}");
        assert_eq!(store.broken(), None, "{when}");
        same(&dump(store), &expected[done], when);
    };
    let store = opened();
    for b in &batches[..3] {
        commit(&store, b);
    }
    fs::rename(&dir, &away).expect("it is moved");
    stops(&store, 3, "moved away");
    fs::write(&dir, "a file").expect("it is written");
    stops(&store, 3, "a file in its place");
    fs::remove_file(&dir).expect("it is removed");
    fs::rename(&away, &dir).expect("it is moved back");
    for b in &batches[3..] {
        commit(&store, b);
    }
    same(&dump(&store), &expected[batches.len()], "back again");
    drop(store);
    let store = opened();
    same(&dump(&store), &expected[batches.len()], "reopened");
    fs::remove_dir_all(&dir).expect("it is removed");
    // One commit could still be written to the file that is open, and would be lost.
    let e = store.commit(batches[0].clone()).expect_err("removed");
    assert!(e.to_string().starts_with(GONE), "{e}");
    same(&dump(&store), &expected[batches.len()], "removed");
    drop(store);
    fs::remove_dir_all(&base).expect("it is removed");
}

/// A probe learns that nothing can be written, and that it can again, though nobody writes.
#[test]
fn upkeep_finds_out_that_the_disk_works_again() {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, ONE);
    commit(&store, &m.batch(&[put_task(0, 5, None)]));
    assert_eq!(store.stuck(), None);
    let batch = m.clone().batch(&[put_task(1, 5, None)]);
    disk.set_fault(Fault { room: Some(0), ..Fault::default() });
    store.commit(batch).expect_err("there is no room");
    assert!(store.stuck().is_some_and(|why| why.starts_with("the disk is full")));
    let _ = store.maintain(&Upkeep::routine(0, 0));
    assert!(store.stuck().is_some(), "there is still no room");
    disk.set_fault(Fault::default());
    store.maintain(&Upkeep::routine(0, 0)).expect("upkeep succeeds");
    assert_eq!(store.stuck(), None);
    same(&dump(&store), &m.dump(), "nothing has changed");
}

/// Nearly full: a small commit goes through, and a large one would not.
#[test]
fn a_disk_with_little_room_is_not_called_well() {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, ONE);
    let batch = m.clone().batch(&[put_task(1, 5, None)]);
    disk.set_fault(Fault { room: Some(0), ..Fault::default() });
    store.commit(batch).expect_err("there is no room");
    disk.set_fault(Fault { room: Some(100_000), ..Fault::default() });
    commit(&store, &m.batch(&[put_task(0, 5, None)]));
    assert!(store.stuck().is_some(), "one small commit says nothing");
    let _ = store.maintain(&Upkeep::routine(0, 0));
    assert!(store.stuck().is_some(), "a large one has no room");
    disk.set_fault(Fault::default());
    store.maintain(&Upkeep::routine(0, 0)).expect("upkeep succeeds");
    assert_eq!(store.stuck(), None);
    same(&dump(&store), &m.dump(), "what was committed is there, and no more");
    drop(store);
    same(&dump(&open(&disk, ONE)), &m.dump(), "also when it is opened again");
}
