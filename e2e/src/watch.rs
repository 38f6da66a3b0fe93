//! Everything that the Syncs of a cluster say of themselves while the suite runs, and whether it was true.

use crate::cluster::Cluster;
use anyhow::{Result, anyhow, ensure};
use mew_tests::watcher::{Event, Probe, Watcher};

pub struct Watch {
    pub cluster: Cluster,
    watcher: Watcher,
}

impl Watch {
    pub fn start(cluster: &Cluster) -> Self {
        Watch { cluster: cluster.clone(), watcher: Watcher::start(cluster.client()) }
    }

    /// The clock of events and probes.
    pub fn now_ms(&self) -> u64 {
        self.watcher.now_ms()
    }

    pub fn events(&self) -> Vec<Event> {
        self.watcher.events()
    }

    /// No status may have called itself ready while a change was older than maxLag.
    pub fn verdict(&self, probes: &[Probe]) -> Result<()> {
        self.watcher.verdict(probes).map_err(|lie| anyhow!("{}: {lie}", self.cluster.name))
    }

    /// These Syncs have been ready all the time since then.
    pub fn steady(&self, syncs: &[String], since_ms: u64) -> Result<()> {
        let events = self.events();
        let flap = events.iter().find(|e| e.at_ms > since_ms && syncs.contains(&e.sync) && !e.claims_ready);
        ensure!(flap.is_none(), "{}: it was not ready for a moment: {flap:?}", self.cluster.name);
        for s in syncs {
            ensure!(events.iter().any(|e| e.sync == *s), "{}: no status of {s} was seen", self.cluster.name);
        }
        Ok(())
    }
}
