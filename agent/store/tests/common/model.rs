//! What a store must hold, kept in the simplest way.

use super::{CODES, Dump, INCARNATION, KERNEL, Row, code, dump, entity, feed, history, same};
use bytes::Bytes;
use mew_model::name::number;
use mew_model::{Draft, EntityRef, KernelKey, Number, Value};
use mew_store::{Batch, Change, Store, Upkeep};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub enum Op {
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

pub fn put_task(n: u8, size: usize, code: Option<u8>) -> Op {
    Op::Task { n, size, code }
}

pub fn fact(key: u8, value: &[u8]) -> Op {
    Op::Fact { key, value: value.to_vec() }
}

pub fn ops() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![8 => 0_usize..40, 1 => 400_usize..700];
    prop_oneof![
        4 => (0_u8..5, size(), prop::option::of(0..CODES)).prop_map(|(n, size, code)| Op::Task { n, size, code }),
        2 => (0_u8..3, size()).prop_map(|(n, size)| Op::Person { n, size }),
        2 => (0_u8..4, 0_u8..3, 0_u8..5).prop_map(|(n, person, task)| Op::Owns { n, person, task }),
        2 => (0_usize..100).prop_map(|which| Op::Delete { which }),
        2 => (0_u8..4, prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(key, value)| Op::Fact { key, value }),
    ]
}

/// What the store should hold, kept in the simplest way.
#[derive(Clone)]
pub struct Model {
    pub clock: u64,
    pub seq: u64,
    pub ids: BTreeMap<String, u32>,
    /// By entity number; nothing where a tombstone was forgotten.
    pub newest: Vec<Option<Row>>,
    pub history: Vec<Row>,
    pub facts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Upkeep may have dropped what was replaced up to here.
    pub floor: u64,
    /// Ids that nothing has any more.
    pub forgotten: BTreeSet<String>,
}

impl Model {
    /// A new store: it only knows whose it is.
    pub fn new() -> Self {
        let facts = [("incarnation", INCARNATION), ("kernel", KERNEL)];
        Model {
            clock: 0,
            seq: 0,
            ids: BTreeMap::new(),
            newest: vec![],
            history: vec![],
            facts: facts.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect(),
            floor: 0,
            forgotten: BTreeSet::new(),
        }
    }

    fn there(&self) -> impl Iterator<Item = &Row> {
        self.newest.iter().flatten()
    }

    fn lives(&self, id: &str) -> bool {
        let newest = self.ids.get(id).and_then(|ent| self.newest[*ent as usize].as_ref());
        newest.is_some_and(|r| !entity(r).deleted)
    }

