//! The definitions of our kinds are deleted under running flows, with all objects: nobody withdrew what they say, so data
//! flows on, and applying everything again is all it takes. And: of several namespaces, an operator watches those it is told.

use anyhow::{Result, ensure};
use mew_tests::cluster::{Agent, Cluster, install_crds};
use mew_tests::dirs::root;
use mew_tests::http::metric;
use mew_tests::kstatus::condition;
use mew_tests::wait::until;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const NAMESPACE: &str = "shop";
const OTHER: &str = "elsewhere";
const PATIENCE: Duration = Duration::from_secs(60);
/// Plans after which whatever was going to be withdrawn would have been.
const PLANS: u64 = 3;
/// As the chart does it, its own namespace among them.
const WATCHED: [&str; 4] = ["--watch-namespace", NAMESPACE, "--watch-namespace", "mew-system"];
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

const REMOTE_OF_NEW: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {name: b-of-c, namespace: shop}
spec:
  kernelRef: {name: c}
  uri: mew://127.0.0.1:PORT_B/shop.b
  connectionMode: Dial
  peer: {trustDomain: definitions.example}
";

/// A Sync that was never there before, with the flow of the one that was.
const LATE: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: late, namespace: shop}
spec:
  remoteRef: {name: b}
  direction: Push
  match: 't: Task'
";

/// The one that was there, with less than before.
const TASKS_OTHERWISE: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: shop}
spec:
  remoteRef: {name: b}
  direction: Push
  match: 't: Task WHERE t.title = \"kept\"'
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
    cluster.operators[0].stop();
    cluster.operators[0].start_with(&WATCHED)?;
    let ontology = ontology(&cluster);
    std::fs::write(&ontology, ONTOLOGY)?;
    let a = cluster.start_agent(NAMESPACE, "a", &ontology)?;
    let b = cluster.start_agent(NAMESPACE, "b", &ontology)?;
    let objects = OBJECTS.replace("PORT_A", &a.federation.to_string()).replace("PORT_B", &b.federation.to_string());
    Ok(Shop { cluster, a, b, objects })
}

fn ontology(cluster: &Cluster) -> PathBuf {
    cluster.api.dir().join("tasks.ontology")
}

impl Shop {
    /// Another leader, which has seen nothing of what was before; agents attach to it.
    fn restart(&mut self) -> Result<()> {
        self.cluster.operators[0].kill();
        self.cluster.operators[0].start_with(&WATCHED)?;
        for agent in [&self.a, &self.b] {
            until("the agent is attached again", PATIENCE, || {
                Ok((metric(agent.health, "mew_agent_attached")? == Some(1.0)).then_some(()))
            })?;
        }
        Ok(())
    }

    fn delete_definitions(&self) -> Result<()> {
        let crds = root().join("crds/generated").display().to_string();
        self.cluster.api.kubectl(&["delete", "-f", &crds, "--wait=true", "--timeout=60s"])?;
        let gone = self.cluster.api.kubectl(&["get", "syncs", "-A"]);
        ensure!(gone.is_err(), "the definition is still there: {gone:?}");
        Ok(())
    }

    /// Deletes the Sync alone, and waits until its agent has given it up.
    fn withdraw(&self) -> Result<()> {
        self.cluster.api.kubectl(&["delete", "sync", "tasks", "-n", NAMESPACE])?;
        until("the flow is gone at the agent", PATIENCE, || {
            let status = mew_tests::http::get(self.a.api, "/v1/status")?.1;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            Ok(status["syncs"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })
    }

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
        let v = metric(self.b.health, "federation_sync_entities_total")?;
        Ok(v.unwrap_or_default() as u64)
    }
}

#[test]
fn data_flows_on_while_the_definitions_are_gone() -> Result<()> {
    let s = start("definitions")?;
    s.declare()?;
    s.flows("before")?;
    s.delete_definitions()?;
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
    s.withdraw()
}

/// Whoever saw the objects go is not there any more when their definitions come back, and an empty list is all that the next
/// leader has.
#[test]
fn data_flows_on_under_a_leader_that_finds_nothing() -> Result<()> {
    let mut s = start("definitions-leader")?;
    s.declare()?;
    s.flows("before")?;
    s.delete_definitions()?;
    s.restart()?;
    s.flows("without definitions")?;
    install_crds(&s.cluster.api)?;
    s.plans()?;
    s.flows("with definitions and no objects")?;
    s.restart()?;
    s.plans()?;
    s.flows("and again under another one")?;

    // A kernel that has nothing has nothing to lose: it does not wait.
    let new = s.cluster.start_agent(NAMESPACE, "c", &ontology(&s.cluster))?;
    let object = REMOTE_OF_NEW.replace("PORT_B", &s.b.federation.to_string());
    s.cluster.api.apply(&object)?;
    let good = |o: &serde_json::Value| condition(o, "Programmed").is_some_and(|c| c["status"] == "True");
    s.cluster.api.wait_json("remote", NAMESPACE, "b-of-c", "it is programmed", good, PATIENCE)?;
    drop(new);

    let before = s.applied()?;
    s.declare()?;
    s.flows("declared again")?;
    ensure!(s.applied()? <= before + 1, "everything was copied again");
    s.withdraw()
}

/// Only Syncs were away, so that nothing else can be missing: a leader that finds none of them waits for those that the agent
/// has, and says so; from then on everything is given at once.
#[test]
fn what_is_new_waits_only_for_what_the_agent_has() -> Result<()> {
    let mut s = start("definitions-syncs")?;
    s.declare()?;
    s.flows("before")?;
    s.cluster.api.kubectl(&["delete", "crd", "syncs.federation.mew.dev", "--wait=true", "--timeout=60s"])?;
    install_crds(&s.cluster.api)?;
    s.restart()?;

    s.cluster.api.apply(LATE)?;
    let waits = |o: &serde_json::Value| {
        let said = condition(o, "Programmed").and_then(|c| c["message"].as_str()).unwrap_or_default();
        said.contains("syncs.federation.mew.dev was deleted and came back at")
            && said.contains("Sync shop/tasks, which the agent has, is not applied again")
    };
    s.cluster.api.wait_json("sync", NAMESPACE, "late", "it says what it waits for", waits, PATIENCE)?;
    s.flows("by the Sync that the agent has")?;

    s.cluster.api.apply(TASKS_OTHERWISE)?;
    for sync in ["sync/tasks", "sync/late"] {
        s.cluster.api.wait_ready(sync, NAMESPACE, PATIENCE)?;
    }
    s.flows("by the new one")
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
