//! What a person at kubectl waits for, and what operator and agent take in memory: real API servers, real processes.

use crate::measure::resident_mb;
use crate::race::Figures;
use anyhow::{Context, Result};
use mew_tests::cluster::{Agent, Cluster, exchange_trust};
use mew_tests::ports::free_port;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

const NAMESPACE: &str = "bench";
const ONTOLOGY: &str = "ontology Bench {\n  node Task { shared: Bool }\n  node Secret { text: String }\n}\n";
/// Objects for the loaded operator.
const MANY: usize = 500;
const LIMIT: &str = "--timeout=60s";

struct Pair {
    east_agent: Agent,
    west_agent: Agent,
    east: Cluster,
    west: Cluster,
}

pub fn run(dir: &Path, run: usize, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut f = Figures::new();
    say("two API servers, operators and agents");
    let mut p = start(dir, run)?;
    measured(&mut p, say, &mut f)?;
    let logs = [&p.east, &p.west].map(|c| c.api.dir().to_owned());
    drop(p);
    for dir in logs {
        std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    Ok(f)
}

fn measured(p: &mut Pair, say: &dyn Fn(&str), f: &mut Figures) -> Result<()> {
    memory(p, "idle", f)?;
    say("apply to Ready");
    p.west.api.apply(&(remote("east", "west", &p.east_agent, "canSend", "east.example") + &policy("Import")))?;
    p.east.api.apply(&policy("Export"))?;
    let r = remote("west", "east", &p.west_agent, "canReceive", "west.example");
    timed(&p.east, "apply to Ready, Remote s", &r, "remote/west", "Ready=True", f)?;
    let s = sync("tasks", "west", "Task");
    timed(&p.east, "apply to Ready, Sync s", &s, "sync/tasks", "Ready=True", f)?;
    say("faults");
    faults(p, f)?;
    say("many objects");
    let mut all = String::new();
    for i in 0..MANY {
        write!(all, "{}", sync(&format!("more-{i}"), "west", "Task"))?;
    }
    p.east.api.apply(&all)?;
    let last = format!("sync/more-{}", MANY - 1);
    p.east.api.kubectl(&["wait", "-n", NAMESPACE, &last, "--for=condition=Programmed", LIMIT])?;
    memory(p, &format!("with {MANY} Syncs"), f)?;
    Ok(())
}

fn start(dir: &Path, run: usize) -> Result<Pair> {
    let ontology = dir.join("operator.ontology");
    std::fs::write(&ontology, ONTOLOGY)?;
    let east = Cluster::start(&format!("east-{run}"), "east.example")?;
    let west = Cluster::start(&format!("west-{run}"), "west.example")?;
    for c in [&east, &west] {
        c.api.create_namespace(NAMESPACE)?;
    }
    let east_agent = east.start_agent(NAMESPACE, "east", &ontology)?;
    let west_agent = west.start_agent(NAMESPACE, "west", &ontology)?;
    exchange_trust(NAMESPACE, &east, &west)?;
    Ok(Pair { east_agent, west_agent, east, west })
}

fn memory(p: &Pair, when: &str, f: &mut Figures) -> Result<()> {
    let operator = p.east.operators.first().and_then(mew_tests::cluster::Operator::pid).context("no operator")?;
    f.insert(format!("operator {when}: resident MB"), resident_mb(operator)?);
    let agent = p.east_agent.pid().context("no agent")?;
    f.insert(format!("agent {when}: resident MB"), resident_mb(agent)?);
    Ok(())
}

/// From before kubectl is called to after it has seen the condition: what a person waits.
fn timed(c: &Cluster, what: &str, yaml: &str, object: &str, want: &str, f: &mut Figures) -> Result<()> {
    let start = Instant::now();
    c.api.apply(yaml)?;
    await_condition(c, object, want)?;
    f.insert(what.to_owned(), start.elapsed().as_secs_f64());
    Ok(())
}

/// `Type=Status`, or `Type:Reason`.
fn await_condition(c: &Cluster, object: &str, want: &str) -> Result<()> {
    let condition = match want.split_once(':') {
        None => format!("--for=condition={want}"),
        Some((kind, reason)) => format!("--for=jsonpath={{.status.conditions[?(@.type==\"{kind}\")].reason}}={reason}"),
    };
    c.api.kubectl(&["wait", "-n", NAMESPACE, object, &condition, LIMIT]).map(|_| ())
}

/// Faults that are visible at once, at default settings.
fn faults(p: &mut Pair, f: &mut Figures) -> Result<()> {
    let east = &p.east;
    let dead = free_port()?;
    let refused = remote_at("refused", "east", dead, "bench.refused", "west.example", "canReceive");
    timed(east, "fault named: connection refused s", &refused, "remote/refused", "Ready:Unreachable", f)?;
    // The roots that the peer's certificate chains to are taken away, under a connection that is up.
    let start = Instant::now();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": NAMESPACE, "name": "west-example-roots"}, "data": {"ca.crt": east.roots()?}});
    east.api.apply_server_side(&map.to_string())?;
    await_condition(east, "remote/west", "Ready:TLSUntrustedPeer")?;
    f.insert("fault named: wrong certificate s".into(), start.elapsed().as_secs_f64());
    east.trust(NAMESPACE, &p.west)?;
    await_condition(east, "remote/west", "Ready=True")?;
    let denied = sync("denied", "west", "Secret");
    timed(east, "fault named: denied by own policy s", &denied, "sync/denied", "Ready:PolicyDenied", f)?;
    let start = Instant::now();
    p.west_agent.kill();
    await_condition(east, "sync/tasks", "Ready:Unreachable")?;
    f.insert("fault named: peer's agent killed s".into(), start.elapsed().as_secs_f64());
    p.west_agent.start()?;
    await_condition(east, "sync/tasks", "Ready=True")?;
    Ok(())
}

fn remote(name: &str, kernel: &str, peer: &Agent, permission: &str, domain: &str) -> String {
    remote_at(name, kernel, peer.federation, &peer.kernel_id, domain, permission)
}

fn remote_at(name: &str, kernel: &str, port: u16, kernel_id: &str, domain: &str, permission: &str) -> String {
    let mode = if permission == "canSend" { "Accept" } else { "Dial" };
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  kernelRef: {{name: {kernel}}}
  uri: mew://127.0.0.1:{port}/{kernel_id}
  connectionMode: {mode}
  peer:
    trustDomain: {domain}
    trustBundleRefs: [{{kind: ConfigMap, name: {roots}-roots}}]
  permissions:
    {permission}: [{{type: Task}}]
---
",
        roots = domain.replace('.', "-"),
    )
}

fn policy(operation: &str) -> String {
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {{name: tasks, namespace: {NAMESPACE}}}
spec:
  remoteSelector: {{}}
  mode: PermissiveBridging
  rules:
    - name: tasks
      action: Allow
      operations: [{operation}]
      types: [Task]
---
"
    )
}

fn sync(name: &str, remote: &str, ty: &str) -> String {
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  remoteRef: {{name: {remote}}}
  direction: Push
  match: 't: {ty}'
---
"
    )
}
