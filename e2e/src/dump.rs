//! What there is to see when a case has failed.

use crate::cluster::Cluster;
use crate::install::SYSTEM;
use crate::world::World;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// File and arguments of kubectl.
const LOOKS: [(&str, &[&str]); 7] = [
    ("objects.yaml", &["get", "remotes,syncs,federationpolicies", "-A", "-o", "yaml"]),
    ("objects.txt", &["get", "remotes,syncs,federationpolicies", "-A", "-o", "wide"]),
    ("workloads.txt", &["get", "nodes,pods,deployments,services,persistentvolumeclaims,leases", "-A", "-o", "wide"]),
    ("workloads.yaml", &["get", "pods,deployments,persistentvolumeclaims,leases", "-A", "-o", "yaml"]),
    ("pods.txt", &["describe", "pods", "-A"]),
    ("events.txt", &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"]),
    ("webhooks.yaml", &["get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "-o", "yaml"]),
];
/// System pods have their own troubles.
const NOT_OURS: [&str; 2] = ["kube-system", "local-path-storage"];

/// Keeps what it can: one thing that cannot be had must not hide the others.
pub fn everything(w: &World, dir: &Path, why: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    fs::write(dir.join("error.txt"), why)?;
    for c in w.clusters() {
        let dir = dir.join(c.name);
        fs::create_dir_all(&dir)?;
        for (file, args) in LOOKS {
            let text = c.kubectl(args).unwrap_or_else(|e| format!("{e:#}"));
            fs::write(dir.join(file), text)?;
        }
        logs(c, &dir)?;
    }
    for watch in w.watches() {
        let events: String = watch.events().iter().map(|e| format!("{e:?}\n")).collect();
        fs::write(dir.join(watch.cluster.name).join("syncs-said.txt"), events)?;
    }
    Ok(())
}

fn logs(c: &Cluster, dir: &Path) -> Result<()> {
    for pod in c.list("pods", "", "").unwrap_or_default() {
        let text = |path: &str| pod.pointer(path).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if NOT_OURS.contains(&namespace.as_str()) {
            continue;
        }
        let args = ["logs", &name, "-n", &namespace, "--all-containers", "--prefix", "--timestamps"];
        let mut all = c.kubectl(&args).unwrap_or_else(|e| format!("{e:#}\n"));
        // What went before a restart says why there was one.
        if namespace == SYSTEM || !text("/metadata/labels/app").is_empty() {
            all.push_str(&c.kubectl(&[&args[..], &["--previous"]].concat()).unwrap_or_default());
        }
        fs::write(dir.join(format!("{namespace}.{name}.log")), all)?;
    }
    Ok(())
}
