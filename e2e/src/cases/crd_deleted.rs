use super::{Case, mending};
use crate::breaks;
use crate::world::World;
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "crd-deleted",
    core: true,
    proves: "the kind Sync is deleted by mistake and applied again: data flows on, and nothing is doubled",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let c = w.east.clone();
    let airports = "MATCH a: Airport RETURN a.iata ORDER BY a.iata";
    mending(
        || {
            breaks::delete_kind(&c)?;
            // Nobody has withdrawn the Syncs: their kind is gone, and with it what could be read of them.
            p.flows_west()?;
            p.flows_east()
        },
        || breaks::restore_kind(&p, &c),
    )?;
    p.all_ready()?;
    p.flows_west()?;
    p.same()?;
    let (east, west) = (p.east.rows(airports)?, p.west.rows(airports)?);
    ensure!(east == west, "an airport is there twice or not at all");
    Ok(())
}
