//! Entity numbers: what is forgotten takes no room, no number is given out twice, and when all are used up the store says so.

mod common;

use common::*;
use mew_model::name::number;
use mew_model::{Draft, KernelKey};
use mew_store::{Batch, Change, Disk, MOST_ENTITIES, MemDisk, Store, StoreError, Upkeep};
use std::ops::RangeInclusive;

/// Numbers that the store keeps, or lets go, together.
const PAGE: u32 = 4096;
const TOGETHER: usize = 1024;
/// Smaller than a commit of so many, so that the next one closes it.
const SEGMENT: u32 = 32 << 10;

fn change(ent: u32, ms: u64, deleted: bool) -> Change {
    let mut d = Draft::new(number("Task"), format!("t{ent}"));
    if deleted {
        d.delete();
    }
    d.stamp(KernelKey::of(KERNEL), ms, None);
    Change { ent, origin: KernelKey(0), bytes: d.encode().into(), found: None }
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch { changes, facts: vec![] }
}

fn write(store: &Store, ents: impl Iterator<Item = u32>, ms: u64, deleted: bool) {
    commit(store, &batch(ents.map(|ent| change(ent, ms, deleted)).collect()));
}

/// Twice, and each in a segment of its own: the last is never compacted, and the one before it now is.
fn close(store: &Store) {
    for value in [b"1", b"2"] {
        let facts = vec![(b"long".to_vec(), vec![b'x'; SEGMENT as usize]), (b"f".to_vec(), value.to_vec())];
        commit(store, &Batch { changes: vec![], facts });
    }
}

/// Upkeep until no tombstone is left that may go.
fn forget(store: &Store) {
    for _ in 0..10 {
        let u = Upkeep::thorough(store.view().last_seq(), u64::MAX);
        if store.maintain(&u).expect("upkeep succeeds").forgotten == 0 {
            return;
        }
    }
    panic!("there is always something to forget");
}

#[test]
fn what_is_forgotten_takes_no_room() {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    write(&store, 0..1, 1, false);
    for round in 1..4_u32 {
        let (first, ms) = (store.view().next_entity(), u64::from(round) * 10);
        let all: Vec<u32> = (first..first + 2 * PAGE).collect();
        for (ms, deleted) in [(ms, false), (ms + 1, true)] {
            for part in all.chunks(TOGETHER) {
                write(&store, part.iter().copied(), ms, deleted);
            }
            assert_eq!(store.usage().1, 1 + all.len() as u64, "deleted: {deleted}, in round {round}");
        }
        close(&store);
        forget(&store);
        let when = format!("after round {round}");
        assert_eq!(store.usage().1, 1, "{when}");
        assert_eq!(store.view().next_entity(), first + 2 * PAGE, "{when}");
        // The one page that something lies in, and little besides.
        let size = bytes_of(&disk, CHECKPOINT).len();
        assert!(size < 12 * PAGE as usize, "{size} bytes of checkpoint {when}");
        rebuilds_the_same(&store, &disk, SEGMENT, &when);
        let (reopened, how) = try_open(&disk.copy(), SEGMENT).expect("the store opens");
        assert_eq!((reopened.usage().1, how.records), (1, 0), "{when}");
        assert_eq!(reopened.view().next_entity(), first + 2 * PAGE, "{when}");
    }
    assert_eq!(store.view().find("t0").expect("an id can be looked up"), Some(0));
}

/// What compaction says of numbers and seqs in the header of its last segment, as if there had been many more.
fn with_few_numbers_left(left: u32) -> MemDisk {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    write(&store, 0..2, 1, false);
    write(&store, 0..1, 2, false);
    close(&store);
    forget(&store);
    drop(store);
    disk.remove(CHECKPOINT).expect("upkeep has written one");
    let last = compacted(&disk).into_iter().max_by_key(|name| span(&disk, name)).expect("a compacted segment");
    disk.edit(&last, |b| {
        b[32..40].copy_from_slice(&(1_u64 << 33).to_le_bytes());
        b[40..44].copy_from_slice(&(MOST_ENTITIES - left).to_le_bytes());
        let crc = crc32c::crc32c(&b[..44]);
        b[44..48].copy_from_slice(&crc.to_le_bytes());
    });
    disk
}

fn contents(disk: &MemDisk) -> Vec<(String, Vec<u8>)> {
    files(disk).into_iter().map(|name| (name.clone(), bytes_of(disk, &name))).collect()
}

#[test]
fn a_commit_is_refused_when_numbers_are_used_up_and_nothing_of_it_is_written() {
    let disk = with_few_numbers_left(2);
    let store = open(&disk, SEGMENT);
    let refused = |ents: RangeInclusive<u32>| {
        let before = contents(&disk);
        let e = store.commit(batch(ents.clone().map(|ent| change(ent, 3, false)).collect()));
        let e = e.expect_err("there are not so many numbers");
        assert!(matches!(e, StoreError::NoNumbers) && e.to_string().contains("4294967295 entities"), "{ents:?}: {e}");
        assert!(contents(&disk) == before && store.stuck().is_none(), "{ents:?}");
    };
    let last = MOST_ENTITIES - 1;
    assert_eq!((store.view().next_entity(), store.usage().1), (last - 1, 2));
    refused(last - 1..=MOST_ENTITIES);
    assert_eq!((store.view().next_entity(), store.usage().1), (last - 1, 2));
    write(&store, last - 1..=last, 3, false);
    assert_eq!(store.view().next_entity(), MOST_ENTITIES);
    rebuilds_the_same(&store, &disk, SEGMENT, "with the last numbers");
    refused(MOST_ENTITIES..=MOST_ENTITIES);
    // What is there goes on, and a number that is forgotten does not come back.
    write(&store, 0..1, 4, false);
    write(&store, last..=last, 4, true);
    close(&store);
    forget(&store);
    assert_eq!((store.view().next_entity(), store.usage().1), (MOST_ENTITIES, 3));
    assert!(bytes_of(&disk, CHECKPOINT).len() < 1 << 20, "numbers between them take no room");
    rebuilds_the_same(&store, &disk, SEGMENT, "without the last number");
    refused(MOST_ENTITIES..=MOST_ENTITIES);
    drop(store);
    let (store, how) = try_open(&disk, SEGMENT).expect("the store opens");
    assert_eq!((store.view().next_entity(), store.usage().1, how.records), (MOST_ENTITIES, 3, 0));
    for ent in [0, 1, last - 1] {
        assert_eq!(store.view().find(&format!("t{ent}")).expect("an id can be looked up"), Some(ent));
    }
}
