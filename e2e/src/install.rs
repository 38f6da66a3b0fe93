//! The charts, and the operators that they make.

use crate::cluster::{Cluster, is_ready, name_of, stays};
use crate::prepare::Archive;
use crate::wait::{PATIENCE, until};
use anyhow::{Context, Result};
use mew_tests::dirs::root;
use serde_json::{Value, json};

/// Where the operators are, with their CA, roots and Lease.
pub const SYSTEM: &str = "mew-system";
/// Name of the release, the Deployment and the Lease.
pub const OPERATOR: &str = "mew-operator";
pub const CRDS: &str = "mew-crds";
pub const REPLICAS: u32 = 2;

/// Pods that could do harm are refused, by the API server itself.
pub fn restricted_namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    })
}

pub fn charts(c: &Cluster, image: &Archive) -> Result<()> {
    c.apply(&restricted_namespace(SYSTEM).to_string())?;
    crds(c)?;
    operator(c, image)
}

pub fn crds(c: &Cluster) -> Result<()> {
    upgrade(c, CRDS, "")
}

/// Installs it, or upgrades it to this image.
pub fn operator(c: &Cluster, image: &Archive) -> Result<()> {
    let (repository, tag) = image.repository_and_tag()?;
    let image = json!({"registry": "localhost", "repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"});
    let values = json!({"trustDomain": c.trust_domain, "replicas": REPLICAS, "image": image});
    upgrade(c, OPERATOR, &values.to_string())
}

fn upgrade(c: &Cluster, chart: &str, values: &str) -> Result<()> {
    let path = root().join("charts").join(chart).display().to_string();
    let mut args = vec!["upgrade", "--install", chart, &path, "--namespace", SYSTEM, "--wait", "--timeout", "300s"];
    if !values.is_empty() {
        args.extend(["--values", "-"]);
    }
    c.helm(&args, values).map(drop)
}

/// All replicas run this image and are ready.
pub fn is_whole(c: &Cluster, image: &Archive) -> Result<bool> {
    let d = c.get("deployment", SYSTEM, OPERATOR)?;
    let runs = &d["spec"]["template"]["spec"]["containers"][0]["image"];
    Ok(d["spec"]["replicas"] == REPLICAS && d["status"]["readyReplicas"] == REPLICAS && *runs == image.name)
}

/// The pods that stay.
pub fn pods(c: &Cluster) -> Result<Vec<Value>> {
    let d = c.get("deployment", SYSTEM, OPERATOR)?;
    let labels = d["spec"]["selector"]["matchLabels"].as_object().context("the operator selects no pods")?;
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    Ok(c.list("pods", SYSTEM, &labels.join(","))?.into_iter().filter(stays).collect())
}

/// The container that is the operator.
pub const CONTAINER: &str = "operator";

/// Who holds the Lease now.
pub fn holder(c: &Cluster) -> Result<String> {
    let lease = c.get("lease", SYSTEM, OPERATOR)?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

/// The pod that leads.
pub fn leader(c: &Cluster) -> Result<Value> {
    until("a pod of the operator leads", PATIENCE, || {
        let holder = holder(c)?;
        Ok(pods(c)?.into_iter().find(|p| is_ready(p) && name_of(p) == holder))
    })
}
