use super::{Case, mending};
use crate::cluster::Cluster;
use crate::install::SYSTEM;
use crate::load::{self, EVERY_MS, Load};
use crate::pair::commit_roots;
use crate::side::Side;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "ca-rotated",
    core: false,
    proves: "both CAs are replaced under load, and not while the peer refuses the new root: no status flaps, nothing is lost",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    Load::Airports.start(&p.east, EVERY_MS)?;
    let acknowledged = mending(
        || {
            p.all_ready()?;
            let before = load::acknowledged(&p.east)?;
            let (east, west) = (w.east_said()?, w.west_said()?);
            let since = (east.now_ms(), west.now_ms());
            let connected = [p.east.connected_since()?, p.west.connected_since()?];
            // The side that dials, and the side that is dialled.
            rotated(&p.east, &p.west)?;
            rotated(&p.west, &p.east)?;
            let written = load::goes_on(&p.east, before)?;
            ensure!(
                connected == [p.east.connected_since()?, p.west.connected_since()?],
                "the connection was not up all the time"
            );
            east.steady(&p.east.sync_names(), since.0)?;
            west.steady(&p.west.sync_names(), since.1)?;
            Ok(written)
        },
        || load::stop(&p.east),
    )?;
    // Pods that are made now know nothing of the old roots.
    p.sides().into_iter().try_for_each(Side::restart)?;
    Load::Airports.all_arrived_once(&p.east, &p.west, acknowledged)?;
    p.all_ready()?;
    p.same()
}

/// All steps at one side.
fn rotated(here: &Side, there: &Side) -> Result<()> {
    let c = &here.cluster;
    let old = certificates(here)?["root"].clone();
    let said = rotate(c, "publish")?;
    let new = said.split_whitespace().nth(1).map(|w| w.trim_end_matches(';').to_owned()).context("no root is named")?;
    ensure!(published(c)?.len() == 2, "the operator has not published both roots");

    let Err(e) = rotate(c, "sign") else { bail!("{}: it signs although the peer does not accept it", c.name) };
    let said = format!("{e:#}");
    for word in ["does not accept the new root", there.kernel, &new, "mew trust export", "mew trust rotate status"] {
        ensure!(said.contains(word), "{word:?} is not in {said}");
    }
    commit_roots(there, here)?;
    shows(here, "the peer accepts the new root", |c| c["peerAcceptsRoots"] == json!([old, new]))?;
    rotate(c, "sign")?;
    shows(here, "agent and connection are of the new root", |c| c["root"] == new && c["rootInUse"] == new)?;
    rotate(c, "retire")?;
    ensure!(published(c)?.len() == 1, "the operator still publishes the old root");
    commit_roots(there, here)?;
    shows(here, "the peer has dropped the old root", |c| c["peerAcceptsRoots"] == json!([new])).map(drop)
}

fn rotate(c: &Cluster, step: &str) -> Result<String> {
    c.mew(&["trust", "rotate", step]).map(|(out, _)| out)
}

/// The roots in the ConfigMap, which every new pod gets.
fn published(c: &Cluster) -> Result<Vec<String>> {
    let map = c.get("configmap", SYSTEM, "mew-roots")?;
    let pem = map["data"]["ca.crt"].as_str().context("mew-roots has no ca.crt")?;
    Ok(pem.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect())
}

fn certificates(s: &Side) -> Result<Value> {
    until("the Remote names the roots in use", PATIENCE, || {
        let c = s.object("remote", s.peer)?["status"]["certificates"].take();
        Ok((c["root"].is_string() && c["peerAcceptsRoots"].is_array()).then_some(c))
    })
}

fn shows(s: &Side, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
    s.wait("remote", s.peer, what, |r| good(&r["status"]["certificates"]))
}
