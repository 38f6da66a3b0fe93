//! What is added to a pod: the agent's container and its volumes.

use crate::annotations::{Storage, Wishes};
use crate::settings::{Bounds, Settings};
use mew_crds::annotations::{PREFIX, pod as names};
use serde_json::{Map, Value, json};

/// Name of the agent's container.
pub const CONTAINER: &str = "mew-agent";
/// Names of the agent's volumes begin with it.
pub const VOLUMES: &str = "mew-agent-";
pub const DATA_VOLUME: &str = "mew-agent-data";
pub const ONTOLOGY_VOLUME: &str = "mew-agent-ontology";
pub const TOKEN_VOLUME: &str = "mew-agent-token";
pub const ROOTS_VOLUME: &str = "mew-agent-roots";
const CERTIFICATES_VOLUME: &str = "mew-agent-certificates";
const NOTHING_VOLUME: &str = "mew-agent-nothing";
/// In the agent's environment, the kernel that it holds.
pub const KERNEL_VARIABLE: &str = "MEW_KERNEL";

/// User and group of the agent, and group of its data where the pod has none: `nonroot` of the usual base images.
pub const USER: u32 = 65_532;
/// The kubelet replaces a token after four fifths of this.
const TOKEN_SECONDS: u32 = 3600;
/// Of looks, one a second: opening a large log takes minutes, and the application waits for it.
const START_LOOKS: u32 = 900;
/// What Kubernetes gives a pod that does not say how long it may take to end.
const DEFAULT_GRACE_SECONDS: u64 = 30;

const DATA: &str = "/data";
const ONTOLOGY: &str = "/etc/federation.mew.dev";
const TOKEN: &str = "/var/run/secrets/federation.mew.dev";
const ROOTS: &str = "/var/run/federation.mew.dev";
const CERTIFICATES: &str = "/var/run/certificates.federation.mew.dev";
/// Of a Secret of type kubernetes.io/tls.
const CERTIFICATE_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// Where the API server's own admission would mount a token for itself, if nothing were mounted there.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The audience of a token that stands for a kernel.
pub fn audience(trust_domain: &str, kernel: &str) -> String {
    format!("{PREFIX}{trust_domain}/kernel/{kernel}")
}

/// The pod with its agent. It has none, and nothing is in the way.
pub fn add(pod: &Value, kernel: &str, w: &Wishes, s: &Settings) -> Value {
    let agent = container(pod, kernel, w, s);
    let mut pod = pod.clone();
    set_roots(&mut pod, s);
    let spec = object(&mut pod, &["spec"]);
    // Before everything else: also other init containers may want the kernel.
    list(spec, "initContainers").insert(0, agent);
    list(spec, "volumes").extend(volumes(kernel, w, s));
    if !matches!(w.storage, Storage::Ephemeral(_)) {
        let security = object(&mut pod, &["spec", "securityContext"]);
        if security.get("fsGroup").is_none_or(Value::is_null) {
            security.insert("fsGroup".to_owned(), json!(USER));
            // Not file by file at every start of a pod.
            security.entry("fsGroupChangePolicy").or_insert_with(|| json!("OnRootMismatch"));
        }
    }
    pod
}

pub fn set_roots(pod: &mut Value, s: &Settings) {
    let roots = format!("{}\n", s.roots.trim());
    object(pod, &["metadata", "annotations"]).insert(names::ROOTS.to_owned(), Value::String(roots));
}

pub fn container(pod: &Value, kernel: &str, w: &Wishes, s: &Settings) -> Value {
    let mut c = json!({
        "name": CONTAINER,
        "image": s.image,
        "args": ["agent"],
        // A native sidecar: started before the application, and ended after it.
        "restartPolicy": "Always",
        "env": environment(pod, kernel, w, s),
        "ports": [
            {"name": "mew-federation", "containerPort": w.ports.federation, "protocol": "TCP"},
            {"name": "mew-metrics", "containerPort": w.ports.health, "protocol": "TCP"},
        ],
        "resources": resources(w, s),
        // The application starts once the kernel is open, or the agent waits as a standby for the pod that is replaced.
        "startupProbe": probe("/ready", w, 1, START_LOOKS),
        "livenessProbe": probe("/live", w, 10, 6),
        "readinessProbe": probe("/ready", w, 5, 2),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Why it ended is seen on the pod.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(w),
    });
    if let Some(p) = &s.pull_policy {
        c["imagePullPolicy"] = json!(p);
    }
    c
}

