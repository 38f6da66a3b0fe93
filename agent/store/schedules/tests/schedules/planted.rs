//! Bugs that the schedules must find: each does beside the store what a bug in it would do.

use crate::common::*;
use crate::disks::forgetful;
use crate::setup::{TINY, furnished, work};
use crate::witness::Witness;
use mew_store::{Disk, MemDisk, Upkeep};
use shuttle::thread;
// Not shuttle's: to watch must not change what can happen.
use std::sync::atomic::{AtomicBool, Ordering};

/// As if a look did not hold on to its commit: its reads are of two.
pub fn a_look_at_two_commits() {
    let (store, mut m) = furnished(MemDisk::new());
    let w = Witness::new(&m);
    let batches = work(&mut m, 0);
    thread::scope(|s| {
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        s.spawn(|| {
            let newest = look(&store.view()).newest;
            w.saw(Dump { newest, ..look(&store.view()) }, true);
        });
    });
    w.judge(&store);
}

/// As if segments were put away without regard to looks: what a look that is open would read there is gone.
pub fn a_look_whose_segments_are_gone() {
    let (store, mut m) = furnished(forgetful());
    let batches = work(&mut m, 0);
    let held = store.view();
    let is_lost = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            for b in &batches {
                commit(&store, b);
            }
        });
        s.spawn(|| store.maintain(&Upkeep::thorough(u64::MAX, 0)).expect("upkeep succeeds"));
        s.spawn(|| {
            let lost = (0..held.next_entity()).any(|ent| held.get(ent).is_err());
            is_lost.store(lost, Ordering::Relaxed);
        });
    });
    drop(held);
    assert!(!is_lost.into_inner(), "it can be read");
}

/// As if a backup took no account of what goes on: the files are copied one after the other.
pub fn a_backup_of_many_moments() {
    let disk = MemDisk::new();
    let (store, mut m) = furnished(disk.clone());
    let w = Witness::new(&m);
    let batches = work(&mut m, 0);
    let copy = thread::scope(|s| {
        let copying = s.spawn(|| file_by_file(&disk));
        s.spawn(|| w.maintain(&store, true));
        s.spawn(|| batches.iter().for_each(|b| w.commit(&store, b)));
        copying.join().expect("it ends")
    });
    let copied = open(&copy, TINY);
    w.saw(look(&copied.view()), true);
    drop(copied);
    w.judge(&store);
}

fn file_by_file(disk: &MemDisk) -> MemDisk {
    let copy = MemDisk::new();
    for name in segments(disk) {
        let Ok(from) = disk.open(&name) else { continue };
        let mut bytes = vec![0; from.len().expect("a disk in memory") as usize];
        let n = from.read_at(&mut bytes, 0).expect("a disk in memory");
        let to = copy.create(&name).expect("a file");
        to.write_at(&bytes[..n], 0).expect("it is written");
    }
    copy
}
