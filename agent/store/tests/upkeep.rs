//! Upkeep: whatever compaction and checkpoints do, what can be read stays what a simple model says; old tombstones go,
//! nothing else does, and no number is given out twice.

mod common;

use common::*;
use mew_store::{Disk, Kept, MemDisk, Place, Store, Upkeep};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>),
    Reopen,
    /// Reopen without the checkpoint.
    Rebuild,
    Maintain(Quarters),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(ops(), 1..5).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
        4 => quarters().prop_map(Step::Maintain),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_work_with_upkeep_agrees_with_a_simple_model(
        steps in steps(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = MemDisk::new();
        let mut store = open(&disk, segment_bytes);
        let mut m = Model::new();
        // A reader that follows along: what is new arrives at its newest, once.
        let mut reader = Place::default();
        for (i, step) in steps.iter().enumerate() {
            let when = format!("after step {i}");
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
                }
                Step::Rebuild => {
                    drop(store);
                    if files(&disk).iter().any(|n| n == CHECKPOINT) {
                        disk.remove(CHECKPOINT).expect("it is there");
                    }
                    store = open(&disk, segment_bytes);
                }
                Step::Maintain(q) => {
                    let u = q.of(&m);
                    let kept = store.maintain(&u).expect("upkeep succeeds");
                    let taken = m.maintained(&store, &u);
                    prop_assert!(kept.forgotten >= taken as u64, "{} said, {} gone", kept.forgotten, taken);
                    tidy(&disk, &when);
                    rebuilds_alike(&disk, segment_bytes, &when);
                }
            }
            agrees(&store, &m, &when);
        }
        agrees_from_everywhere(&store, &m);
        drop(store);
        let store = open(&without_checkpoint(&disk), segment_bytes);
        agrees(&store, &m, "rebuilt");
        agrees_from_everywhere(&store, &m);
        // What is new has numbers of its own.
        commit(&store, &m.batch(&[put_task(200, 1, None), Op::Person { n: 200, size: 1 }]));
        agrees(&store, &m, "rebuilt, with something new");
    }
}

/// Commits `ops`, and replaces a fact, so that every segment has something dead in it.
fn write(store: &Store, m: &mut Model, ops: &[Op]) {
    let mut all = ops.to_vec();
    all.push(fact(9, b"replaced by each commit"));
    commit(store, &m.batch(&all));
}

/// Runs upkeep and follows it.
fn maintain(store: &Store, m: &mut Model, u: &Upkeep) -> Kept {
    let kept = store.maintain(u).expect("upkeep succeeds");
    m.maintained(store, u);
    agrees(store, m, "after upkeep");
    kept
}

#[test]
fn old_tombstones_go_and_no_number_comes_back() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    for n in 0..12 {
        write(&store, &mut m, &[put_task(n, 10, None)]);
    }
    // Every second one dies: three that are old enough, one that is younger, two after the floor.
    for which in [0, 2, 4] {
        write(&store, &mut m, &[Op::Delete { which }]);
    }
    let old = m.seq;
    write(&store, &mut m, &[Op::Delete { which: 6 }]);
    let floor = m.seq;
    for which in [8, 10] {
        write(&store, &mut m, &[Op::Delete { which }]);
    }
    for _ in 0..4 {
        write(&store, &mut m, &[]);
    }
    let u = Upkeep::thorough(floor, old);
    assert_eq!(m.may_forget(&u), [0, 2, 4]);
    assert_eq!(maintain(&store, &mut m, &u).forgotten, 3);
    assert_eq!(m.forgotten.iter().map(String::as_str).collect::<Vec<_>>(), ["t0", "t2", "t4"]);

    // The newest of all is a tombstone, and only facts follow it.
    let last = m.newest.len() - 1;
    let which = m.newest.iter().flatten().position(|r| r.0 as usize == last).expect("it is there");
    write(&store, &mut m, &[Op::Delete { which }]);
    for _ in 0..8 {
        write(&store, &mut m, &[]);
    }
    let u = EVERYTHING.of(&m);
    assert_eq!(maintain(&store, &mut m, &u).forgotten, 4, "6, 8, 10 and 11");
    drop(store);
    for copy in [disk.copy(), without_checkpoint(&disk)] {
        let (store, mut m) = (open(&copy, 300), m.clone());
        agrees(&store, &m, "reopened");
        assert_eq!(store.view().last_seq(), m.seq);
        // One that was forgotten may come again: as something new.
        write(&store, &mut m, &[put_task(0, 1, None), put_task(11, 1, None)]);
        assert_eq!(m.ids["t0"], 12);
        assert_eq!(m.ids["t11"], 13);
        agrees(&store, &m, "with forgotten ids again");
        drop(store);
        agrees(&open(&without_checkpoint(&copy), 300), &m, "rebuilt with forgotten ids again");
    }
}

