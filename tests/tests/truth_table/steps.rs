//! How the rows break things, and how they mend them.

use crate::SOON;
use crate::world::{NAMESPACE, World, full_ontology, mid_ontology, remote_in_the_east};
use anyhow::{Context, Result, ensure};
use mew_tests::cluster::PATIENCE;
use mew_tests::http;
use mew_tests::kstatus::condition;
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::fs;

const WEST_ROOTS: &str = "west-example-roots";
/// A new leader plans at least every second; agents are back after at most 10 s.
const PLANS_AFTER_RESTART: u64 = 15;

pub fn nothing(_: &mut World) -> Result<()> {
    Ok(())
}

// ------------------------------------------------------------------ operator

pub fn kill_operator(w: &mut World) -> Result<()> {
    w.east.operators[0].kill();
    Ok(())
}

pub fn start_operator(w: &mut World) -> Result<()> {
    w.east.operators[0].start()?;
    w.plans(PLANS_AFTER_RESTART)
}

pub fn start_second(w: &mut World) -> Result<()> {
    let (log, health) = w.start_second()?;
    until("the second agent is told who holds the kernel", PATIENCE, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        Ok(text.contains("with another data directory").then_some(()))
    })?;
    let (status, text) = http::get(health, "/ready")?;
    let says_why = text.contains("is held by") && text.contains("with another data directory");
    ensure!(status != 200 && says_why, "the second agent calls itself {text:?}");
    let claimed = |o: &Value| o["status"]["lastError"]["reason"] == "KernelClaimed";
    let what = "says that somebody else claims the kernel";
    w.east.api.wait_json("remote", NAMESPACE, "us-west", what, claimed, SOON).map(|_| ())
}

pub fn stop_second(w: &mut World) -> Result<()> {
    w.second = None;
    Ok(())
}

// ------------------------------------------------------------------- objects

pub fn mend_match(w: &World, sync: &str, state: &str) -> Result<()> {
    w.patch("sync", sync, &json!({"spec": {"match": format!("s: State WHERE s.code = \"{state}\"")}}))
}

/// Something that may pass.
pub fn ask_for_states(w: &mut World) -> Result<()> {
    w.patch("sync", "no-permission", &json!({"spec": {"match": "s: State WHERE s.code != \"CA\""}}))
}

pub fn sync_with_mid(w: &mut World) -> Result<()> {
    w.east.api.apply(&remote_in_the_east("us-mid", w.mid_agent.federation))?;
    w.make_sync("no-fit", "us-mid", "a: Airport")
}

pub fn mend_ontology(w: &mut World) -> Result<()> {
    fs::copy(full_ontology(&w.east), mid_ontology(&w.west))?;
    w.mid_agent.stop();
    w.mid_agent.start()
}

/// Somebody else answers there.
pub fn remote_at_a_wrong_kernel(w: &mut World) -> Result<()> {
    w.east.api.apply(&remote_in_the_east("us-new", w.west_agent.federation)).map(|_| ())
}

pub fn move_remote(w: &mut World) -> Result<()> {
    let agent = w.west.start_agent(NAMESPACE, "us-new", &full_ontology(&w.east))?;
    let uri = format!("mew://127.0.0.1:{}/flights.us-new", agent.federation);
    w.new_agent = Some(agent);
    w.patch("remote", "us-new", &json!({"spec": {"uri": uri}}))
}

pub fn delete_remote(w: &mut World) -> Result<()> {
    w.east.api.kubectl(&["delete", "remote", "us-new", "-n", NAMESPACE, "--timeout=5s"]).map(|_| ())
}

pub fn declare_remote(w: &mut World) -> Result<()> {
    let port = w.new_agent.as_ref().context("us-new was not started")?.federation;
    w.east.api.apply(&remote_in_the_east("us-new", port)).map(|_| ())
}

// ---------------------------------------------------------------- connection

pub fn kill_west(w: &mut World) -> Result<()> {
    w.west_agent.kill();
    Ok(())
}

pub fn start_west(w: &mut World) -> Result<()> {
    w.west_agent.start()
}

