//! A look sees one commit, whole, whatever is committed and tidied up beside it, and holds up nobody.

mod common;

use common::*;
use mew_store::{MemDisk, Upkeep, View};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>),
    Upkeep(Quarters),
    Look,
    /// One of the looks that are open.
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(ops(), 1..6).prop_map(Step::Commit),
        2 => quarters().prop_map(Step::Upkeep),
        3 => Just(Step::Look),
        2 => (0_usize..10).prop_map(Step::Close),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_look_sees_its_commit_for_as_long_as_it_is_held(
        steps in steps(),
        segment_bytes in prop::sample::select(vec![1, 300, 4000]),
    ) {
        let disk = MemDisk::new();
        let store = open(&disk, segment_bytes);
        let mut m = Model::new();
        let mut looks: Vec<(View<'_>, Dump)> = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            match step {
                Step::Commit(ops) => drop(commit(&store, &m.batch(ops))),
                Step::Upkeep(q) => {
                    let u = q.of(&m);
                    store.maintain(&u).expect("upkeep succeeds");
                    m.maintained(&store, &u);
                }
                Step::Look => looks.push((store.view(), m.look())),
                Step::Close(n) if !looks.is_empty() => drop(looks.swap_remove(n % looks.len())),
                Step::Close(_) => {}
            }
            for (n, (v, expected)) in looks.iter().enumerate() {
                same(&look(v), expected, &format!("look {n} after step {i}"));
            }
        }
        drop(looks);
        same(&look(&store.view()), &m.look(), "in the end");
    }
}

/// A writer, upkeep and readers at once; each reader looks twice, and sees the same.
#[test]
fn looks_do_not_change_while_everybody_works() {
    let disk = MemDisk::new();
    let store = open(&disk, 2000);
    let (done, model) = (AtomicBool::new(false), Mutex::new(Model::new()));
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 0..600_u32 {
                let k = n as u8;
                let mut ops =
                    vec![put_task(k % 5, 30, Some(k % 4)), Op::Person { n: k % 3, size: 9 }, fact(k % 4, &[k])];
                ops.push(Op::Owns { n: k % 4, person: k % 3, task: k % 5 });
                if n % 3 == 0 {
                    ops.push(Op::Delete { which: n as usize });
                }
                let batch = model.lock().expect("nobody panicked").batch(&ops);
                commit(&store, &batch);
            }
            done.store(true, Ordering::Release);
        });
        s.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let head = store.view().last_seq();
                store.maintain(&Upkeep::thorough(head, u64::MAX)).expect("upkeep succeeds");
            }
        });
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let v = store.view();
                    let first = look(&v);
                    std::thread::yield_now();
                    same(&look(&v), &first, "one look");
                    assert!(
                        first.found.iter().zip(&first.newest).all(|(f, r)| *f == Some(r.0)),
                        "ids find their entities"
                    );
                }
            });
        }
    });
    assert_eq!(look(&store.view()).next_entity, model.lock().expect("nobody panicked").look().next_entity);
}
