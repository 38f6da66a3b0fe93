//! What a team deploys. Of ours are only a label, two annotations and the ontology.

use crate::cluster::container_status;
use crate::kernel::AGENT;
use crate::pair::nobody;
use crate::side::APP;
use anyhow::{Context, Result, ensure};
use mew_tests::dirs::root;
use serde_json::{Value, json};
use std::fs;

const MAP: &str = "flights";
const KEY: &str = "flights.ontology";

pub struct Workload<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub kernel: &'a str,
    /// As the annotation says it.
    pub storage: &'a str,
    /// The application's image.
    pub app: &'a str,
}

impl Workload<'_> {
    /// A Deployment of one replica; its pods have the label `app: <name>`.
    pub fn deployment(&self) -> Value {
        let labels = json!({"app": self.name, "federation.mew.dev/kernel": self.kernel});
        let annotations = json!({
            "federation.mew.dev/storage": self.storage,
            "federation.mew.dev/ontology": format!("{MAP}/{KEY}"),
        });
        let template = json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "terminationGracePeriodSeconds": 10,
                "securityContext": nobody(),
                "containers": [{
                    "name": APP, "image": self.app, "imagePullPolicy": "IfNotPresent",
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": self.name}}, "template": template,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            },
        })
    }

    /// What the Deployment would make, as a pod on its own.
    pub fn pod(&self) -> Value {
        let mut pod = self.deployment()["spec"]["template"].take();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(self.name);
        pod["metadata"]["namespace"] = json!(self.namespace);
        pod
    }
}

/// The agent that was added to a pod.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    pod["spec"]["initContainers"].as_array()?.iter().find(|c| c["name"] == AGENT)
}

/// The agent was there when the application was started, once.
pub fn started_in_order(pod: &Value) -> Result<()> {
    let status = |name: &str| container_status(pod, name).with_context(|| format!("no status of {name}"));
    let since = |v: &Value| v["state"]["running"]["startedAt"].as_str().unwrap_or_default().to_owned();
    let (agent, app) = (status(AGENT)?, status(APP)?);
    ensure!(app["restartCount"] == 0, "the application was restarted: its kernel was not there in time: {app}");
    ensure!(agent["started"] == true && since(agent) <= since(app), "the agent started later: {agent} {app}");
    Ok(())
}

pub fn ontology() -> Result<String> {
    let file = root().join("examples/airports/flights.ontology");
    fs::read_to_string(&file).with_context(|| file.display().to_string())
}

/// Where the annotation finds it.
pub fn ontology_map(namespace: &str, ontology: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MAP, "namespace": namespace},
        "data": {KEY: ontology},
    })
}
