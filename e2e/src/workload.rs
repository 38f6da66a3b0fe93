//! What a team deploys. Of ours are only a label, two annotations and the ontology.

use crate::pair::nobody;
use crate::side::APP;
use anyhow::{Context, Result};
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
