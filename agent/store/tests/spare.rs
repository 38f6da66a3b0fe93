//! A file that is called as a spare segment and is none: a crash, a restored backup or a person left it there. The store
//! opens and goes on, and never takes what is in it for commits.

mod common;

use common::*;
use mew_store::{DirDisk, Disk, Fault, MemDisk, Store, Upkeep};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Some commits of these tests fit into one.
const SEGMENT: u32 = 1000;
/// As upkeep makes it: whole pieces of zeroes.
const BLANK: usize = 4096;
const SPARE: &str = "spare";
/// Commits that begin several segments.
const MORE: u8 = 30;

/// The next ones are all equally long: numbers and times have two digits.
fn furnished(disk: &MemDisk) -> Model {
    let (store, mut m) = (open(disk, SEGMENT), Model::new());
    for n in 0..10 {
        commit(&store, &m.batch(&[put_task(n, 20, None)]));
    }
    m
}

/// The segment that this store would begin next, if it went on in another way: its commits are whole, are this kernel's, and
/// have the very numbers that are due.
fn another_life(disk: &MemDisk, m: &Model) -> Vec<u8> {
    let (copy, mut m) = (disk.copy(), m.clone());
    let begun = segments(&copy).len();
    let store = open(&copy, SEGMENT);
    for n in 0..MORE {
        commit(&store, &m.batch(&[put_task(50 + n, 20, None)]));
    }
    let names = segments(&copy);
    bytes_of(&copy, names.get(begun).expect("it has begun another segment"))
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn kinds(disk: &MemDisk, m: &Model) -> Vec<(&'static str, Vec<u8>)> {
    let padded = |mut b: Vec<u8>, len: usize| {
        b.resize(len, 0);
        b
    };
    let other = another_life(disk, m);
    let old = bytes_of(disk, &segments(disk)[0]);
    let mut nearly = vec![0; BLANK];
    nearly[BLANK - 1] = 1;
    vec![
        ("noise", noise(BLANK)),
        ("a little noise", noise(100)),
        ("much noise", noise(3 * BLANK)),
        ("noise behind zeroes", [vec![0; BLANK], noise(BLANK)].concat()),
        ("zeroes but for one byte", nearly),
        ("a segment of another life", other.clone()),
        ("a segment of another life, and zeroes", padded(other.clone(), BLANK)),
        ("a segment of another life that is cut off", other[..other.len() / 2].to_vec()),
        ("two segments of another life", [padded(other.clone(), BLANK), other].concat()),
        ("an old segment of its own", padded(old.clone(), BLANK)),
        ("an old segment of its own, as it is", old),
        ("nothing", vec![]),
        ("few zeroes", vec![0; 100]),
        ("many zeroes", vec![0; 3 * BLANK]),
    ]
}

/// Durably, in place of one that is there.
fn put_spare(disk: &MemDisk, bytes: &[u8]) {
    disk.create(SPARE).expect("a disk in memory");
    disk.edit(SPARE, |b| *b = bytes.to_vec());
    disk.sync_names().expect("a disk in memory");
}

fn has_spare(disk: &MemDisk) -> bool {
    files(disk).iter().any(|n| n == SPARE)
}

/// Whoever opens it now, and after a power loss, finds what was committed.
fn holds(disk: &MemDisk, m: &Model, when: &str) {
    for power_is_lost in [false, true] {
        let copy = disk.copy();
        if power_is_lost {
            copy.crash(0);
        }
        let (store, how) = try_open(&copy, SEGMENT).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(how.cut_bytes, 0, "{when}, power lost: {power_is_lost}");
        same(&dump(&store), &m.dump(), &format!("{when}, power lost: {power_is_lost}"));
    }
}

fn is_in_a_spare(disk: &MemDisk) -> bool {
    segments(disk).last().is_some_and(|n| bytes_of(disk, n).len() == BLANK)
}

#[test]
fn what_lies_in_a_spare_is_never_read_as_commits() {
    let furnished_disk = MemDisk::new();
    let before = furnished(&furnished_disk);
    for (kind, bytes) in kinds(&furnished_disk, &before) {
        for (opens_later, is_kept_up) in [(true, false), (false, false), (true, true), (false, true)] {
            let how = format!("{kind}, opened afterwards: {opens_later}, with upkeep: {is_kept_up}");
            let (disk, mut m) = (furnished_disk.copy(), before.clone());
            let store = if opens_later {
                put_spare(&disk, &bytes);
                open(&disk, SEGMENT)
            } else {
                let store = open(&disk, SEGMENT);
                put_spare(&disk, &bytes);
                store
            };
            let (begun, mut was_in_a_spare) = (segments(&disk).len(), false);
            for n in 0..MORE {
                commit(&store, &m.batch(&[put_task(10 + n, 20, None)]));
                was_in_a_spare |= is_in_a_spare(&disk);
                let when = format!("{how}, after {n}");
                holds(&disk, &m, &when);
                if is_kept_up {
                    store.maintain(&Upkeep::routine(0, 0)).unwrap_or_else(|e| panic!("{when}: {e}"));
                    holds(&disk, &m, &format!("{when}, and upkeep"));
                }
            }
            assert!(segments(&disk).len() > begun + 1, "{how}: it has begun {:?}", segments(&disk));
            assert_eq!(was_in_a_spare, is_kept_up, "{how}: upkeep has made one of zeroes, and nobody else");
            same(&dump(&store), &m.dump(), &how);
        }
    }
}

#[test]
fn a_spare_of_an_earlier_run_is_used_once_it_was_looked_at() {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, SEGMENT);
    for n in 0..10 {
        commit(&store, &m.batch(&[put_task(n, 20, None)]));
        store.maintain(&Upkeep::routine(0, 0)).expect("upkeep succeeds");
    }
    drop(store);
    put_spare(&disk, &[0; BLANK]);
    let store = open(&disk, SEGMENT);
    let begun = segments(&disk).len();
    for n in 0..MORE {
        commit(&store, &m.batch(&[put_task(10 + n, 20, None)]));
    }
    assert!(segments(&disk).len() > begun + 1 && has_spare(&disk), "nobody has looked at it: {:?}", files(&disk));
    holds(&disk, &m, "before the look");
    let names = segments(&disk);
    // More than half of a segment must be full.
    for n in 0..MORE {
        commit(&store, &m.batch(&[put_task(10 + MORE + n, 20, None)]));
        disk.set_fault(Fault { room: Some(0), ..Fault::default() });
        store.maintain(&Upkeep::routine(0, 0)).expect("nothing has to be written");
        disk.set_fault(Fault::default());
        if !has_spare(&disk) {
            break;
        }
    }
    assert!(segments(&disk).len() > names.len() && is_in_a_spare(&disk), "{:?}", files(&disk));
    holds(&disk, &m, "in the spare");
}