/// One that arrives late has an old version, and is as young as all that was buried here at that time.
#[test]
fn a_tombstone_is_as_old_as_its_being_here() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    for n in 0..8 {
        write(&store, &mut m, &[put_task(n, 10, None)]);
    }
    let before = m.seq;
    m.clock = 0;
    write(&store, &mut m, &[Op::Delete { which: 0 }]);
    assert_eq!(entity(m.newest[0].as_ref().expect("it is there")).time.ms(), 1, "the time of the first version of all");
    for n in 1..4 {
        write(&store, &mut m, &[put_task(n, 10, None)]);
    }
    let (young, old) = (Upkeep::thorough(m.seq, before), Upkeep::thorough(m.seq, m.seq));
    let kept = maintain(&store, &mut m, &young);
    assert!(kept.rewritten > 0 && kept.forgotten == 0, "{kept:?}");
    drop(store);
    for (copy, when) in [(disk.copy(), "opened again"), (without_checkpoint(&disk), "without a checkpoint")] {
        let (store, mut m) = (open(&copy, 300), m.clone());
        assert_eq!(maintain(&store, &mut m, &young).forgotten, 0, "{when}");
        assert_eq!(maintain(&store, &mut m, &old).forgotten, 1, "{when}");
        assert!(m.forgotten.contains("t0"), "{when}");
    }
}

/// Compaction drops the version of a node that was there when the edge was made; the edge is replayed before its ends.
#[test]
fn edges_find_their_ends_again() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    write(&store, &mut m, &[put_task(0, 10, None), Op::Person { n: 0, size: 10 }]);
    write(&store, &mut m, &[Op::Owns { n: 0, person: 0, task: 0 }]);
    for _ in 0..3 {
        write(&store, &mut m, &[put_task(0, 10, None), Op::Person { n: 0, size: 10 }]);
    }
    for _ in 0..4 {
        write(&store, &mut m, &[]);
    }
    let u = EVERYTHING.of(&m);
    maintain(&store, &mut m, &u);
    assert_eq!(m.dump().ends[2], Some([1, 0]));
    rebuilds_alike(&disk, 300, "with the ends after the edge");

    // An end that died stays as long as the edge does.
    write(&store, &mut m, &[Op::Delete { which: 0 }]);
    for _ in 0..4 {
        write(&store, &mut m, &[]);
    }
    let u = EVERYTHING.of(&m);
    assert_eq!(maintain(&store, &mut m, &u).forgotten, 0);
    rebuilds_alike(&disk, 300, "with a dead end");
    write(&store, &mut m, &[Op::Delete { which: 2 }]);
    for _ in 0..4 {
        write(&store, &mut m, &[]);
    }
    let u = EVERYTHING.of(&m);
    assert!(maintain(&store, &mut m, &u).forgotten > 0, "the edge at least");
    rebuilds_alike(&disk, 300, "without the edge");
}

/// Who looked an id up before upkeep forgot it still writes it under its number, with an edge to it in the same commit.
#[test]
fn a_number_that_was_looked_up_before_it_was_forgotten_can_be_written() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    write(&store, &mut m, &[put_task(0, 10, None), Op::Person { n: 0, size: 10 }]);
    write(&store, &mut m, &[Op::Delete { which: 0 }]);
    for _ in 0..4 {
        write(&store, &mut m, &[]);
    }
    let u = EVERYTHING.of(&m);
    let mut earlier = m.clone();
    assert_eq!(maintain(&store, &mut m, &u).forgotten, 1);
    earlier.floor = m.floor;
    let ops = [put_task(0, 10, None), Op::Owns { n: 0, person: 0, task: 0 }];
    write(&store, &mut earlier, &ops);
    agrees(&store, &earlier, "written by who knew the number");
    drop(store);
    rebuilds_alike(&disk, 300, "written by who knew the number");
    agrees(&open(&disk, 300), &earlier, "reopened");
}

