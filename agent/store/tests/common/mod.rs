//! What the tests of the store share: disks to open, a model of what a store must hold, and all that can be read from one.
#![allow(dead_code)] // each test file uses a part of it

pub mod acts;
pub mod interrupted;
mod model;

use mew_model::name::number;
use mew_model::ontology::{Attribute, Builder, Declared, Edge, OnKill, Param};
use mew_model::{EntityRef, Kind, Number, Ontology, Value};
use mew_store::{Batch, Disk, MemDisk, Opened, Options, Place, Store, StoreError, Stored, View};
pub use model::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const KERNEL: &str = "plant-a";
pub const INCARNATION: &str = "first";
/// One segment is enough.
pub const ONE: u32 = 64 << 20;
pub const FIRST: &str = "0000000000.seg";
pub const CHECKPOINT: &str = "checkpoint";
pub const SEGMENT_HEADER: usize = 48;
pub const CODES: u8 = 4;

fn attr(name: &str, unique_in: Option<&str>, indexed_in: Option<&str>) -> Attribute {
    Attribute {
        name: name.to_owned(),
        number: number(name),
        kind: Kind::String,
        nullable: true,
        required: false,
        unique_in: unique_in.map(number),
        indexed_in: indexed_in.map(number),
        default: None,
        one_of: vec![],
        min: None,
        max: None,
        length: None,
    }
}

/// Task has a unique and an indexed value, Person has nothing derived from its attributes, owns is an edge from Person to Task.
pub fn ontology() -> Arc<Ontology> {
    ontology_with(false)
}

/// The titles of persons may be unique as well.
pub fn ontology_with(unique_titles: bool) -> Arc<Ontology> {
    with_titles(Some("Task"), (unique_titles.then_some("Person"), None))
}

/// Of whom the titles are indexed: of tasks, of persons.
pub type Indexes = (bool, bool);

pub fn ontology_with_indexes((tasks, persons): Indexes) -> Arc<Ontology> {
    with_titles(tasks.then_some("Task"), (None, persons.then_some("Person")))
}

/// Where the titles of tasks are indexed, and those of persons unique and indexed.
fn with_titles(of_tasks: Option<&str>, of_persons: (Option<&str>, Option<&str>)) -> Arc<Ontology> {
    let node =
        |name: &str, attrs: Vec<Attribute>| Declared { name: name.to_owned(), parents: vec![], attrs, edge: None };
    let param = |name: &str, ty: &str| Param { name: name.to_owned(), ty: Some(ty.to_owned()) };
    let owns = Edge {
        params: vec![param("who", "Person"), param("what", "Task")],
        on_kill_source: OnKill::Unlink,
        on_kill_target: OnKill::Unlink,
    };
    let declared = vec![
        node("Task", vec![attr("title", None, of_tasks), attr("code", Some("Task"), None)]),
        node("Person", vec![attr("title", of_persons.0, of_persons.1)]),
        Declared { name: "owns".to_owned(), parents: vec![], attrs: vec![], edge: Some(owns) },
    ];
    Arc::new(Builder { name: "test".to_owned(), declared }.build().expect("the declarations are right"))
}

pub fn options(segment_bytes: u32) -> Options {
    Options { kernel_id: KERNEL.to_owned(), new_incarnation: INCARNATION.to_owned(), segment_bytes }
}

pub fn try_open(disk: &MemDisk, segment_bytes: u32) -> Result<(Store, Opened), StoreError> {
    Store::open(Arc::new(disk.clone()), ontology(), options(segment_bytes))
}

pub fn open(disk: &MemDisk, segment_bytes: u32) -> Store {
    try_open(disk, segment_bytes).expect("the store opens").0
}

/// Why it does not open.
pub fn refusal(disk: &MemDisk, segment_bytes: u32) -> StoreError {
    try_open(disk, segment_bytes).err().expect("the store must not open")
}

pub fn bytes_of(disk: &MemDisk, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    disk.edit(name, |b| out = b.clone());
    out
}

pub fn files(disk: &MemDisk) -> Vec<String> {
    disk.list().expect("a disk in memory")
}

pub fn segments(disk: &MemDisk) -> Vec<String> {
    files(disk).into_iter().filter(|n| n.ends_with(".seg")).collect()
}

/// What a compacted segment's header says: first frame and end frame; of another segment, the end is 0.
pub fn span(disk: &MemDisk, name: &str) -> (u64, u64) {
    let b = bytes_of(disk, name);
    let number = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
    (number(16), number(24))
}

pub fn compacted(disk: &MemDisk) -> Vec<String> {
    segments(disk).into_iter().filter(|n| span(disk, n).1 > 0).collect()
}

/// Nothing unfinished is on the disk, and no two segments stand for the same commits.
pub fn tidy(disk: &MemDisk, when: &str) {
    assert!(files(disk).iter().all(|n| !n.ends_with(".new")), "{when}: {:?}", files(disk));
    let mut spans: Vec<(u64, u64)> = segments(disk).iter().map(|n| span(disk, n)).collect();
    spans.sort_unstable();
    for s in spans.windows(2) {
        assert!(s[0].0 < s[1].0 && s[0].1 <= s[1].0, "{when}: {spans:?}");
    }
}

pub fn without_checkpoint(disk: &MemDisk) -> MemDisk {
    let copy = disk.copy();
    if files(&copy).iter().any(|n| n == CHECKPOINT) {
        copy.remove(CHECKPOINT).expect("it is there");
    }
    copy
}

/// A replay of everything gives the same as a checkpoint and a replay of the rest.
pub fn rebuilds_alike(disk: &MemDisk, segment_bytes: u32, when: &str) {
    let (with, without) = (open(&disk.copy(), segment_bytes), open(&without_checkpoint(disk), segment_bytes));
    same(&dump(&with), &dump(&without), &format!("with a checkpoint and without, {when}"));
}

