//! Schedules of commits, looks, feeds, upkeep, backups and changes of the ontology. The store under test is the same
//! source as mew-store, compiled with shuttle's locks.
//!
//! `MEW_SCHEDULES=<n>` runs that many of each scenario, `SHUTTLE_RANDOM_SEED=<n>` others. What fails prints its schedule:
//! `MEW_REPLAY='<schedule>' cargo test -p mew-store-schedules -- --exact <test>` runs that one again.

extern crate mew_store_schedules as mew_store;

#[path = "../../../tests/common/mod.rs"]
mod common;
mod disks;
mod explore;
mod planted;
mod setup;
mod witness;

use common::*;
use disks::{Checkpointed, Watched, kept};
use explore::{at_each_step, explore, failure, repeat};
use mew_model::name::number;
use mew_store::{MemDisk, Store, StoreError, Upkeep};
use setup::{TINY, furnished, open_tasks, tasks, work};
use shuttle::thread;
// Not shuttle's: to watch must not change what can happen.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use witness::{Follower, Witness, restore};

/// What was seen fits what was done, and the disk tells the same.
fn close(disk: &MemDisk, store: Store, w: &Witness) {
    let m = w.judge(&store);
    tidy(disk, "in the end");
    drop(store);
    rebuilds_alike(disk, TINY, "in the end");
    agrees(&open(disk, TINY), &m, "opened again");
}

/// A look sees all commits up to one, whole, and none that was acknowledged before is missing.
fn commits_and_looks() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let w = Witness::new(&m);
    let halves = [work(&mut m, 0), work(&mut m, 1)];
    thread::scope(|s| {
        let (store, w) = (&store, &w);
        for batches in &halves {
            s.spawn(move || batches.iter().for_each(|b| w.commit(store, b)));
        }
        s.spawn(move || {
            w.look(store);
            w.look(store);
        });
    });
    close(&disk, store, &w);
}

/// A look that was open before does not change, and nothing is lost.
fn upkeep_beside_a_look() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let (w, before) = (Witness::new(&m), m.look());
    let batches = work(&mut m, 0);
    let held = store.view();
    thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        s.spawn(|| w.maintain(&store, true));
        s.spawn(|| {
            same(&look(&held), &before, "a look that is held");
            same(&look(&held), &before, "a look that is held, again");
        });
        s.spawn(|| w.look(&store));
    });
    same(&look(&held), &before, "a look that is held, in the end");
    drop(held);
    close(&disk, store, &w);
}

/// Who follows the feed or the history gets everything in order, and of the feed each entity once, at its newest.
fn feeds_beside_upkeep() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let w = Witness::new(&m);
    let batches = work(&mut m, 0);
    let (mut feed, mut versions) = (Follower::new(0, false), Follower::new(3, true));
    thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        // Tombstones stay for as long as somebody follows.
        s.spawn(|| w.maintain(&store, false));
        s.spawn(|| feed.read(&store, &w));
        s.spawn(|| versions.read(&store, &w));
    });
    feed.read(&store, &w);
    versions.read(&store, &w);
    let m = w.judge(&store);
    feed.judge(&m);
    versions.judge(&m);
    close(&disk, store, &w);
}

/// A backup is one commit, and can be read to its end.
fn a_backup_beside_upkeep() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let w = Witness::new(&m);
    let batches = work(&mut m, 0);
    let (head, copy) = thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        s.spawn(|| w.maintain(&store, true));
        let backup = s.spawn(|| w.back_up(&store));
        backup.join().expect("it succeeds")
    });
    let copied = open(&copy, TINY);
    let found = look(&copied.view());
    assert_eq!(found.last_seq, head);
    w.saw(found, true);
    drop(copied);
    close(&disk, store, &w);
}

/// Schedules in which the id of a tombstone was found free, and in which it was not.
static FREE: AtomicUsize = AtomicUsize::new(0);
static BURIED: AtomicUsize = AtomicUsize::new(0);

/// Makes the person that was deleted anew, under another number if the tombstone is forgotten; then a backup, and what it holds.
fn give_again(store: &Store, mut m: Model, u: &Upkeep) -> (MemDisk, Model) {
    let found = if m.maintained(store, u) > 0 { &FREE } else { &BURIED };
    found.fetch_add(1, Ordering::Relaxed);
    commit(store, &m.batch(&[Op::Person { n: 2, size: 9 }]));
    (restore(&store.backup().expect("a backup")), m)
}

/// An id may be given again when its tombstone is forgotten, which is before the segment that holds it is put away: no backup
/// holds both.
fn an_id_is_given_again_beside_upkeep() {
    let disk = Checkpointed::default();
    let (store, m) = furnished(disk.clone());
    let (store, u) = (Arc::new(store), Upkeep::thorough(m.seq, u64::MAX));
    let begun = Arc::new(Mutex::new(None));
    let (given_in, begins) = (store.clone(), begun.clone());
    // Before that nothing is forgotten.
    disk.hook.plan(Box::new(move || {
        let writer = thread::spawn(move || give_again(&given_in, m, &u));
        *begins.lock().expect("nobody panicked") = Some(writer);
    }));
    store.maintain(&u).expect("upkeep succeeds");
    let writer = begun.lock().expect("nobody panicked").take().expect("there was a checkpoint");
    let (copy, m) = writer.join().expect("it succeeds");
    same(&look(&open(&copy, TINY).view()), &m.look(), "in the backup");
    same(&look(&store.view()), &m.look(), "in the store");
}

