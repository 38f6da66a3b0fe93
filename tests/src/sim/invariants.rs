//! What must hold, by name. The same names stand in the documentation and in the product's comments.

use super::agent::{entity, everything, store_error};
use super::ledger::Flow;
use super::scenario::FlowSpec;
use super::world::World;
use mew_contract::Reason;
use mew_kernel::Kernel;
use mew_model::{EntityRef, KernelKey, name};
use mew_store::Stored;
use mew_sync::records;
use mew_wire as wire;
use std::collections::BTreeMap;

pub const CONVERGED: &str = "converged";
pub const NO_LOSS: &str = "no-loss";
pub const ABSENCE: &str = "absence";
pub const DOMINATES: &str = "dominates-implies-later";
pub const NO_ECHO: &str = "no-echo";
pub const APPLIED_ONCE: &str = "applied-once";
pub const POSITION: &str = "position-monotone";
pub const ACKED_IS_DURABLE: &str = "acked-is-durable";
pub const SOURCE_RESET: &str = "source-reset";
pub const SETTLES: &str = "settles";
pub const STORE_SOUND: &str = "store-sound";
pub const REPLAYS: &str = "replays";

/// Every invariant and what it says.
pub const ALL: [(&str, &str); 12] = [
    (
        CONVERGED,
        "what matches at the source is at the sink, and what was deleted or (with onUnmatch: Delete) left is not",
    ),
    (NO_LOSS, "what has not arrived is held at the sink, in its newest version and for a reason that still stands"),
    (ABSENCE, "what never matched is never mentioned and never at the sink"),
    (
        DOMINATES,
        "a version whose vector dominates another's is later in (time, kernel) order, or the same write with more knowledge",
    ),
    (NO_ECHO, "no kernel's own entity is written into it by a link"),
    (APPLIED_ONCE, "a sink applies no more changes than the source committed"),
    (POSITION, "a sink's position never goes back under one revision, incarnation and reset"),
    (ACKED_IS_DURABLE, "what a sink acknowledges is in its durable position"),
    (SOURCE_RESET, "of a lost source nothing is applied until a reset is requested, and the flow says SourceReset"),
    (SETTLES, "with all faults over, every flow is live and has nothing pending before long"),
    (STORE_SOUND, "a store breaks only with its disk, and opens again after any crash"),
    (REPLAYS, "the same seed gives the same run"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// One of [`ALL`].
    pub name: &'static str,
    pub message: String,
}

pub fn violated(name: &'static str, message: impl Into<String>) -> Violation {
    Violation { name, message: message.into() }
}

pub fn meaning(name: &str) -> &'static str {
    ALL.iter().find(|(n, _)| *n == name).map_or("", |(_, m)| *m)
}

type Entities = BTreeMap<String, Stored>;

fn living<'a>(all: &'a Entities, id: &str) -> Option<&'a Stored> {
    all.get(id).filter(|s| s.entity().is_ok_and(|e| !e.deleted))
}

/// Both ends of one flow when all is quiet.
struct Ends<'w> {
    world: &'w World,
    flow: &'w Flow,
    /// Key of the source.
    key: KernelKey,
    there: Entities,
    here: Entities,
    held: BTreeMap<String, wire::Held>,
    state: wire::SinkState,
    /// With initial: None, what is older is not sent.
    start: u64,
}

impl World {
    /// Everything that can be judged when all is quiet.
    pub fn check(&mut self) -> Result<(), Violation> {
        let (mut applied, mut held) = (0, 0);
        let world: &World = self;
        for flow in &world.flows {
            let ends = Ends::new(world, flow)?;
            ends.converged()?;
            ends.nothing_else()?;
            ends.absence()?;
            ends.applied_once()?;
            applied += ends.applied();
            held += ends.held.len() as u64;
        }
        (self.stats.applied, self.stats.held) = (applied, self.stats.held + held);
        Ok(())
    }

