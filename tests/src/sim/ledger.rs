//! What the simulation itself knows: every version that any kernel committed, and for each flow what ever matched. The
//! invariants are judged against this, not against what the product remembers.

use super::agent::entity;
use super::invariants::{ABSENCE, ACKED_IS_DURABLE, DOMINATES, NO_ECHO, POSITION, Violation, violated};
use super::scenario::{FlowSpec, Scenario};
use mew_kernel::Kernel;
use mew_model::{Causality, EntityRef, KernelKey, Number, Value, Vector, Version, name};
use mew_store::Stored;
use mew_sync::records;
use mew_wire as wire;
use std::collections::{BTreeMap, BTreeSet};

/// Every version of every entity, wherever it was seen.
#[derive(Default)]
pub struct Versions(BTreeMap<String, Vec<(Version, Vector)>>);

impl Versions {
    /// **dominates-implies-later**, for this version and each other one of the same entity.
    pub fn note(&mut self, e: &EntityRef<'_>) -> Result<(), Violation> {
        let (version, vector) = (e.version(), e.vector());
        let all = self.0.entry(e.sync_id.to_owned()).or_default();
        for (other, seen) in all.iter() {
            let wrong = match vector.compare(seen) {
                Causality::After => version < *other,
                Causality::Before => version > *other,
                Causality::Equal | Causality::Concurrent => false,
            };
            if wrong {
                let message = format!("{}: {version:?} {vector:?} against {other:?} {seen:?}", e.sync_id);
                return Err(violated(DOMINATES, message));
            }
        }
        if !all.iter().any(|(v, s)| *v == version && *s == vector) {
            all.push((version, vector));
        }
        Ok(())
    }
}

/// How far a sink has said that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    incarnation: String,
    revision: String,
    reset: String,
    pub seq: u64,
}

pub struct Flow {
    pub spec: FlowSpec,
    /// The flow in the sink's store.
    pub key: String,
    pub node: Number,
    pub edges: Vec<Number>,
    filtered: bool,
    shared: Number,
    /// Incarnation and seq of each matching version of a node.
    pub matched: BTreeMap<String, Vec<(u32, u64)>>,
    /// Nodes that had a living version that does not match.
    pub left: BTreeSet<String>,
    /// Nodes that were dead at some time.
    pub died: BTreeSet<String>,
    /// Ends that an edge has had.
    pub ends: BTreeMap<String, BTreeSet<String>>,
    node_versions: BTreeMap<String, u64>,
    edge_versions: u64,
    pub floor: Option<Floor>,
}

impl Flow {
    pub fn new(spec: FlowSpec, scenario: &Scenario, ids: &[String]) -> Self {
        Flow {
            key: records::flow_key(&ids[spec.source], &ids[spec.declarer], &spec.name),
            node: name::number(spec.ty),
            edges: scenario.edge_types(spec.ty).iter().map(|t| name::number(t)).collect(),
            filtered: scenario.filtered,
            shared: name::number("shared"),
            matched: BTreeMap::new(),
            left: BTreeSet::new(),
            died: BTreeSet::new(),
            ends: BTreeMap::new(),
            node_versions: BTreeMap::new(),
            edge_versions: 0,
            floor: None,
            spec,
        }
    }

    /// Whether the pattern takes this version; not the product's own evaluation.
    pub fn matches(&self, e: &EntityRef<'_>) -> bool {
        !e.deleted && e.ty == self.node && (!self.filtered || e.attr(self.shared) == Value::Bool(true))
    }

    /// A version that the source committed. **no-echo**: it is the source's own.
    pub fn committed(&mut self, key: KernelKey, incarnation: u32, s: &Stored) -> Result<(), Violation> {
        let e = entity(s)?;
        let is_edge = self.edges.contains(&e.ty);
        if e.ty != self.node && !is_edge {
            return Ok(());
        }
        let id = e.sync_id.to_owned();
        if s.origin != KernelKey(0) || e.kernel != key {
            let message = format!("{id} at seq {} of {}'s source was written by {:?}", s.seq, self.spec.name, e.kernel);
            return Err(violated(NO_ECHO, message));
        }
        if is_edge {
            self.edge_versions += 1;
            self.ends.entry(id).or_default().extend(e.ends().map(str::to_owned));
            return Ok(());
        }
        *self.node_versions.entry(id.clone()).or_default() += 1;
        if self.matches(&e) {
            self.matched.entry(id).or_default().push((incarnation, s.seq));
        } else if e.deleted {
            self.died.insert(id);
        } else {
            self.left.insert(id);
        }
        Ok(())
    }

    /// Whether the sink may know of the entity: it matched once, or it is an edge of one that did.
    pub fn mentionable(&self, e: &EntityRef<'_>) -> bool {
        if e.ty == self.node {
            return self.matched.contains_key(e.sync_id);
        }
        let ends = self.ends.get(e.sync_id).filter(|_| self.edges.contains(&e.ty));
        ends.is_some_and(|ends| ends.iter().any(|n| self.matched.contains_key(n)))
    }

    /// **absence**, on the wire already.
    pub fn sent(&self, push: &wire::SyncPush) -> Result<(), Violation> {
        let told = |what: &str| violated(ABSENCE, format!("{} mentions {what}, which never matched", self.spec.name));
        for b in &push.entities {
            let e =
                EntityRef::read(b).map_err(|e| violated(ABSENCE, format!("a batch holds what is no entity: {e}")))?;
            if !self.mentionable(&e) {
                return Err(told(e.sync_id));
            }
        }
        match push.leaves.iter().find(|l| !self.matched.contains_key(&l.sync_id)) {
            Some(l) => Err(told(&l.sync_id)),
            None => Ok(()),
        }
    }

    /// Changes that a sink can have applied: each version once, and an edge again when an end comes back.
    pub fn most_applied(&self, comes_back: bool) -> u64 {
        let nodes: u64 = self.node_versions.values().sum();
        let count = |n: &String| self.node_versions.get(n).copied().unwrap_or(0);
        let again: u64 = self.ends.values().flatten().map(count).sum();
        nodes + self.edge_versions + if comes_back { again } else { 0 }
    }

    pub fn state(&self, sink: &Kernel) -> Option<wire::SinkState> {
        records::read(sink.view().fact(&records::sink_key(&self.key)).ok().flatten())
    }

    /// **position-monotone**, against all that the sink has said before.
    pub fn observe(&mut self, sink: &Kernel) -> Result<(), Violation> {
        let state = self.state(sink).unwrap_or_default();
        let reset = state.reset;
        let now = state.position.map(|p| Floor { incarnation: p.incarnation, revision: p.revision, reset, seq: p.seq });
        let back = match (&self.floor, &now) {
            (Some(_), None) => true,
            (Some(f), Some(n)) => {
                (&f.incarnation, &f.revision, &f.reset) == (&n.incarnation, &n.revision, &n.reset) && n.seq < f.seq
            }
            (None, _) => false,
        };
        if back {
            let message = format!("{} was at {:?} and is at {now:?}", self.spec.name, self.floor);
            return Err(violated(POSITION, message));
        }
        self.floor = now;
        Ok(())
    }

    /// **acked-is-durable**.
    pub fn acked(&self, sink: &Kernel, upto: u64) -> Result<(), Violation> {
        let at = self.state(sink).and_then(|s| s.position).map_or(0, |p| p.seq);
        if at < upto {
            let message = format!("{} acknowledges {upto} and its position is {at}", self.spec.name);
            return Err(violated(ACKED_IS_DURABLE, message));
        }
        Ok(())
    }
}