/// All derived state in one order.
pub fn canonical(store: &Store, when: &str) -> Vec<u8> {
    let mut out = Vec::new();
    store.canonical(&mut out).unwrap_or_else(|e| panic!("{when}: {e}"));
    out
}

/// As it is, opened again, and opened without what a checkpoint saves. Each opening draws other keys for its hashes, unless
/// it has them from a checkpoint.
pub fn rebuilds_the_same(store: &Store, disk: &MemDisk, segment_bytes: u32, when: &str) {
    let here = canonical(store, when);
    for (copy, how) in [(disk.copy(), "opened again"), (without_checkpoint(disk), "without a checkpoint")] {
        let there = canonical(&open(&copy, segment_bytes), &format!("{how}, {when}"));
        if here != there {
            let at = here.iter().zip(&there).position(|(a, b)| a != b);
            panic!("{how}, {when}: {} bytes and {}, and byte {at:?} differs first", here.len(), there.len());
        }
    }
}

pub fn code(n: u8) -> Value {
    Value::String(format!("code {n}"))
}

/// Entity number, seq, origin, bytes.
pub type Row = (u32, u64, u64, Vec<u8>);

pub fn row(s: &Stored) -> Row {
    (s.ent, s.seq, s.origin.0, s.bytes.to_vec())
}

pub fn entity(r: &Row) -> EntityRef<'_> {
    EntityRef::read(&r.3).expect("the row holds an entity")
}

/// All that can be read from a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    pub last_seq: u64,
    pub next_entity: u32,
    pub newest: Vec<Row>,
    /// What each entity's own id finds.
    pub found: Vec<Option<u32>>,
    pub types: BTreeMap<Number, Vec<u32>>,
    /// Who holds each code.
    pub codes: Vec<Option<u32>>,
    /// The index of tasks' titles.
    pub titles: Vec<(u64, u32)>,
    pub edges: Vec<Vec<u32>>,
    pub ends: Vec<Option<[u32; 2]>>,
    pub facts: Vec<(Vec<u8>, Vec<u8>)>,
    pub feed: Vec<Row>,
    pub history: Vec<Row>,
}

pub fn drain(store: &Store, place: &mut Place, superseded: bool) -> Vec<Row> {
    let mut out = Vec::new();
    for _ in 0..10_000 {
        let more = match superseded {
            true => store.history(place, &mut out),
            false => store.feed(place, &mut out),
        };
        if !more.expect("the feed can be read") {
            return out.iter().map(row).collect();
        }
    }
    panic!("the feed does not end");
}

pub fn feed(store: &Store, after: u64) -> Vec<Row> {
    drain(store, &mut Place::after(after), false)
}

pub fn history(store: &Store, after: u64) -> Vec<Row> {
    drain(store, &mut Place::after(after), true)
}

pub fn dump(store: &Store) -> Dump {
    Dump { feed: feed(store, 0), history: history(store, 0), ..look(&store.view()) }
}

/// All that one look sees.
pub fn look(v: &View<'_>) -> Dump {
    let get = |ent: u32| v.get(ent).expect("an entity can be read").map(|s| row(&s));
    let newest: Vec<Row> = (0..v.next_entity()).filter_map(get).collect();
    Dump {
        last_seq: v.last_seq(),
        next_entity: v.next_entity(),
        found: newest.iter().map(|r| v.find(entity(r).sync_id).expect("an entity can be found")).collect(),
        types: v
            .types()
            .expect("types")
            .into_iter()
            .map(|t| (t, v.of_type(t).expect("a type").iter().collect::<Vec<u32>>()))
            .filter(|(_, b)| !b.is_empty())
            .collect(),
        titles: match v.ontology().get("Task").is_some_and(|t| !t.indexed.is_empty()) {
            true => v.ordered(number("Task"), number("title"), 0..=u64::MAX).expect("an index can be read"),
            false => vec![],
        },
        codes: (0..CODES)
            .map(|n| {
                v.unique(number("Task"), number("code"), code(n).borrowed())
                    .expect("a unique value can be looked up")
                    .map(|s| s.ent)
            })
            .collect(),
        edges: newest.iter().map(|r| v.edges_of(r.0).expect("edges")).collect(),
        ends: newest.iter().map(|r| v.ends(r.0).expect("ends")).collect(),
        facts: v.facts(b"").expect("facts can be read").into_iter().map(|(k, b)| (k, b.to_vec())).collect(),
        newest,
        feed: Vec::new(),
        history: Vec::new(),
    }
}

/// Not `assert_eq`, which would print two whole stores.
pub fn same(found: &Dump, expected: &Dump, when: &str) {
    assert_eq!(found.last_seq, expected.last_seq, "last seq {when}");
    assert_eq!(found.next_entity, expected.next_entity, "next entity {when}");
    assert_eq!(found.newest, expected.newest, "entities {when}");
    assert_eq!(found.facts, expected.facts, "facts {when}");
    assert_eq!(found.feed, expected.feed, "feed {when}");
    assert_eq!(found.history, expected.history, "history {when}");
    assert_eq!(found.found, expected.found, "ids {when}");
    assert_eq!(found.types, expected.types, "types {when}");
    assert_eq!(found.codes, expected.codes, "unique values {when}");
    assert_eq!(found.titles, expected.titles, "indexed values {when}");
    assert_eq!((&found.edges, &found.ends), (&expected.edges, &expected.ends), "edges {when}");
    assert_eq!(found, expected, "{when}");
}

pub fn commit(store: &Store, b: &Batch) -> u64 {
    store.commit(b.clone()).expect("the commit succeeds")
}
