//! The checkpoint is made from the log alone: lost, damaged, unreadable or made under another ontology, it changes nothing. And
//! what it saves from being read on opening is checked when it is read.

mod common;

use common::*;
use mew_model::name::number;
use mew_store::{Disk, DiskOp, Hook, Hooked, MemDisk, Place, Store, StoreError, Upkeep};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SEGMENT: u32 = 400;

/// A store with compacted segments, and a checkpoint of all of it.
fn covered() -> (MemDisk, Store, Model) {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let mut m = Model::new();
    for ops in &some_commits() {
        commit(&store, &m.batch(ops));
    }
    for n in 0..8 {
        commit(&store, &m.batch(&[put_task(n % 2 + 3, 30, Some(n % CODES))]));
    }
    let u = EVERYTHING.of(&m);
    let kept = store.maintain(&u).expect("upkeep succeeds");
    assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0, "{kept:?}");
    m.maintained(&store, &u);
    assert!(!compacted(&disk).is_empty());
    (disk, store, m)
}

/// How many records a replay of everything reads.
fn all_records(disk: &MemDisk) -> u64 {
    try_open(&without_checkpoint(disk), SEGMENT).expect("the store opens").1.records
}

fn has_checkpoint(disk: &MemDisk) -> bool {
    files(disk).iter().any(|n| n == CHECKPOINT)
}

#[test]
fn opening_replays_only_what_came_after_the_checkpoint() {
    let (disk, store, mut m) = covered();
    drop(store);
    let (store, how) = try_open(&disk, SEGMENT).expect("the store opens");
    assert!(how.records == 0 && all_records(&disk) > 0, "{how:?}");
    agrees(&store, &m, "with the checkpoint");
    agrees_from_everywhere(&store, &m);
    commit(&store, &m.batch(&[put_task(0, 7, None), Op::Person { n: 0, size: 7 }, fact(3, b"")]));
    agrees(&store, &m, "with the checkpoint and a commit");
    drop(store);
    rebuilds_alike(&disk, SEGMENT, "after a commit");
    let (store, more) = try_open(&disk, SEGMENT).expect("the store opens");
    assert_eq!(more.records, 3);
    agrees(&store, &m, "reopened");
}

/// It is thrown away, too: what it lists may change.
#[test]
fn a_damaged_checkpoint_is_ignored() {
    let (disk, store, _) = covered();
    let (right, all) = (dump(&store), all_records(&disk));
    drop(store);
    let size = bytes_of(&disk, CHECKPOINT).len();
    let version = bytes_of(&disk, CHECKPOINT)[..8].to_vec();
    let ignored = |copy: &MemDisk, when: &str| {
        let found = bytes_of(copy, CHECKPOINT);
        let is_older = found.len() >= 8 && found.starts_with(b"MEWCKP") && found[..8] < version[..];
        let why = if is_older { "it is of an older version" } else { "its checksum is wrong" };
        let (store, how) = try_open(copy, SEGMENT).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(how.records, all, "{when}");
        assert_eq!(how.bad_checkpoint.as_deref(), Some(why), "{when}");
        same(&dump(&store), &right, when);
        assert!(!has_checkpoint(copy), "{when}");
    };
    for at in 0..size {
        for bit in [0, 7] {
            let (copy, when) = (disk.copy(), format!("bit {bit} of byte {at} of {size}"));
            copy.edit(CHECKPOINT, |b| b[at] ^= 1 << bit);
            // Two of the first eight bytes say which version wrote it.
            if (6..8).contains(&at) && bytes_of(&copy, CHECKPOINT)[..8] > version[..] {
                let e = refusal(&copy, SEGMENT);
                assert!(matches!(e, StoreError::Checkpoint(_)), "{when}: {e}");
                assert!(e.to_string().contains("checkpoint was written by a newer version"), "{when}: {e}");
                assert!(has_checkpoint(&copy), "{when}");
            } else {
                ignored(&copy, &when);
            }
        }
        for zeroes in [false, true] {
            let copy = disk.copy();
            copy.edit(CHECKPOINT, |b| {
                b.truncate(at);
                b.resize(if zeroes { size } else { at }, 0);
            });
            if bytes_of(&copy, CHECKPOINT) != bytes_of(&disk, CHECKPOINT) {
                ignored(&copy, &format!("{at} of {size} bytes, zeroes: {zeroes}"));
            }
        }
    }
}

/// The first read after the checkpoint was opened fails: it is of that.
#[derive(Default)]
struct BadSector(AtomicBool);

