use super::{Case, mending};
use crate::cluster::{Cluster, is_ready, name_of};
use crate::install::{self, CONTAINER, REPLICAS};
use crate::pair::Pair;
use crate::steps::say;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "leader-lost",
    core: true,
    proves: "the leader freezes, as on a lost machine: another leads within the lease, no status flaps, data flows",
    run,
};

/// The lease holds for 15 s and is tried every 3 s; the rest is for a machine that is busy.
const FAILOVER: Duration = Duration::from_secs(45);

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let c = &w.east;
    let old = install::leader(c)?;
    c.task(&old, CONTAINER, &["pause"])?;
    let began = Instant::now();
    let new = mending(
        || fails_over(c, &p, &old, began),
        || {
            // Unless the kubelet has given it up meanwhile: then there is nothing to thaw.
            let _ = c.task(&old, CONTAINER, &["resume"]);
            Ok(())
        },
    )?;
    until("all replicas are ready again", PATIENCE, || {
        let pods = install::pods(c)?;
        Ok((pods.len() == REPLICAS as usize && pods.iter().all(is_ready)).then_some(()))
    })?;
    ensure!(install::holder(c)? == new, "the lease went back to {}", name_of(&old));
    p.flows_west()?;
    p.flows_east()?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}

fn fails_over(c: &Cluster, p: &Pair, old: &Value, began: Instant) -> Result<String> {
    // Nobody leads for a while, and data does not care.
    p.flows_west()?;
    let old = name_of(old);
    let new = until("another replica leads", FAILOVER, || {
        let holder = install::holder(c)?;
        Ok((!holder.is_empty() && holder != old).then_some(holder))
    })?;
    say(&format!("{new} leads {:.1} s after {old} froze", began.elapsed().as_secs_f32()));
    // The old leader is still frozen: the agent must have found the new one.
    p.takes_effect(&p.east)?;
    Ok(new)
}
