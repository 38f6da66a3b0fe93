//! The store over a disk that fails and forgets: what was committed is read back the same before and after any replay;
//! a crash at any step leaves whole commits only, every acknowledged one among them; damage is named, never cut away.

mod common;

use common::*;
use mew_store::{Batch, Fault, MemDisk, Opened, Options, Place, Store, StoreError};
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn what_is_committed_is_read_back() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let (batches, expected) = workload();
    same(&dump(&store), &expected[0], "of a new store");
    for (i, b) in batches.iter().enumerate() {
        assert_eq!(commit(&store, b), expected[i + 1].last_seq);
        same(&dump(&store), &expected[i + 1], &format!("after commit {i}"));
    }
    let v = store.view();
    assert_eq!(v.find("nobody").expect("an id can be looked up"), None);
    assert_eq!(v.get(v.next_entity()).expect("a number can be looked up").map(|s| s.ent), None);
    assert_eq!(v.fact(b"f/1").expect("a fact can be read"), None, "it was deleted");
    assert_eq!(v.fact(b"f/3").expect("a fact can be read").as_deref(), Some(&b"last"[..]));
    assert_eq!(v.facts(b"f/").expect("facts can be read").len(), 2);
    assert_eq!(v.count_facts(b"f/").expect("facts"), 2);
}

#[test]
fn reopening_gives_the_same() {
    let disk = MemDisk::new();
    let (batches, expected) = workload();
    for (i, b) in batches.iter().enumerate() {
        let store = open(&disk, ONE);
        same(&dump(&store), &expected[i], &format!("before commit {i}"));
        commit(&store, b);
    }
    let (store, how) = try_open(&disk, ONE).expect("the store opens");
    same(&dump(&store), expected.last().expect("there are commits"), "at the end");
    let facts: usize = batches.iter().map(|b| b.facts.len()).sum();
    let changes: usize = batches.iter().map(|b| b.changes.len()).sum();
    assert_eq!(how, Opened { records: (2 + facts + changes) as u64, cut_bytes: 0, bad_checkpoint: None });
}

#[test]
fn an_empty_commit_writes_nothing() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let (batches, _) = workload();
    let seq = commit(&store, &batches[0]);
    let before = store.usage();
    assert_eq!(commit(&store, &Batch::default()), seq);
    assert_eq!(store.usage(), before);
}

#[test]
fn the_incarnation_is_that_of_the_first_opening() {
    let disk = MemDisk::new();
    assert_eq!(open(&disk, ONE).incarnation(), INCARNATION);
    let later = Options { new_incarnation: "second".to_owned(), ..options(ONE) };
    let (store, _) = Store::open(Arc::new(disk.clone()), ontology(), later).expect("the store opens");
    assert_eq!((store.incarnation(), store.kernel_id()), (INCARNATION, KERNEL));
}

#[test]
fn segments_roll_over_and_everything_survives() {
    let (batches, expected) = workload();
    for segment_bytes in [1, 200, 400, 700] {
        let disk = MemDisk::new();
        let store = open(&disk, segment_bytes);
        for b in &batches {
            commit(&store, b);
        }
        let last = expected.last().expect("there are commits");
        same(&dump(&store), last, &format!("with segments of {segment_bytes} bytes"));
        assert!(segments(&disk).len() > 2, "segments of {segment_bytes} bytes did not roll over");
        for name in segments(&disk) {
            let (size, one) = (bytes_of(&disk, &name).len(), SEGMENT_HEADER + 900);
            assert!(size <= (segment_bytes as usize).max(one), "{name} has {size} bytes");
        }
        drop(store);
        same(&dump(&open(&disk, segment_bytes)), last, &format!("with segments of {segment_bytes} bytes, reopened"));
        same(&dump(&open(&disk, ONE)), last, "with another segment size");
    }
}

