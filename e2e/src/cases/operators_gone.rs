use super::{Case, mending};
use crate::breaks;
use crate::install;
use crate::world::{World, at_both};
use anyhow::Result;

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
    mending(
        || {
            at_both(w, breaks::stop_operators)?;
            p.flows_west()?;
            p.flows_east()?;
            breaks::kill_agent(&p.east)?;
            p.flows_west()?;
            p.flows_east()
        },
        || at_both(w, breaks::start_operators).map(drop),
    )?;
    at_both(w, install::leader)?;
    p.all_ready()?;
    p.same()?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}
