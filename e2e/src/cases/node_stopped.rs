use super::{Case, mending};
use crate::cluster::is_ready;
use crate::install::{OPERATOR, SYSTEM};
use crate::late;
use crate::steps::say;
use crate::wait::PATIENCE;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use std::time::Instant;

pub const CASE: Case = Case {
    name: "node-stopped",
    core: false,
    proves: "the peer's worker goes, with its agent and operators: the other side says so, and all arrives when it is back",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let east = w.east_said()?;
    let incarnation = p.west.incarnation()?;
    let node = p.west.pod()?["spec"]["nodeName"].as_str().context("the pod runs nowhere")?.to_owned();
    ensure!(node != w.west.control_plane(), "the agent runs on the control plane, which must stay");
    let airport = mending(
        || {
            w.west.engine.stop(&node)?;
            let airport = p.write_east()?.seen_by(east);
            p.east.shows("remote", p.east.peer, "False", "Unreachable")?;
            for s in p.east.syncs {
                p.east.shows("sync", s, "False", "Unreachable")?;
            }
            east.verdict(&[late::overdue(east, &airport)?])?;
            // Until the cluster itself has noticed, what it says of the node's pods is of the time before.
            w.west.wait("node", "", &node, "is not ready", |n| !is_ready(n), PATIENCE)?;
            Ok(airport)
        },
        || {
            w.west.start_node(&node)?;
            w.west.rolled_out(SYSTEM, OPERATOR)?;
            p.west.rolled_out()
        },
    )?;
    let back = Instant::now();
    late::arrives(east, &airport, &p.west)?;
    p.flows_east()?;
    p.all_ready()?;
    say(&format!("all is ready {:.1} s after the node's pods", back.elapsed().as_secs_f32()));
    ensure!(p.west.incarnation()? == incarnation, "the volume was kept, and it is another incarnation");
    p.same()
}
