use super::Case;
use crate::cluster::name_of;
use crate::world::World;
use anyhow::{Result, ensure};
use mew_tests::watcher::Event;

pub const CASE: Case = Case {
    name: "pvc-kept",
    core: true,
    proves: "the source's pod is scheduled anew on its volume: the same incarnation, all its data, no copy anew",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let before = (p.east.incarnation()?, p.east.rows("MATCH a: Airport RETURN a.iata ORDER BY a.iata")?);
    let since = w.east_said()?.now_ms();
    let old = name_of(&p.east.pod()?);
    p.east.cluster.kubectl(&["delete", "pod", &old, "-n", &p.east.namespace])?;
    let new = name_of(&p.east.wait_for_pod()?);
    ensure!(new != old, "the pod was not replaced");
    let after = p.east.rows("MATCH a: Airport RETURN a.iata ORDER BY a.iata")?;
    ensure!(after == before.1, "the kernel has other airports: {after:?}, before {:?}", before.1);
    p.flows_west()?;
    p.flows_east()?;
    p.all_ready()?;
    ensure!(p.east.incarnation()? == before.0, "the volume was kept, and it is another incarnation");
    p.same()?;
    let copied = |e: &Event| {
        let ready = e.status["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
        ready.is_some_and(|c| c["reason"] == "InitialCopy" || c["reason"] == "SourceReset")
    };
    let events = w.east_said()?.events();
    let again = events.iter().find(|e| e.at_ms > since && p.east.sync_names().contains(&e.sync) && copied(e));
    ensure!(again.is_none(), "the flow began anew: {again:?}");
    Ok(())
}