/// More than the pieces in which the log is replayed and the feed is read, and entities longer than one read.
#[test]
fn large_entities_and_long_segments_are_read_whole() {
    let disk = MemDisk::new();
    let segment_bytes = 6 << 20;
    let mut m = Model::new();
    let store = open(&disk, segment_bytes);
    for n in 0..14_u8 {
        let ops = [
            put_task(3 * n % 40, 200_000 + usize::from(n), None),
            Op::Person { n, size: 150_000 },
            Op::Person { n, size: 300_000 },
        ];
        commit(&store, &m.batch(&ops));
    }
    assert!(store.usage().0 > 8 << 20 && segments(&disk).len() > 1);
    let check = |store: &Store| {
        assert!(dump(store) == m.dump());
        for after in [1, 7, 20, 41, 42] {
            assert!(feed(store, after) == m.feed(after), "feed after {after}");
            assert!(history(store, after) == m.history(after), "history after {after}");
        }
    };
    check(&store);
    drop(store);
    check(&open(&disk, segment_bytes));
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(ops(), 1..5).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_work_agrees_with_a_simple_model(
        steps in steps(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, ONE]),
    ) {
        let disk = MemDisk::new();
        let mut store = open(&disk, segment_bytes);
        let mut m = Model::new();
        // A reader that follows along: what is new arrives at its newest, once.
        let mut reader = Place::default();
        for step in &steps {
            match step {
                Step::Commit(ops) => {
                    let before = m.seq;
                    prop_assert_eq!(commit(&store, &m.batch(ops)), m.seq);
                    prop_assert_eq!(drain(&store, &mut reader, false), m.feed(before));
                    prop_assert_eq!(reader.seq, m.seq);
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&disk, segment_bytes);
                    same(&dump(&store), &m.dump(), "after reopening");
                }
            }
        }
        same(&dump(&store), &m.dump(), "at the end");
        for after in 0..=m.seq + 1 {
            prop_assert_eq!(feed(&store, after), m.feed(after), "feed after {}", after);
            prop_assert_eq!(history(&store, after), m.history(after), "history after {}", after);
        }
        drop(store);
        same(&dump(&open(&disk, segment_bytes)), &m.dump(), "at the end, reopened");
    }
}

/// Opens and commits until something fails. Returns how many commits were acknowledged, and whether one was in flight.
fn run_until_stopped(disk: &MemDisk, segment_bytes: u32, batches: &[Batch]) -> (usize, bool) {
    let Ok((store, _)) = try_open(disk, segment_bytes) else { return (0, false) };
    let acknowledged = batches.iter().take_while(|b| store.commit((*b).clone()).is_ok()).count();
    (acknowledged, acknowledged < batches.len())
}

#[test]
fn a_crash_at_any_step_leaves_whole_commits_and_all_acknowledged_ones() {
    let (batches, expected) = workload();
    let last = expected.last().expect("there are commits");
    let (mut kept, mut lost) = (0, 0);
    for segment_bytes in [1, 400, ONE] {
        for torn in [0, 1, 4, 8, 15, 16, 17, 19, 20, 21, 51, 52, 53, 100, 150, 300, 1 << 20] {
            for n in 0.. {
                let when = format!("segments of {segment_bytes}, stopped after {n} steps, {torn} bytes torn");
                let disk = MemDisk::new();
                disk.set_fault(Fault { stops_after: Some(n), ..Fault::default() });
                let (acknowledged, in_flight) = run_until_stopped(&disk, segment_bytes, &batches);
                let finished = !disk.stopped();
                assert!(finished == (acknowledged == batches.len()), "{when}");
                disk.crash(torn);

                let store = try_open(&disk, segment_bytes).unwrap_or_else(|e| panic!("{when}: {e}")).0;
                let found = dump(&store);
                let at = if in_flight && found == expected[acknowledged + 1] {
                    kept += 1;
                    acknowledged + 1
                } else {
                    lost += usize::from(in_flight);
                    same(&found, &expected[acknowledged], &when);
                    acknowledged
                };
                // It can go on from there, durably.
                for b in &batches[at..] {
                    commit(&store, b);
                }
                same(&dump(&store), last, &format!("finished after a crash: {when}"));
                drop(store);
                disk.crash(0);
                same(&dump(&open(&disk, segment_bytes)), last, &format!("after a second crash: {when}"));
                if finished {
                    assert!(n > 2 * batches.len() as u64, "each commit takes a write and a sync");
                    break;
                }
            }
        }
    }
    assert!(kept > 0 && lost > 0, "both outcomes were seen: {kept} kept, {lost} lost");
}