/// Whoever sees a new index finds all in it.
fn a_new_index_beside_commits() {
    let disk = MemDisk::new();
    let store = open_tasks(disk.clone(), false);
    let mut m = Model::new();
    for n in 0..3 {
        commit(&store, &m.batch(&[put_task(n, 9, None)]));
    }
    let w = Witness::new(&m);
    let batches = [
        m.batch(&[put_task(0, 3, None), put_task(1, 3, None)]),
        m.batch(&[put_task(2, 3, None), Op::Delete { which: 0 }]),
    ];
    thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        s.spawn(|| store.set_ontology(tasks(true)).expect("an index is built"));
        s.spawn(|| w.maintain(&store, false));
        s.spawn(|| {
            w.look(&store);
            w.look(&store);
        });
    });
    let m = w.judge(&store);
    drop(store);
    agrees(&open_tasks(disk, true), &m, "opened again");
}

/// Either a look finds what it found before, or it is told that it cannot.
fn an_index_is_taken_away_beside_a_look() {
    let store = open_tasks(MemDisk::new(), true);
    let mut m = Model::new();
    commit(&store, &m.batch(&[put_task(0, 9, None), put_task(1, 9, None)]));
    let (before, held) = (m.look(), store.view());
    thread::scope(|s| {
        s.spawn(|| {
            store.set_ontology(tasks(false)).expect("an index is no rule");
            commit(&store, &m.batch(&[put_task(0, 3, None)]));
            store.set_ontology(tasks(true)).expect("an index is built");
        });
        s.spawn(|| match held.ordered(number("Task"), number("title"), 0..=u64::MAX) {
            Ok(found) => assert_eq!(found, before.titles),
            Err(StoreError::Outdated) => {}
            Err(e) => panic!("{e}"),
        });
    });
}

/// Schedules under which something was kept for a look that closes.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Nothing is kept for nobody: the files that were put away meanwhile can be freed.
fn a_look_closes() {
    let disk = Watched::default();
    let (store, mut m) = furnished(disk.clone());
    let (w, before) = (Witness::new(&m), m.look());
    let [first, second] = work(&mut m, 0);
    let held = store.view();
    thread::scope(|s| {
        s.spawn(|| w.commit(&store, &first));
        s.spawn(|| w.maintain(&store, true));
        s.spawn(|| {
            same(&look(&held), &before, "a look that is held");
            if kept(&disk).iter().any(|name| name.ends_with(".seg")) {
                KEPT.fetch_add(1, Ordering::Relaxed);
            }
            drop(held);
        });
    });
    w.commit(&store, &second);
    assert!(kept(&disk).is_empty(), "all looks are closed, and there was a commit: {:?}", kept(&disk));
    close(&disk.disk, store, &w);
}

/// Who comes second finds the work done, or the rest of it.
fn upkeep_twice() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let w = Witness::new(&m);
    let batches = work(&mut m, 0);
    thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        s.spawn(|| w.maintain(&store, true));
        s.spawn(|| w.maintain(&store, true));
    });
    close(&disk, store, &w);
}

#[test]
fn a_look_sees_whole_commits_in_their_order() {
    explore(commits_and_looks);
}

#[test]
fn a_look_that_is_held_does_not_change() {
    explore(upkeep_beside_a_look);
}

#[test]
fn a_feed_brings_each_entity_once_at_its_newest() {
    explore(feeds_beside_upkeep);
}

#[test]
fn a_backup_is_one_commit() {
    explore(a_backup_beside_upkeep);
}

#[test]
fn a_backup_has_no_id_twice() {
    at_each_step(an_id_is_given_again_beside_upkeep);
    let seen = [&FREE, &BURIED].map(|n| n.load(Ordering::Relaxed));
    assert!(std::env::var("MEW_REPLAY").is_ok() || seen.iter().all(|n| *n > 0), "free, buried: {seen:?}");
}

#[test]
fn a_new_index_equals_a_scan() {
    explore(a_new_index_beside_commits);
}

#[test]
fn a_look_outlives_an_index_or_says_so() {
    explore(an_index_is_taken_away_beside_a_look);
}

#[test]
fn nothing_is_kept_for_looks_that_are_closed() {
    explore(a_look_closes);
    assert!(std::env::var("MEW_REPLAY").is_ok() || KEPT.load(Ordering::Relaxed) > 0, "something was kept before");
}

#[test]
fn two_upkeeps_do_not_meet() {
    explore(upkeep_twice);
}

#[test]
fn schedules_can_be_run_again() {
    repeat(upkeep_beside_a_look);
}

#[test]
fn a_look_at_two_commits_is_found() {
    let why = failure(planted::a_look_at_two_commits);
    assert!(why.contains(" at seq "), "{why}");
}

#[test]
fn a_look_whose_segments_are_gone_is_found() {
    let why = failure(planted::a_look_whose_segments_are_gone);
    assert!(why.contains("it can be read"), "{why}");
}

#[test]
fn a_backup_of_many_moments_is_found() {
    let why = failure(planted::a_backup_of_many_moments);
    // Commits are missing, or what is there was never there.
    assert!(why.contains("the store opens") || why.contains(" at seq "), "{why}");
}
