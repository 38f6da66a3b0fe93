//! What several cases break, and how each is mended.

use crate::cluster::{Cluster, container_status, name_of};
use crate::install::{self, OPERATOR, REPLICAS, SYSTEM};
use crate::pair::{HOME, POLICY, Pair};
use crate::side::{AGENT, Side};
use crate::wait::{PATIENCE, until};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The kind of Syncs.
pub const KIND: &str = "syncs.federation.mew.dev";

// ------------------------------------------------------------------- policies

/// From now on the west lets in only these types from the east.
pub fn let_in(p: &Pair, types: &[&str]) -> Result<()> {
    set_rules(p, types, &[])
}

/// As [`let_in`], with more rules.
pub fn set_rules(p: &Pair, types: &[&str], more: &[Value]) -> Result<()> {
    let mut rules = vec![
        json!({"name": "ours", "action": "Allow", "operations": ["Export"], "types": HOME}),
        json!({"name": "theirs", "action": "Allow", "operations": ["Import"], "types": types}),
    ];
    rules.extend_from_slice(more);
    p.west.patch("federationpolicy", POLICY, &json!({"spec": {"rules": rules}}))
}

/// The west has nothing to do with the east's kernel any more.
pub fn block(p: &Pair) -> Result<()> {
    let kernel = format!("{}.{}", p.east.namespace, p.east.kernel);
    set_blocked(p, &json!([{"trustDomain": p.east.cluster.trust_domain, "kernelIds": [kernel]}]))
}

pub fn unblock(p: &Pair) -> Result<()> {
    set_blocked(p, &Value::Null)
}

fn set_blocked(p: &Pair, kernels: &Value) -> Result<()> {
    p.west.patch("federationpolicy", POLICY, &json!({"spec": {"blockedKernels": kernels}}))
}

// --------------------------------------------------------------------- agents

/// The agent is killed inside its pod, and started again there: what it knows is what it has on its disk.
pub fn kill_agent(s: &Side) -> Result<()> {
    let pod = s.pod()?;
    let restarts = |pod: &Value| container_status(pod, AGENT).and_then(|s| s["restartCount"].as_u64());
    let before = restarts(&pod).context("the agent does not run")?;
    s.cluster.task(&pod, AGENT, &["kill", "-s", "SIGKILL"])?;
    until("the agent was started again", PATIENCE, || Ok(restarts(&s.pod()?).filter(|n| *n > before).map(drop)))
}

/// The pod that has the kernel goes, with its grace period; another one comes by itself.
pub fn delete_pod(s: &Side) -> Result<()> {
    let pod = name_of(&s.pod()?);
    s.cluster.kubectl(&["delete", "pod", &pod, "-n", &s.namespace, "--wait=false"]).map(drop)
}

// ------------------------------------------------------------------ operators

pub fn stop_operators(c: &Cluster) -> Result<()> {
    c.scale(SYSTEM, OPERATOR, 0)?;
    until("no operator is left", PATIENCE, || {
        Ok(c.list("pods", SYSTEM, "app.kubernetes.io/name=mew-operator")?.is_empty().then_some(()))
    })
}

pub fn start_operators(c: &Cluster) -> Result<()> {
    c.scale(SYSTEM, OPERATOR, REPLICAS)?;
    c.rolled_out(SYSTEM, OPERATOR)
}

/// Without a chance to give the Lease back.
pub fn kill_leader(c: &Cluster) -> Result<()> {
    let leader = name_of(&install::leader(c)?);
    c.kubectl(&["delete", "pod", &leader, "-n", SYSTEM, "--force", "--grace-period=0", "--wait=false"]).map(drop)
}

// ---------------------------------------------------------------------- kinds

pub fn delete_kind(c: &Cluster) -> Result<()> {
    c.kubectl(&["delete", "customresourcedefinition", KIND, "--timeout=60s"])?;
    until("the kind is gone", PATIENCE, || Ok(c.find("customresourcedefinition", "", KIND)?.is_none().then_some(())))
}

/// The kind, then its objects.
pub fn restore_kind(p: &Pair, c: &Cluster) -> Result<()> {
    install::crds(c)?;
    c.kubectl(&["wait", "--for=condition=Established", "crd", KIND, "--timeout=60s"])?;
    p.declare_syncs()
}
