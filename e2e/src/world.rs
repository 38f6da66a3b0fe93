//! The two clusters, and what the cases share.

use crate::cluster::Cluster;
use crate::install::{self, SYSTEM};
use crate::pair::{Dials, Pair};
use crate::prepare::Prepared;
use crate::steps::{say, step};
use crate::watch::Watch;
use anyhow::{Context, Result, anyhow};
use mew_tests::dirs::root;
use std::thread;

/// As kind has them.
pub const NAMES: [&str; 2] = ["mew-east", "mew-west"];

/// Where the pair is that most cases look at.
pub const FLIGHTS: &str = "flights";

/// How the case of that name goes.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    pub seconds: u64,
    /// The same faults in the same order.
    pub seed: u64,
}

pub struct World {
    pub east: Cluster,
    pub west: Cluster,
    pub prepared: Prepared,
    pub soak: Soak,
    watches: Vec<Watch>,
    /// What most cases look at; see [`World::flights`].
    flights: Option<Pair>,
}

/// Does the same at both clusters at once.
pub fn at_both<T: Send>(w: &World, f: impl Fn(&Cluster) -> Result<T> + Sync) -> Result<(T, T)> {
    thread::scope(|s| {
        let east = s.spawn(|| f(&w.east));
        let west = f(&w.west);
        let east = east.join().map_err(|_| anyhow!("the east panicked"))?;
        Ok((east.with_context(|| w.east.name)?, west.with_context(|| w.west.name)?))
    })
}

impl World {
    pub fn new(prepared: Prepared, soak: Soak) -> Self {
        let east = Cluster::new(NAMES[0], "east.example", &prepared);
        let west = Cluster::new(NAMES[1], "west.example", &prepared);
        World { east, west, prepared, soak, watches: Vec::new(), flights: None }
    }

    pub fn clusters(&self) -> [&Cluster; 2] {
        [&self.east, &self.west]
    }

    /// One after the other: at once they would quarrel about the engine's network, and take as long on two cores.
    pub fn start(&self) -> Result<()> {
        let config = root().join("e2e/kind.yaml");
        for c in self.clusters() {
            if c.exists()? {
                match step(&format!("take {}, which was kept", c.name), || c.reuse()) {
                    Ok(()) => continue,
                    Err(e) => say(&format!("{e:#}; making it anew")),
                }
                c.delete()?;
            }
            let made = step(&format!("create {}", c.name), || c.create(&config, self.prepared.node_image.as_deref()));
            if let Err(e) = made {
                let _ = c.export_logs(&self.prepared.logs.join(c.name).join("nodes"));
                return Err(e);
            }
        }
        step("load the images", || {
            let load = |c: &Cluster| {
                let p = &self.prepared;
                [&p.mew, &p.next, &p.older, &p.app].into_iter().try_for_each(|i| c.load(i))
            };
            at_both(self, load).map(drop)
        })
    }

    /// The charts in both clusters; mends what a failed case left. From then on everything that Syncs say is recorded.
    pub fn install(&mut self) -> Result<()> {
        let whole = |c: &Cluster| install::is_whole(c, &self.prepared.mew);
        if !self.watches.is_empty() && at_both(self, whole).is_ok_and(|(east, west)| east && west) {
            return Ok(());
        }
        step("install the charts", || {
            let put = |c: &Cluster| {
                if c.find("deployment", SYSTEM, install::OPERATOR)?.is_some() {
                    c.scale(SYSTEM, install::OPERATOR, install::REPLICAS)?;
                }
                install::charts(c, &self.prepared.mew)
            };
            at_both(self, put)
        })?;
        if self.watches.is_empty() {
            self.watches = vec![Watch::start(&self.east), Watch::start(&self.west)];
        }
        Ok(())
    }

    /// Two kernels with a Sync each way, whole: made if they are not there, and made anew if a case left them broken.
    pub fn flights(&mut self) -> Result<Pair> {
        self.install()?;
        if let Some(p) = self.flights.take() {
            match step("is all well", || p.is_whole()) {
                Ok(()) => {
                    self.flights = Some(p.clone());
                    return Ok(p);
                }
                Err(e) => say(&format!("not all is well, so it is made anew: {e:#}")),
            }
        }
        let p = Pair::start(self, FLIGHTS, Dials::East)?;
        self.flights = Some(p.clone());
        Ok(p)
    }

    /// For a case after which the two sides cannot be the same again: the next one gets others.
    pub fn forget_flights(&mut self) {
        self.flights = None;
    }

    pub fn east_said(&self) -> Result<&Watch> {
        self.watches.first().context("nobody watches yet")
    }

    pub fn west_said(&self) -> Result<&Watch> {
        self.watches.get(1).context("nobody watches yet")
    }

    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }

    pub fn stop_watching(&mut self) {
        self.watches.clear();
    }

    pub fn delete(&self) -> Result<()> {
        self.clusters().into_iter().try_for_each(Cluster::delete)
    }
}