/// So that what lies before something is not worth rewriting with it.
fn much_that_stays(store: &Store, m: &mut Model) {
    for n in 10..14 {
        let some: Vec<Op> = (0..8).map(|i| put_task(n * 10 + i, 100, None)).collect();
        commit(store, &m.batch(&some));
    }
}

/// A segment that is not worth rewriting holds the fact; the one that takes it away is rewritten.
#[test]
fn a_fact_that_was_taken_away_stays_away() {
    let segment_bytes = 2000;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    let mut first: Vec<Op> = (0..8).map(|n| put_task(n, 100, None)).collect();
    first.push(fact(1, b"to be taken away"));
    commit(&store, &m.batch(&first));
    much_that_stays(&store, &mut m);
    for _ in 0..12 {
        commit(&store, &m.batch(&[fact(2, &[7; 100])]));
    }
    commit(&store, &m.batch(&[fact(1, b""), fact(2, b"")]));
    for n in 20..22 {
        commit(&store, &m.batch(&[put_task(n, 1800, None)]));
    }
    let u = Upkeep::routine(m.seq, 0);
    let kept = maintain(&store, &mut m, &u);
    assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0 && kept.freed_bytes > 1000, "{kept:?}");
    assert!(!compacted(&disk).contains(&FIRST.to_owned()) && files(&disk).contains(&FIRST.to_owned()));
    rebuilds_alike(&disk, segment_bytes, "with a fact taken away");
    // What had to stay is no reason to do it again.
    assert_eq!(maintain(&store, &mut m, &u), Kept::default());
    let u = Upkeep::thorough(m.seq, 0);
    maintain(&store, &mut m, &u);
    rebuilds_alike(&disk, segment_bytes, "with nothing left of it");
    let left: Vec<Vec<u8>> = compacted(&disk).iter().map(|n| bytes_of(&disk, n)).collect();
    assert!(!left.is_empty() && left.iter().all(|b| !b.windows(3).any(|w| w == b"f/1")));
}

/// The same of an entity: its tombstone has to stay while an older segment holds what it was.
#[test]
fn an_entity_that_was_deleted_stays_deleted() {
    let segment_bytes = 2000;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    let first: Vec<Op> = (0..8).map(|n| put_task(n, 100, None)).collect();
    commit(&store, &m.batch(&first));
    much_that_stays(&store, &mut m);
    for _ in 0..10 {
        commit(&store, &m.batch(&[fact(2, &[7; 100])]));
    }
    commit(&store, &m.batch(&[Op::Delete { which: 0 }, fact(2, b"")]));
    for n in 20..22 {
        commit(&store, &m.batch(&[put_task(n, 1800, None)]));
    }
    let u = Upkeep::routine(m.seq, m.seq);
    let kept = maintain(&store, &mut m, &u);
    assert!(kept.rewritten > 0 && kept.forgotten == 0, "{kept:?}");
    assert!(!compacted(&disk).contains(&FIRST.to_owned()) && files(&disk).contains(&FIRST.to_owned()));
    rebuilds_alike(&disk, segment_bytes, "with its older version");
    let u = Upkeep::thorough(m.seq, m.seq);
    assert_eq!(maintain(&store, &mut m, &u).forgotten, 1);
    assert_eq!(m.forgotten.len(), 1);
    rebuilds_alike(&disk, segment_bytes, "with nothing left of it");
}

/// A task that is new, and its end.
fn short_life(m: &Model, n: u8) -> [Op; 2] {
    let which = m.newest.iter().flatten().count();
    [put_task(n, 100, None), Op::Delete { which }]
}

/// The oldest segment is not worth rewriting by itself. What is replaced in it keeps the tombstones of no later one.
#[test]
fn a_replaced_record_at_the_beginning_keeps_no_tombstones() {
    let segment_bytes = 2000;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    let first: Vec<Op> = (0..8).map(|n| put_task(n, 100, None)).collect();
    commit(&store, &m.batch(&first));
    commit(&store, &m.batch(&[put_task(0, 100, None)]));
    for n in 0..200 {
        let ops = short_life(&m, 20 + n);
        commit(&store, &m.batch(&ops));
        if n % 20 == 19 {
            let u = Upkeep::routine(m.seq, m.seq);
            let kept = maintain(&store, &mut m, &u);
            assert!(kept.forgotten > 0, "after {n}: {kept:?}");
            assert!(segments(&disk).len() <= 12, "after {n}: {:?}", segments(&disk));
            rebuilds_alike(&disk, segment_bytes, &format!("after {n}"));
        }
    }
    assert!(m.forgotten.len() > 150, "all but the newest: {} of 200", m.forgotten.len());
}

