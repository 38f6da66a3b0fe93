use super::Case;
use crate::cluster::name_of;
use crate::world::World;
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "peer-deleted",
    core: true,
    proves: "the peer's pod is deleted: writes go on at once, and arrive when it is back; no status lies meanwhile",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let east = w.east_said()?;
    let old = name_of(&p.west.pod()?);
    p.west.cluster.kubectl(&["delete", "pod", &old, "-n", &p.west.namespace, "--wait=false"])?;
    let airport = p.write_east()?.seen_by(east);
    p.arrives_west(&airport)?;
    ensure!(name_of(&p.west.pod()?) != old, "the deleted pod answers");
    p.flows_east()?;
    p.all_ready()?;
    p.same()?;
    east.verdict(&[airport.has_arrived(east)])
}
