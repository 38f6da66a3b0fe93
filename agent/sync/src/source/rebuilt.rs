//! What a source knows of its sink while it runs is what it makes of the log when it begins anew where the sink is: the same
//! members after each acknowledgement, and for the next change the same frames.

use super::Source;
use crate::definition::Definition;
use crate::members::Members;
use bytes::Bytes;
use mew_contract::samples::{HERE, THERE};
use mew_kernel::{Kernel, Params};
use mew_lang::parse_ontology;
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Value};
use mew_store::{MemDisk, Options, Store};
use mew_wire as wire;
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
const ONTOLOGY: &str = "node Task { i: Int, n: Int } edge links(a: Task, b: Task) { w: Int? }";
/// Half of the values that are drawn match.
const PATTERN: &str = "t: Task WHERE t.n >= 5";
const FLOW: &str = "here/tasks";
/// Tasks that another kernel introduces have numbers from here on.
const ELSEWHERE: u64 = 1_000;
const MOST_ELSEWHERE: u64 = 4;
const SEEDS: u64 = 48;
const STEPS: u64 = 80;

/// An LCG; its upper bits are random enough to choose a statement.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What went to the sink.
#[derive(Debug, Default, PartialEq)]
struct Sent {
    entities: Vec<Bytes>,
    leaves: Vec<wire::Leave>,
}

struct Flow {
    kernel: Kernel,
    definition: Definition,
    live: Source,
    save_every: u64,
}

