//! Commits in the middle of upkeep: between any two things that it does on the disk. What it leaves, and what a checkpoint
//! says, is of one commit all the same.

mod common;

use common::interrupted::Interrupted;
use common::*;
use mew_store::{Batch, Disk, Fault, MemDisk, Store, Upkeep};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn open_on(disk: &Interrupted, segment_bytes: u32) -> Arc<Store> {
    let opened = Store::open(Arc::new(disk.clone()), ontology(), options(segment_bytes));
    Arc::new(opened.expect("the store opens").0)
}

fn commits(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(ops(), 1..5), n)
}

/// As who has looked before: with what is there to be replaced.
fn looked_up(store: &Store, mut batch: Batch) -> Batch {
    let v = store.view();
    for c in &mut batch.changes {
        c.found = v.get(c.ent).expect("an entity can be read");
    }
    batch
}

/// Upkeep with these commits before one of its operations on the disk, or after it if it has fewer.
fn maintain_amid(store: &Arc<Store>, disk: &Interrupted, u: &Upkeep, at: usize, batches: Vec<Batch>) {
    let interrupted = store.clone();
    disk.hook.plan(
        at,
        Box::new(move || {
            for b in &batches {
                commit(&interrupted, b);
            }
        }),
    );
    store.maintain(u).expect("upkeep succeeds");
    if let Some(late) = disk.hook.leftover() {
        late();
    }
}

