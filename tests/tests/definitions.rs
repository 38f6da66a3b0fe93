//! The definitions of our kinds are deleted under running flows, with all objects: nobody withdrew what they say, so data
//! flows on, and applying everything again is all it takes. And: of several namespaces, an operator watches those it is told.

use anyhow::{Result, ensure};
use mew_tests::cluster::{Agent, Cluster, install_crds};
use mew_tests::dirs::root;
use mew_tests::kstatus::condition;
use mew_tests::wait::until;
use serde_json::json;
use std::time::Duration;

const NAMESPACE: &str = "shop";
const OTHER: &str = "elsewhere";
const PATIENCE: Duration = Duration::from_secs(60);
/// Plans after which whatever was going to be withdrawn would have been.
const PLANS: u64 = 3;
const ONTOLOGY: &str = "ontology T { node Task { code: String [required, unique], title: String? } }";

const OBJECTS: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {name: open, namespace: shop}
spec:
  remoteSelector: {}
  mode: StrictIsolation
  rules: [{name: all, action: Allow, operations: [Export, Import], types: [Task]}]
---
apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {name: b, namespace: shop}
spec:
  kernelRef: {name: a}
  uri: mew://127.0.0.1:PORT_B/shop.b
  connectionMode: Dial
  peer: {trustDomain: definitions.example}
  permissions: {canReceive: [{type: Task}]}
  retry: {initialInterval: 100ms, maxInterval: 1s}
---
apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {name: a, namespace: shop}
spec:
  kernelRef: {name: b}
  uri: mew://127.0.0.1:PORT_A/shop.a
  connectionMode: Accept
  peer: {trustDomain: definitions.example}
  permissions: {canSend: [{type: Task}]}
---
apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: shop}
spec:
  remoteRef: {name: b}
  direction: Push
  match: 't: Task'
";

struct Shop {
    cluster: Cluster,
    a: Agent,
    b: Agent,
    objects: String,
}

fn start(name: &str) -> Result<Shop> {
    let mut cluster = Cluster::start(name, "definitions.example")?;
    for ns in [NAMESPACE, OTHER] {
        cluster.api.create_namespace(ns)?;
    }
    // As the chart does it, its own namespace among them.
    cluster.operators[0].stop();
    cluster.operators[0].start_with(&["--watch-namespace", NAMESPACE, "--watch-namespace", "mew-system"])?;
    let ontology = cluster.api.dir().join("tasks.ontology");
    std::fs::write(&ontology, ONTOLOGY)?;
    let a = cluster.start_agent(NAMESPACE, "a", &ontology)?;
    let b = cluster.start_agent(NAMESPACE, "b", &ontology)?;
    let objects = OBJECTS.replace("PORT_A", &a.federation.to_string()).replace("PORT_B", &b.federation.to_string());
    Ok(Shop { cluster, a, b, objects })
}

impl Shop {
    fn declare(&self) -> Result<()> {
        self.cluster.api.apply(&self.objects)?;
        for object in ["remote/a", "remote/b", "sync/tasks"] {
            self.cluster.api.wait_ready(object, NAMESPACE, PATIENCE)?;
        }
        Ok(())
    }

    fn plans(&self) -> Result<()> {
        let operator = self.cluster.leader()?;
        let end = operator.counters()?.0 + PLANS;
        until("the operator plans again", PATIENCE, || Ok((operator.counters()?.0 >= end).then_some(())))
    }

    /// A new entity arrives.
    fn flows(&self, code: &str) -> Result<()> {
        self.a.execute("SPAWN Task {code = $code}", json!({"code": code}))?;
        let text = format!("MATCH t: Task WHERE t.code = {code:?} RETURN t.code");
        until(&format!("{code} arrives"), PATIENCE, || Ok((self.b.rows(&text)?.len() == 1).then_some(())))
    }

    /// How far the sink has come, and what it was sent altogether: a copy anew would show.
    fn applied(&self) -> Result<u64> {
        let v = mew_tests::http::metric(self.b.health, "federation_sync_entities_total")?;
        Ok(v.unwrap_or_default() as u64)
    }
}

#[test]
fn data_flows_on_while_the_definitions_are_gone() -> Result<()> {
    let s = start("definitions")?;
    s.declare()?;
    s.flows("before")?;
    let crds = root().join("crds/generated").display().to_string();
    s.cluster.api.kubectl(&["delete", "-f", &crds, "--wait=true", "--timeout=60s"])?;
    let gone = s.cluster.api.kubectl(&["get", "syncs", "-A"]);
    ensure!(gone.is_err(), "the definition is still there: {gone:?}");
    s.plans()?;
    s.flows("without definitions")?;
    install_crds(&s.cluster.api)?;
    s.plans()?;
    s.flows("with definitions and no objects")?;
    let before = s.applied()?;
    s.declare()?;
    s.flows("declared again")?;
    ensure!(s.applied()? <= before + 1, "everything was copied again");
    // Withdrawn for good now: what is deleted alone is deleted.
    s.cluster.api.kubectl(&["delete", "sync", "tasks", "-n", NAMESPACE])?;
    until("the flow is gone at the agent", PATIENCE, || {
        let status = mew_tests::http::get(s.a.api, "/v1/status")?.1;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        Ok(status["syncs"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}

#[test]
fn an_operator_leaves_other_namespaces_alone() -> Result<()> {
    let s = start("namespaces")?;
    let elsewhere = s.objects.replace("namespace: shop", "namespace: elsewhere");
    s.cluster.api.apply(&elsewhere)?;
    s.declare()?;
    s.plans()?;
    let sync = s.cluster.api.get_json("sync", OTHER, "tasks")?;
    // What the API server puts there at first.
    ensure!(condition(&sync, "Ready").is_none_or(|c| c["status"] == "Unknown"), "it was planned: {sync}");
    Ok(())
}
