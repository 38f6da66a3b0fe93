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

/// Takes the charts away with all that they leave, and these namespaces: as a cluster is that has just been made.
pub fn take_away(c: &Cluster, namespaces: &[&str]) -> Result<()> {
    let delete = |kind: &str, names: &[&str]| {
        let flags = ["--ignore-not-found", "--timeout=180s"];
        c.kubectl(&[&["delete", kind][..], names, &flags[..]].concat()).map(drop)
    };
    delete("namespace", namespaces)?;
    for release in [OPERATOR, CRDS] {
        c.helm(&["uninstall", release, "--namespace", SYSTEM, "--ignore-not-found", "--wait"], "")?;
    }
    delete("namespace", &[SYSTEM])?;
    let kinds = ["remotes", "syncs", "federationpolicies"].map(|k| format!("{k}.federation.mew.dev"));
    delete("crd", &kinds.each_ref().map(String::as_str))
}

pub fn crds(c: &Cluster) -> Result<()> {
    upgrade(c, CRDS, "")
}

/// Installs it, or upgrades it to this image.
pub fn operator(c: &Cluster, image: &Archive) -> Result<()> {
    operator_with(c, image, &Value::Null)
}

/// As [`operator`], with more values.
pub fn operator_with(c: &Cluster, image: &Archive, more: &Value) -> Result<()> {
    let mut values = values(c, image)?;
    for (k, v) in more.as_object().into_iter().flatten() {
        values[k] = v.clone();
    }
    upgrade(c, OPERATOR, &values.to_string())?;
    settles(c)
}

/// What the people of this cluster keep in a file.
pub fn values(c: &Cluster, image: &Archive) -> Result<Value> {
    let (repository, tag) = image.repository_and_tag()?;
    let image = json!({"registry": "localhost", "repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"});
    Ok(json!({"trustDomain": c.trust_domain, "replicas": REPLICAS, "image": image}))
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

/// Those that were replaced are gone: while they end they still answer the API server, which keeps its connection to the
/// webhook.
pub fn settles(c: &Cluster) -> Result<()> {
    until(&format!("the replaced operators of {} are gone", c.name), PATIENCE, || {
        Ok((all_pods(c)?.len() == REPLICAS as usize).then_some(()))
    })
}

/// The pods that stay.
pub fn pods(c: &Cluster) -> Result<Vec<Value>> {
    Ok(all_pods(c)?.into_iter().filter(stays).collect())
}

fn all_pods(c: &Cluster) -> Result<Vec<Value>> {
    let d = c.get("deployment", SYSTEM, OPERATOR)?;
    let labels = d["spec"]["selector"]["matchLabels"].as_object().context("the operator selects no pods")?;
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    c.list("pods", SYSTEM, &labels.join(","))
}

/// The public roots of the trust domain, as its operator publishes them.
pub fn roots(c: &Cluster) -> Result<String> {
    let map = c.get("configmap", SYSTEM, "mew-roots")?;
    Ok(map["data"]["ca.crt"].as_str().context("mew-roots has no ca.crt")?.to_owned())
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
