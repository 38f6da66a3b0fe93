use super::{Case, mending};
use crate::install;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "crd-deleted",
    core: true,
    proves: "the kind Sync is deleted by mistake and applied again: data flows on, and nothing is doubled",
    run,
};

const CRD: &str = "syncs.federation.mew.dev";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let c = w.east.clone();
    let airports = "MATCH a: Airport RETURN a.iata ORDER BY a.iata";
    mending(
        || {
            c.kubectl(&["delete", "customresourcedefinition", CRD, "--timeout=60s"])?;
            until("the kind is gone", PATIENCE, || {
                Ok(c.find("customresourcedefinition", "", CRD)?.is_none().then_some(()))
            })?;
            // Nobody has withdrawn the Syncs: their kind is gone, and with it what could be read of them.
            p.flows_west()?;
            p.flows_east()
        },
        || {
            install::crds(&c)?;
            let established = ["wait", "--for=condition=Established", "crd", CRD, "--timeout=60s"];
            c.kubectl(&established)?;
            p.declare_syncs()
        },
    )?;
    p.all_ready()?;
    p.flows_west()?;
    p.same()?;
    let (east, west) = (p.east.rows(airports)?, p.west.rows(airports)?);
    ensure!(east == west, "an airport is there twice or not at all");
    Ok(())
}
