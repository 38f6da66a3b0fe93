//! What differs from seed to seed: who syncs what to whom and how, and which planted bug there is, if any.

use super::rng::Rng;
use mew_contract::samples::{remote_item, rules, sync_item};
use mew_contract::snapshot::{Direction, Edges, Endpoint, Initial, Retry};
use mew_contract::{RemoteItem, SyncItem, TypeRules};
use mew_lang::{parse_ontology, render};
use mew_model::Ontology;
use std::sync::{Arc, OnceLock};

/// `code` clashes between kernels, `owns` has an end that no pattern matches.
const ONTOLOGY: &str = "
node Task { name: String? shared: Bool? code: String? [unique] }
node Note { name: String? shared: Bool? }
node Person { name: String? }
edge links(a: Task, b: Task) { weight: Int? }
edge owns(p: Person, t: Task)
edge cites(a: Note, b: Note) { weight: Int? }
";

pub fn ontology() -> Arc<Ontology> {
    static PARSED: OnceLock<Arc<Ontology>> = OnceLock::new();
    let parse = || parse_ontology(ONTOLOGY).unwrap_or_else(|d| panic!("{}", render("ontology", ONTOLOGY, &d, false)));
    PARSED.get_or_init(|| Arc::new(parse())).clone()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Tasks from kernel 0 to kernel 1.
    OneWay,
    /// Tasks from 0 to 1, Notes from 1 to 0.
    Both,
    /// Tasks from so many kernels to kernel 0.
    Gather(usize),
    /// Tasks from kernel 0 to so many.
    Spread(usize),
}

/// Whose data directory is lost once everything has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wipe {
    Source,
    Sink,
}

/// A misbehaviour of network, disk or agent that looks from outside exactly as a bug of the product would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A batch is acknowledged and the sink's disk then forgets it.
    ForgedAck,
    /// A batch is lost and later ones arrive.
    LostBatch,
    /// An entity is missing from a batch whose checksums are right.
    LostEntity,
    /// The source is told that the sink has everything.
    ForgedPosition,
    /// Nobody says that an entity left the pattern.
    LostLeaves,
    /// Nobody says that an entity was deleted.
    LostTombstones,
    /// The source applies its own entity when it is acknowledged.
    Echo,
    /// A write includes the version that it replaces and has an earlier time.
    OldClock,
    /// Compaction drops history that flows still need.
    CompactedTooFar,
}

impl Mutant {
    pub const ALL: [Mutant; 9] = [
        Mutant::ForgedAck,
        Mutant::LostBatch,
        Mutant::LostEntity,
        Mutant::ForgedPosition,
        Mutant::LostLeaves,
        Mutant::LostTombstones,
        Mutant::Echo,
        Mutant::OldClock,
        Mutant::CompactedTooFar,
    ];
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub topology: Topology,
    /// The first flow is declared by its sink (pull) instead of by its source (push).
    pub pulls: bool,
    /// Of two kernels, the one with the lower number dials.
    pub lower_dials: bool,
    /// `WHERE x.shared = true`.
    pub filtered: bool,
    /// edges: Incident.
    pub edges: bool,
    /// initial: Full.
    pub full: bool,
    /// Deletes are passed on.
    pub delete: bool,
    /// onUnmatch: Delete.
    pub delete_on_unmatch: bool,
    /// The rules let the type Person pass.
    pub people: bool,
    /// The sink also changes entities that came from the source.
    pub sink_writes: bool,
    /// Sources save what sinks have this often.
    pub save_every: u64,
    pub wipe: Option<Wipe>,
    pub mutant: Option<Mutant>,
}

#[derive(Clone, Debug)]
pub struct FlowSpec {
    pub name: String,
    pub source: usize,
    pub sink: usize,
    pub declarer: usize,
    pub ty: &'static str,
    pub reset: Option<String>,
}

impl Scenario {
    /// The scenario that belongs to a seed.
    pub fn of(seed: u64) -> Self {
        let mut r = Rng::new(seed ^ 0x5ce7_a810);
        let topology = match r.below(10) {
            0..=4 => Topology::OneWay,
            5 | 6 => Topology::Both,
            7 | 8 => Topology::Gather(r.between(2, 4) as usize),
            _ => Topology::Spread(r.between(2, 4) as usize),
        };
        let filtered = r.chance(75);
        let one_way = topology == Topology::OneWay;
        let sink_writes = one_way && r.chance(20);
        let wipes = one_way && !sink_writes && r.chance(30);
        let wiped = if r.chance(60) { Wipe::Source } else { Wipe::Sink };
        Scenario {
            topology,
            pulls: r.chance(40),
            lower_dials: r.chance(50),
            filtered,
            edges: r.chance(60),
            full: r.chance(80),
            delete: r.chance(80),
            delete_on_unmatch: filtered && r.chance(50),
            people: r.chance(50),
            sink_writes,
            save_every: r.between(1, 15),
            wipe: wipes.then_some(wiped),
            mutant: None,
        }
    }

