//! Upkeep on a disk that stops, forgets and fills up: whatever was acknowledged is there, whole, and what was begun is
//! gone or done.

mod common;

use common::acts::*;
use common::*;
use mew_store::{Disk, Fault, Kept, MemDisk, Store, StoreError, Upkeep};
use proptest::prelude::*;

#[test]
fn a_crash_at_any_step_of_upkeep_loses_nothing_and_leaves_nothing_behind() {
    let script = script();
    let (mut done, mut undone) = (0, 0);
    for segment_bytes in [1, 400, 900] {
        for torn in [0, 1, 60, 1 << 20] {
            for n in 0.. {
                let when = format!("segments of {segment_bytes}, stopped after {n} steps, {torn} bytes torn");
                let disk = MemDisk::new();
                let store = open(&disk, segment_bytes);
                disk.set_fault(Fault { stops_after: Some(n), ..Fault::default() });
                let (mut m, mut in_flight, mut next) = (Model::new(), InFlight::Nothing, 0);
                while next < script.len() && matches!(in_flight, InFlight::Nothing) {
                    in_flight = act(&store, &mut m, &script[next]);
                    next += 1;
                }
                let finished = !disk.stopped();
                assert_eq!(finished, matches!(in_flight, InFlight::Nothing), "{when}");
                let in_upkeep = matches!(in_flight, InFlight::Maintain(_));
                drop(store);
                disk.crash(torn);

                let (store, is_done) = reopen(&disk, segment_bytes, &mut m, in_flight, &when);
                done += usize::from(in_upkeep && is_done);
                undone += usize::from(in_upkeep && !is_done);
                // It can go on from there, durably, and further upkeep works.
                for a in [&Act::Maintain(EVERYTHING)].into_iter().chain(&script[next..]) {
                    assert!(matches!(act(&store, &mut m, a), InFlight::Nothing), "{when}");
                }
                agrees(&store, &m, &format!("finished after a crash: {when}"));
                drop(store);
                disk.crash(0);
                rebuilds_alike(&disk, segment_bytes, &when);
                reopen(&disk, segment_bytes, &mut m, InFlight::Nothing, &format!("after a second crash: {when}"));
                if finished {
                    assert!(n > 3 * script.len() as u64, "upkeep takes steps");
                    break;
                }
            }
        }
    }
    assert!(done > 0 && undone > 0, "both outcomes were seen: {done} done, {undone} undone");
}

/// The same crashes; then the checkpoint is lost, too.
#[test]
fn a_crash_in_upkeep_leaves_a_log_that_needs_no_checkpoint() {
    let script = script();
    for segment_bytes in [1, 400] {
        for n in 0.. {
            let when = format!("segments of {segment_bytes}, stopped after {n} steps");
            let disk = MemDisk::new();
            let store = open(&disk, segment_bytes);
            disk.set_fault(Fault { stops_after: Some(n), ..Fault::default() });
            let (mut m, mut in_flight) = (Model::new(), InFlight::Nothing);
            for a in &script {
                in_flight = act(&store, &mut m, a);
                if !matches!(in_flight, InFlight::Nothing) {
                    break;
                }
            }
            let finished = matches!(in_flight, InFlight::Nothing);
            drop(store);
            disk.crash(0);
            let disk = without_checkpoint(&disk);
            let (store, _) = reopen(&disk, segment_bytes, &mut m, in_flight, &when);
            act(&store, &mut m, &Act::Maintain(EVERYTHING));
            agrees(&store, &m, &when);
            drop(store);
            reopen(&disk, segment_bytes, &mut m, InFlight::Nothing, &when);
            if finished {
                break;
            }
        }
    }
}

/// A machine that stops after so many steps, at the latest when the thing is done; and what the disk makes of it.
#[derive(Clone, Copy, Debug)]
struct PowerLoss {
    after: u64,
    seed: u64,
}

