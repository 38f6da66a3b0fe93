use super::{Case, mending};
use crate::cluster::Cluster;
use crate::install::{self, OPERATOR, SYSTEM};
use crate::load::{self, EVERY_MS, Load};
use crate::prepare::Archive;
use crate::world::{World, at_both};
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "upgrade",
    core: true,
    proves: "operators and agents are upgraded and rolled back under load: nothing is lost or doubled",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    Load::Airports.start(&p.east, EVERY_MS)?;
    let (current, next) = (&w.prepared.mew, &w.prepared.next);
    let acknowledged = mending(
        || {
            let before = load::acknowledged(&p.east)?;
            at_both(w, |c| install::operator(c, next))?;
            runs(w, next)?;
            for s in p.sides() {
                s.restart()?;
                s.has_agent_of(next)?;
            }
            at_both(w, roll_back)?;
            runs(w, current)?;
            p.west.restart()?;
            p.west.has_agent_of(current)?;
            load::goes_on(&p.east, before)
        },
        || {
            load::stop(&p.east)?;
            at_both(w, |c| install::operator(c, current)).map(drop)
        },
    )?;
    p.east.has_agent_of(current)?;
    Load::Airports.all_arrived_once(&p.east, &p.west, acknowledged)?;
    p.all_ready()?;
    p.same()
}

fn runs(w: &World, image: &Archive) -> Result<()> {
    for c in w.clusters() {
        ensure!(install::is_whole(c, image)?, "{}: helm is done, and the operators are not of {}", c.name, image.name);
    }
    Ok(())
}

fn roll_back(c: &Cluster) -> Result<()> {
    c.helm(&["rollback", OPERATOR, "--namespace", SYSTEM, "--wait", "--timeout", "300s"], "")?;
    install::settles(c)
}
