//! What there is to see when a case has failed.

use crate::cluster::{Cluster, is_ready, name_of};
use crate::install::SYSTEM;
use crate::steps::say;
use crate::stop;
use crate::world::World;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// File and arguments of kubectl.
const LOOKS: [(&str, &[&str]); 8] = [
    ("objects.yaml", &["get", "remotes,syncs,federationpolicies", "-A", "-o", "yaml"]),
    ("objects.txt", &["get", "remotes,syncs,federationpolicies", "-A", "-o", "wide"]),
    ("workloads.txt", &["get", WORKLOADS, "-A", "-o", "wide"]),
    ("workloads.yaml", &["get", WORKLOADS, "-A", "-o", "yaml"]),
    ("nodes.txt", &["describe", "nodes"]),
    ("pods.txt", &["describe", "pods", "-A"]),
    ("events.txt", &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"]),
    ("webhooks.yaml", &["get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "-o", "yaml"]),
];
const WORKLOADS: &str =
    "nodes,pods,deployments,statefulsets,services,endpointslices,persistentvolumeclaims,persistentvolumes,leases";
/// File and a shell's line in a node: what drops packets, which addresses there are, why pods do not start.
const IN_NODES: [(&str, &str); 2] = [
    ("network", "ip -br address; ip route; iptables-save -t filter; iptables-save -t nat"),
    ("kubelet", "journalctl -u kubelet -n 400 --no-pager"),
];
/// System pods have their own troubles.
const NOT_OURS: [&str; 2] = ["kube-system", "local-path-storage"];

/// The clusters of the case that runs, and where to keep what they look like when it fails.
static RUNNING: Mutex<Option<(Vec<Cluster>, PathBuf)>> = Mutex::new(None);

pub fn begin(w: &World, dir: &Path) {
    *running() = Some((w.clusters().into_iter().cloned().collect(), dir.join("broken")));
}

fn running() -> MutexGuard<'static, Option<(Vec<Cluster>, PathBuf)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A case has failed and is about to mend what it broke, perhaps by deleting what one wants to see. The first failure counts.
pub fn before_mending() {
    if stop::check().is_err() {
        return; // somebody wants it to end
    }
    let Some((clusters, dir)) = running().take() else { return };
    for c in &clusters {
        if let Err(e) = of_cluster(c, &dir.join(c.name)) {
            say(&format!("not everything could be kept of {}: {e:#}", c.name));
        }
    }
}

/// Keeps what it can: one thing that cannot be had must not hide the others.
pub fn everything(w: &World, dir: &Path, why: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    fs::write(dir.join("error.txt"), why)?;
    for c in w.clusters() {
        of_cluster(c, &dir.join(c.name))?;
    }
    for watch in w.watches() {
        let events: String = watch.events().iter().map(|e| format!("{e:?}\n")).collect();
        fs::write(dir.join(watch.cluster.name).join("syncs-said.txt"), events)?;
    }
    Ok(())
}

fn of_cluster(c: &Cluster, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for (file, args) in LOOKS {
        let text = c.kubectl(args).unwrap_or_else(|e| format!("{e:#}"));
        fs::write(dir.join(file), text)?;
    }
    logs(c, dir)?;
    for (node, _) in c.nodes().unwrap_or_default() {
        for (what, line) in IN_NODES {
            let text = c.on_node(&node, &["sh", "-c", line]).unwrap_or_else(|e| format!("{e:#}"));
            fs::write(dir.join(format!("{node}.{what}.txt")), text)?;
        }
    }
    Ok(())
}

fn logs(c: &Cluster, dir: &Path) -> Result<()> {
    // A node that does not answer keeps whoever asks it for a log waiting.
    let nodes = c.list("nodes", "", "").unwrap_or_default();
    let silent: Vec<String> = nodes.iter().filter(|n| !is_ready(n)).map(name_of).collect();
    for pod in c.list("pods", "", "").unwrap_or_default() {
        let text = |path: &str| pod.pointer(path).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if NOT_OURS.contains(&namespace.as_str()) || silent.contains(&text("/spec/nodeName")) {
            continue;
        }
        let args = ["logs", &name, "-n", &namespace, "--all-containers", "--prefix", "--timestamps"];
        let mut all = c.kubectl(&args).unwrap_or_else(|e| format!("{e:#}\n"));
        // What went before a restart says why there was one.
        let has = |label: &str| !text(&format!("/metadata/labels/{label}")).is_empty();
        if namespace == SYSTEM || has("app") || has("federation.mew.dev~1kernel") {
            all.push_str(&c.kubectl(&[&args[..], &["--previous"]].concat()).unwrap_or_default());
        }
        fs::write(dir.join(format!("{namespace}.{name}.log")), all)?;
    }
    Ok(())
}
