//! Power loss as disks have it: of what was not synced, names and contents are there or not, each by itself and in any order.
//! Whatever the disk makes of it, at whichever step, the store opens and holds all that was acknowledged.

mod common;

use common::acts::*;
use common::*;
use mew_store::{Disk, Fault, MemDisk};
use std::collections::BTreeSet;

/// Of each state in which the machine stops, so many of those that the disk may make of it.
const LOSSES: u64 = 8;

// ---------------------------------------------------------------- the disk

type Files = Vec<(String, Vec<u8>)>;

fn contents(disk: &MemDisk) -> Files {
    let with_bytes = |name: String| {
        let bytes = bytes_of(disk, &name);
        (name, bytes)
    };
    files(disk).into_iter().map(with_bytes).collect()
}

/// With contents that are synced, and a name that is not.
fn make(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("a disk in memory");
    file.write_at(bytes, 0).and_then(|()| file.sync()).expect("a disk in memory");
}

/// All that a power loss may leave.
fn outcomes(disk: &MemDisk) -> BTreeSet<Files> {
    let after = |seed: u64| {
        let copy = disk.copy();
        copy.crash_with(seed);
        contents(&copy)
    };
    (0..200).map(after).collect()
}

#[test]
fn names_that_were_not_synced_are_lost_or_kept_each_by_itself() {
    let disk = MemDisk::new();
    make(&disk, "a", b"first");
    make(&disk, "b", b"second");
    disk.sync_names().expect("a disk in memory");
    let before = contents(&disk);
    make(&disk, "c", b"third");
    disk.rename("a", "d").expect("it is there");
    disk.remove("b").expect("it is there");
    let now = contents(&disk);

    let mut expected = BTreeSet::new();
    for n in 0..8 {
        let renamed = if n & 1 > 0 { "d" } else { "a" };
        let mut all: Files = vec![(renamed.to_owned(), b"first".to_vec())];
        if n & 2 == 0 {
            all.push(("b".to_owned(), b"second".to_vec()));
        }
        if n & 4 > 0 {
            all.push(("c".to_owned(), b"third".to_vec()));
        }
        all.sort();
        expected.insert(all);
    }
    assert_eq!(outcomes(&disk), expected);
    for (torn, left) in [(0, &before), (1, &now)] {
        let copy = disk.copy();
        copy.crash(torn);
        assert_eq!(contents(&copy), *left, "{torn} bytes torn");
    }

    disk.sync_names().expect("a disk in memory");
    assert_eq!(outcomes(&disk), BTreeSet::from([now]));
}

#[test]
fn a_file_has_one_name_whichever_of_its_names_were_lost() {
    let disk = MemDisk::new();
    make(&disk, "a", b"first");
    disk.rename("a", "b").expect("it is there");
    disk.rename("b", "c").expect("it is there");
    // It was never synced that it is there at all.
    let named = |name: &str| vec![(name.to_owned(), b"first".to_vec())];
    assert_eq!(outcomes(&disk), BTreeSet::from([vec![], named("a"), named("b"), named("c")]));
}

#[test]
fn a_failed_sync_of_names_leaves_it_open_what_is_durable() {
    let disk = MemDisk::new();
    make(&disk, "a", b"first");
    disk.set_fault(Fault { names_fail: true, ..Fault::default() });
    assert!(disk.sync_names().is_err());
    assert_eq!(outcomes(&disk).len(), 2, "it is there, or not");
    disk.set_fault(Fault::default());
    disk.sync_names().expect("a disk that works again");
    assert_eq!(outcomes(&disk), BTreeSet::from([contents(&disk)]));
}

// ---------------------------------------------------------------- the store

/// Runs until the machine stops, after so many steps: what was acknowledged by then, and what was in flight.
fn run(disk: &MemDisk, segment_bytes: u32, script: &[Act], steps: u64) -> (Model, InFlight) {
    let store = open(disk, segment_bytes);
    disk.set_fault(Fault { stops_after: Some(steps), ..Fault::default() });
    let mut m = Model::new();
    for a in script {
        let in_flight = act(&store, &mut m, a);
        if !in_flight.is_nothing() {
            return (m, in_flight);
        }
    }
    (m, InFlight::Nothing)
}

/// It opens, holds what it must, takes a commit and upkeep, and has both after the next power loss.
fn goes_on(disk: &MemDisk, segment_bytes: u32, mut m: Model, in_flight: InFlight, when: &str) {
    let (store, _) = reopen(disk, segment_bytes, &mut m, in_flight, when);
    for a in [Act::Commit(vec![put_task(9, 1, None)]), Act::Maintain(EVERYTHING)] {
        assert!(act(&store, &mut m, &a).is_nothing(), "{when}");
    }
    drop(store);
    disk.crash(0);
    reopen(disk, segment_bytes, &mut m, InFlight::Nothing, &format!("{when}, and once more"));
}

