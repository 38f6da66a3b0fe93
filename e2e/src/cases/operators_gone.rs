use super::{Case, mending};
use crate::cluster::container_status;
use crate::install::{self, OPERATOR, REPLICAS, SYSTEM};
use crate::side::{AGENT, Side};
use crate::wait::{PATIENCE, until};
use crate::world::{World, at_both};
use anyhow::{Context, Result};
use serde_json::Value;

pub const CASE: Case = Case {
    name: "operators-gone",
    core: true,
    proves: "without any operator data flows both ways, also after an agent has crashed; back again, no status flaps",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let scale = |replicas: u32| at_both(w, |c| c.scale(SYSTEM, OPERATOR, replicas)).map(drop);
    mending(
        || {
            scale(0)?;
            at_both(w, |c| {
                until("no operator is left", PATIENCE, || {
                    Ok(c.list("pods", SYSTEM, "app.kubernetes.io/name=mew-operator")?.is_empty().then_some(()))
                })
            })?;
            p.flows_west()?;
            p.flows_east()?;
            crash(&p.east)?;
            p.flows_west()?;
            p.flows_east()
        },
        || {
            scale(REPLICAS)?;
            at_both(w, |c| c.rolled_out(SYSTEM, OPERATOR)).map(drop)
        },
    )?;
    at_both(w, install::leader)?;
    p.all_ready()?;
    p.same()?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}

/// The agent is killed inside its pod, and started again there: what it knows is what it has on its disk.
fn crash(s: &Side) -> Result<()> {
    let pod = s.pod()?;
    let restarts = |pod: &Value| container_status(pod, AGENT).and_then(|s| s["restartCount"].as_u64());
    let before = restarts(&pod).context("the agent does not run")?;
    s.cluster.task(&pod, AGENT, &["kill", "-s", "SIGKILL"])?;
    until("the agent was started again", PATIENCE, || Ok(restarts(&s.pod()?).filter(|n| *n > before).map(drop)))
}
