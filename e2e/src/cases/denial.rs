use super::{Case, mending};
use crate::breaks::let_in;
use crate::pair::{OUT, POLICY, Pair};
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use mew_tests::kstatus::{Status, condition, kstatus};
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "denial",
    core: true,
    proves: "what the own policy forbids stays, and the policy is named; of what the peer forbids a number is told",
    run,
};

const DENIED: &str = "inspections-out";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    mending(
        || by_the_own_policy(&p),
        || p.east.cluster.kubectl(&["delete", "sync", DENIED, "-n", &p.east.namespace, "--ignore-not-found"]).map(drop),
    )?;
    mending(|| by_the_peer(&p), || let_in(&p, &OUT))?;
    p.all_ready()?;
    p.same()
}

fn by_the_own_policy(p: &Pair) -> Result<()> {
    p.east.execute(r#"SPAWN Inspection {airport = "CA2", finding = "for nobody"}"#)?;
    let sync = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Sync",
        "metadata": {"name": DENIED, "namespace": p.east.namespace},
        "spec": {"remoteRef": {"name": p.east.peer}, "direction": "Push", "match": "i: Inspection"},
    });
    p.east.cluster.apply(&sync.to_string())?;
    let s = p.east.shows("sync", DENIED, "False", "PolicyDenied")?;
    ensure!(kstatus(&s) != Status::Current, "a denied Sync is taken for fine: {s}");
    let accepted = condition(&s, "Accepted").context("no Accepted")?;
    let message = accepted["message"].as_str().unwrap_or_default();
    ensure!(accepted["status"] == "False" && message.contains(POLICY), "the policy is not named: {accepted}");
    // Somebody may still mend it, for half a minute.
    p.east.wait("sync", DENIED, "is stalled", |s| kstatus(s) == Status::Failed)?;
    let finding = r#"MATCH i: Inspection WHERE i.finding = "for nobody" RETURN i.finding"#;
    ensure!(p.west.rows(finding)?.is_empty(), "it arrived all the same");
    p.east.execute(r#"MATCH i: Inspection WHERE i.finding = "for nobody" KILL i"#)
}

fn by_the_peer(p: &Pair) -> Result<()> {
    let_in(p, &["State", "located_in"])?;
    p.east.shows("sync", "airports", "False", "DeniedByPeer")?;
    until("the west has the reason under the number that the east was told", PATIENCE, || {
        let s = p.east.object("sync", "airports")?;
        let ready = condition(&s, "Ready").context("no Ready")?;
        let message = ready["message"].as_str().unwrap_or_default();
        ensure!(!message.contains("olicies") && !message.contains("Airport"), "the peer's reason leaks: {message}");
        let id = message.split_whitespace().last().unwrap_or_default();
        let r = p.west.object("remote", p.west.peer)?;
        let denials: &[Value] = r["status"]["inboundFlows"]["denials"].as_array().map_or(&[], Vec::as_slice);
        Ok(denials.iter().any(|d| d["correlationId"] == id && d["reason"] == "PolicyDenied").then_some(()))
    })?;
    // The other way nobody forbids.
    p.flows_east()
}
