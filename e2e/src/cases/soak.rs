//! Faults one after the other while both sides write all the time. Applications write at a steady rate and are compared in
//! the end; probes follow single changes and say what statuses are judged by.

use super::{Case, mending};
use crate::breaks;
use crate::cluster::Cluster;
use crate::faults::{At, Fault, Faults, Planned};
use crate::install;
use crate::load::{self, Load};
use crate::pair::{OUT, Pair, Written};
use crate::side::Side;
use crate::steps::say;
use crate::stop;
use crate::wait::{PATIENCE, until};
use crate::watch::Watch;
use crate::world::World;
use anyhow::{Context, Result, anyhow, ensure};
use mew_tests::watcher::{GRACE_MS, Probe, SILENCE_MS};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "soak",
    core: false,
    proves: "ten minutes of random faults under load: both sides are equal, and no status said ready while data stood still",
    run,
};

/// Four writes a second: thousands to compare, and the machine has its hands free for the faults.
const EVERY_MS: u32 = 250;
/// Between two looks at a change that is on its way, and between two such changes: each starts a kubectl.
const PACE: Duration = Duration::from_secs(1);
/// Between two looks at whether a time is over.
const LOOK: Duration = Duration::from_millis(250);

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    say(&format!("{} s; again with --only soak --soak {} --seed {}", w.soak.seconds, w.soak.seconds, w.soak.seed));
    Load::Airports.start(&p.east, EVERY_MS)?;
    Load::Inspections.start(&p.west, EVERY_MS)?;
    let (probes, acknowledged) = mending(
        || {
            p.is_whole()?;
            let before = (load::acknowledged(&p.east)?, load::acknowledged(&p.west)?);
            let probes = faults_under_probes(w, &p)?;
            Ok((probes, (load::goes_on(&p.east, before.0)?, load::goes_on(&p.west, before.1)?)))
        },
        || p.sides().into_iter().try_for_each(load::stop),
    )?;
    Load::Airports.all_arrived_once(&p.east, &p.west, acknowledged.0)?;
    Load::Inspections.all_arrived_once(&p.west, &p.east, acknowledged.1)?;
    p.same()?;
    p.all_ready()?;
    say(&format!("{} and {} writes, {} and {} probes", acknowledged.0, acknowledged.1, probes.0.len(), probes.1.len()));
    w.east_said()?.verdict(&probes.0)?;
    w.west_said()?.verdict(&probes.1)
}

/// By how much statuses may be behind the facts now, for Syncs of the east and of the west.
struct Grace([AtomicU64; 2]);

impl Grace {
    fn of(&self, at: At) -> &AtomicU64 {
        &self.0[at as usize]
    }
}

/// The probes of the east, and those of the west.
fn faults_under_probes(w: &World, p: &Pair) -> Result<(Vec<Probe>, Vec<Probe>)> {
    let (east, west) = (w.east_said()?, w.west_said()?);
    let over = AtomicBool::new(false);
    let grace = Grace([AtomicU64::new(GRACE_MS), AtomicU64::new(GRACE_MS)]);
    thread::scope(|s| {
        let (over, grace) = (&over, &grace);
        let prober = move |at: At| {
            let watch = if at == At::East { east } else { west };
            Prober { p, at, watch, grace: grace.of(at), over }
        };
        let from_east = s.spawn(move || prober(At::East).probes());
        let from_west = s.spawn(move || prober(At::West).probes());
        let survived = survives(w, p, grace);
        over.store(true, Ordering::SeqCst);
        let panicked = |_| anyhow!("a prober panicked");
        let probes = (from_east.join().map_err(panicked)?, from_west.join().map_err(panicked)?);
        survived.map(|()| probes)
    })
}

// --------------------------------------------------------------------- probes

struct Prober<'a> {
    p: &'a Pair,
    at: At,
    watch: &'a Watch,
    grace: &'a AtomicU64,
    over: &'a AtomicBool,
}

