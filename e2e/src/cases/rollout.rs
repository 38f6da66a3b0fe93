use super::Case;
use crate::cluster::name_of;
use crate::world::World;
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "rollout",
    core: true,
    proves: "a Deployment of one replica is rolled: the new pod waits, ready, and takes the kernel over",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let east = w.east_said()?;
    for s in p.sides() {
        let (old, incarnation) = (name_of(&s.pod()?), s.incarnation()?);
        let object = format!("deployment/{}", s.kernel);
        s.cluster.kubectl(&["rollout", "restart", &object, "-n", &s.namespace])?;
        // Written while two pods are there.
        let airport = p.write_east()?.seen_by(east);
        s.rolled_out()?;
        p.arrives_west(&airport)?;
        east.verdict(&[airport.has_arrived(east)])?;
        ensure!(name_of(&s.wait_for_pod()?) != old, "the pod was not replaced");
        p.all_ready()?;
        ensure!(s.incarnation()? == incarnation, "another incarnation on the same volume");
    }
    p.flows_east()?;
    p.same()
}
