//! Compaction on a disk that is nearly full: as long as one rewritten group fits with a checkpoint it makes room for the next,
//! and otherwise it says what it needs.

mod common;

use common::*;
use mew_store::{Fault, Kept, MemDisk, StoreError, Upkeep};

/// Seven tasks, or what is left of two segments.
const SEGMENT: u32 = 4000;

/// Many segments of which about half is replaced, and a checkpoint.
fn worn(tasks: u8) -> (MemDisk, Model) {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, SEGMENT);
    for n in (0..tasks).chain((0..tasks).step_by(2)) {
        commit(&store, &m.batch(&[put_task(n, 400, None)]));
    }
    let kept = store.maintain(&Upkeep::thorough(0, 0)).expect("upkeep succeeds");
    assert!(kept.checkpoint_bytes > 0 && kept.rewritten == 0, "{kept:?}");
    (disk, m)
}

fn size_of(disk: &MemDisk, name: &str) -> u64 {
    bytes_of(disk, name).len() as u64
}

fn has_room(room: u64) -> Fault {
    Fault { room: Some(room), ..Fault::default() }
}

/// What upkeep does where there is room for everything at once.
struct AtOnce {
    kept: Kept,
    usage: (u64, u64),
    /// Bytes of the segments that it made.
    written: u64,
}

fn at_once(worn_out: &MemDisk, u: &Upkeep) -> AtOnce {
    let disk = worn_out.copy();
    let store = open(&disk, SEGMENT);
    let kept = store.maintain(u).expect("there is room for everything");
    let written = compacted(&disk).iter().map(|n| size_of(&disk, n)).sum();
    AtOnce { kept, usage: store.usage(), written }
}

/// It writes what fits, finds no room for the checkpoint, gives some of it back, and goes on in the room that it has made.
#[test]
fn what_fits_with_a_checkpoint_counts_and_makes_room_for_the_rest() {
    let (worn_out, mut m) = worn(150);
    let u = EVERYTHING.of(&m);
    let all = at_once(&worn_out, &u);
    // A checkpoint, and one group or two.
    let room = size_of(&worn_out, CHECKPOINT) + u64::from(SEGMENT) * 3 / 2;
    assert!(all.written > 2 * room, "{} bytes at once, and there is room for {room}", all.written);

    let disk = worn_out.copy();
    let store = open(&disk, SEGMENT);
    disk.set_fault(has_room(room));
    let kept = store.maintain(&u).unwrap_or_else(|e| panic!("with room for {room} bytes: {e}"));
    assert_eq!((kept.rewritten, kept.freed_bytes), (all.kept.rewritten, all.kept.freed_bytes));
    assert_eq!(store.usage(), all.usage);
    m.maintained(&store, &u);
    agrees(&store, &m, "after upkeep with little room");
    tidy(&disk, "after upkeep with little room");
    drop(store);
    agrees(&open(&disk, SEGMENT), &m, "reopened");
    rebuilds_alike(&disk, SEGMENT, "with little room");
}

#[test]
fn where_not_even_one_group_fits_with_a_checkpoint_it_is_said_what_is_needed() {
    let (worn_out, m) = worn(60);
    let u = EVERYTHING.of(&m);
    let mut said = Vec::new();
    for room in (0..).step_by(97) {
        let when = format!("with room for {room} bytes");
        let (disk, mut m) = (worn_out.copy(), m.clone());
        let store = open(&disk, SEGMENT);
        let there = || (segments(&disk), bytes_of(&disk, CHECKPOINT));
        let (before, usage) = (there(), store.usage());
        disk.set_fault(has_room(room));
        let done = store.maintain(&u);
        tidy(&disk, &when);
        if store.usage() == usage {
            assert_eq!(there(), before, "{when}");
            agrees(&store, &m, &when);
            let Err(StoreError::NoRoom(needed)) = done else { panic!("{when}: {done:?}") };
            said.push(needed);
            continue;
        }
        assert!(store.usage().0 < usage.0, "{when}");
        m.maintained(&store, &u);
        agrees(&store, &m, &when);
        for needed in said {
            assert!(needed.abs_diff(room) < room / 4, "{needed} bytes were said to be needed, and {room} are enough");
        }
        break;
    }
    let said = StoreError::NoRoom((5 << 20) + 1).to_string();
    assert_eq!(said, "the disk is full: compaction and a checkpoint need about 6 MiB");
}

/// What is given back goes from the newest on, so that whatever is left of it is understood.
#[test]
fn a_power_loss_while_room_is_given_back_loses_nothing() {
    let (worn_out, m) = worn(60);
    let u = EVERYTHING.of(&m);
    // All is rewritten, and then there is no room for the checkpoint.
    let room = at_once(&worn_out, &u).written + size_of(&worn_out, CHECKPOINT) / 2;
    for n in 0.. {
        let disk = worn_out.copy();
        let store = open(&disk, SEGMENT);
        disk.set_fault(Fault { stops_after: Some(n), ..has_room(room) });
        let done = store.maintain(&u);
        for seed in 0..4 {
            let when = format!("stopped after {n} steps, power lost: {seed}");
            let (copy, mut m) = (disk.copy(), m.clone());
            match seed {
                0 => copy.crash(0),
                seed => copy.crash_with(seed),
            }
            let store = open(&copy, SEGMENT);
            m.maintained(&store, &u);
            agrees(&store, &m, &when);
            tidy(&copy, &when);
            drop(store);
            rebuilds_alike(&copy, SEGMENT, &when);
        }
        if !disk.stopped() {
            let kept = done.unwrap_or_else(|e| panic!("with room for {room} bytes: {e}"));
            assert!(n > 40 && kept.rewritten > 4, "{n} steps: {kept:?}");
            break;
        }
    }
}