/// Tombstones that came of age count as much as what was replaced, also if nothing is committed any more.
#[test]
fn segments_of_nothing_but_old_tombstones_are_worth_rewriting() {
    let segment_bytes = 2000;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    for n in 0..40 {
        let ops = short_life(&m, n);
        commit(&store, &m.batch(&ops));
    }
    let young = Upkeep::thorough(m.seq, 0);
    let kept = maintain(&store, &mut m, &young);
    assert!(kept.checkpoint_bytes > 0 && kept.forgotten == 0, "{kept:?}");
    let before = store.usage().0;
    let old = Upkeep::routine(m.seq, m.seq);
    let kept = maintain(&store, &mut m, &old);
    assert!(kept.forgotten > 20 && m.forgotten.len() as u64 == kept.forgotten, "{kept:?}");
    assert!(store.usage().0 < before / 2, "{} bytes of {before}", store.usage().0);
    rebuilds_alike(&disk, segment_bytes, "without tombstones");
}

#[test]
fn heavy_overwriting_takes_little_room() {
    let segment_bytes = 4096;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    for _ in 0..50 {
        for n in 0..20 {
            commit(&store, &m.batch(&[put_task(n, 200, None), fact(n, b"x")]));
        }
    }
    let size = || segments(&disk).iter().map(|n| bytes_of(&disk, n).len()).sum::<usize>();
    let before = size();
    let u = EVERYTHING.of(&m);
    let kept = maintain(&store, &mut m, &u);
    let d = m.dump();
    let live = d.newest.iter().map(|r| 32 + r.3.len()).sum::<usize>()
        + d.facts.iter().map(|(k, v)| 32 + k.len() + v.len()).sum::<usize>();
    assert!(before > 20 * live, "{before} bytes, {live} of them live");
    assert!(size() < 2 * live + segment_bytes as usize, "{} bytes left, {live} of them live", size());
    assert!(kept.freed_bytes as usize > before - size() - segment_bytes as usize, "{kept:?} of {before}");
    rebuilds_alike(&disk, segment_bytes, "after heavy overwriting");
    // It comes to rest.
    maintain(&store, &mut m, &u);
    assert_eq!(maintain(&store, &mut m, &u), Kept::default());
}

/// What is left of each segment is little; it must not become a file each.
#[test]
fn small_leftovers_become_one_segment() {
    let segment_bytes = 2000;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = Model::new();
    for n in 0..40 {
        // What comes after the floor has replaced all of the newest one's versions before it.
        let u = Upkeep::routine(m.seq, 0);
        for _ in 0..40 {
            commit(&store, &m.batch(&[put_task(n, 20, None)]));
        }
        maintain(&store, &mut m, &u);
    }
    assert!(segments(&disk).len() <= 20, "{:?}", segments(&disk));
    rebuilds_alike(&disk, segment_bytes, "with small leftovers");
}

/// Compaction drops neither what came after the floor nor, where none is old enough, any tombstone.
#[test]
fn nothing_goes_before_its_time() {
    let disk = MemDisk::new();
    let store = open(&disk, 300);
    let mut m = Model::new();
    for n in 0..20 {
        write(&store, &mut m, &[put_task(n % 5, 10, None), Op::Delete { which: 3 }]);
    }
    assert_eq!(maintain(&store, &mut m, &Upkeep::thorough(0, u64::MAX)).forgotten, 0);
    assert_eq!(history(&store, 0), m.history(0), "nothing lies before the floor");
    let (all, half) = (history(&store, 0).len(), m.seq / 2);
    let kept = maintain(&store, &mut m, &Upkeep::thorough(half, 0));
    assert!(kept.rewritten > 0 && kept.forgotten == 0, "{kept:?}");
    assert!(history(&store, 0).len() < all, "older versions are gone");
    assert_eq!(history(&store, half), m.history(half));
    agrees_from_everywhere(&store, &m);
}
