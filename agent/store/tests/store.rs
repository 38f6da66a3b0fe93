//! The store over a disk that fails and forgets: what was committed is read back the same before and after any replay;
//! a crash at any step leaves whole commits only, every acknowledged one among them; damage is named, never cut away.

use bytes::Bytes;
use mew_model::name::number;
use mew_model::ontology::{Attribute, Builder, Declared, Edge, OnKill, Param};
use mew_model::{Draft, EntityRef, KernelKey, Kind, Number, Ontology, Value};
use mew_store::{Batch, Change, Disk, Fault, MemDisk, Opened, Options, Place, Store, StoreError, Stored};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const KERNEL: &str = "plant-a";
const INCARNATION: &str = "first";
/// One segment is enough.
const ONE: u32 = 64 << 20;
const FIRST: &str = "0000000000.seg";
const SEGMENT_HEADER: usize = 16;
const CODES: u8 = 4;

fn attr(name: &str, unique_in: Option<&str>) -> Attribute {
    Attribute {
        name: name.to_owned(),
        number: number(name),
        kind: Kind::String,
        nullable: true,
        required: false,
        unique_in: unique_in.map(number),
        default: None,
        one_of: vec![],
        min: None,
        max: None,
        length: None,
    }
}

/// Task has a unique value, Person has nothing derived from its attributes, owns is an edge from Person to Task.
fn ontology() -> Arc<Ontology> {
    let node =
        |name: &str, attrs: Vec<Attribute>| Declared { name: name.to_owned(), parents: vec![], attrs, edge: None };
    let param = |name: &str, ty: &str| Param { name: name.to_owned(), ty: Some(ty.to_owned()) };
    let owns = Edge {
        params: vec![param("who", "Person"), param("what", "Task")],
        on_kill_source: OnKill::Unlink,
        on_kill_target: OnKill::Unlink,
    };
    let declared = vec![
        node("Task", vec![attr("title", None), attr("code", Some("Task"))]),
        node("Person", vec![attr("title", None)]),
        Declared { name: "owns".to_owned(), parents: vec![], attrs: vec![], edge: Some(owns) },
    ];
    Arc::new(Builder { name: "test".to_owned(), declared }.build().expect("the declarations are right"))
}

fn options(segment_bytes: u32) -> Options {
    Options { kernel_id: KERNEL.to_owned(), new_incarnation: INCARNATION.to_owned(), segment_bytes }
}

fn try_open(disk: &MemDisk, segment_bytes: u32) -> Result<(Store, Opened), StoreError> {
    Store::open(Arc::new(disk.clone()), ontology(), options(segment_bytes))
}

fn open(disk: &MemDisk, segment_bytes: u32) -> Store {
    try_open(disk, segment_bytes).expect("the store opens").0
}

/// Why it does not open.
fn refusal(disk: &MemDisk, segment_bytes: u32) -> StoreError {
    try_open(disk, segment_bytes).err().expect("the store must not open")
}

fn bytes_of(disk: &MemDisk, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    disk.edit(name, |b| out = b.clone());
    out
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.list().expect("a disk in memory").into_iter().filter(|n| n.ends_with(".seg")).collect()
}

fn code(n: u8) -> Value {
    Value::String(format!("code {n}"))
}

/// Entity number, seq, origin, bytes.
type Row = (u32, u64, u64, Vec<u8>);

fn row(s: &Stored) -> Row {
    (s.ent, s.seq, s.origin.0, s.bytes.to_vec())
}

fn entity(r: &Row) -> EntityRef<'_> {
    EntityRef::read(&r.3).expect("the row holds an entity")
}

/// All that can be read from a store.
#[derive(Clone, Debug, PartialEq)]
struct Dump {
    last_seq: u64,
    newest: Vec<Row>,
    /// What each entity's own id finds.
    found: Vec<Option<u32>>,
    types: BTreeMap<Number, Vec<u32>>,
    /// Who holds each code.
    codes: Vec<Option<u32>>,
    edges: Vec<Vec<u32>>,
    ends: Vec<Option<[u32; 2]>>,
    facts: Vec<(Vec<u8>, Vec<u8>)>,
    feed: Vec<Row>,
    history: Vec<Row>,
}