/// A crash while the next segment is being made leaves a file without a whole header. The store goes on in the segment
/// before it as long as commits fit there, so that one is still where a torn commit can be.
#[test]
fn a_torn_commit_is_cut_off_even_if_a_next_segment_was_begun() {
    let segment_bytes = 600;
    let mut m = Model::new();
    let first = m.batch(&[put_task(0, 5, Some(0))]);
    let expected = m.dump();
    let big = m.clone().batch(&[put_task(1, 550, None)]);
    let small = m.clone().batch(&[put_task(2, 5, None)]);
    let mut begun = 0;
    for (torn_header, torn_frame) in [(0, 1), (5, 0), (5, 7), (15, 30)] {
        for (n, k) in (0..10).flat_map(|n| (0..2).map(move |k| (n, k))) {
            let when = format!("{n} steps, {torn_header} bytes, then {k} steps, {torn_frame} bytes");
            let disk = MemDisk::new();
            let store = open(&disk, segment_bytes);
            commit(&store, &first);
            disk.set_fault(Fault { stops_after: Some(n), ..Fault::default() });
            if store.commit(big.clone()).is_ok() {
                continue;
            }
            drop(store);
            disk.crash(torn_header);
            let store = try_open(&disk, segment_bytes).unwrap_or_else(|e| panic!("{when}: {e}")).0;
            same(&dump(&store), &expected, &when);
            begun += usize::from(segments(&disk).len() > 1);

            disk.set_fault(Fault { stops_after: Some(k), ..Fault::default() });
            assert!(store.commit(small.clone()).is_err(), "{when}: a commit takes a write and a sync");
            drop(store);
            disk.crash(torn_frame);
            let store = try_open(&disk, segment_bytes).unwrap_or_else(|e| panic!("{when}: {e}")).0;
            same(&dump(&store), &expected, &when);
            commit(&store, &small);
        }
    }
    assert!(begun > 0, "a crash came while the next segment was made");
}

/// A store in one segment that holds the workload; also where each frame begins, and at last where the log ends.
fn one_segment() -> (MemDisk, Vec<usize>, Vec<Dump>) {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let (batches, expected) = workload();
    let mut frames = vec![SEGMENT_HEADER, store.usage().0 as usize];
    for b in &batches {
        commit(&store, b);
        frames.push(store.usage().0 as usize);
    }
    drop(store);
    assert_eq!(bytes_of(&disk, FIRST).len(), frames[frames.len() - 1], "usage is the size of the file");
    (disk, frames, expected)
}

