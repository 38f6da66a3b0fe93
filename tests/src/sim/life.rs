//! Agents start, stop and lose what was not durable.

use super::invariants::Violation;
use super::ledger::Flow;
use super::scenario::Wipe;
use super::world::{Happening, World};
use mew_contract::SyncItem;
use mew_store::Fault;
use mew_sync::{Event, Link, Local};
use std::collections::BTreeSet;

impl World {
    pub fn peers(&self, a: usize) -> Vec<usize> {
        let other = |f: &Flow| match (f.spec.source == a, f.spec.sink == a) {
            (true, _) => Some(f.spec.sink),
            (_, true) => Some(f.spec.source),
            _ => None,
        };
        self.flows.iter().filter_map(other).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Opens the kernel without links.
    pub fn open(&mut self, a: usize) -> Result<(), Violation> {
        if self.agents[a].up.is_none() {
            self.agents[a].open()?;
            self.after(a)?;
            self.observe(a)?;
        }
        Ok(())
    }

    /// Starts an agent that is down.
    pub fn start(&mut self, a: usize) -> Result<(), Violation> {
        if self.agents[a].up.is_some() {
            return Ok(());
        }
        self.say(|| format!("k{a} starts"));
        self.open(a)?;
        self.connect(a)
    }

    /// Makes the links of an open kernel, or configures them again.
    pub fn connect(&mut self, a: usize) -> Result<(), Violation> {
        for peer in self.peers(a) {
            let remote = self.scenario.remote(a, peer, &self.agents[peer].id);
            let mine = |f: &&Flow| f.spec.declarer == a && (f.spec.source == peer || f.spec.sink == peer);
            let syncs: Vec<SyncItem> = self.flows.iter().filter(mine).map(|f| self.scenario.sync(&f.spec)).collect();
            let Some(run) = &mut self.agents[a].up else { return Ok(()) };
            let save_every = self.scenario.save_every;
            let local = Local { agent_version: "sim".to_owned(), save_every, fingerprints: |_| Vec::new() };
            run.links.entry(peer).or_insert_with(|| Link::new(local, remote.clone(), &run.kernel));
            self.handle(a, peer, Event::Configure(Box::new(remote), syncs))?;
        }
        Ok(())
    }

    /// Power loss, now; the agent comes back later.
    pub fn crash(&mut self, a: usize, sent_arrives: bool) {
        self.say(|| format!("k{a} crashes"));
        self.stats.crashes += 1;
        let torn = match self.rng.below(4) {
            0 => 0,
            1 => self.rng.below(64),
            2 => self.rng.below(600),
            _ => 1 << 20,
        };
        self.agents[a].crash(torn as usize);
        if self.rng.chance(30) {
            self.agents[a].set_clock(&mut self.rng);
        }
        self.hang_up(a, sent_arrives);
        let at = self.now + self.rng.between(100, if self.calm { 500 } else { 4_000 });
        self.at(at, Happening::Start(a));
    }

    /// Ends all faults and starts who is down.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.say(|| "the faults are over".to_owned());
        self.calm = true;
        self.partitions.clear();
        for a in 0..self.agents.len() {
            self.agents[a].disk.set_fault(Fault::default());
            self.start(a)?;
        }
        Ok(())
    }

    /// Loses a data directory. A lost source must not be taken for the old one.
    pub fn wipe(&mut self, which: Wipe) -> Result<(), Violation> {
        let (source, sink) = (self.flows[0].spec.source, self.flows[0].spec.sink);
        let a = if which == Wipe::Source { source } else { sink };
        self.say(|| format!("the data directory of k{a} is lost"));
        self.hang_up(a, true);
        self.agents[a].wipe();
        if which == Wipe::Sink {
            self.flows[0].floor = None;
            self.touched.clear();
            return self.start(a);
        }
        self.wiped = true;
        self.start(a)?;
        self.source_reset()
    }
}