    /// **source-reset**: the source's data directory was lost a moment ago. Leaves the flow with a reset requested.
    pub fn source_reset(&mut self) -> Result<(), Violation> {
        let FlowSpec { source, sink, declarer, ty, .. } = self.flows[0].spec;
        let before = (self.agents[sink].kernel().map(Kernel::head), self.flows[0].floor.clone());
        for _ in 0..6 {
            self.run_until(self.now + 400)?;
            self.write_as_source(source, ty)?;
        }
        self.run_until(self.now + 15_000)?;
        self.observe(sink)?;
        let after = (self.agents[sink].kernel().map(Kernel::head), self.flows[0].floor.clone());
        if before != after {
            return Err(violated(SOURCE_RESET, format!("the sink moved from {before:?} to {after:?}")));
        }
        let says = self.reports(declarer).into_iter().find_map(|f| f.problem).map(|p| p.reason);
        if says != Some(Reason::SourceReset) {
            return Err(violated(SOURCE_RESET, format!("the flow says {says:?}")));
        }
        self.say(|| "a reset is requested".to_owned());
        self.flows[0].spec.reset = Some("again".to_owned());
        self.connect(declarer)
    }
}

impl<'w> Ends<'w> {
    fn new(world: &'w World, flow: &'w Flow) -> Result<Self, Violation> {
        let agent = |a: usize| world.agents[a].kernel().ok_or_else(|| violated(SETTLES, format!("k{a} is down")));
        let (source, sink) = (agent(flow.spec.source)?, agent(flow.spec.sink)?);
        let mut held = BTreeMap::new();
        for (k, v) in sink.view().facts(&records::held_prefix(&flow.key)).map_err(store_error)? {
            if let (Some((_, id)), Some(h)) = (records::parse_held_key(&k), records::read::<wire::Held>(Some(v))) {
                held.insert(id, h);
            }
        }
        let state = flow.state(sink).unwrap_or_default();
        Ok(Ends {
            world,
            flow,
            key: world.agents[flow.spec.source].key,
            there: everything(source)?,
            here: everything(sink)?,
            held,
            start: state.position.as_ref().map_or(0, |p| p.start),
            state,
        })
    }

    fn says(&self, name: &'static str, what: impl AsRef<str>) -> Violation {
        violated(name, format!("{}: {}", self.flow.spec.name, what.as_ref()))
    }

    /// A node that the flow sends.
    fn wanted(&self, s: &Stored) -> bool {
        s.seq > self.start && s.entity().is_ok_and(|e| self.flow.matches(&e))
    }

    /// **converged**, the first half: what should be at the sink, is.
    fn converged(&self) -> Result<(), Violation> {
        for s in self.there.values() {
            let e = entity(s)?;
            let edge = || self.flow.edges.contains(&e.ty) && !e.deleted;
            if self.wanted(s) || edge() && e.ends().any(|n| self.there.get(n).is_some_and(|x| self.wanted(x))) {
                self.arrived(s, &e)?;
            }
        }
        Ok(())
    }

    /// **no-loss**: it is there, or held for a reason, or (an edge) gone with an end that is gone.
    fn arrived(&self, s: &Stored, e: &EntityRef<'_>) -> Result<(), Violation> {
        let id = e.sync_id;
        if let Some(here) = living(&self.here, id)
            && (here.bytes == s.bytes || entity(here)?.same_content(e))
        {
            return Ok(());
        }
        if self.world.touched.contains(id) {
            return Ok(());
        }
        if let Some(h) = self.held.get(id) {
            if h.entity != s.bytes {
                return Err(self.says(NO_LOSS, format!("{id} is held in an old version")));
            }
            let stands = self.stands(h, e);
            let why = || self.says(NO_LOSS, format!("{id} is held ({}) and nothing prevents it any more", h.reason));
            return if stands { Ok(()) } else { Err(why()) };
        }
        let taken = self.here.contains_key(id) && living(&self.here, id).is_none();
        if taken && e.ends().any(|n| living(&self.here, n).is_none()) {
            return Ok(());
        }
        let state = match self.here.get(id).map(entity).transpose()? {
            None => "not at the sink".to_owned(),
            Some(x) if x.deleted => format!("dead at the sink ({:?})", x.vector()),
            Some(x) => format!("another version at the sink ({:?})", x.vector()),
        };
        Err(self.says(CONVERGED, format!("{id} ({:?}) at seq {} is {state}", e.vector(), s.seq)))
    }