    /// Applies the operations and returns the commit that does the same.
    pub fn batch(&mut self, ops: &[Op]) -> Batch {
        let mut out = Batch::default();
        for op in ops {
            match op {
                Op::Task { n, size, code: c } => {
                    let id = format!("t{n}");
                    let mut d = Draft::new(number("Task"), id.clone());
                    d.set(number("title"), self.title(*size));
                    let free = |v: &Value| {
                        let holds = |e: EntityRef<'_>| !e.deleted && e.sync_id != id && e.attr(number("code")) == *v;
                        !self.there().map(entity).any(holds)
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
                    // An edge is written while its ends live: that is the kernel's business, too.
                    let ends = vec![format!("p{person}"), format!("t{task}")];
                    if ends.iter().all(|e| self.lives(e)) {
                        let mut d = Draft::new(number("owns"), format!("e{n}"));
                        d.ends = ends;
                        out.changes.push(self.put(d, 0));
                    }
                }
                Op::Delete { which } => {
                    let there = self.there().count();
                    let old = self.there().nth(which % there.max(1)).cloned();
                    if let Some(old) = old {
                        let mut d = entity(&old).to_draft();
                        d.delete();
                        out.changes.push(self.put(d, old.2));
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
        self.forgotten.remove(&d.sync_id);
        let ent = *self.ids.entry(d.sync_id).or_insert(next);
        let row = (ent, self.seq, origin, bytes.clone());
        match self.newest.get_mut(ent as usize) {
            Some(old) => *old = Some(row.clone()),
            None => self.newest.push(Some(row.clone())),
        }
        self.history.push(row);
        Change { ent, origin: KernelKey(origin), bytes: Bytes::from(bytes), found: None }
    }

    fn ends(&self, r: &Row) -> Option<[u32; 2]> {
        let e = entity(r);
        if e.deleted {
            return None;
        }
        let ends: Vec<u32> = e.ends().map(|id| self.ids[id]).collect();
        ends.try_into().ok()
    }

    /// Each entity once, at its newest version, in the order of seq.
    pub fn feed(&self, after: u64) -> Vec<Row> {
        let mut out: Vec<Row> = self.there().filter(|r| r.1 > after).cloned().collect();
        out.sort_by_key(|r| r.1);
        out
    }

    pub fn history(&self, after: u64) -> Vec<Row> {
        self.history.iter().filter(|r| r.1 > after).cloned().collect()
    }

    /// Of living tasks, by key.
    fn titles(&self) -> Vec<(u64, u32)> {
        let tasks = self.there().map(|r| (entity(r), r.0)).filter(|(e, _)| !e.deleted && e.ty == number("Task"));
        let key = |e: &EntityRef<'_>| e.attr_ref(number("title")).order_key();
        let mut all: Vec<(u64, u32)> = tasks.filter_map(|(e, ent)| Some((key(&e)?, ent))).collect();
        all.sort_unstable();
        all
    }

    /// What a look sees of it.
    pub fn look(&self) -> Dump {
        Dump { feed: Vec::new(), history: Vec::new(), ..self.dump() }
    }

    pub fn dump(&self) -> Dump {
        let newest: Vec<Row> = self.there().cloned().collect();
        let mut types: BTreeMap<Number, Vec<u32>> = BTreeMap::new();
        for r in newest.iter().filter(|r| !entity(r).deleted) {
            types.entry(entity(r).ty).or_default().push(r.0);
        }
        let ends: Vec<Option<[u32; 2]>> = newest.iter().map(|r| self.ends(r)).collect();
        let edges_of = |ent: u32| {
            let is_end = |e: &Option<[u32; 2]>| e.is_some_and(|e| e.contains(&ent));
            newest.iter().zip(&ends).filter(|(_, e)| is_end(e)).map(|(edge, _)| edge.0).collect::<Vec<u32>>()
        };
        let holder = |n: u8| newest.iter().find(|r| !entity(r).deleted && entity(r).attr(number("code")) == code(n));
        Dump {
            last_seq: self.seq,
            next_entity: self.newest.len() as u32,
            found: newest.iter().map(|r| Some(r.0)).collect(),
            types,
            codes: (0..CODES).map(|n| holder(n).map(|r| r.0)).collect(),
            titles: self.titles(),
            edges: newest.iter().map(|r| edges_of(r.0)).collect(),
            ends,
            facts: self.facts.clone().into_iter().collect(),
            feed: self.feed(0),
            history: self.history.clone(),
            newest,
        }
    }

    /// The tombstones that upkeep may take away: old ones that no living edge has as an end.
    pub fn may_forget(&self, u: &Upkeep) -> Vec<u32> {
        let is_old = |r: &Row| entity(r).deleted && r.1 <= u.floor.min(u.tombstones_up_to);
        let needed: BTreeSet<u32> = self.there().filter_map(|r| self.ends(r)).flatten().collect();
        self.there().filter(|r| is_old(r) && !needed.contains(&r.0)).map(|r| r.0).collect()
    }

    /// Follows what upkeep did, as far as it was allowed to; returns how many tombstones it took away.
    pub fn maintained(&mut self, store: &Store, u: &Upkeep) -> usize {
        self.floor = self.floor.max(u.floor);
        let mut taken = 0;
        for ent in self.may_forget(u) {
            if store.view().get(ent).expect("an entity can be read").is_none()
                && let Some(r) = self.newest[ent as usize].take()
            {
                let id = entity(&r).sync_id;
                self.ids.remove(id);
                self.forgotten.insert(id.to_owned());
                taken += 1;
            }
        }
        taken
    }

    /// Whether a store holds this: older versions that were replaced may be there or not.
    pub fn allows(&self, found: &Dump) -> bool {
        let mut all = self.history.iter();
        let is_part = found.history.iter().all(|r| all.any(|x| x == r));
        let newest_are_there = self.there().all(|r| found.history.contains(r));
        is_part && newest_are_there && self.without_old(found.clone()) == self.without_old(self.dump())
    }

    fn without_old(&self, mut d: Dump) -> Dump {
        d.history.retain(|r| r.1 > self.floor);
        d
    }
}

/// The store holds what the model says.
pub fn agrees(store: &Store, m: &Model, when: &str) {
    let found = dump(store);
    same(&m.without_old(found.clone()), &m.without_old(m.dump()), when);
    assert!(m.allows(&found), "history {when}: up to {} it holds {:?}", m.floor, found.history);
    let v = store.view();
    for id in &m.forgotten {
        assert_eq!(v.find(id).expect("an id can be looked up"), None, "{id} was forgotten: {when}");
    }
}

/// The feed and the history from every place.
pub fn agrees_from_everywhere(store: &Store, m: &Model) {
    for after in 0..=m.seq + 1 {
        assert_eq!(feed(store, after), m.feed(after), "feed after {after}");
        let kept: Vec<Row> = history(store, after).into_iter().filter(|r| r.1 > m.floor).collect();
        assert_eq!(kept, m.history(after.max(m.floor)), "history after {after}");
    }
}

/// What upkeep may touch: up to so many quarters of all seqs, and of those with tombstones.
#[derive(Clone, Copy, Debug)]
pub struct Quarters {
    pub floor: u64,
    pub old: u64,
    pub thorough: bool,
}

impl Quarters {
    pub fn of(self, m: &Model) -> Upkeep {
        let (floor, old) = (m.seq * self.floor / 4, m.seq * self.old / 4);
        match self.thorough {
            true => Upkeep::thorough(floor, old),
            false => Upkeep::routine(floor, old),
        }
    }
}

/// All that is there at the time.
pub const EVERYTHING: Quarters = Quarters { floor: 4, old: 4, thorough: true };

pub fn quarters() -> impl Strategy<Value = Quarters> {
    let quarter = || prop_oneof![2 => 0_u64..4, 2 => Just(4_u64)];
    (quarter(), quarter(), any::<bool>()).prop_map(|(floor, old, thorough)| Quarters { floor, old, thorough })
}

/// A few commits that touch everything.
pub fn some_commits() -> Vec<Vec<Op>> {
    vec![
        vec![put_task(0, 5, Some(0)), Op::Person { n: 0, size: 5 }],
        vec![Op::Owns { n: 0, person: 0, task: 0 }, fact(1, b"one")],
        vec![put_task(0, 9, Some(1)), put_task(1, 3, Some(0)), fact(1, b"two"), fact(2, b"x")],
        vec![put_task(2, 500, None)],
        vec![Op::Delete { which: 2 }, fact(1, b"")],
        vec![put_task(2, 20, Some(2)), Op::Owns { n: 1, person: 0, task: 2 }, Op::Person { n: 0, size: 50 }],
        vec![Op::Delete { which: 0 }, Op::Person { n: 1, size: 200 }],
        vec![fact(3, b"last")],
    ]
}

/// The same as batches, and what the store holds before the first and after each.
pub fn workload() -> (Vec<Batch>, Vec<Dump>) {
    let mut m = Model::new();
    let mut dumps = vec![m.dump()];
    let mut batches = Vec::new();
    for ops in &some_commits() {
        batches.push(m.batch(ops));
        dumps.push(m.dump());
    }
    (batches, dumps)
}
