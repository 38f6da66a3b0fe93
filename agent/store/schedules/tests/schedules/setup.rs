//! What the scenarios begin with.

use crate::common::*;
use mew_model::name::number;
use mew_model::ontology::{Attribute, Builder, Declared};
use mew_model::{Kind, Ontology};
use mew_store::{Batch, Disk, Store};
use std::sync::Arc;

/// Each commit gets a segment of its own, so that there is always something to close and to put away.
pub const TINY: u32 = 1;

/// A store that holds everything twice (a task, a person, the edge between them), one tombstone, and versions that were
/// replaced.
pub fn furnished(disk: impl Disk + 'static) -> (Store, Model) {
    let (store, _) = Store::open(Arc::new(disk), ontology(), options(TINY)).expect("the store opens");
    let mut m = Model::new();
    let half = |n: u8| [put_task(n, 20, Some(n)), Op::Person { n, size: 20 }, Op::Owns { n, person: n, task: n }];
    let commits = [
        (0..2).flat_map(half).collect::<Vec<Op>>(),
        vec![Op::Person { n: 2, size: 3 }, Op::Person { n: 0, size: 3 }, fact(2, b"x")],
        vec![Op::Delete { which: 6 }],
        vec![Op::Person { n: 1, size: 5 }],
    ];
    for ops in &commits {
        commit(&store, &m.batch(ops));
    }
    (store, m)
}

/// Two commits that change one half of it, and nothing of the other, so that the halves can be committed in any order.
pub fn work(m: &mut Model, n: u8) -> [Batch; 2] {
    let edge = usize::from(2 + 3 * n);
    [
        m.batch(&[put_task(n, 30, Some(n + 2)), Op::Person { n, size: 9 }, fact(n, b"one")]),
        m.batch(&[Op::Person { n, size: 4 }, Op::Delete { which: edge }, fact(n, b"")]),
    ]
}

/// Tasks alone, whose titles are indexed or not.
pub fn tasks(is_indexed: bool) -> Arc<Ontology> {
    let title = Attribute {
        name: "title".to_owned(),
        number: number("title"),
        kind: Kind::String,
        nullable: true,
        required: false,
        unique_in: None,
        indexed_in: is_indexed.then(|| number("Task")),
        default: None,
        one_of: vec![],
        min: None,
        max: None,
        length: None,
    };
    let task = Declared { name: "Task".to_owned(), parents: vec![], attrs: vec![title], edge: None };
    Arc::new(Builder { name: "test".to_owned(), declared: vec![task] }.build().expect("the declaration is right"))
}

/// A store of tasks.
pub fn open_tasks(disk: impl Disk + 'static, is_indexed: bool) -> Store {
    Store::open(Arc::new(disk), tasks(is_indexed), options(TINY)).expect("the store opens").0
}