/// One task, which each commit replaces, with all upkeep after each: the segment that was written to when a checkpoint was
/// made is the first that the next upkeep removes.
fn one_by_one() -> Vec<Act> {
    (0..5).flat_map(|size| [Act::Commit(vec![put_task(0, size, None)]), Act::Maintain(EVERYTHING)]).collect()
}

#[test]
fn whatever_is_left_of_names_and_files_is_all_that_was_acknowledged() {
    for (segment_bytes, script) in [(1, script()), (400, script()), (1, one_by_one())] {
        for n in 0.. {
            let disk = MemDisk::new();
            let (m, in_flight) = run(&disk, segment_bytes, &script, n);
            for loss in 0..LOSSES {
                let lost = disk.copy();
                lost.crash_with(n * LOSSES + loss);
                // What a checkpoint says follows from the log, so it may be missing as well.
                for (disk, what) in [(without_checkpoint(&lost), "without a checkpoint"), (lost, "as it is")] {
                    let when = format!("segments of {segment_bytes}, {n} steps, loss {loss}, {what}");
                    goes_on(&disk, segment_bytes, m.clone(), in_flight.clone(), &when);
                }
            }
            if in_flight.is_nothing() {
                assert!(n > 3 * script.len() as u64, "commits and upkeep take steps");
                break;
            }
        }
    }
}

/// The process is killed, and while the next one opens, the power is lost. Names that were never synced could be seen
/// meanwhile, and what they stand in the place of was removed.
#[test]
fn a_power_loss_while_a_killed_store_is_opened_takes_nothing() {
    let (segment_bytes, script) = (1, script());
    for n in 0.. {
        let disk = MemDisk::new();
        let (m, in_flight) = run(&disk, segment_bytes, &script, n);
        for (killed, what) in [(without_checkpoint(&disk), "without a checkpoint"), (disk, "as it is")] {
            for k in 0.. {
                let disk = killed.copy();
                disk.set_fault(Fault { stops_after: Some(k), ..Fault::default() });
                let is_open = try_open(&disk, segment_bytes).is_ok();
                for loss in 0..LOSSES / 2 {
                    let when = format!("{n} steps, then {k} of opening, loss {loss}, {what}");
                    let (lost, mut m) = (disk.copy(), m.clone());
                    lost.crash_with((n << 32) + k * LOSSES + loss);
                    reopen(&lost, segment_bytes, &mut m, in_flight.clone(), &when);
                }
                if is_open {
                    assert!(k > 0, "opening takes steps");
                    break;
                }
            }
        }
        if in_flight.is_nothing() {
            break;
        }
    }
}

/// A segment is begun, nobody knows whether its header has arrived, and it is removed again. Commits go on in the one before
/// it, so that one is where a torn commit can be; if the other came back, that would look like damage.
#[test]
fn a_segment_that_was_begun_in_vain_does_not_come_back() {
    let segment_bytes = 600;
    let mut refused = 0;
    for names_fail in [false, true] {
        for n in 0.. {
            let when = format!("writes fail after {n}, and names: {names_fail}");
            let (disk, mut m) = (MemDisk::new(), Model::new());
            let store = open(&disk, segment_bytes);
            commit(&store, &m.batch(&[put_task(0, 5, Some(0))]));
            // All of it arrives, and nobody knows.
            let fault = Fault { writes_fail: Some(usize::MAX), names_fail, begins_after: n, ..Fault::default() };
            disk.set_fault(fault);
            let done = store.commit(m.clone().batch(&[put_task(1, 550, None)]));
            disk.set_fault(Fault::default());
            if done.is_ok() {
                break;
            }
            refused += 1;
            // Would fit into the first segment.
            commit(&store, &m.batch(&[put_task(2, 5, None)]));
            disk.set_fault(Fault { writes_fail: Some(30), ..Fault::default() });
            store.commit(m.clone().batch(&[put_task(3, 5, None)])).expect_err(&when);
            drop(store);
            for loss in 0..4 * LOSSES {
                let lost = disk.copy();
                lost.crash_with(loss);
                goes_on(&lost, segment_bytes, m.clone(), InFlight::Nothing, &format!("{when}, loss {loss}"));
            }
        }
    }
    assert!(refused > 10, "{refused} were refused");
}
