//! kube-state-metrics, given the file that `docs/gitops.md` tells to give it: every metric of it is there, and true.

use anyhow::{Context, Result, anyhow, ensure};
use mew_tests::apiserver::ApiServer;
use mew_tests::cluster::{PATIENCE, install_crds};
use mew_tests::dirs::root;
use mew_tests::http;
use mew_tests::ports::free_port;
use mew_tests::process::{Process, dying_with_us};
use mew_tests::tools::kube_state_metrics;
use mew_tests::wait::until;
use serde_json::{Value, json};

const NAMESPACE: &str = "flights";
const CONFIGURATION: &str = "docs/gitops/kube-state-metrics.yaml";
/// What it is told there to put before the names.
const PREFIX: &str = "kube_customresource_";
const ACCOUNT: &str = "kube-state-metrics";

/// Name, labels of which all must be there, and the value.
const EXPECTED: [(&str, &[&str], f64); 12] = [
    ("mew_sync_condition", &["name=\"airports\"", "type=\"Ready\"", "status=\"False\""], 1.0),
    ("mew_sync_condition", &["name=\"airports\"", "type=\"Ready\"", "status=\"True\""], 0.0),
    ("mew_sync_condition", &["remote=\"us-west\"", "direction=\"Push\"", "type=\"Accepted\"", "status=\"True\""], 1.0),
    ("mew_sync_ready_reason", &["namespace=\"flights\"", "reason=\"Lagging\"", "status=\"False\""], 1.0),
    ("mew_sync_failed", &["name=\"airports\""], 3.0),
    ("mew_sync_pending", &["name=\"airports\""], 17.0),
    ("mew_sync_conflicts", &["name=\"airports\""], 2.0),
    ("mew_remote_condition", &["kernel=\"us-east\"", "trust_domain=\"west.example\"", "status=\"Unknown\""], 1.0),
    ("mew_remote_certificate_not_after_seconds", &["name=\"us-west\""], 1_893_456_000.0),
    ("mew_remote_inbound_denied", &["name=\"us-west\""], 1.0),
    ("mew_policy_condition", &["name=\"coasts\"", "type=\"Ready\"", "status=\"True\""], 1.0),
    ("mew_policy_denied_syncs", &["name=\"coasts\""], 4.0),
];

#[test]
fn metrics_of_objects_are_what_their_statuses_say() -> Result<()> {
    let api = ApiServer::start("object-metrics")?;
    install_crds(&api)?;
    api.create_namespace(NAMESPACE)?;
    for (object, status) in objects() {
        api.apply_server_side(&object.to_string())?;
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        let (kind, name) = (kind.as_str().context("a kind")?, name.as_str().context("a name")?);
        let patch = json!({ "status": status }).to_string();
        api.kubectl(&["patch", kind, name, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &patch])?;
    }
    let port = free_port()?;
    let _running = start(&api, port)?;
    let text = until("it has looked at all kinds", PATIENCE, || {
        let text = http::get(port, "/metrics").map(|(_, text)| text).unwrap_or_default();
        let all = |name: &String| text.lines().any(|l| l.starts_with(&format!("{PREFIX}{name}{{")));
        Ok(names()?.iter().all(all).then_some(text))
    })?;
    for (name, labels, value) in EXPECTED {
        let found = series(&text, name).find(|(all, _)| labels.iter().all(|l| all.contains(l)));
        let (_, found) = found.with_context(|| format!("there is no {name} with {labels:?} in\n{text}"))?;
        ensure!(found == value, "{name} {labels:?} is {found}, not {value}");
    }
    Ok(())
}

/// With the rights that the page tells to give it, and no more.
fn start(api: &ApiServer, port: u16) -> Result<Process> {
    api.create_service_account(NAMESPACE, ACCOUNT)?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT},
        "rules": [
            {
                "apiGroups": ["federation.mew.dev"], "resources": ["remotes", "syncs", "federationpolicies"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"],
                "verbs": ["list", "watch"],
            },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    });
    for o in [role, binding] {
        api.apply_server_side(&o.to_string())?;
    }
    let mut c = dying_with_us(&kube_state_metrics()?);
    c.arg("--kubeconfig").arg(api.kubeconfig_of(NAMESPACE, ACCOUNT, &api.url())?);
    c.arg("--custom-resource-state-config-file").arg(root().join(CONFIGURATION));
    c.args(["--custom-resource-state-only=true", "--host=127.0.0.1", "--telemetry-host=127.0.0.1"]);
    c.arg(format!("--port={port}")).arg(format!("--telemetry-port={}", free_port()?));
    Process::start("kube-state-metrics", c, api.dir())
}

/// Each with a status as the operator writes it.
fn objects() -> [(Value, Value); 3] {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "federation.mew.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
        })
    };
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    [
        (
            object(
                "Sync",
                "airports",
                json!({"remoteRef": {"name": "us-west"}, "direction": "Push", "match": "a: Airport"}),
            ),
            json!({
                "observedGeneration": 1, "failed": 3, "pending": 17, "conflicts": {"total": 2},
                "conditions": [condition("Ready", "False", "Lagging"), condition("Accepted", "True", "Accepted")],
            }),
        ),
        (
            object(
                "Remote",
                "us-west",
                json!({
                    "kernelRef": {"name": "us-east"}, "uri": "mew://127.0.0.1:9101/flights.us-west",
                    "peer": {"trustDomain": "west.example"},
                }),
            ),
            json!({
                "observedGeneration": 1, "certificates": {"notAfter": "2030-01-01T00:00:00Z"},
                "inboundFlows": {"denied": 1, "failed": 0, "total": 1}, "conditions": [condition("Ready", "Unknown", "Connecting")],
            }),
        ),
        (
            object("FederationPolicy", "coasts", json!({"remoteSelector": {}})),
            json!({
                "observedGeneration": 1, "deniedSyncs": 4, "conditions": [condition("Ready", "True", "Enforced")],
            }),
        ),
    ]
}

/// Of all metrics that the file defines.
fn names() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join(CONFIGURATION))?;
    let file: Value = serde_saphyr::from_str(&text).map_err(|e| anyhow!("{e}"))?;
    let resources = file["spec"]["resources"].as_array().context("no resources")?;
    let metrics = resources.iter().flat_map(|r| r["metrics"].as_array().into_iter().flatten());
    let names: Vec<String> = metrics.filter_map(|m| m["name"].as_str().map(str::to_owned)).collect();
    let missing = names.iter().find(|n| EXPECTED.iter().all(|(name, ..)| name != n) && !n.ends_with("ready_reason"));
    ensure!(missing.is_none(), "nobody looks at {missing:?}");
    Ok(names)
}

/// Labels and value of each series of a metric.
fn series<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
    let begin = format!("{PREFIX}{name}{{");
    text.lines().filter_map(move |l| {
        let (labels, value) = l.strip_prefix(&begin)?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}
