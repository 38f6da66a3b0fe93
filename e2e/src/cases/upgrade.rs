use super::{Case, mending};
use crate::cluster::{Cluster, name_of};
use crate::install::{self, OPERATOR, SYSTEM};
use crate::pair::Pair;
use crate::prepare::Archive;
use crate::side::{AGENT, APP, Side};
use crate::wait::{PATIENCE, until};
use crate::world::{World, at_both};
use anyhow::{Context, Result, ensure};

pub const CASE: Case = Case {
    name: "upgrade",
    core: true,
    proves: "operators and agents are upgraded and rolled back under load: nothing is lost or doubled",
    run,
};

/// Fast enough that every moment of an upgrade has a write in it.
pub(super) const LOAD_EVERY_MS: u32 = 100;

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    load(&p.east, LOAD_EVERY_MS)?;
    let (current, next) = (&w.prepared.mew, &w.prepared.next);
    let acknowledged = mending(
        || {
            let before = acknowledged(&p.east)?;
            at_both(w, |c| install::operator(c, next))?;
            runs(w, next)?;
            for s in p.sides() {
                restart(s)?;
                has_agent_of(s, next)?;
            }
            at_both(w, roll_back)?;
            runs(w, current)?;
            restart(&p.west)?;
            has_agent_of(&p.west, current)?;
            goes_on(&p, before)
        },
        || {
            load(&p.east, 0)?;
            at_both(w, |c| install::operator(c, current)).map(drop)
        },
    )?;
    has_agent_of(&p.east, current)?;
    all_arrived_once(&p, acknowledged)?;
    p.all_ready()?;
    p.same()
}

/// Makes the application write; 0 stops it. That is an update of the Deployment too.
pub(super) fn load(s: &Side, every_ms: u32) -> Result<()> {
    let (object, variable) = (format!("deployment/{}", s.kernel), format!("LOAD_EVERY_MS={every_ms}"));
    s.cluster.kubectl(&["set", "env", &object, "-n", &s.namespace, "-c", APP, &variable])?;
    s.rolled_out()
}

/// How many writes the application of the pod that holds the kernel was told of.
pub(super) fn acknowledged(s: &Side) -> Result<u64> {
    until("the application writes", PATIENCE, || {
        let log = s.cluster.kubectl(&["logs", &name_of(&s.pod()?), "-n", &s.namespace, "-c", APP, "--tail=20"])?;
        Ok(log.lines().rev().find_map(|l| l.strip_prefix("acknowledged ")?.parse().ok()))
    })
}

/// The application still writes, after everything.
pub(super) fn goes_on(p: &Pair, before: u64) -> Result<u64> {
    let now = acknowledged(&p.east)?;
    ensure!(now > before, "{now} writes after the upgrade, {before} before it");
    until("more is acknowledged", PATIENCE, || Ok(Some(acknowledged(&p.east)?).filter(|n| *n > now)))
}

fn runs(w: &World, image: &Archive) -> Result<()> {
    for c in w.clusters() {
        ensure!(install::is_whole(c, image)?, "{}: helm is done, and the operators are not of {}", c.name, image.name);
    }
    Ok(())
}

fn roll_back(c: &Cluster) -> Result<()> {
    c.helm(&["rollback", OPERATOR, "--namespace", SYSTEM, "--wait", "--timeout", "300s"], "").map(drop)
}

pub(super) fn restart(s: &Side) -> Result<()> {
    let object = format!("deployment/{}", s.kernel);
    s.cluster.kubectl(&["rollout", "restart", &object, "-n", &s.namespace])?;
    s.rolled_out()
}

/// As declared: both tags are one program, so what the node says that it runs may be either.
fn has_agent_of(s: &Side, image: &Archive) -> Result<()> {
    // The pod before it may still be ending.
    until(&format!("the agent in {} is of {}", s.cluster.name, image.name), PATIENCE, || {
        let pod = s.wait_for_pod()?;
        let agent = pod["spec"]["initContainers"].as_array().and_then(|all| all.iter().find(|c| c["name"] == AGENT));
        let of = &agent.context("there is no agent")?["image"];
        Ok((*of == image.name).then_some(()))
    })
}

/// The names that the application gave are numbers from 0 on: at either side each must be there, once.
pub(super) fn all_arrived_once(p: &Pair, acknowledged: u64) -> Result<()> {
    let query = r#"MATCH a: Airport WHERE a.name = "load" RETURN a.iata ORDER BY a.iata"#;
    let written = p.east.rows(query)?;
    let want: Vec<Vec<String>> = (0..written.len()).map(|n| vec![format!("{n:04X}")]).collect();
    ensure!(!written.is_empty() && written == want, "{} writes, and they are not one after the other", written.len());
    p.west.wait_for_rows("all that was written is there", query, |rows| rows.len() >= written.len())?;
    ensure!(p.west.rows(query)? == written, "something was lost or doubled on its way");
    ensure!(written.len() as u64 >= acknowledged, "{acknowledged} acknowledged, {} there", written.len());
    Ok(())
}