impl Prober<'_> {
    fn probes(&self) -> Vec<Probe> {
        let mut all = Vec::new();
        while !self.over.load(Ordering::SeqCst) {
            let written = match self.at {
                At::East => self.p.write_east(),
                At::West => self.p.write_west(),
            };
            // Without its kernel nobody writes.
            if let Ok(written) = written {
                all.push(self.follow(&written.seen_by(self.watch)));
            }
            thread::sleep(PACE);
        }
        all
    }

    /// Until it has arrived, or until the end: then the comparison of both sides finds out. What counts is when it was seen
    /// missing last; how long after that it arrived is not known, as a sink cannot be asked at all times.
    fn follow(&self, written: &Written) -> Probe {
        let sink = match self.at {
            At::East => &self.p.west,
            At::West => &self.p.east,
        };
        let (mut missing_ms, mut grace_ms) = (written.at_ms(), 0);
        loop {
            let asked_ms = self.watch.now_ms();
            grace_ms = self.grace.load(Ordering::SeqCst).max(grace_ms);
            match written.is_at(sink) {
                Ok(true) => break,
                Ok(false) => missing_ms = asked_ms,
                Err(_) => {}
            }
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            thread::sleep(PACE);
        }
        written.was_missing(missing_ms, grace_ms)
    }
}

// --------------------------------------------------------------------- faults

fn survives(w: &World, p: &Pair, grace: &Grace) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(w.soak.seconds);
    let mut n = 0;
    for planned in Faults::of(w.soak.seed) {
        rest(planned.calm)?;
        if Instant::now() >= end {
            break;
        }
        n += 1;
        befalls(w, p, grace, &planned).with_context(|| format!("fault {n}, {}", planned.fault))?;
    }
    ensure!(n > 0, "{} s are too few for a single fault", w.soak.seconds);
    say(&format!("{n} faults"));
    Ok(())
}

fn befalls(w: &World, p: &Pair, grace: &Grace, planned: &Planned) -> Result<()> {
    let Planned { fault, lasts, .. } = *planned;
    say(&format!("{fault}, for {} s", lasts.as_secs()));
    if let Some(at) = fault.silences() {
        grace.of(at).store(SILENCE_MS, Ordering::SeqCst);
    }
    let began = Instant::now();
    mending(
        || {
            begins(w, p, fault)?;
            rest(lasts.saturating_sub(began.elapsed()))
        },
        || ends(w, p, fault),
    )?;
    let mended = Instant::now();
    all_is_well(w, p)?;
    say(&format!("all is well again after {:.1} s", mended.elapsed().as_secs_f32()));
    for at in [At::East, At::West] {
        grace.of(at).store(GRACE_MS, Ordering::SeqCst);
    }
    Ok(())
}

fn side(p: &Pair, at: At) -> &Side {
    match at {
        At::East => &p.east,
        At::West => &p.west,
    }
}

fn cluster(w: &World, at: At) -> &Cluster {
    match at {
        At::East => &w.east,
        At::West => &w.west,
    }
}

fn begins(w: &World, p: &Pair, fault: Fault) -> Result<()> {
    match fault {
        Fault::PodDeleted(at) => breaks::delete_pod(side(p, at)),
        Fault::AgentKilled(at) => breaks::kill_agent(side(p, at)),
        Fault::RolledOut(at) => side(p, at).restart(),
        Fault::Away(at) => side(p, at).scale(0),
        Fault::LeaderKilled(at) => breaks::kill_leader(cluster(w, at)),
        Fault::OperatorsGone(at) => breaks::stop_operators(cluster(w, at)),
        Fault::Blocked => breaks::block(p),
        Fault::Denied => breaks::let_in(p, &["State", "located_in"]),
        Fault::KindDeleted => breaks::delete_kind(&w.east),
    }
}

fn ends(w: &World, p: &Pair, fault: Fault) -> Result<()> {
    match fault {
        // Kubernetes does.
        Fault::PodDeleted(_) | Fault::AgentKilled(_) | Fault::RolledOut(_) | Fault::LeaderKilled(_) => Ok(()),
        Fault::Away(at) => side(p, at).scale(1),
        Fault::OperatorsGone(at) => breaks::start_operators(cluster(w, at)),
        Fault::Blocked => breaks::unblock(p),
        Fault::Denied => breaks::let_in(p, &OUT),
        Fault::KindDeleted => breaks::restore_kind(p, &w.east),
    }
}

/// Workloads, operators and agents are back, and what is declared takes effect at both sides: statuses are of now.
fn all_is_well(w: &World, p: &Pair) -> Result<()> {
    for s in p.sides() {
        s.rolled_out()?;
        until(&format!("{}: all operators are back", s.cluster.name), PATIENCE, || {
            Ok(install::is_whole(&s.cluster, &w.prepared.mew)?.then_some(()))
        })?;
        install::leader(&s.cluster)?;
        p.takes_effect(s)?;
    }
    p.all_ready()
}

fn rest(d: Duration) -> Result<()> {
    let end = Instant::now() + d;
    while Instant::now() < end {
        stop::check()?;
        thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