#[test]
fn a_torn_last_commit_vanishes_whole() {
    let (disk, frames, expected) = one_segment();
    // For each commit as the last one.
    for (i, frame) in frames.windows(2).enumerate().skip(1) {
        let (begin, end) = (frame[0], frame[1]);
        for cut in begin..=end {
            for zeros in [false, true] {
                let copy = disk.copy();
                copy.edit(FIRST, |b| {
                    b.truncate(cut);
                    // The file may have grown before its data arrived.
                    b.resize(if zeros { end } else { cut }, 0);
                });
                let when = format!("commit {i} cut at {cut} of {begin}..{end}, zeros: {zeros}");
                let before = bytes_of(&copy, FIRST);
                let (store, how) = try_open(&copy, ONE).unwrap_or_else(|e| panic!("{when}: {e}"));
                let is_whole = cut == end;
                same(&dump(&store), &expected[if is_whole { i } else { i - 1 }], &when);
                let kept = if is_whole { end } else { begin };
                // Zeroes are no damage: they are what a spare segment is made of.
                let torn = before[kept..].iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
                assert_eq!(how.cut_bytes, torn as u64, "{when}");
                assert_eq!(bytes_of(&copy, FIRST).len(), if torn > 0 { kept } else { before.len() }, "{when}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_before_the_last_commit_is_refused_with_its_place() {
    let (disk, frames, _) = one_segment();
    let last = frames[frames.len() - 2];
    for at in SEGMENT_HEADER..last {
        let begin = frames[frames.partition_point(|f| *f <= at) - 1];
        for bit in 0..8 {
            let copy = disk.copy();
            copy.edit(FIRST, |b| b[at] ^= 1 << bit);
            let damaged = bytes_of(&copy, FIRST);
            let e = refusal(&copy, ONE);
            let place = format!("segment 0 is damaged at offset {begin}:");
            assert!(matches!(e, StoreError::Log(_)) && e.to_string().starts_with(&place), "bit {bit} at {at}: {e}");
            assert!(bytes_of(&copy, FIRST) == damaged, "bit {bit} at {at}: the file was changed");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_closed_segment_is_refused_with_its_segment() {
    let disk = MemDisk::new();
    let store = open(&disk, 400);
    for b in &workload().0 {
        commit(&store, b);
    }
    drop(store);
    let names = segments(&disk);
    assert!(names.len() > 2);
    for (no, name) in names[..names.len() - 1].iter().enumerate() {
        for at in 0..bytes_of(&disk, name).len() {
            let copy = disk.copy();
            copy.edit(name, |b| b[at] ^= 0x10);
            let e = refusal(&copy, 400);
            // The first eight bytes say which version wrote it.
            let place = if at < 8 { name.clone() } else { format!("segment {no} is damaged at offset ") };
            assert!(matches!(e, StoreError::Log(_)) && e.to_string().starts_with(&place), "byte {at} of {name}: {e}");
        }
    }
}

/// Everything in a closed segment was acknowledged, so an end that is missing, even at a frame's boundary, is a loss.
#[test]
fn a_closed_segment_that_lost_its_end_is_refused() {
    let disk = MemDisk::new();
    let store = open(&disk, 400);
    let mut m = Model::new();
    for n in 0..12 {
        commit(&store, &m.batch(&[put_task(n, 20, None)]));
    }
    drop(store);
    let names = segments(&disk);
    assert!(names.len() > 2);
    for name in &names[..names.len() - 1] {
        let size = bytes_of(&disk, name).len();
        for cut in 0..size {
            for zeros in [false, true] {
                let copy = disk.copy();
                copy.edit(name, |b| {
                    b.truncate(cut);
                    b.resize(if zeros { size } else { cut }, 0);
                });
                let e = try_open(&copy, 400).err();
                assert!(
                    e.is_some(),
                    "{name} cut at {cut} of {size} (zeros: {zeros}) was opened as if nothing were missing"
                );
            }
        }
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let (disk, _, _) = one_segment();
    disk.edit(FIRST, |b| b[..8].copy_from_slice(b"MEWLOG99"));
    let e = refusal(&disk, ONE);
    assert!(matches!(e, StoreError::Log(_)), "{e}");
    let text = e.to_string();
    assert!(text.contains("newer version") && text.contains(FIRST) && text.contains("MEWLOG99"), "{text}");
    disk.edit(FIRST, |b| b[..8].copy_from_slice(b"MEWLOG01"));
    open(&disk, ONE);
}

#[test]
fn another_kernels_directory_is_refused_and_stays_as_it_is() {
    let (disk, _, expected) = one_segment();
    let before = bytes_of(&disk, FIRST);
    let other = Options { kernel_id: "plant-b".to_owned(), ..options(ONE) };
    match Store::open(Arc::new(disk.clone()), ontology(), other).err() {
        Some(StoreError::OtherKernel { found, expected }) => assert_eq!((&*found, &*expected), (KERNEL, "plant-b")),
        e => panic!("another kernel's directory: {e:?}"),
    }
    assert!(bytes_of(&disk, FIRST) == before);
    same(&dump(&open(&disk, ONE)), &expected[expected.len() - 1], "for its own kernel");
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    assert!(matches!(refusal(&disk, ONE), StoreError::Io(_)));
    drop(store);
    open(&disk, ONE);
}

#[test]
fn a_full_disk_changes_nothing_and_works_again_with_room() {
    let (batches, expected) = workload();
    for segment_bytes in [1, 400, ONE] {
        let disk = MemDisk::new();
        let store = open(&disk, segment_bytes);
        for (i, b) in batches.iter().enumerate() {
            let mut room = 0;
            loop {
                let when = format!("commit {i} with room for {room} bytes, segments of {segment_bytes}");
                disk.set_fault(Fault { room: Some(room), ..Fault::default() });
                match store.commit(b.clone()) {
                    Ok(_) => break,
                    Err(StoreError::Full) => {}
                    Err(e) => panic!("{when}: {e}"),
                }
                assert_eq!(store.broken(), None, "{when}");
                same(&dump(&store), &expected[i], &when);
                same(&dump(&open(&disk.copy(), segment_bytes)), &expected[i], &format!("{when}, opened elsewhere"));
                room += 5;
            }
            assert!(room > 0, "commit {i} needs room");
            disk.set_fault(Fault::default());
            same(&dump(&store), &expected[i + 1], &format!("after commit {i}"));
        }
        drop(store);
        same(&dump(&open(&disk, segment_bytes)), &expected[batches.len()], "reopened");
    }
}

#[test]
fn what_a_failed_write_left_behind_is_not_taken_for_a_commit() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let mut m = Model::new();
    let long = m.clone().batch(&[put_task(1, 1000, None), put_task(2, 1000, None)]);
    disk.set_fault(Fault { room: Some(1800), ..Fault::default() });
    assert!(matches!(store.commit(long), Err(StoreError::Full)));
    disk.set_fault(Fault::default());
    commit(&store, &m.batch(&[put_task(3, 1, None)]));
    assert!(bytes_of(&disk, FIRST).len() as u64 > store.usage().0, "the rest of the failed write is still there");
    same(&dump(&store), &m.dump(), "after a shorter commit");
    drop(store);
    let (store, how) = try_open(&disk, ONE).expect("the store opens");
    assert!(how.cut_bytes > 0);
    same(&dump(&store), &m.dump(), "reopened");
    commit(&store, &m.batch(&[put_task(4, 1, None)]));
    drop(store);
    same(&dump(&open(&disk, ONE)), &m.dump(), "after another commit");
}

#[test]
fn a_failed_sync_breaks_the_store_until_it_is_reopened() {
    let (batches, expected) = workload();
    for power_is_lost in [false, true] {
        let disk = MemDisk::new();
        let store = open(&disk, ONE);
        commit(&store, &batches[0]);
        assert_eq!(store.broken(), None);
        disk.set_fault(Fault { sync_fails: true, ..Fault::default() });
        assert!(matches!(store.commit(batches[1].clone()), Err(StoreError::Broken(_))));
        // It stays so, even if the disk would work again; reading goes on.
        disk.set_fault(Fault::default());
        assert!(store.broken().is_some());
        for b in &batches {
            assert!(matches!(store.commit(b.clone()), Err(StoreError::Broken(_))));
        }
        same(&dump(&store), &expected[1], "of a broken store");
        drop(store);
        if power_is_lost {
            disk.crash(0);
        }
        let store = open(&disk, ONE);
        assert_eq!(store.broken(), None);
        // What was in flight is there whole, or not at all.
        let at = if power_is_lost { 1 } else { 2 };
        same(&dump(&store), &expected[at], &format!("reopened, power lost: {power_is_lost}"));
        for b in &batches[at..] {
            commit(&store, b);
        }
        same(&dump(&store), &expected[batches.len()], "at the end");
    }
}
