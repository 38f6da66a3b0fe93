use super::{Case, mending};
use crate::breaks::set_rules;
use crate::install;
use crate::pair::{OUT, Pair, Written};
use crate::world::World;
use anyhow::{Result, ensure};
use mew_tests::kstatus::{Status, condition, kstatus};
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "older-agent",
    core: false,
    proves: "an agent older than a field refuses what has it, by name, and ignores no rule; updated, it obeys",
    run,
};

/// With a reset, which the older agent does not know.
const SYNC: &str = "newer-than-the-agent";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    let older = json!({"injection": {"agentImage": w.prepared.older.name}});
    let delete = || p.west.cluster.kubectl(&["delete", "sync", SYNC, "-n", &p.west.namespace, "--ignore-not-found"]);
    let update = || {
        install::operator(&w.west, &w.prepared.mew)?;
        p.west.restart()?;
        p.west.has_agent_of(&w.prepared.mew)
    };
    mending(
        || {
            install::operator_with(&w.west, &w.prepared.mew, &older)?;
            p.west.restart()?;
            p.west.has_agent_of(&w.prepared.older)?;
            p.is_whole()?;
            a_sync_is_refused(w, &p)?;
            delete()?;
            let written = a_remote_is_withheld(w, &p)?;
            update()?;
            // With the rule as it is.
            p.all_ready()?;
            p.arrives_west(&written.0)?;
            p.arrives_east(&written.1)
        },
        || {
            delete()?;
            set_rules(&p, &OUT, &[])?;
            update()
        },
    )?;
    p.all_ready()?;
    p.same()
}

fn said(o: &Value) -> &str {
    condition(o, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default()
}

/// One object: the others apply, and flow on.
fn a_sync_is_refused(w: &World, p: &Pair) -> Result<()> {
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let sync = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Sync",
        "metadata": {
            "name": SYNC, "namespace": p.west.namespace, "annotations": {"federation.mew.dev/reset": "once"},
        },
        "spec": {"remoteRef": {"name": p.west.peer}, "direction": "Push", "match": "i: Inspection"},
    });
    p.west.cluster.apply(&sync.to_string())?;
    let o = p.west.shows("sync", SYNC, "False", "UnsupportedField")?;
    ensure!(said(&o).contains("reset"), "the field is not named: {}", said(&o));
    ensure!(kstatus(&o) == Status::Failed, "nothing but people mends it, and a pipeline would wait: {}", o["status"]);
    p.flows_west()?;
    let inspection = p.write_west()?.seen_by(west);
    p.arrives_east(&inspection)?;
    west.verdict(&[inspection.has_arrived(west)])?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}

/// A rule that the agent cannot read may forbid anything, so nothing passes. This one forbids nothing that flows.
fn a_remote_is_withheld(w: &World, p: &Pair) -> Result<(Written, Written)> {
    let (east, west) = (w.east_said()?, w.west_said()?);
    let rule = json!({"name": "later", "action": "Deny", "operations": ["Import"], "types": ["Inspection"]});
    set_rules(p, &OUT, &[rule])?;
    let o = p.west.shows("remote", p.west.peer, "False", "UnsupportedField")?;
    ensure!(said(&o).contains("deny"), "the field is not named: {}", said(&o));
    ensure!(kstatus(&o) == Status::Failed, "nothing but people mends it, and a pipeline would wait: {}", o["status"]);
    for s in p.sides() {
        for name in s.syncs {
            s.wait("sync", name, "is not ready", |o| condition(o, "Ready").is_some_and(|c| c["status"] != "True"))?;
        }
    }
    let written = (p.write_east()?.seen_by(east), p.write_west()?.seen_by(west));
    // The peer has tried, and is let in no more.
    p.east.shows("remote", p.east.peer, "False", "TLSRefusedByPeer")?;
    ensure!(!written.0.is_at(&p.west)? && !written.1.is_at(&p.east)?, "data passes a rule that cannot be read");
    east.verdict(&[written.0.is_missing(east)])?;
    west.verdict(&[written.1.is_missing(west)])?;
    Ok(written)
}
