//! What holds for every rendering, whatever the values: pod security, rights, and that everything that is named exists.

use crate::id;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Of pod security "restricted": a pod may bring nothing of the node.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
/// The operator makes it itself.
const ROOTS: &str = "mew-roots";

pub fn check(all: &[Value]) -> Result<()> {
    for o in all {
        let one = || -> Result<()> {
            if let Some(pod) = pod_of(o) {
                restricted(pod)?;
                named(all, o, pod)?;
            }
            match o["kind"].as_str().unwrap_or_default() {
                "Deployment" | "StatefulSet" => cared_for(o),
                "Role" | "ClusterRole" => rights(o),
                "RoleBinding" | "ClusterRoleBinding" => binding(all, o),
                "Service" => service(all, o),
                "PodDisruptionBudget" => pods_with(all, o, &o["spec"]["selector"]["matchLabels"]).map(drop),
                "NetworkPolicy" => network_policy(all, o),
                "MutatingWebhookConfiguration" => webhooks(all, o),
                "ServiceMonitor" => monitored(all, o),
                _ => Ok(()),
            }
        };
        one().with_context(|| id(o))?;
    }
    Ok(())
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

/// The pod that an object is, or makes: with `metadata` and `spec`.
fn pod_of(o: &Value) -> Option<&Value> {
    match o["kind"].as_str()? {
        "Pod" => Some(o),
        "Deployment" | "StatefulSet" => o["spec"].get("template"),
        _ => None,
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"].into_iter().flat_map(move |l| list(&pod["spec"][l]))
}

/// As pod security judges it, and a bit more: a read-only file system, and nothing left to defaults.
fn restricted(pod: &Value) -> Result<()> {
    let spec = &pod["spec"];
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(spec.get(host).is_none(), "{host}");
    }
    ensure!(spec["securityContext"]["runAsNonRoot"] == true, "it may run as root");
    ensure!(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "it has no seccomp profile");
    ensure!(spec["automountServiceAccountToken"].is_boolean(), "whether it gets a token is not said");
    for v in list(&spec["volumes"]) {
        let known = v.as_object().is_some_and(|v| v.keys().all(|k| k == "name" || VOLUMES.contains(&k.as_str())));
        ensure!(known, "volume {v}");
    }
    for c in containers(pod) {
        let s = &c["securityContext"];
        let why = |what: &str| format!("container {}: {what}", c["name"]);
        ensure!(s["allowPrivilegeEscalation"] == false, why("it may gain privileges"));
        ensure!(s["capabilities"] == json!({"drop": ["ALL"]}), why("it has capabilities"));
        ensure!(s["readOnlyRootFilesystem"] == true, why("it may write to its image"));
        ensure!(s.get("privileged").is_none() && s["runAsUser"] != 0, why("it is privileged"));
        ensure!(list(&c["ports"]).iter().all(|p| p.get("hostPort").is_none()), why("it takes a port of the node"));
    }
    Ok(())
}

/// What runs for long is looked at, and does not take a whole node.
fn cared_for(o: &Value) -> Result<()> {
    for c in list(&o["spec"]["template"]["spec"]["containers"]) {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            ensure!(c.get(probe).is_some(), "container {} has no {probe}", c["name"]);
        }
        let r = &c["resources"];
        ensure!(r["requests"]["cpu"].is_string() || r["requests"]["cpu"].is_number(), "no request of cpu: {r}");
        ensure!(r["requests"]["memory"].is_string() && r["limits"]["memory"].is_string(), "memory without end: {r}");
    }
    let labels = &o["spec"]["template"]["metadata"]["labels"];
    ensure!(selects(&o["spec"]["selector"]["matchLabels"], labels), "it does not select its own pods");
    Ok(())
}

/// Ports, accounts and ConfigMaps that a pod names.
fn named(all: &[Value], o: &Value, pod: &Value) -> Result<()> {
    let exists = |kind: &str, name: &Value| {
        let same = |x: &&Value| x["kind"] == kind && x["metadata"]["name"] == *name;
        all.iter().filter(same).any(|x| x["metadata"]["namespace"] == o["metadata"]["namespace"])
    };
    let spec = &pod["spec"];
    ensure!(exists("ServiceAccount", &spec["serviceAccountName"]), "no account {}", spec["serviceAccountName"]);
    let volumes = list(&spec["volumes"]);
    let projected = volumes.iter().flat_map(|v| list(&v["projected"]["sources"]));
    for map in volumes.iter().chain(projected).filter_map(|v| v["configMap"].get("name")) {
        ensure!(*map == ROOTS || exists("ConfigMap", map), "no ConfigMap {map}");
    }
    let claims = list(&o["spec"]["volumeClaimTemplates"]);
    for c in containers(pod) {
        for mount in list(&c["volumeMounts"]) {
            let volume = volumes.iter().any(|v| v["name"] == mount["name"]);
            let claim = claims.iter().any(|v| v["metadata"]["name"] == mount["name"]);
            ensure!(volume || claim, "container {} mounts {}, which is not there", c["name"], mount["name"]);
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let port = &c[probe]["httpGet"]["port"];
            ensure!(port.is_null() || port.is_number() || has_port(pod, port), "{probe} of {} asks {port}", c["name"]);
        }
    }
    Ok(())
}

