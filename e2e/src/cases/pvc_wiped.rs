use super::Case;
use crate::pair::{Pair, claim, claim_object};
use crate::world::World;
use anyhow::{Result, ensure};
use mew_tests::kstatus::condition;

pub const CASE: Case = Case {
    name: "pvc-wiped",
    core: true,
    proves: "the source's volume is lost: SourceReset, not silence; the sink keeps all; a reset mends it",
    run,
};

const RESET: &str = "wiped-by-the-suite";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let before = (p.east.incarnation()?, airports(&p)?);
    p.east.scale(0)?;
    p.east.wait_for_no_pods()?;
    p.east.cluster.kubectl(&["delete", "persistentvolumeclaim", &claim(&p.east), "-n", &p.east.namespace])?;
    p.east.cluster.apply(&claim_object(&p.east).to_string())?;
    p.east.scale(1)?;
    p.east.wait_for_pod()?;
    for s in p.east.syncs {
        let o = p.east.shows("sync", s, "False", "SourceReset")?;
        let stalled = condition(&o, "Stalled").is_some_and(|c| c["status"] == "True");
        ensure!(!stalled, "{s}: nothing mends it but people, and it is tried all the same: {o}");
    }
    ensure!(p.east.incarnation()? != before.0, "an empty volume, and the same incarnation");
    ensure!(airports(&p)? == before.1, "the sink lost what the source had");
    // What is written now waits for people too.
    let airport = p.write_east()?;
    for s in p.east.syncs {
        let annotation = format!("federation.mew.dev/reset={RESET}");
        p.east.cluster.kubectl(&["annotate", "sync", s, "-n", &p.east.namespace, "--overwrite", &annotation])?;
        p.east.wait("sync", s, "has handled the reset", |o| o["status"]["lastHandled"]["reset"] == RESET)?;
    }
    p.arrives_west(&airport)?;
    p.all_ready()?;
    ensure!(airports(&p)?.len() == before.1.len() + 1, "the reset deleted something at the sink");
    let inspections = "MATCH i: Inspection RETURN i.airport, i.finding ORDER BY i.finding";
    let in_the_west = p.west.rows(inspections)?;
    p.east.wait_for_rows("what came from the west has come again", inspections, |rows| rows == in_the_west)?;
    // The two sides are different from now on, by what was lost.
    w.forget_flights();
    Ok(())
}

/// Of the sink.
fn airports(p: &Pair) -> Result<Vec<Vec<String>>> {
    p.west.rows("MATCH a: Airport RETURN a.iata ORDER BY a.iata")
}