    /// The scenario of a seed, made so that the bug can show.
    pub fn planted(seed: u64, mutant: Mutant) -> Self {
        let mut s = Scenario { sink_writes: false, wipe: None, full: true, mutant: Some(mutant), ..Scenario::of(seed) };
        match mutant {
            Mutant::LostLeaves => (s.filtered, s.delete_on_unmatch, s.edges) = (true, true, false),
            Mutant::CompactedTooFar => {
                (s.filtered, s.delete_on_unmatch, s.delete) = (true, true, true);
                (s.topology, s.save_every) = (Topology::OneWay, 1_000);
            }
            Mutant::LostTombstones => (s.delete, s.delete_on_unmatch, s.edges) = (true, false, false),
            Mutant::Echo | Mutant::OldClock => s.topology = Topology::OneWay,
            _ => {}
        }
        s
    }

    pub fn agents(&self) -> usize {
        match self.topology {
            Topology::OneWay | Topology::Both => 2,
            Topology::Gather(n) | Topology::Spread(n) => n + 1,
        }
    }

    pub fn flows(&self) -> Vec<FlowSpec> {
        let flow = |n: usize, source: usize, sink: usize, pulls: bool, ty: &'static str| FlowSpec {
            name: format!("sim/f{n}"),
            source,
            sink,
            declarer: if pulls { sink } else { source },
            ty,
            reset: None,
        };
        match self.topology {
            Topology::OneWay => vec![flow(0, 0, 1, self.pulls, "Task")],
            Topology::Both => vec![flow(0, 0, 1, self.pulls, "Task"), flow(1, 1, 0, self.lower_dials, "Note")],
            Topology::Gather(n) => (1..=n).map(|i| flow(i, i, 0, self.pulls, "Task")).collect(),
            Topology::Spread(n) => (1..=n).map(|i| flow(i, 0, i, self.pulls, "Task")).collect(),
        }
    }

    /// Edge types that come along with the nodes of a type: what the pattern's edges allow, less what the rules do not.
    pub fn edge_types(&self, ty: &str) -> &'static [&'static str] {
        match ty {
            _ if !self.edges => &[],
            "Task" if self.people => &["links", "owns"],
            "Task" => &["links"],
            _ => &["cites"],
        }
    }

    pub fn remote(&self, me: usize, peer: usize, peer_kernel_id: &str) -> RemoteItem {
        let dials = (me < peer) == self.lower_dials;
        let deny = if self.people { Vec::new() } else { vec!["Person".to_owned()] };
        let rules = TypeRules { deny, ..rules(&["*"]) };
        RemoteItem {
            name: remote_name(peer),
            peer_kernel_id: peer_kernel_id.to_owned(),
            peer_trust_domain: "sim.example".to_owned(),
            endpoints: vec![Endpoint { host: format!("k{peer}"), port: 9001, server_name: None }],
            dial: dials,
            accept: !dials,
            retry: Retry { initial_ms: 200, max_ms: 2_000, multiplier: 2, jitter_percent: 20 },
            export: rules.clone(),
            import: rules,
            ..remote_item(&["*"])
        }
    }

    pub fn sync(&self, f: &FlowSpec) -> SyncItem {
        let pushes = f.declarer == f.source;
        let filter = if self.filtered { " WHERE x.shared = true" } else { "" };
        SyncItem {
            name: f.name.clone(),
            remote: remote_name(if pushes { f.sink } else { f.source }),
            direction: if pushes { Direction::Push } else { Direction::Pull },
            pattern: format!("x: {}{filter}", f.ty),
            initial: if self.full { Initial::Full } else { Initial::None },
            edges: if self.edges { Edges::Incident } else { Edges::None },
            delete_at_sink: self.delete,
            delete_on_unmatch: self.delete_on_unmatch,
            reset: f.reset.clone(),
            ..sync_item()
        }
    }
}

fn remote_name(peer: usize) -> String {
    format!("sim/k{peer}")
}
