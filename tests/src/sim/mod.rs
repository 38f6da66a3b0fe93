//! Deterministic simulation: several agents over a faulty network, faulty disks and wrong clocks, in simulated time. One
//! seed is one run. After the faults are over everything must arrive, and the named [`invariants`] hold throughout.
//!
//! The product is driven as `agent/net/src/hub.rs` drives it: [`mew_sync::Link`] gets events and gives effects, a kernel's
//! commits wake its links, and a watcher says what changed while anything is held.

pub mod agent;
pub mod invariants;
mod ledger;
mod life;
mod mutants;
mod net;
mod ops;
pub mod rng;
pub mod scenario;
mod world;

use invariants::Violation;
use scenario::Scenario;
use std::fmt;
use world::World;

/// What a run was made of, so that a test can see that it was not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub steps: u64,
    pub ops: u64,
    /// Statements that worked.
    pub writes: u64,
    pub crashes: u64,
    /// Versions that any kernel committed.
    pub versions: u64,
    pub applied: u64,
    /// Entities held when all was quiet.
    pub held: u64,
    /// Segments that compaction rewrote.
    pub rewritten: u64,
}

impl Stats {
    pub fn add(&mut self, o: Stats) {
        self.steps += o.steps;
        self.ops += o.ops;
        self.writes += o.writes;
        self.crashes += o.crashes;
        self.versions += o.versions;
        self.applied += o.applied;
        self.held += o.held;
        self.rewritten += o.rewritten;
    }
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub scenario: Scenario,
    pub violation: Violation,
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} violates {}: {}", self.seed, self.violation.name, self.violation.message)?;
        writeln!(f, "  {}: {}", self.violation.name, invariants::meaning(self.violation.name))?;
        writeln!(f, "  {:?}", self.scenario)?;
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "replay: MEW_SIM_SEEDS=1 MEW_SIM_FIRST={} cargo test -p mew-tests --test simulation", self.seed)
    }
}

/// Runs one seed. A failure is run again to record its trace.
pub fn run(seed: u64, scenario: Scenario) -> Result<Stats, Failure> {
    let mut world = World::new(seed, scenario.clone(), false);
    if rounds(&mut world).is_ok() {
        return Ok(world.stats);
    }
    let mut world = World::new(seed, scenario.clone(), true);
    let violation = match rounds(&mut world) {
        Err(v) => v,
        Ok(()) => invariants::violated(invariants::REPLAYS, "the second run of this seed did not fail"),
    };
    let trace = world.trace.unwrap_or_default().into();
    Err(Failure { seed, scenario, violation, trace })
}

fn rounds(w: &mut World) -> Result<(), Violation> {
    // Something is there before the first link is.
    for a in 0..w.agents.len() {
        w.open(a)?;
    }
    for _ in 0..w.rng.below(9) {
        w.write()?;
    }
    for a in 0..w.agents.len() {
        w.connect(a)?;
    }
    let ops = w.rng.between(20, 60);
    let first = w.rng.between(ops / 3, ops);
    round(w, first)?;
    if let Some(which) = w.scenario.wipe {
        w.wipe(which)?;
    }
    if first < ops || w.scenario.wipe.is_some() {
        round(w, ops - first)?;
    }
    Ok(())
}

/// Faults, then quiet, then the check.
fn round(w: &mut World, ops: u64) -> Result<(), Violation> {
    w.disturb(ops)?;
    w.heal()?;
    w.settle()?;
    w.check()
}
