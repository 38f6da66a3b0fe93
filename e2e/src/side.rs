//! One side of a pair: a workload with a kernel beside it, in a namespace of a cluster.

use crate::cluster::{Cluster, is_ready, name_of, stays};
pub use crate::kernel::AGENT;
use crate::kernel::Kernel;
use crate::prepare::Archive;
use crate::wait::{PATIENCE, until};
use crate::workload::sidecar;
use anyhow::{Context, Result, ensure};
use mew_tests::kstatus::condition;
use serde_json::Value;

/// What an agent says that has no kernel yet, or ends.
const TRY_AGAIN: [&str; 2] = ["the kernel is not open yet", "this agent is stopping"];
/// The container of the application.
pub const APP: &str = "app";

#[derive(Clone)]
pub struct Side {
    pub cluster: Cluster,
    pub namespace: String,
    /// Also the name of the Deployment.
    pub kernel: &'static str,
    /// The peer's kernel, and the Remote that leads to it.
    pub peer: &'static str,
    pub syncs: &'static [&'static str],
}

impl Side {
    // ----------------------------------------------------------------- pods

    pub fn pods(&self) -> Result<Vec<Value>> {
        self.cluster.list("pods", &self.namespace, &format!("app={}", self.kernel))
    }

    /// The pod that has the kernel: of two during an update the older one, as the newer one waits for it.
    pub fn pod(&self) -> Result<Value> {
        let mut all: Vec<Value> = self.pods()?.into_iter().filter(|p| stays(p) && is_ready(p)).collect();
        all.sort_by_key(|p| p["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned());
        all.into_iter().next().with_context(|| format!("{}: no pod of {} is ready", self.cluster.name, self.kernel))
    }

    pub fn wait_for_pod(&self) -> Result<Value> {
        until(&format!("{}: a pod of {} is ready", self.cluster.name, self.kernel), PATIENCE, || self.pod().map(Some))
    }

    pub fn wait_for_no_pods(&self) -> Result<()> {
        until(&format!("{}: the pods of {} are gone", self.cluster.name, self.kernel), PATIENCE, || {
            Ok(self.pods()?.is_empty().then_some(()))
        })
    }

    pub fn scale(&self, replicas: u32) -> Result<()> {
        self.cluster.scale(&self.namespace, self.kernel, replicas)
    }

    pub fn rolled_out(&self) -> Result<()> {
        self.cluster.rolled_out(&self.namespace, self.kernel)
    }

    /// New pods take the place of the old ones, with the agent of now.
    pub fn restart(&self) -> Result<()> {
        let object = format!("deployment/{}", self.kernel);
        self.cluster.kubectl(&["rollout", "restart", &object, "-n", &self.namespace])?;
        self.rolled_out()
    }

    /// As declared: several tags are one program, so what the node says that it runs may be any of them.
    pub fn has_agent_of(&self, image: &Archive) -> Result<()> {
        // The pod before it may still be ending.
        until(&format!("the agent in {} is of {}", self.cluster.name, image.name), PATIENCE, || {
            let pod = self.wait_for_pod()?;
            let of = &sidecar(&pod).context("there is no agent")?["image"];
            Ok((*of == image.name).then_some(()))
        })
    }

    /// What the agent of the pod that has the kernel says.
    pub fn agent_log(&self) -> Result<String> {
        self.cluster.kubectl(&["logs", &name_of(&self.pod()?), "-n", &self.namespace, "-c", AGENT])
    }

    // ----------------------------------------------------------------- data

    /// Asks the kernel; again if its agent stands by, or ends, and so did nothing.
    fn ask<T>(&self, ask: impl Fn(&Kernel<'_>) -> Result<T>) -> Result<T> {
        let once = || {
            let pod = name_of(&self.pod()?);
            ask(&Kernel { cluster: &self.cluster, namespace: &self.namespace, pod: &pod })
        };
        let what = format!("{}: the kernel of {} takes statements", self.cluster.name, self.kernel);
        until(&what, PATIENCE, || match once() {
            Err(e) if TRY_AGAIN.iter().any(|t| format!("{e:#}").contains(t)) => Ok(None),
            r => Ok(Some(r)),
        })?
    }

    pub fn execute(&self, statement: &str) -> Result<()> {
        self.ask(|k| k.execute(statement))
    }

    pub fn rows(&self, query: &str) -> Result<Vec<Vec<String>>> {
        self.ask(|k| k.rows(query))
    }

    pub fn wait_for_rows(&self, what: &str, query: &str, good: impl Fn(&[Vec<String>]) -> bool) -> Result<()> {
        until(&format!("{}: {what}", self.cluster.name), PATIENCE, || Ok(good(&self.rows(query)?).then_some(())))
    }

    // -------------------------------------------------------------- objects

    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        self.cluster.get(kind, &self.namespace, name)
    }

    pub fn wait(&self, kind: &str, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        self.cluster.wait(kind, &self.namespace, name, what, good, PATIENCE)
    }

    /// What Ready is, and why.
    pub fn shows(&self, kind: &str, name: &str, status: &str, reason: &str) -> Result<Value> {
        let good = |o: &Value| condition(o, "Ready").is_some_and(|c| c["status"] == status && c["reason"] == reason);
        self.wait(kind, name, &format!("Ready is {status}, {reason}"), good)
    }

    /// Ready about the spec as it is.
    pub fn becomes_ready(&self, kind: &str, name: &str) -> Result<Value> {
        self.cluster.becomes_ready(kind, &self.namespace, name)
    }

    pub fn all_ready(&self) -> Result<()> {
        self.syncs.iter().try_for_each(|s| self.becomes_ready("sync", s).map(drop))?;
        self.becomes_ready("remote", self.peer).map(drop)
    }

    /// Since when the Remote has been ready without a break.
    pub fn connected_since(&self) -> Result<String> {
        let r = self.object("remote", self.peer)?;
        let ready = condition(&r, "Ready").context("no Ready")?;
        ensure!(ready["status"] == "True", "{}: {ready}", self.cluster.name);
        Ok(ready["lastTransitionTime"].as_str().context("no lastTransitionTime")?.to_owned())
    }

    pub fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        self.cluster.patch(kind, &self.namespace, name, patch)
    }

    /// `namespace/name` of its Syncs, as a watch has them.
    pub fn sync_names(&self) -> Vec<String> {
        self.syncs.iter().map(|s| format!("{}/{s}", self.namespace)).collect()
    }

    /// Which data directory the agent has, as it says itself through the Remote's status.
    pub fn incarnation(&self) -> Result<String> {
        let r = self.object("remote", self.peer)?;
        let id = r["status"]["kernel"]["incarnation"].as_str().unwrap_or_default().to_owned();
        ensure!(!id.is_empty(), "the status of Remote {} names no incarnation", self.peer);
        Ok(id)
    }
}