impl Flow {
    /// From an empty log, as [`crate::Link`] begins it.
    fn new(save_every: u64) -> Self {
        let o = parse_ontology(ONTOLOGY).expect("the ontology is right");
        let options = Options { kernel_id: HERE.into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
        let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
        let kernel = Kernel::new(store);
        let definition = Definition::new(PATTERN, true, &kernel.ontology()).expect("the pattern is right");
        let (peer, members) = (KernelKey::of(THERE), saved(&kernel));
        let begun = Source::begin(&kernel, peer, definition.clone(), true, None, members, |_| None);
        let mut live = begun.expect("an empty log can be read");
        live.members.save(&kernel, NOW_MS).expect("there is room");
        let mut f = Flow { kernel, definition, live, save_every };
        f.pump();
        f
    }

    /// What is due goes out and is acknowledged.
    fn pump(&mut self) -> Sent {
        let (source, k) = (&mut self.live, &self.kernel);
        if source.members.is_due(NOW_MS, self.save_every) {
            source.members.save(k, NOW_MS).expect("there is room");
        }
        let mut sent = Sent::default();
        let mut upto = None;
        loop {
            let told = next(source, k, &mut sent);
            if source.members.must_save {
                source.members.save(k, NOW_MS).expect("there is room");
            }
            match told {
                Some(_) => upto = told,
                None => break,
            }
        }
        if let Some(upto) = upto {
            source.ack(upto);
        }
        assert!(source.in_flight.is_empty(), "all of it is acknowledged");
        sent
    }

    /// A source that knows what is saved, and where the sink says that it is.
    fn again(&self) -> Source {
        let at = wire::Position {
            incarnation: self.kernel.incarnation().to_owned(),
            seq: self.live.acked,
            revision: self.live.revision.clone(),
            start: self.live.start,
            complete: self.live.live,
            ..wire::Position::default()
        };
        let members = saved(&self.kernel).reconsidered(&at, 1);
        assert!(members.known && !members.needs_reconcile, "what is saved is of this sink");
        let d = self.definition.clone();
        let begun = Source::begin(&self.kernel, KernelKey::of(THERE), d, true, Some(&at), members, |_| None);
        begun.expect("the log can be read")
    }

    /// Both say of each entity the same: the sink has it, or not. If the sink takes some out itself, the one made anew may not
    /// have seen that: it never forgets too early.
    fn same_members(&self, again: &Source, sink_writes: bool, when: &str) {
        let view = self.kernel.view();
        for ent in 0..view.next_entity() {
            let of = |s: &Source| s.members.contains(ent);
            if of(&self.live) != of(again) && (of(&self.live) || !sink_writes) {
                let s = view.get(ent).expect("a disk in memory").expect("an entity");
                let (e, live) = (s.entity().expect("what is stored is valid"), of(&self.live));
                panic!("{when}: the live source has {:?}: {live}, and the one made anew: {}", e.sync_id, !live);
            }
        }
    }
}

fn saved(k: &Kernel) -> Members {
    Members::load(&k.view(), THERE, FLOW).expect("what is saved can be read")
}

/// Sends one batch, and says up to where.
fn next(source: &mut Source, k: &Kernel, sent: &mut Sent) -> Option<u64> {
    let p = source.next(k, 1).expect("the log can be read")?;
    sent.entities.extend(p.entities);
    sent.leaves.extend(p.leaves);
    Some(p.upto)
}

/// Tasks t0, t1, … come, change, go and come again, and are linked, whether they match or not. Those of the other kernel, if
/// there is one, are changed and linked to as well.
fn statement(r: &mut Random, tasks: &mut u64, other: Option<&str>) -> String {
    let (a, b, n) = (r.below(*tasks), r.below(*tasks), r.below(10));
    let foreign = other.filter(|_| r.below(3) == 0).map(|kernel| (kernel, ELSEWHERE + r.below(MOST_ELSEWHERE)));
    match r.below(12) {
        0 | 1 => {
            let new = *tasks;
            *tasks += 1;
            format!("SPAWN Task {{_sync_id = \"t{new}\", i = {new}, n = {n}}}")
        }
        2 => format!("SPAWN Task {{_sync_id = \"t{a}\", i = {a}, n = {n}}}"),
        3..=5 => format!("MATCH t: Task WHERE t.i = {} SET t.n = {n}", foreign.map_or(a, |(_, i)| i)),
        6 => format!("MATCH t: Task WHERE t.i = {a} KILL t"),
        7..=9 => {
            let to = foreign.map_or(format!("#t{b}"), |(kernel, i)| format!("#\"{kernel}/{i}\""));
            format!("LINK links(#t{a}, {to}) {{w = {n}}}")
        }
        10 => format!("UNLINK links(#t{a}, _)"),
        _ => format!("MATCH x: Task, links(x, _) AS e WHERE x.i = {a} SET e.w = {n}"),
    }
}

/// A version of one of its own tasks arrives from another kernel.
fn arrives(k: &Kernel, r: &mut Random, from: &str) -> String {
    let (i, n) = (ELSEWHERE + r.below(MOST_ELSEWHERE), r.below(10));
    let (key, id) = (KernelKey::of(from), format!("{from}/{i}"));
    let text = format!("{id} arrives with n = {n}");
    let written = k.write(NOW_MS, move |tx| {
        let old = match tx.find(&id)? {
            Some(ent) => tx.get(ent)?,
            None => None,
        };
        let (mut d, time) = match &old {
            Some(s) => {
                let e = s.entity()?;
                (e.to_draft(), Some(e.time))
            }
            None => (Draft::new(number("Task"), id), None),
        };
        d.set(number("i"), Value::Int(i as i64));
        d.set(number("n"), Value::Int(n as i64));
        d.stamp(key, NOW_MS, time);
        tx.put(d.encode().into(), key, old.as_ref())
    });
    written.expect("a disk in memory");
    text
}

/// One transaction, of one statement or of several. Some name what is gone or there already, and then nothing happens.
fn write(k: &Kernel, r: &mut Random, tasks: &mut u64, other: Option<&str>) -> String {
    if let Some(from) = other.filter(|_| r.below(4) == 0) {
        return arrives(k, r, from);
    }
    let text = match r.below(5) {
        0 => {
            let all: Vec<String> = (0..3).map(|_| statement(r, tasks, other)).collect();
            format!("BEGIN; {}; COMMIT", all.join("; "))
        }
        _ => statement(r, tasks, other),
    };
    if let Err(e) = k.execute(NOW_MS, &text, &Params::new()) {
        let why = e.to_string();
        assert!(why.contains("not found") || why.contains("already exists"), "{text}: {why}");
    }
    text
}

/// Random histories, of which up to `most` transactions come between two looks at the log.
fn begins_anew_alike(other: Option<&str>, most: u64) {
    let sink_writes = other == Some(THERE);
    let (mut entities, mut leaves, mut rebuilt) = (0, 0, 0);
    for seed in 0..SEEDS {
        let r = &mut Random(seed);
        // From saved after each acknowledgement to hardly ever.
        let mut f = Flow::new([1, 4, 20, 10_000][seed as usize % 4]);
        let mut tasks = 1;
        for step in 0..STEPS {
            let mut again = f.again();
            // What is not sent moves no position: it is read once more.
            let mut nothing = Sent::default();
            while next(&mut again, &f.kernel, &mut nothing).is_some() {}
            assert!(nothing.entities.is_empty(), "seed {seed}, before step {step}: {nothing:?}");
            assert!(nothing.leaves.is_empty() || sink_writes, "seed {seed}, before step {step}: {nothing:?}");
            f.same_members(&again, sink_writes, &format!("seed {seed}, before step {step}"));
            rebuilt += u64::from(saved(&f.kernel).covers < f.live.acked);
            let texts: Vec<String> = (0..=r.below(most)).map(|_| write(&f.kernel, r, &mut tasks, other)).collect();
            let (by_live, mut by_again) = (f.pump(), Sent::default());
            while next(&mut again, &f.kernel, &mut by_again).is_some() {}
            if sink_writes {
                // That it is not to have one more is told to it once too often.
                by_again.leaves.retain(|l| by_live.leaves.contains(l));
            }
            assert_eq!(by_live, by_again, "seed {seed}, step {step}: {texts:?}");
            (entities, leaves) = (entities + by_live.entities.len(), leaves + by_live.leaves.len());
            // A connection that ended: what was made of the log goes on.
            if r.below(10) == 0 {
                f.live = f.again();
                f.pump();
            }
        }
    }
    assert!(entities > 0 && leaves > 0 && rebuilt > 0, "{entities} entities, {leaves} leaves, {rebuilt} rebuilt");
}

#[test]
fn a_source_that_begins_anew_knows_and_sends_what_the_live_one_does() {
    begins_anew_alike(None, 1);
}

/// The feed leaves out what was superseded before it was read; the history that members are made of does not.
#[test]
fn also_when_it_reads_several_changes_at_once() {
    begins_anew_alike(None, 4);
}

/// What the sink introduced it has; it is sent only what is written here.
#[test]
fn also_when_the_sink_writes() {
    begins_anew_alike(Some(THERE), 1);
}

/// What a third kernel introduced is not passed on, and so brings no edges along.
#[test]
fn also_when_a_third_kernel_writes() {
    begins_anew_alike(Some("plant.third"), 1);
}