impl Hook for BadSector {
    fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
        let is_bad = matches!(op, DiskOp::Read { .. }) && self.0.swap(false, Ordering::Relaxed);
        if is_bad { Err(io::Error::other("a bad sector")) } else { Ok(()) }
    }

    fn after(&self, op: DiskOp<'_>) {
        if op == DiskOp::Open(CHECKPOINT) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// As a damaged one. The next upkeep makes another.
#[test]
fn a_checkpoint_that_cannot_be_read_is_ignored() {
    let (disk, store, mut m) = covered();
    let (right, all) = (dump(&store), all_records(&disk));
    drop(store);
    let bad = Hooked::new(disk.clone(), BadSector::default());
    let (store, how) = Store::open(Arc::new(bad), ontology(), options(SEGMENT)).expect("the log has all of it");
    assert_eq!(how.records, all);
    assert_eq!(how.bad_checkpoint.as_deref(), Some("it cannot be read: a bad sector"));
    same(&dump(&store), &right, "without it");
    assert!(!has_checkpoint(&disk));
    let u = EVERYTHING.of(&m);
    let kept = store.maintain(&u).expect("upkeep succeeds");
    assert!(kept.checkpoint_bytes > 0, "{kept:?}");
    m.maintained(&store, &u);
    drop(store);
    let (store, how) = try_open(&disk, SEGMENT).expect("the store opens");
    assert!(how.records == 0 && how.bad_checkpoint.is_none(), "{how:?}");
    agrees(&store, &m, "with the next one");
}

#[test]
fn a_checkpoint_from_other_unique_attributes_is_ignored() {
    let (disk, store, m) = covered();
    let (right, all) = (dump(&store), all_records(&disk));
    drop(store);
    let opened = Store::open(Arc::new(disk.clone()), ontology_with(true), options(SEGMENT));
    let (store, how) = opened.expect("the store opens");
    assert!(how.records == all && how.bad_checkpoint.is_none(), "{how:?}");
    let person = m.newest.iter().flatten().find(|r| entity(r).sync_id == "p1").expect("a person is there");
    let title = entity(person).attr(number("title"));
    let holder = store.view().unique(number("Person"), number("title"), title.borrowed());
    assert_eq!(holder.expect("a unique value can be looked up").map(|s| s.ent), Some(person.0));
    drop(store);
    same(&dump(&open(&disk, SEGMENT)), &right, "with the first ontology again");
}

/// What the checkpoint lists, and what was written to when it was made, must be there.
#[test]
fn a_missing_segment_is_named() {
    let (disk, store, _) = covered();
    drop(store);
    let names = segments(&disk);
    assert!(names.len() > 2);
    for name in &names {
        let copy = disk.copy();
        copy.remove(name).expect("it is there");
        let e = refusal(&copy, SEGMENT);
        assert!(matches!(e, StoreError::Log(_)) && e.to_string().contains("missing"), "without {name}: {e}");
        assert!(has_checkpoint(&copy), "without {name}: it stays as it is");
    }
}

/// Everything that is read is right, or an error that names the place. Returns how many errors there were.
fn errors(store: &Store, right: &Dump, place: &str, when: &str) -> usize {
    let mut errors = 0;
    let mut check = |r: Result<bool, StoreError>, what: &str| match r {
        Ok(is_right) => assert!(is_right, "{when}: {what} is wrong"),
        Err(e) => {
            assert!(e.to_string().starts_with(place), "{when}: {what}: {e}");
            errors += 1;
        }
    };
    let v = store.view();
    for r in &right.newest {
        check(v.get(r.0).map(|s| s.as_ref().map(row).as_ref() == Some(r)), "an entity");
        check(v.find(entity(r).sync_id).map(|ent| ent == Some(r.0)), "an id");
    }
    for (key, value) in &right.facts {
        check(v.fact(key).map(|f| f.as_deref() == Some(&value[..])), "a fact");
    }
    for (n, holder) in (0..CODES).zip(&right.codes) {
        check(
            v.unique(number("Task"), number("code"), code(n).borrowed()).map(|h| h.map(|s| s.ent) == *holder),
            "a code",
        );
    }
    drop(v);
    for (superseded, all) in [(false, &right.feed), (true, &right.history)] {
        let (mut at, mut out) = (Place::default(), Vec::new());
        let end = loop {
            let more = if superseded { store.history(&mut at, &mut out) } else { store.feed(&mut at, &mut out) };
            match more {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        let rows: Vec<Row> = out.iter().map(row).collect();
        // Up to the damage, all of it.
        assert!(all.starts_with(&rows), "{when}: the feed is wrong, superseded: {superseded}");
        check(end.map(|()| rows == *all), "the end of the feed");
    }
    errors
}

#[test]
fn a_flipped_bit_in_a_compacted_segment_is_never_read_as_something_else() {
    let (disk, store, _) = covered();
    let right = dump(&store);
    drop(store);
    assert_eq!(errors(&open(&disk.copy(), SEGMENT), &right, "none", "undamaged"), 0);
    for name in &compacted(&disk) {
        let bytes = bytes_of(&disk, name);
        let id = id_of(name);
        let damaged = format!("segment {id} is damaged at offset ");
        let mut unnoticed = 0;
        for at in 0..bytes.len() {
            let (copy, when) = (disk.copy(), format!("byte {at} of {name}"));
            copy.edit(name, |b| b[at] ^= 0x10);
            // The first eight bytes say which version wrote it.
            let place = if at < 8 { name } else { &damaged };
            let e = refusal(&without_checkpoint(&copy), SEGMENT);
            assert!(matches!(e, StoreError::Log(_)) && e.to_string().starts_with(place), "{when}: {e}");
            match try_open(&copy, SEGMENT) {
                Err(e) => assert!(e.to_string().starts_with(place), "{when}: {e}"),
                Ok((store, _)) => unnoticed += usize::from(errors(&store, &right, place, &when) == 0),
            }
        }
        // Only a frame's header has something that is of no use to who knows where the records are.
        let frames = bytes.windows(4).filter(|w| *w == [0xb7, 0x3e, 0xae, 0xf2]).count();
        assert!(frames > 0 && unnoticed <= 20 * frames, "{unnoticed} of {} unnoticed in {name}", bytes.len());
    }
}

#[test]
fn a_compacted_segment_that_lost_its_end_is_refused_or_its_records_are() {
    let (disk, store, _) = covered();
    let right = dump(&store);
    drop(store);
    let mut found = 0;
    for name in &compacted(&disk) {
        let bytes = bytes_of(&disk, name);
        let id = id_of(name);
        for cut in 0..bytes.len() {
            let (copy, when) = (disk.copy(), format!("{name} cut at {cut} of {}", bytes.len()));
            copy.edit(name, |b| b.truncate(cut));
            for copy in [without_checkpoint(&copy), copy] {
                let e = refusal(&copy, SEGMENT);
                let is_named = e.to_string().contains("is damaged at offset");
                assert!(matches!(e, StoreError::Log(_)) && is_named, "{when}: {e}");
            }
            // The file may have kept its length.
            let copy = disk.copy();
            copy.edit(name, |b| {
                b.truncate(cut);
                b.resize(bytes.len(), 0);
            });
            if bytes_of(&copy, name) == bytes {
                continue;
            }
            let e = refusal(&without_checkpoint(&copy), SEGMENT);
            assert!(matches!(e, StoreError::Log(_)), "{when}: {e}");
            let place = format!("segment {id} is damaged at offset ");
            match try_open(&copy, SEGMENT) {
                Err(e) => assert!(matches!(e, StoreError::Log(_)), "{when}: {e}"),
                Ok((store, _)) => found += errors(&store, &right, &place, &when),
            }
        }
    }
    assert!(found > 0, "zeroes were read");
}

#[test]
fn upkeep_does_not_carry_damage_on() {
    let (disk, store, mut m) = covered();
    drop(store);
    let find = |n: &String| bytes_of(&disk, n).windows(4).position(|w| w == b"f/2x").map(|at| (n.clone(), at));
    let (name, at) = compacted(&disk).iter().find_map(find).expect("the fact is in a compacted segment");
    disk.edit(&name, |b| b[at + 3] ^= 1);
    let store = open(&disk, SEGMENT);
    for n in 0..15 {
        commit(&store, &m.batch(&[put_task(n % 5, 30, None)]));
    }
    let damaged = bytes_of(&disk, &name);
    let u = Upkeep::thorough(m.seq, u64::MAX);
    let e = store.maintain(&u).expect_err("the segment is damaged");
    assert!(e.to_string().contains("is damaged at offset"), "{e}");
    assert!(segments(&disk).contains(&name) && bytes_of(&disk, &name) == damaged, "it stays as it is");
    m.maintained(&store, &u);
    assert!(store.view().fact(b"f/2").is_err());
    assert_eq!(feed(&store, 0), m.feed(0), "entities are not concerned");
    // What is not damaged can still be written.
    commit(&store, &m.batch(&[put_task(9, 1, None), fact(2, b"again")]));
    assert_eq!(store.view().fact(b"f/2").expect("it was written again").as_deref(), Some(&b"again"[..]));
}

fn id_of(segment: &str) -> u32 {
    segment[..10].parse().expect("a segment is named by its id")
}

/// The segment that a commit went to.
fn newest_after(disk: &MemDisk, store: &Store, m: &mut Model, ops: &[Op]) -> String {
    commit(store, &m.batch(ops));
    segments(disk).pop().expect("there are segments")
}

/// Whoever reads the log from its beginning takes zeroes for its end.
#[test]
fn commits_that_became_zeroes_are_damage_to_upkeep() {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let mut m = Model::new();
    for n in 0..40 {
        commit(&store, &m.batch(&[put_task(n % 7, 20, None)]));
    }
    let name = segments(&disk).remove(0);
    let whole = bytes_of(&disk, &name);
    let last = whole.windows(4).rposition(|w| w == [0xb7, 0x3e, 0xae, 0xf2]).expect("a commit begins with this");
    disk.edit(&name, |b| b[last..].fill(0));
    let u = Upkeep::thorough(m.seq, 0);
    let e = store.maintain(&u).expect_err("commits are gone");
    let id = id_of(&name);
    assert_eq!(e.to_string(), format!("segment {id} is damaged at offset {last}: commits that were here are gone"));
    assert!(segments(&disk).contains(&name), "it stays as it is");
    disk.edit(&name, |b| *b = whole.clone());
    store.maintain(&u).expect("it is mended");
    m.maintained(&store, &u);
    agrees(&store, &m, "mended");
}

/// One segment that cannot be read must not keep everything else as large as it is.
#[test]
fn what_lies_before_damage_and_behind_it_is_compacted() {
    // Each commit has a segment of its own, and each segment becomes one.
    let segment_bytes = 1;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    let mut newest = |ops: &[Op]| newest_after(&disk, &store, &mut m, ops);
    let first = newest(&[put_task(0, 20, None), put_task(1, 20, None)]);
    let second = newest(&[put_task(2, 20, None), put_task(3, 20, None)]);
    let third = newest(&[put_task(0, 20, None), put_task(2, 20, None), fact(1, b"replaced")]);
    newest(&[fact(1, b"last")]);
    // In the task that was replaced, so that nobody but upkeep comes upon it.
    let at = bytes_of(&disk, &second).windows(9).position(|w| w == [b'x'; 9]).expect("the task is there");
    let flip = || disk.edit(&second, |b| b[at] ^= 1);
    flip();
    let u = Upkeep::thorough(m.seq, 0);
    let e = store.maintain(&u).expect_err("the segment is damaged");
    let id = id_of(&second);
    assert!(e.to_string().starts_with(&format!("segment {id} is damaged at offset ")), "{e}");
    let names = segments(&disk);
    assert!(!names.contains(&first) && names.contains(&second) && !names.contains(&third), "{names:?}");
    assert!(!compacted(&disk).is_empty() && has_checkpoint(&disk), "{names:?}");
    tidy(&disk, "with damage");
    same(&look(&store.view()), &m.look(), "with damage");
    drop(store);
    let (store, how) = try_open(&disk, segment_bytes).expect("the store opens");
    assert_eq!(how.records, 0, "the checkpoint is of all of it");
    same(&look(&store.view()), &m.look(), "reopened with damage");

    flip();
    let kept = store.maintain(&u).expect("it is mended");
    assert!(kept.rewritten > 0 && !segments(&disk).contains(&second), "{kept:?}");
    m.maintained(&store, &u);
    agrees(&store, &m, "mended");
    drop(store);
    rebuilds_alike(&disk, segment_bytes, "mended");
}

/// What takes something away stays behind a segment that is damaged, as that may hold what is taken away.
#[test]
fn nothing_comes_back_from_a_damaged_segment() {
    let segment_bytes = 1;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    let mut newest = |ops: &[Op]| newest_after(&disk, &store, &mut m, ops);
    let damaged = newest(&[put_task(0, 20, None), put_task(1, 20, None), fact(1, b"to be taken away")]);
    let behind = newest(&[Op::Delete { which: 0 }, fact(1, b""), put_task(2, 20, None)]);
    newest(&[put_task(2, 20, None)]);
    newest(&[fact(2, b"last")]);
    // In the task that was deleted, so that nobody but upkeep comes upon it.
    let at = bytes_of(&disk, &damaged).windows(9).position(|w| w == [b'x'; 9]).expect("the task is there");
    let flip = || disk.edit(&damaged, |b| b[at] ^= 1);
    flip();
    let u = EVERYTHING.of(&m);
    for when in ["found", "found again"] {
        let e = store.maintain(&u).expect_err("a segment is damaged");
        assert!(e.to_string().contains("is damaged at offset"), "{when}: {e}");
        let names = segments(&disk);
        assert!(names.contains(&damaged) && !names.contains(&behind), "{when}: {names:?}");
        assert_eq!(m.maintained(&store, &u), 0, "{when}: the tombstone stays");
        same(&look(&store.view()), &m.look(), when);
    }
    flip();
    agrees(&open(&without_checkpoint(&disk), segment_bytes), &m, "replayed, with all that was there");
    assert_eq!(store.maintain(&u).expect("it is mended").forgotten, 1);
    assert_eq!(m.maintained(&store, &u), 1);
    agrees(&store, &m, "mended");
    drop(store);
    rebuilds_alike(&disk, segment_bytes, "mended");
}