/// Everything is said, so that an image with other defaults does the same.
fn environment(pod: &Value, kernel: &str, w: &Wishes, s: &Settings) -> Vec<Value> {
    let mut all = vec![
        json!({"name": KERNEL_VARIABLE, "value": kernel}),
        json!({"name": "MEW_INSTANCE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}),
    ];
    let ports = &w.ports;
    let plain = [
        ("MEW_TRUST_DOMAIN", s.trust_domain.clone()),
        ("MEW_OPERATOR", s.operator.clone()),
        ("MEW_TOKEN_FILE", format!("{TOKEN}/token")),
        ("MEW_ROOTS_FILE", format!("{ROOTS}/ca.crt")),
        ("MEW_DATA", DATA.to_owned()),
        ("MEW_ONTOLOGY", format!("{ONTOLOGY}/ontology")),
        ("MEW_LISTEN", format!("127.0.0.1:{}", ports.client)),
        // Of all addresses, of IPv4 and IPv6: a pod has either or both.
        ("MEW_FEDERATION", format!("[::]:{}", ports.federation)),
        // The kubelet's probes and scrapers come from outside the pod too.
        ("MEW_HEALTH", format!("[::]:{}", ports.health)),
        ("RUST_LOG", w.log_level.to_owned()),
    ];
    all.extend(plain.into_iter().map(|(name, value)| json!({"name": name, "value": value})));
    if matches!(w.storage, Storage::Ephemeral(_)) {
        all.push(json!({"name": "MEW_EPHEMERAL", "value": "true"}));
    }
    if !w.certificates.is_empty() {
        all.push(json!({"name": "MEW_CERTIFICATES", "value": CERTIFICATES}));
    }
    // The application's end is within it too; how much that took the agent cannot know.
    let grace =
        pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_GRACE_SECONDS);
    all.push(json!({"name": "MEW_GRACE_SECONDS", "value": grace.to_string()}));
    all
}

fn resources(w: &Wishes, s: &Settings) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for (name, asked, default) in
        [("cpu", &w.resources.cpu, &s.resources.cpu), ("memory", &w.resources.memory, &s.resources.memory)]
    {
        let Bounds { request, limit } = asked.or(default);
        requests.extend(request.map(|q| (name.to_owned(), Value::String(q))));
        limits.extend(limit.map(|q| (name.to_owned(), Value::String(q))));
    }
    let mut out = Map::new();
    for (name, amounts) in [("requests", requests), ("limits", limits)] {
        if !amounts.is_empty() {
            out.insert(name.to_owned(), Value::Object(amounts));
        }
    }
    Value::Object(out)
}

fn probe(path: &str, w: &Wishes, seconds: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": w.ports.health, "scheme": "HTTP"},
        "periodSeconds": seconds,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    })
}

fn mounts(w: &Wishes) -> Vec<Value> {
    let data = match &w.storage {
        Storage::Volume(name) => name.as_str(),
        Storage::Claim(_) | Storage::Ephemeral(_) => DATA_VOLUME,
    };
    let read_only = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let mut all = vec![
        json!({"name": data, "mountPath": DATA}),
        read_only(ONTOLOGY_VOLUME, ONTOLOGY),
        read_only(TOKEN_VOLUME, TOKEN),
        read_only(ROOTS_VOLUME, ROOTS),
        // An agent has no credentials for the API server.
        read_only(NOTHING_VOLUME, API_TOKEN),
    ];
    if !w.certificates.is_empty() {
        all.push(read_only(CERTIFICATES_VOLUME, CERTIFICATES));
    }
    all
}

pub fn volumes(kernel: &str, w: &Wishes, s: &Settings) -> Vec<Value> {
    let mut all = Vec::new();
    match &w.storage {
        Storage::Claim(claim) => {
            all.push(json!({"name": DATA_VOLUME, "persistentVolumeClaim": {"claimName": claim}}));
        }
        Storage::Volume(_) => {}
        Storage::Ephemeral(None) => all.push(json!({"name": DATA_VOLUME, "emptyDir": {}})),
        Storage::Ephemeral(Some(size)) => all.push(json!({"name": DATA_VOLUME, "emptyDir": {"sizeLimit": size}})),
    }
    let ontology = &w.ontology;
    let token = json!({
        "audience": audience(&s.trust_domain, kernel), "expirationSeconds": TOKEN_SECONDS, "path": "token",
    });
    let roots = format!("metadata.annotations['{}']", names::ROOTS);
    all.extend([
        json!({"name": ONTOLOGY_VOLUME, "configMap": {
            "name": ontology.map, "items": [{"key": ontology.key, "path": "ontology"}],
        }}),
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        json!({"name": ROOTS_VOLUME, "downwardAPI": {
            "items": [{"path": "ca.crt", "fieldRef": {"apiVersion": "v1", "fieldPath": roots}}],
        }}),
        // In memory, since autoscalers spare nodes whose pods have local disks.
        json!({"name": NOTHING_VOLUME, "emptyDir": {"medium": "Memory"}}),
    ]);
    if !w.certificates.is_empty() {
        let sources: Vec<Value> = w.certificates.iter().map(|s| secret(s)).collect();
        all.push(json!({"name": CERTIFICATES_VOLUME, "projected": {"sources": sources}}));
    }
    all
}

/// A directory of its own for each Secret. Optional: the application need not wait until an issuer has issued, and what is
/// missing is said by the Remote that names it.
fn secret(name: &str) -> Value {
    let items = CERTIFICATE_FILES.map(|f| json!({"key": f, "path": format!("{name}/{f}")}));
    json!({"secret": {"name": name, "items": items, "optional": true}})
}

/// The object at a path, made where there is none.
fn object<'a>(of: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = of;
    for step in path {
        here = map(here).entry(*step).or_insert(Value::Null);
    }
    map(here)
}

fn map(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    v.as_object_mut().expect("it was just made one")
}

fn list<'a>(of: &'a mut Map<String, Value>, field: &str) -> &'a mut Vec<Value> {
    let v = of.entry(field).or_insert(Value::Null);
    if !v.is_array() {
        *v = Value::Array(Vec::new());
    }
    v.as_array_mut().expect("it was just made one")
}