fn drain(store: &Store, place: &mut Place, superseded: bool) -> Vec<Row> {
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

fn feed(store: &Store, after: u64) -> Vec<Row> {
    drain(store, &mut Place::after(after), false)
}

fn history(store: &Store, after: u64) -> Vec<Row> {
    drain(store, &mut Place::after(after), true)
}

fn dump(store: &Store) -> Dump {
    let (feed, history) = (feed(store, 0), history(store, 0));
    let v = store.view();
    let newest: Vec<Row> = (0..v.next_entity())
        .map(|ent| row(&v.get(ent).expect("an entity can be read").expect("every number has an entity")))
        .collect();
    Dump {
        last_seq: v.last_seq(),
        found: newest.iter().map(|r| v.find(entity(r).sync_id).expect("an entity can be found")).collect(),
        types: v.types().filter(|(_, b)| !b.is_empty()).map(|(t, b)| (t, b.iter().collect())).collect(),
        codes: (0..CODES)
            .map(|n| {
                v.unique(number("Task"), number("code"), code(n).borrowed()).expect("a unique value can be looked up")
            })
            .collect(),
        edges: newest.iter().map(|r| v.edges_of(r.0).collect()).collect(),
        ends: newest.iter().map(|r| v.ends(r.0)).collect(),
        facts: v.facts(b"").expect("facts can be read").into_iter().map(|(k, b)| (k, b.to_vec())).collect(),
        newest,
        feed,
        history,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Task {
        n: u8,
        size: usize,
        code: Option<u8>,
    },
    Person {
        n: u8,
        size: usize,
    },
    Owns {
        n: u8,
        person: u8,
        task: u8,
    },
    /// One of the entities that exist.
    Delete {
        which: usize,
    },
    Fact {
        key: u8,
        value: Vec<u8>,
    },
}

fn put_task(n: u8, size: usize, code: Option<u8>) -> Op {
    Op::Task { n, size, code }
}

fn fact(key: u8, value: &[u8]) -> Op {
    Op::Fact { key, value: value.to_vec() }
}

/// What the store should hold, kept in the simplest way.
#[derive(Clone)]
struct Model {
    clock: u64,
    seq: u64,
    ids: BTreeMap<String, u32>,
    /// By entity number.
    newest: Vec<Row>,
    history: Vec<Row>,
    facts: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    /// A new store: it only knows whose it is.
    fn new() -> Self {
        let facts = [("incarnation", INCARNATION), ("kernel", KERNEL)];
        Model {
            clock: 0,
            seq: 0,
            ids: BTreeMap::new(),
            newest: vec![],
            history: vec![],
            facts: facts.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect(),
        }
    }

    /// Applies the operations and returns the commit that does the same.
    fn batch(&mut self, ops: &[Op]) -> Batch {
        let mut out = Batch::default();
        for op in ops {
            match op {
                Op::Task { n, size, code: c } => {
                    let id = format!("t{n}");
                    let mut d = Draft::new(number("Task"), id.clone());
                    d.set(number("title"), self.title(*size));
                    let free = |v: &Value| {
                        let holds = |e: EntityRef<'_>| !e.deleted && e.sync_id != id && e.attr(number("code")) == *v;
                        !self.newest.iter().map(entity).any(holds)
                    };
                    // Uniqueness is the kernel's business; the store is only ever given what it allows.
                    if let Some(v) = c.map(code).filter(free) {
                        d.set(number("code"), v);
                    }
                    out.changes.push(self.put(d, u64::from(*n % 3)));
                }
                Op::Person { n, size } => {
                    let mut d = Draft::new(number("Person"), format!("p{n}"));
                    d.set(number("title"), self.title(*size));
                    out.changes.push(self.put(d, 0));
                }
                Op::Owns { n, person, task } => {
                    let ends = vec![format!("p{person}"), format!("t{task}")];
                    if ends.iter().all(|e| self.ids.contains_key(e)) {
                        let mut d = Draft::new(number("owns"), format!("e{n}"));
                        d.ends = ends;
                        out.changes.push(self.put(d, 0));
                    }
                }
                Op::Delete { which } => {
                    if !self.newest.is_empty() {
                        let old = &self.newest[which % self.newest.len()];
                        let (mut d, origin) = (entity(old).to_draft(), old.2);
                        d.delete();
                        out.changes.push(self.put(d, origin));
                    }
                }
                Op::Fact { key, value } => {
                    let key = format!("f/{key}").into_bytes();
                    match value.is_empty() {
                        true => drop(self.facts.remove(&key)),
                        false => drop(self.facts.insert(key.clone(), value.clone())),
                    }
                    out.facts.push((key, value.clone()));
                }
            }
        }
        out
    }

    /// Another one each time.
    fn title(&self, size: usize) -> Value {
        Value::String(format!("{} {}", self.clock, "x".repeat(size)))
    }

    fn put(&mut self, mut d: Draft, origin: u64) -> Change {
        self.clock += 1;
        self.seq += 1;
        d.stamp(KernelKey::of(KERNEL), self.clock, None);
        let bytes = d.encode();
        let next = self.newest.len() as u32;
        let ent = *self.ids.entry(d.sync_id).or_insert(next);
        let row = (ent, self.seq, origin, bytes.clone());
        match self.newest.get_mut(ent as usize) {
            Some(old) => *old = row.clone(),
            None => self.newest.push(row.clone()),
        }
        self.history.push(row);
        Change { ent, origin: KernelKey(origin), bytes: Bytes::from(bytes) }
    }

    fn ends(&self, r: &Row) -> Option<[u32; 2]> {
        let e = entity(r);
        let ends: Vec<u32> = e.ends().map(|id| self.ids[id]).collect();
        if e.deleted { None } else { ends.try_into().ok() }
    }

    /// Each entity once, at its newest version, in the order of seq.
    fn feed(&self, after: u64) -> Vec<Row> {
        let mut out: Vec<Row> = self.newest.iter().filter(|r| r.1 > after).cloned().collect();
        out.sort_by_key(|r| r.1);
        out
    }

    fn history(&self, after: u64) -> Vec<Row> {
        self.history.iter().filter(|r| r.1 > after).cloned().collect()
    }

    fn dump(&self) -> Dump {
        let mut types: BTreeMap<Number, Vec<u32>> = BTreeMap::new();
        for r in self.newest.iter().filter(|r| !entity(r).deleted) {
            types.entry(entity(r).ty).or_default().push(r.0);
        }
        let ends: Vec<Option<[u32; 2]>> = self.newest.iter().map(|r| self.ends(r)).collect();
        let edges_of = |ent: u32| {
            let is_end = |e: &Option<[u32; 2]>| e.is_some_and(|e| e.contains(&ent));
            (0_u32..).zip(&ends).filter(|(_, e)| is_end(e)).map(|(edge, _)| edge).collect::<Vec<u32>>()
        };
        let holder =
            |n: u8| self.newest.iter().find(|r| !entity(r).deleted && entity(r).attr(number("code")) == code(n));
        Dump {
            last_seq: self.seq,
            newest: self.newest.clone(),
            found: self.newest.iter().map(|r| Some(r.0)).collect(),
            types,
            codes: (0..CODES).map(|n| holder(n).map(|r| r.0)).collect(),
            edges: self.newest.iter().map(|r| edges_of(r.0)).collect(),
            ends,
            facts: self.facts.clone().into_iter().collect(),
            feed: self.feed(0),
            history: self.history.clone(),
        }
    }
}

/// A few commits that touch everything, and what the store holds before the first and after each.
fn workload() -> (Vec<Batch>, Vec<Dump>) {
    let commits = [
        vec![put_task(0, 5, Some(0)), Op::Person { n: 0, size: 5 }],
        vec![Op::Owns { n: 0, person: 0, task: 0 }, fact(1, b"one")],
        vec![put_task(0, 9, Some(1)), put_task(1, 3, Some(0)), fact(1, b"two"), fact(2, b"x")],
        vec![put_task(2, 500, None)],
        vec![Op::Delete { which: 2 }, fact(1, b"")],
        vec![put_task(2, 20, Some(2)), Op::Owns { n: 1, person: 0, task: 2 }, Op::Person { n: 0, size: 50 }],
        vec![Op::Delete { which: 0 }, Op::Person { n: 1, size: 200 }],
        vec![fact(3, b"last")],
    ];
    let mut m = Model::new();
    let mut dumps = vec![m.dump()];
    let mut batches = Vec::new();
    for ops in &commits {
        batches.push(m.batch(ops));
        dumps.push(m.dump());
    }
    (batches, dumps)
}

fn commit(store: &Store, b: &Batch) -> u64 {
    store.commit(b.clone()).expect("the commit succeeds")
}

/// Not `assert_eq`, which would print two whole stores.
fn same(found: &Dump, expected: &Dump, when: &str) {
    assert_eq!(found.last_seq, expected.last_seq, "last seq {when}");
    assert_eq!(found.newest, expected.newest, "entities {when}");
    assert_eq!(found.facts, expected.facts, "facts {when}");
    assert_eq!(found.feed, expected.feed, "feed {when}");
    assert_eq!(found.history, expected.history, "history {when}");
    assert_eq!(found, expected, "derived state {when}");
}

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
    assert_eq!(v.count_facts(b"f/"), 2);
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
    assert_eq!(how, Opened { records: (2 + facts + changes) as u64, cut_bytes: 0 });
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

fn ops() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![8 => 0_usize..40, 1 => 400_usize..700];
    prop_oneof![
        4 => (0_u8..5, size(), prop::option::of(0..CODES)).prop_map(|(n, size, code)| Op::Task { n, size, code }),
        2 => (0_u8..3, size()).prop_map(|(n, size)| Op::Person { n, size }),
        2 => (0_u8..4, 0_u8..3, 0_u8..5).prop_map(|(n, person, task)| Op::Owns { n, person, task }),
        2 => (0_usize..100).prop_map(|which| Op::Delete { which }),
        2 => (0_u8..4, prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(key, value)| Op::Fact { key, value }),
    ]
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
                let size = bytes_of(&copy, FIRST).len();
                let (store, how) = try_open(&copy, ONE).unwrap_or_else(|e| panic!("{when}: {e}"));
                let is_whole = cut == end;
                same(&dump(&store), &expected[if is_whole { i } else { i - 1 }], &when);
                let kept = if is_whole { end } else { begin };
                assert_eq!(how.cut_bytes, (size - kept) as u64, "{when}");
                assert_eq!(bytes_of(&copy, FIRST).len(), kept, "{when}");
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
    assert!(text.contains("another version") && text.contains(FIRST) && text.contains("MEWLOG99"), "{text}");
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