    /// Whether what a held entity waits for is still in its way.
    fn stands(&self, h: &wire::Held, e: &EntityRef<'_>) -> bool {
        let code = name::number("code");
        let holds_code = |s: &Stored| {
            s.entity()
                .is_ok_and(|x| !x.deleted && x.ty == e.ty && x.sync_id != e.sync_id && x.attr(code) == e.attr(code))
        };
        match h.reason.as_str() {
            "MissingEnd" => e.ends().any(|n| living(&self.here, n).is_none()),
            "ConstraintViolation" => !e.attr(code).is_null() && self.here.values().any(holds_code),
            _ => false,
        }
    }

    /// **converged**, the other half: what should not be at the sink any more, is not.
    fn nothing_else(&self) -> Result<(), Violation> {
        let (f, scenario) = (self.flow, &self.world.scenario);
        for (id, s) in self.here.iter().filter(|(id, s)| s.origin == self.key && !self.world.touched.contains(*id)) {
            let e = entity(s)?;
            if e.deleted {
                continue;
            }
            let Some(there) = self.there.get(id) else {
                // It is of a data directory that was lost.
                if self.world.wiped {
                    continue;
                }
                return Err(self.says(ABSENCE, format!("{id} lives at the sink and the source never had it")));
            };
            let t = entity(there)?;
            // With onUnmatch: Keep the sink keeps what left, also when it dies later.
            let kept = e.ty == f.node && !scenario.delete_on_unmatch && f.left.contains(id);
            if t.deleted && scenario.delete && !kept {
                return Err(self.says(CONVERGED, format!("{id} is dead at the source and lives at the sink")));
            }
            // With onDelete: Keep the sink keeps what died, also when it lives again outside the pattern.
            let released = !scenario.delete && f.died.contains(id);
            if e.ty == f.node && !t.deleted && !f.matches(&t) && scenario.delete_on_unmatch && !released {
                return Err(self.says(CONVERGED, format!("{id} left the pattern and lives at the sink")));
            }
        }
        Ok(())
    }

    /// **absence**, at the sink.
    fn absence(&self) -> Result<(), Violation> {
        for (id, s) in self.here.iter().filter(|(_, s)| s.origin == self.key) {
            let e = entity(s)?;
            if !self.flow.mentionable(&e) {
                return Err(self.says(ABSENCE, format!("{id} is at the sink and never matched")));
            }
            let sent = |n: &(u32, u64)| n.1 > self.start || self.world.wiped;
            if e.ty == self.flow.node && !self.flow.matched.get(id).is_some_and(|m| m.iter().any(sent)) {
                return Err(self.says(ABSENCE, format!("{id} is at the sink and is older than the flow's beginning")));
            }
        }
        for (id, h) in &self.held {
            let known = EntityRef::read(&h.entity).is_ok_and(|e| self.flow.mentionable(&e));
            if !known {
                return Err(self.says(ABSENCE, format!("{id} is held at the sink and never matched")));
            }
        }
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.state.counts.as_ref().map_or(0, |c| c.applied)
    }

    /// **applied-once**, by the sink's count and by what the flow reports.
    fn applied_once(&self) -> Result<(), Violation> {
        let scenario = &self.world.scenario;
        let most = self.flow.most_applied(scenario.edges && scenario.delete_on_unmatch);
        let reports = self.world.reports(self.flow.spec.declarer);
        let reported = reports.iter().find(|r| r.name == self.flow.spec.name).map_or(0, |r| r.applied);
        let applied = self.applied().max(reported);
        if applied > most {
            return Err(self.says(APPLIED_ONCE, format!("{applied} changes applied, at most {most} were made")));
        }
        Ok(())
    }
}