fn eventful() -> impl Strategy<Value = Vec<(Act, Option<PowerLoss>)>> {
    let what = prop_oneof![
        3 => prop::collection::vec(ops(), 1..5).prop_map(Act::Commit),
        2 => quarters().prop_map(Act::Maintain),
    ];
    let loss = (0_u64..40, any::<u64>()).prop_map(|(after, seed)| PowerLoss { after, seed });
    prop::collection::vec((what, prop::option::of(loss)), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_loss_takes_no_acknowledged_commit_and_no_part_of_one(
        events in eventful(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = MemDisk::new();
        let mut store = open(&disk, segment_bytes);
        let mut m = Model::new();
        for (i, (what, loss)) in events.iter().enumerate() {
            let when = format!("event {i}");
            if let Some(l) = loss {
                disk.set_fault(Fault { stops_after: Some(l.after), ..Fault::default() });
            }
            let in_flight = act(&store, &mut m, what);
            if let Some(l) = loss {
                drop(store);
                disk.crash_with(l.seed);
                store = reopen(&disk, segment_bytes, &mut m, in_flight, &when).0;
            } else {
                prop_assert!(matches!(in_flight, InFlight::Nothing));
                agrees(&store, &m, &when);
            }
        }
        drop(store);
        rebuilds_alike(&disk, segment_bytes, "at the end");
        agrees_from_everywhere(&open(&without_checkpoint(&disk), segment_bytes), &m);
    }
}

/// Work that leaves a lot to compact and a tombstone to forget.
fn worn(disk: &MemDisk, segment_bytes: u32) -> (Store, Model) {
    let store = open(disk, segment_bytes);
    let mut m = Model::new();
    for n in 0..24 {
        let ops = [put_task(n % 4, 40, Some(n % 3)), Op::Person { n: n % 2, size: 30 }, fact(1, &[n + 1; 20])];
        commit(&store, &m.batch(&ops));
        if n % 5 == 4 {
            commit(&store, &m.batch(&[Op::Owns { n: 0, person: 0, task: 0 }, Op::Delete { which: 1 }]));
        }
    }
    commit(&store, &m.batch(&[Op::Delete { which: 4 }]));
    for _ in 0..8 {
        commit(&store, &m.batch(&[put_task(7, 100, None)]));
    }
    (store, m)
}

#[test]
fn upkeep_on_a_full_disk_changes_nothing_and_works_with_room() {
    let segment_bytes = 1000;
    let worn_out = MemDisk::new();
    let (store, m) = worn(&worn_out, segment_bytes);
    drop(store);
    let mut was_full = 0;
    for room in (0..).step_by(11) {
        let when = format!("upkeep with room for {room} bytes");
        let (disk, mut m) = (worn_out.copy(), m.clone());
        let store = open(&disk, segment_bytes);
        let (before, usage) = (files(&disk), store.usage());
        let u = EVERYTHING.of(&m);
        disk.set_fault(Fault { room: Some(room), ..Fault::default() });
        match store.maintain(&u) {
            Ok(kept) => {
                assert!(kept.freed_bytes > 0 && kept.forgotten > 0, "{when}: {kept:?}");
                assert!(store.usage().0 < usage.0, "{when}");
                break;
            }
            Err(StoreError::NoRoom(_)) => was_full += 1,
            Err(e) => panic!("{when}: {e}"),
        }
        // In part, or there is only a checkpoint.
        let is_done_in_part = files(&disk).iter().any(|n| n == CHECKPOINT);
        if is_done_in_part {
            m.maintained(&store, &u);
        } else {
            assert_eq!((files(&disk), store.usage()), (before, usage), "{when}");
        }
        tidy(&disk, &when);
        agrees(&store, &m, &when);
        agrees(&open(&disk.copy(), segment_bytes), &m, &format!("{when}, opened elsewhere"));
        // A commit that has room goes on, also if upkeep has none.
        disk.set_fault(Fault { room: Some(300), ..Fault::default() });
        commit(&store, &m.batch(&[put_task(9, 1, None)]));
        assert!(store.maintain(&u).is_err() || is_done_in_part, "{when}, again");
        m.maintained(&store, &u);
        agrees(&store, &m, &format!("{when}, again"));

        disk.set_fault(Fault::default());
        let kept = store.maintain(&u).unwrap_or_else(|e| panic!("with room again: {e}"));
        assert!(is_done_in_part || kept.freed_bytes > 0, "{when}: {kept:?}");
        m.maintained(&store, &u);
        agrees(&store, &m, &format!("{when}, then with room"));
        assert!(store.usage().0 < usage.0, "{when}");
        drop(store);
        agrees(&open(&disk, segment_bytes), &m, &format!("{when}, reopened"));
        rebuilds_alike(&disk, segment_bytes, &when);
    }
    assert!(was_full > 50, "it was full {was_full} times");
}

/// Each attempt to begin a segment on a full disk takes its file away again.
#[test]
fn a_full_disk_is_not_filled_with_begun_segments() {
    let segment_bytes = 400;
    for with_spare in [false, true] {
        let disk = MemDisk::new();
        let (store, mut m) = worn(&disk, segment_bytes);
        if with_spare {
            store.maintain(&Upkeep::routine(0, 0)).expect("upkeep succeeds");
            assert!(files(&disk).iter().any(|n| n == "spare"));
        }
        let before = segments(&disk);
        let big = m.clone().batch(&[put_task(3, 400, None)]);
        for room in 0..48 {
            disk.set_fault(Fault { room: Some(room), ..Fault::default() });
            assert!(matches!(store.commit(big.clone()), Err(StoreError::Full)), "room for {room} bytes");
            assert_eq!(segments(&disk), before, "room for {room} bytes, spare: {with_spare}");
        }
        disk.set_fault(Fault::default());
        agrees(&store, &m, "after a full disk");
        commit(&store, &m.batch(&[put_task(3, 400, None)]));
        drop(store);
        agrees(&open(&disk, segment_bytes), &m, "reopened after a full disk");
    }
}

/// A spare is full of zeroes, so that a header in it that was torn looks like a damaged one; but nothing lies behind it.
#[test]
fn a_segment_whose_header_was_torn_was_never_begun() {
    let segment_bytes = 400;
    let disk = MemDisk::new();
    let (store, m) = worn(&disk, segment_bytes);
    drop(store);
    let names = segments(&disk);
    let header = bytes_of(&disk, names.last().expect("there are segments"))[..SEGMENT_HEADER].to_vec();
    for zeroes in [0, 4096] {
        for k in 0..44 {
            let copy = disk.copy();
            copy.create("0000000777.seg").expect("a disk in memory");
            copy.edit("0000000777.seg", |b| {
                b.extend_from_slice(&header[..k]);
                b.resize(zeroes.max(k), 0);
            });
            agrees(&open(&copy, segment_bytes), &m, &format!("{k} bytes of a header, {zeroes} bytes in all"));
            assert_eq!(segments(&copy), names, "{k} bytes of a header");
            // With something behind it, it was begun, and is damaged now.
            copy.create("0000000777.seg").expect("a disk in memory");
            copy.edit("0000000777.seg", |b| {
                b.extend_from_slice(&header[..k]);
                b.resize(100, 0);
                b.push(1);
            });
            let e = refusal(&copy, segment_bytes);
            assert!(matches!(e, StoreError::Log(_)) && e.to_string().contains("777"), "{k} bytes of a header: {e}");
        }
    }
}

/// A sync that fails in upkeep breaks nothing: it is tried again.
#[test]
fn a_failed_sync_in_upkeep_changes_nothing() {
    let segment_bytes = 400;
    let disk = MemDisk::new();
    let (store, mut m) = worn(&disk, segment_bytes);
    let u = EVERYTHING.of(&m);
    let before = files(&disk);
    disk.set_fault(Fault { sync_fails: true, ..Fault::default() });
    assert!(matches!(store.maintain(&u), Err(StoreError::Io(_))));
    disk.set_fault(Fault::default());
    assert_eq!(files(&disk), before);
    assert_eq!(store.broken(), None);
    agrees(&store, &m, "after a failed sync");
    commit(&store, &m.batch(&[put_task(9, 1, None)]));
    assert_ne!(store.maintain(&u).expect("upkeep succeeds"), Kept::default());
    m.maintained(&store, &u);
    agrees(&store, &m, "after upkeep at last");
    drop(store);
    disk.crash(0);
    agrees(&open(&disk, segment_bytes), &m, "reopened");
}

/// A sync that failed may leave a second segment that begins where the one in use does. That one is still where a torn
/// commit can be.
#[test]
fn a_torn_commit_is_cut_off_even_if_its_segment_was_begun_twice() {
    let segment_bytes = 400;
    let disk = MemDisk::new();
    let (store, mut m) = worn(&disk, segment_bytes);
    let u = EVERYTHING.of(&m);
    store.maintain(&u).expect("upkeep succeeds");
    m.maintained(&store, &u);
    drop(store);
    let earlier = "0000000001.seg";
    assert!(!files(&disk).iter().any(|n| n == earlier), "it was rewritten");
    let active = segments(&disk).into_iter().max_by_key(|n| span(&disk, n).0).expect("there are segments");
    let mut header = bytes_of(&disk, &active)[..SEGMENT_HEADER].to_vec();
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let crc = crc32c::crc32c(&header[..44]);
    header[44..].copy_from_slice(&crc.to_le_bytes());
    disk.create(earlier).expect("a disk in memory");
    disk.edit(earlier, |b| *b = header);
    disk.edit(&active, |b| b.extend_from_slice(b"torn"));
    let (store, how) = try_open(&disk, segment_bytes).expect("the store opens");
    assert!(how.cut_bytes > 0, "{how:?}");
    agrees(&store, &m, "with a segment begun twice");
    tidy(&disk, "with a segment begun twice");
}