/// Work that leaves something to compact and a tombstone to forget.
fn worn(store: &Store) -> Model {
    let mut m = Model::new();
    for n in 0..10 {
        let ops = [put_task(n % 4, 40, Some(n % 3)), Op::Person { n: n % 2, size: 30 }, fact(1, &[n + 1; 20])];
        commit(store, &m.batch(&ops));
    }
    commit(store, &m.batch(&[Op::Owns { n: 0, person: 0, task: 0 }, Op::Delete { which: 4 }, fact(1, b"")]));
    for _ in 0..3 {
        commit(store, &m.batch(&[put_task(7, 200, None)]));
    }
    m
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commits_in_the_middle_of_upkeep_change_nothing_of_what_it_means(
        before in commits(1..20),
        meanwhile in commits(1..4),
        after in commits(0..3),
        at in 0_usize..40,
        q in quarters(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = Interrupted::default();
        let store = open_on(&disk, segment_bytes);
        let mut m = Model::new();
        for ops in &before {
            commit(&store, &m.batch(ops));
        }
        let u = q.of(&m);
        let batches: Vec<_> = meanwhile.iter().map(|ops| m.batch(ops)).collect();
        maintain_amid(&store, &disk, &u, at, batches);
        m.maintained(&store, &u);
        agrees(&store, &m, "after upkeep");
        rebuilds_the_same(&store, &disk.disk, segment_bytes, "after upkeep");
        // Upkeep goes on from what it left.
        for ops in &after {
            commit(&store, &m.batch(ops));
        }
        let u = EVERYTHING.of(&m);
        store.maintain(&u).expect("upkeep succeeds");
        m.maintained(&store, &u);
        agrees(&store, &m, "after more upkeep");
        rebuilds_the_same(&store, &disk.disk, segment_bytes, "after more upkeep");
        agrees_from_everywhere(&store, &m);
    }

    #[test]
    fn what_a_writer_found_may_be_stale_when_it_is_written(
        before in commits(1..20),
        meanwhile in commits(1..3),
        later in commits(1..3),
        at in 0_usize..40,
        q in quarters(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = Interrupted::default();
        let store = open_on(&disk, segment_bytes);
        let mut m = Model::new();
        for ops in &before {
            commit(&store, &m.batch(ops));
        }
        let u = q.of(&m);
        // Twice in one batch: what the second replaces was not there to be found.
        let mut twice = |all: &[Vec<Op>]| -> Vec<Batch> {
            all.iter().map(|ops| looked_up(&store, m.batch(&[&ops[..], &ops[..]].concat()))).collect()
        };
        let (meanwhile, later) = (twice(&meanwhile), twice(&later));
        maintain_amid(&store, &disk, &u, at, meanwhile);
        for b in &later {
            commit(&store, b);
        }
        m.maintained(&store, &u);
        agrees(&store, &m, "after upkeep");
        rebuilds_the_same(&store, &disk.disk, segment_bytes, "after upkeep");
    }

    #[test]
    fn power_loss_takes_nothing_that_was_acknowledged_in_the_middle_of_upkeep(
        before in commits(1..20),
        meanwhile in commits(1..4),
        at in 0_usize..40,
        stops_after in 0_u64..60,
        seed in any::<u64>(),
        q in quarters(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = Interrupted::default();
        let store = open_on(&disk, segment_bytes);
        let mut m = Model::new();
        for ops in &before {
            commit(&store, &m.batch(ops));
        }
        let u = q.of(&m);
        let (mut batches, mut may_be) = (Vec::new(), vec![m.clone()]);
        for ops in &meanwhile {
            batches.push(m.batch(ops));
            may_be.push(m.clone());
        }
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (interrupted, counted) = (store.clone(), acknowledged.clone());
        disk.hook.plan(
            at,
            Box::new(move || {
                let done = batches.iter().take_while(|b| interrupted.commit((*b).clone()).is_ok()).count();
                counted.store(done, Ordering::Relaxed);
            }),
        );
        disk.disk.set_fault(Fault { stops_after: Some(stops_after), ..Fault::default() });
        // It fails where the machine stops in it.
        let _ = store.maintain(&u);
        if let Some(late) = disk.hook.leftover() {
            late();
        }
        drop(store);
        let done = acknowledged.load(Ordering::Relaxed);
        let lost = disk.disk.copy();
        lost.crash_with(seed);
        for (disk, how) in [(without_checkpoint(&lost), "without a checkpoint"), (lost, "as it is")] {
            let store = open(&disk, segment_bytes);
            let found = dump(&store);
            // The next one may have been written, and nobody knew.
            let holds = may_be[done..].iter().take(2).find_map(|m| held(&store, m, &u, &found));
            let mut m = holds.unwrap_or_else(|| panic!("{done} were acknowledged, {how}: {found:?}"));
            agrees(&store, &m, how);
            tidy(&disk, how);
            rebuilds_the_same(&store, &disk, segment_bytes, how);
            commit(&store, &m.batch(&[put_task(9, 1, None)]));
            let u = EVERYTHING.of(&m);
            store.maintain(&u).expect("upkeep succeeds");
            m.maintained(&store, &u);
            agrees(&store, &m, how);
            rebuilds_the_same(&store, &disk, segment_bytes, how);
        }
    }
}

/// The model as it is after upkeep that was done, or not, or in part, if the store holds that.
fn held(store: &Store, m: &Model, u: &Upkeep, found: &Dump) -> Option<Model> {
    let mut m = m.clone();
    m.maintained(store, u);
    m.allows(found).then_some(m)
}

/// Where records lie now is not where a writer found them.
#[test]
fn a_place_that_was_found_before_upkeep_is_not_taken_for_todays() {
    let segment_bytes = 300;
    let disk = MemDisk::new();
    let store = open(&disk, segment_bytes);
    let mut m = worn(&store);
    let u = EVERYTHING.of(&m);
    let ops = [put_task(0, 5, Some(3)), put_task(0, 5, None), put_task(1, 5, Some(3)), Op::Person { n: 0, size: 5 }];
    let batch = looked_up(&store, m.batch(&ops));
    store.maintain(&u).expect("upkeep succeeds");
    for c in batch.changes.iter().filter(|c| c.ent == 0) {
        let now = store.view().get(c.ent).expect("an entity can be read").expect("it is there");
        let found = c.found.as_ref().expect("it was there");
        assert!(found.place != now.place && found.seq == now.seq, "it was moved: {found:?}, {now:?}");
    }
    commit(&store, &batch);
    m.maintained(&store, &u);
    agrees(&store, &m, "written by who looked before upkeep");
    rebuilds_the_same(&store, &disk, segment_bytes, "written by who looked before upkeep");
}

/// A commit is on the disk, and memory cannot follow it: no checkpoint may be made of half of it.
#[test]
fn a_store_that_breaks_in_the_middle_of_upkeep_leaves_no_half_commit() {
    for segment_bytes in [1, 600] {
        for at in 0.. {
            let when = format!("segments of {segment_bytes}, broken after {at}");
            let disk = Interrupted::default();
            let store = open_on(&disk, segment_bytes);
            let before = worn(&store);
            let u = EVERYTHING.of(&before);
            let mut after = before.clone();
            // Too long to be kept in memory: the second one has to read the first.
            let batch = after.batch(&[put_task(0, 5000, None), put_task(0, 5000, None)]);
            let (breaks, fails) = (store.clone(), disk.disk.clone());
            disk.hook.plan(
                at,
                Box::new(move || {
                    let batch = looked_up(&breaks, batch);
                    fails.set_fault(Fault { reads_fail: true, ..Fault::default() });
                    breaks.commit(batch).expect_err("what it replaces cannot be read");
                    fails.set_fault(Fault::default());
                    assert!(breaks.broken().is_some(), "it was written, and cannot be seen");
                }),
            );
            let kept = store.maintain(&u);
            if disk.hook.leftover().is_some() {
                assert!(at > 10 && kept.is_ok(), "{when}: {kept:?}");
                break;
            }
            drop(store);
            let crashed = disk.disk.copy();
            crashed.crash(0);
            for copy in [disk.disk.copy(), without_checkpoint(&disk.disk), crashed] {
                let store = open(&copy, segment_bytes);
                let found = dump(&store);
                let holds = [&after, &before].into_iter().find_map(|m| held(&store, m, &u, &found));
                assert!(holds.is_some(), "{when}: all of the commit is there, or nothing: {found:?}");
                tidy(&copy, &when);
                rebuilds_the_same(&store, &copy, segment_bytes, &when);
            }
        }
    }
}

fn open_under(disk: impl Disk + 'static, indexes: Indexes) -> Store {
    let opened = Store::open(Arc::new(disk), ontology_with_indexes(indexes), options(600));
    opened.expect("the store opens").0
}

/// Indexes come and go in the middle of upkeep: a checkpoint has those of the ontology that it was made for.
#[test]
fn an_ontology_that_comes_in_the_middle_of_upkeep_finds_its_indexes() {
    // One is added, one is taken away, and both at once.
    let changes = [((true, false), (true, true)), ((true, false), (false, false)), ((true, false), (false, true))];
    for (from, to) in changes {
        for at in 0.. {
            let when = format!("indexes {from:?}, after {at} {to:?}");
            let disk = Interrupted::default();
            let store = Arc::new(open_under(disk.clone(), from));
            let u = EVERYTHING.of(&worn(&store));
            let other = store.clone();
            disk.hook.plan(
                at,
                Box::new(move || other.set_ontology(ontology_with_indexes(to)).expect("an index is no rule")),
            );
            let kept = store.maintain(&u).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0, "{when}: {kept:?}");
            let late = disk.hook.leftover();
            let is_late = late.is_some();
            if let Some(late) = late {
                late();
            }
            for of in [to, from] {
                store.set_ontology(ontology_with_indexes(of)).expect("an index is no rule");
                let here = canonical(&store, &when);
                for (copy, how) in [(disk.disk.copy(), "as it is"), (without_checkpoint(&disk.disk), "without")] {
                    let there = canonical(&open_under(copy, of), &when);
                    assert!(here == there, "{when}, opened under {of:?}, checkpoint: {how}");
                }
            }
            if is_late {
                assert!(at > 10, "{when}");
                break;
            }
        }
    }
}