/// Upkeep says what is in its way, and commits do without.
#[test]
fn a_directory_in_its_place_is_left_alone() {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a_directory_in_place_of_a_spare");
    let _ = fs::remove_dir_all(&base); // of an earlier run
    let opened = || {
        let disk = DirDisk::new(&base).expect("a directory");
        Store::open(Arc::new(disk), ontology(), options(SEGMENT)).expect("the store opens").0
    };
    let mut m = Model::new();
    let store = opened();
    fs::create_dir(base.join(SPARE)).expect("it is made");
    let mut refused = 0;
    for n in 0..MORE {
        commit(&store, &m.batch(&[put_task(n, 20, None)]));
        if let Err(e) = store.maintain(&Upkeep::routine(0, 0)) {
            assert!(e.to_string().contains("`spare` in the data directory"), "{e}");
            refused += 1;
        }
    }
    assert!(refused > 0, "more than half of a segment was full");
    drop(store);
    let store = opened();
    same(&dump(&store), &m.dump(), "reopened");
    assert!(base.join(SPARE).is_dir(), "it is not this program's to remove");
    fs::remove_dir(base.join(SPARE)).expect("it is removed");
    for n in 0..MORE {
        commit(&store, &m.batch(&[put_task(n, 20, None)]));
        store.maintain(&Upkeep::routine(0, 0)).expect("nothing is in the way");
    }
    drop(store);
    same(&dump(&opened()), &m.dump(), "in the end");
    fs::remove_dir_all(&base).expect("it is removed");
}
