//! Agents keep a certificate until a third of its life is over, so those of before would not see a shorter life for a
//! day: the case has agents of its own.

use super::{Case, mending};
use crate::install;
use crate::load::{self, EVERY_MS, Load};
use crate::pair::{Dials, Pair};
use crate::side::Side;
use crate::steps::say;
use crate::wait::{PATIENCE, until};
use crate::world::{World, at_both};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;

pub const CASE: Case = Case {
    name: "certificates-rotated",
    core: false,
    proves: "certificates are renewed many times under load, and connections before they end: no status flaps",
    run,
};

const NAMESPACE: &str = "rotated";
/// Renewed every ten seconds; the rest is for a machine that is busy.
const LIFETIME: &str = "30s";
/// Of each kernel. A connection is made anew every 18 to 27 s, so it happens at least once meanwhile.
const RENEWALS: usize = 4;

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    let w = &*w;
    let short = json!({"certificateLifetime": LIFETIME});
    mending(
        || {
            at_both(w, |c| install::operator_with(c, &w.prepared.mew, &short))?;
            let p = Pair::start(w, NAMESPACE, Dials::East)?;
            under_load(w, &p)
        },
        || {
            at_both(w, |c| c.delete_namespace(NAMESPACE))?;
            at_both(w, |c| install::operator(c, &w.prepared.mew)).map(drop)
        },
    )
}

fn under_load(w: &World, p: &Pair) -> Result<()> {
    Load::Airports.start(&p.east, EVERY_MS)?;
    Load::Inspections.start(&p.west, EVERY_MS)?;
    p.is_whole()?;
    let before = (load::acknowledged(&p.east)?, load::acknowledged(&p.west)?);
    are_renewed(w, p)?;
    let now = (load::goes_on(&p.east, before.0)?, load::goes_on(&p.west, before.1)?);
    for s in p.sides() {
        load::stop(s)?;
    }
    Load::Airports.all_arrived_once(&p.east, &p.west, now.0)?;
    Load::Inspections.all_arrived_once(&p.west, &p.east, now.1)?;
    p.same()
}

/// What a Remote says of certificates: ends of its own kernel's, and ends of the peer's as its connection knows it.
#[derive(Default)]
struct Seen {
    own: BTreeSet<String>,
    of_peer: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, s: &Side) -> Result<()> {
        let r = s.object("remote", s.peer)?;
        for (set, field) in [(&mut self.own, "notAfter"), (&mut self.of_peer, "peerNotAfter")] {
            let end = r["status"]["certificates"][field].as_str();
            set.insert(end.with_context(|| format!("{}: no {field}: {}", s.cluster.name, r["status"]))?.to_owned());
        }
        Ok(())
    }
}

fn are_renewed(w: &World, p: &Pair) -> Result<()> {
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let connected = [p.east.connected_since()?, p.west.connected_since()?];
    let mut seen = [Seen::default(), Seen::default()];
    let (mut from_east, mut from_west) = (Vec::new(), Vec::new());
    for n in 1..=RENEWALS {
        until(&format!("certificates were renewed {n} times"), PATIENCE, || {
            for (seen, s) in seen.iter_mut().zip(p.sides()) {
                seen.look(s)?;
            }
            Ok(seen.iter().all(|s| s.own.len() > n).then_some(()))
        })?;
        let (airport, inspection) = (p.write_east()?.seen_by(east), p.write_west()?.seen_by(west));
        p.arrives_west(&airport)?;
        from_east.push(airport.has_arrived(east));
        p.arrives_east(&inspection)?;
        from_west.push(inspection.has_arrived(west));
    }
    until("the connection was made anew", PATIENCE, || {
        for (seen, s) in seen.iter_mut().zip(p.sides()) {
            seen.look(s)?;
        }
        Ok(seen.iter().all(|s| s.of_peer.len() > 1).then_some(()))
    })?;
    ensure!(
        connected == [p.east.connected_since()?, p.west.connected_since()?],
        "the connection was not up all the time"
    );
    for s in p.sides() {
        let log = s.agent_log()?;
        ensure!(!log.contains("certificate has expired"), "{}: a connection outlived its certificate", s.cluster.name);
    }
    let [in_east, in_west] = &seen;
    say(&format!(
        "renewed {} and {} times; connections of {} and {} certificates of the peer",
        in_east.own.len() - 1,
        in_west.own.len() - 1,
        in_east.of_peer.len(),
        in_west.of_peer.len()
    ));
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)?;
    east.verdict(&from_east)?;
    west.verdict(&from_west)
}
