//! The canonical dump: what commits maintain is, to the byte, what is rebuilt from the log, with a checkpoint and without.

mod common;

use common::*;
use mew_store::{Disk, MemDisk, Upkeep};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>),
    Maintain(Quarters),
    Reopen,
    /// Reopen without the checkpoint.
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(ops(), 1..5).prop_map(Step::Commit),
        3 => quarters().prop_map(Step::Maintain),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_commits_maintain_is_what_is_rebuilt(
        steps in steps(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = MemDisk::new();
        let mut store = open(&disk, segment_bytes);
        let mut m = Model::new();
        for (i, step) in steps.iter().enumerate() {
            match step {
                Step::Commit(ops) => drop(commit(&store, &m.batch(ops))),
                Step::Maintain(q) => {
                    let u = q.of(&m);
                    store.maintain(&u).expect("upkeep succeeds");
                    m.maintained(&store, &u);
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
            }
            rebuilds_the_same(&store, &disk, segment_bytes, &format!("after step {i}"));
        }
    }
}

/// Values are taken, given up and taken by others, edges and their ends come and go: no index keeps what is not there.
#[test]
fn no_index_keeps_what_was_replaced() {
    let disk = MemDisk::new();
    let store = open(&disk, 400);
    let mut m = Model::new();
    let more = [
        vec![put_task(5, 5, Some(3)), Op::Person { n: 2, size: 5 }],
        vec![put_task(5, 5, None), Op::Owns { n: 3, person: 2, task: 5 }],
        vec![put_task(6, 5, Some(3)), Op::Owns { n: 3, person: 2, task: 6 }],
        vec![put_task(6, 5, Some(0)), put_task(6, 5, Some(3))],
    ];
    let mut before = canonical(&store, "at first");
    for (i, ops) in some_commits().iter().chain(&more).enumerate() {
        commit(&store, &m.batch(ops));
        rebuilds_the_same(&store, &disk, 400, &format!("after commit {i}"));
        let now = canonical(&store, "now");
        assert!(now != before, "commit {i} changes something");
        before = now;
    }
    for which in 0..20 {
        commit(&store, &m.batch(&[Op::Delete { which }]));
        rebuilds_the_same(&store, &disk, 400, &format!("with {which} deleted"));
    }
}

/// Neither where records lie nor what compaction takes of replaced ones can be told from it.
#[test]
fn segments_do_not_matter() {
    let mut first = None;
    for segment_bytes in [1, 400, ONE] {
        let disk = MemDisk::new();
        let store = open(&disk, segment_bytes);
        for b in &workload().0 {
            commit(&store, b);
        }
        let when = format!("with segments of {segment_bytes} bytes");
        let dump = canonical(&store, &when);
        // No tombstone is old enough.
        let kept = store.maintain(&Upkeep::thorough(u64::MAX, 0)).expect("upkeep succeeds");
        assert_eq!(kept.rewritten > 0, segment_bytes < ONE, "{when}: {kept:?}");
        assert!(canonical(&store, &when) == dump, "compacted, {when}");
        rebuilds_the_same(&store, &disk, segment_bytes, &when);
        assert!(*first.get_or_insert_with(|| dump.clone()) == dump, "{when}");
    }
}