/// Nothing by a wildcard, no way to more rights, and no Secret but by its name.
fn rights(role: &Value) -> Result<()> {
    for rule in list(&role["rules"]) {
        for field in ["apiGroups", "resources", "verbs"] {
            let words = list(&rule[field]);
            ensure!(!words.is_empty() && words.iter().all(|w| w != "*"), "{field} of {rule}");
        }
        let has = |field: &str, words: &[&str]| list(&rule[field]).iter().any(|w| words.iter().any(|x| w == x));
        ensure!(!has("verbs", &["escalate", "bind", "impersonate"]), "{rule}");
        ensure!(!has("resources", &["serviceaccounts/token", "pods/exec", "nodes/proxy"]), "{rule}");
        if has("resources", &["secrets"]) {
            let by_name = !list(&rule["resourceNames"]).is_empty() && !has("verbs", &["list", "watch"]);
            ensure!(by_name || rule["verbs"] == json!(["create"]), "{rule}");
            ensure!(role["kind"] == "Role", "Secrets of all namespaces: {rule}");
        }
    }
    Ok(())
}

/// To a role of the chart itself, never to one of the cluster's own.
fn binding(all: &[Value], b: &Value) -> Result<()> {
    let role = &b["roleRef"];
    let same = |x: &&Value| x["kind"] == role["kind"] && x["metadata"]["name"] == role["name"];
    let there = all
        .iter()
        .filter(same)
        .any(|x| x["kind"] == "ClusterRole" || x["metadata"]["namespace"] == b["metadata"]["namespace"]);
    ensure!(there, "{role} is not in the chart");
    for s in list(&b["subjects"]) {
        let account = |x: &&Value| x["kind"] == s["kind"] && x["metadata"]["name"] == s["name"];
        let known = all.iter().filter(account).any(|x| x["metadata"]["namespace"] == s["namespace"]);
        ensure!(known && s["kind"] == "ServiceAccount", "{s} is not in the chart");
    }
    Ok(())
}

fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

/// The pods of a namespace that a selector finds; it must find some.
fn pods_with<'a>(all: &'a [Value], of: &Value, selector: &Value) -> Result<Vec<&'a Value>> {
    let here = all.iter().filter(|o| o["metadata"]["namespace"] == of["metadata"]["namespace"]);
    let found: Vec<_> = here.filter_map(pod_of).filter(|p| selects(selector, &p["metadata"]["labels"])).collect();
    ensure!(!found.is_empty(), "{selector} selects no pods");
    Ok(found)
}

/// Whether a pod has a port of this name or number.
fn has_port(pod: &Value, port: &Value) -> bool {
    let field = if port.is_string() { "name" } else { "containerPort" };
    containers(pod).flat_map(|c| list(&c["ports"])).any(|p| p[field] == *port)
}

fn service(all: &[Value], s: &Value) -> Result<()> {
    let pods = pods_with(all, s, &s["spec"]["selector"])?;
    for p in list(&s["spec"]["ports"]) {
        ensure!(pods.iter().all(|pod| has_port(pod, &p["targetPort"])), "its pods have no port {}", p["targetPort"]);
    }
    Ok(())
}

/// What is let in has a port to go to; both directions are denied otherwise.
fn network_policy(all: &[Value], n: &Value) -> Result<()> {
    let pods = pods_with(all, n, &n["spec"]["podSelector"]["matchLabels"])?;
    ensure!(n["spec"]["policyTypes"] == json!(["Ingress", "Egress"]), "a direction is open");
    for rule in list(&n["spec"]["ingress"]) {
        ensure!(!list(&rule["ports"]).is_empty(), "all ports are open: {rule}");
        for p in list(&rule["ports"]) {
            // By number: names of a sidecar's ports are not resolved everywhere.
            ensure!(p["port"].is_number() && pods.iter().all(|pod| has_port(pod, &p["port"])), "nothing is at {p}");
        }
    }
    Ok(())
}

fn webhooks(all: &[Value], o: &Value) -> Result<()> {
    for w in list(&o["webhooks"]) {
        let asked = &w["clientConfig"]["service"];
        let same = |x: &&Value| x["kind"] == "Service" && x["metadata"]["name"] == asked["name"];
        let Some(s) = all.iter().filter(same).find(|x| x["metadata"]["namespace"] == asked["namespace"]) else {
            bail!("there is no Service {asked}")
        };
        ensure!(list(&s["spec"]["ports"]).iter().any(|p| p["port"] == asked["port"]), "{} has no such port", id(s));
        ensure!(w["clientConfig"].get("caBundle").is_none(), "the operator writes the caBundle");
        ensure!(!list(&w["objectSelector"]["matchExpressions"]).is_empty(), "all pods would wait for the operator");
        let own = json!([asked["namespace"]]);
        let apart = |e: &Value| e["operator"] == "NotIn" && e["values"] == own;
        ensure!(list(&w["namespaceSelector"]["matchExpressions"]).iter().any(apart), "its own pods would wait for it");
    }
    Ok(())
}

fn monitored(all: &[Value], m: &Value) -> Result<()> {
    let found =
        |x: &&Value| x["kind"] == "Service" && selects(&m["spec"]["selector"]["matchLabels"], &x["metadata"]["labels"]);
    let services: Vec<_> = all.iter().filter(found).collect();
    ensure!(services.len() == 1, "it finds {} Services", services.len());
    for e in list(&m["spec"]["endpoints"]) {
        let ports = list(&services[0]["spec"]["ports"]);
        ensure!(ports.iter().any(|p| p["name"] == e["port"]), "{} has no port {}", id(services[0]), e["port"]);
    }
    Ok(())
}