/// A connection that is up would stay.
pub fn move_to_an_unknown_host(w: &mut World) -> Result<()> {
    w.west_agent.kill();
    w.patch("remote", "us-west", &json!({"spec": {"endpoints": [{"host": "no-such-host.invalid", "port": 9001}]}}))
}

pub fn move_back(w: &mut World) -> Result<()> {
    w.patch("remote", "us-west", &json!({"spec": {"endpoints": null}}))?;
    w.west_agent.start()
}

pub fn delete_bundle(w: &mut World) -> Result<()> {
    w.east.api.kubectl(&["delete", "configmap", WEST_ROOTS, "-n", NAMESPACE]).map(|_| ())
}

/// A connection that is up would stay; without a bundle there is none.
pub fn trust_another_ca(w: &mut World) -> Result<()> {
    delete_bundle(w)?;
    let gone = |o: &Value| condition(o, "Ready").is_some_and(|c| c["reason"] == "BundleNotFound");
    w.east.api.wait_json("remote", NAMESPACE, "us-west", "has no bundle", gone, SOON)?;
    let other = fs::read_to_string(w.west.api.dir().join("pki/ca.crt"))?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": WEST_ROOTS},
        "data": {"ca.crt": other},
    });
    w.east.api.apply_server_side(&map.to_string()).map(|_| ())
}

pub fn trust_west(w: &mut World) -> Result<()> {
    w.east.trust(NAMESPACE, &w.west)
}

// ---------------------------------------------------------------- the peer

fn west_lets_in(w: &World, types: &[&str]) -> Result<()> {
    let rule = json!({"name": "public-data", "action": "Allow", "operations": ["Import"], "types": types});
    let patch = json!({"spec": {"rules": [rule]}}).to_string();
    let args = ["patch", "federationpolicy", "coasts", "-n", NAMESPACE, "--type=merge", "-p", &patch];
    w.west.api.kubectl(&args).map(|_| ())
}

/// The east learns a number; under it the west finds the reason.
pub fn west_denies_airports(w: &mut World) -> Result<()> {
    west_lets_in(w, &["State", "located_in"])?;
    until("the west has the reason under the east's correlation id", SOON, || {
        let s = w.east.api.get_json("sync", NAMESPACE, "airports")?;
        let Some(ready) = condition(&s, "Ready").filter(|c| c["reason"] == "DeniedByPeer") else { return Ok(None) };
        let message = ready["message"].as_str().unwrap_or("");
        ensure!(!message.contains("olicies") && !message.contains("Airport"), "the peer's reason leaks: {message}");
        let Some(id) = message.split_whitespace().last() else { return Ok(None) };
        let r = w.west.api.get_json("remote", NAMESPACE, "us-east-of-us-west")?;
        let denials = r["status"]["inboundFlows"]["denials"].as_array().cloned().unwrap_or_default();
        let Some(d) = denials.iter().find(|d| d["correlationId"] == id) else { return Ok(None) };
        ensure!(d["reason"] == "PolicyDenied" && d["flow"] == "flights/airports", "{d}");
        Ok(Some(()))
    })
}

pub fn west_allows_airports(w: &mut World) -> Result<()> {
    west_lets_in(w, &["Airport", "State", "located_in"])
}

// ------------------------------------------------------------------ the agent

pub fn kill_east(w: &mut World) -> Result<()> {
    w.east_agent.kill();
    Ok(())
}

pub fn start_east(w: &mut World) -> Result<()> {
    w.east_agent.start()
}

pub fn wipe_east(w: &mut World) -> Result<()> {
    w.east_agent.stop();
    fs::remove_dir_all(w.east.api.dir().join(format!("agent-{NAMESPACE}-us-east")).join("data"))?;
    w.east_agent.start()
}

pub fn reset(w: &mut World) -> Result<()> {
    let wanted = "truth-table-1";
    let annotation = format!("{}={wanted}", mew_crds::annotations::RESET);
    w.east.api.kubectl(&["annotate", "syncs", "airports", "states", "-n", NAMESPACE, "--overwrite", &annotation])?;
    let handled = |o: &Value| o["status"]["lastHandled"]["reset"] == wanted;
    w.east.api.wait_json("sync", NAMESPACE, "airports", "has handled the reset", handled, SOON).map(|_| ())
}
