use super::Case;
use crate::pair::AIRPORTS;
use crate::world::World;
use anyhow::{Result, ensure};

pub const CASE: Case = Case {
    name: "sync",
    core: true,
    proves: "one Sync each way between two clusters: the copy, entity by entity, then changes and deletions",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let airport = p.write_east()?.seen_by(east);
    p.arrives_west(&airport)?;
    // When it is seen, not when all below is done.
    let airport = airport.has_arrived(east);
    let inspection = p.write_west()?.seen_by(west);
    p.arrives_east(&inspection)?;
    let inspection = inspection.has_arrived(west);

    p.east.execute(r#"MATCH a: Airport WHERE a.iata = "NY1" SET a.name = "Renamed""#)?;
    let name = r#"MATCH a: Airport WHERE a.iata = "NY1" RETURN a.name"#;
    p.west.wait_for_rows("the new name is there", name, |rows| rows == [["Renamed"]])?;
    p.west.execute(r#"MATCH i: Inspection WHERE i.finding = "lamp broken" KILL i"#)?;
    let lamp = r#"MATCH i: Inspection WHERE i.finding = "lamp broken" RETURN i.finding"#;
    p.east.wait_for_rows("the deletion is there", lamp, <[_]>::is_empty)?;
    p.same()?;
    p.all_ready()?;
    // What no Sync names stays where it is.
    p.east.execute(r#"SPAWN Inspection {airport = "CA1", finding = "stays here"}"#)?;
    p.flows_west()?;
    let stays = r#"MATCH i: Inspection WHERE i.finding = "stays here" RETURN i.finding"#;
    ensure!(p.west.rows(stays)?.is_empty(), "an inspection of the east is in the west");
    p.east.execute(r#"MATCH i: Inspection WHERE i.finding = "stays here" KILL i"#)?;
    for s in p.east.syncs.iter().filter(|s| **s == AIRPORTS) {
        let status = p.east.object("sync", s)?["status"].take();
        ensure!(status["failed"] == 0, "{s}: {status}");
    }
    east.verdict(&[airport])?;
    west.verdict(&[inspection])
}
