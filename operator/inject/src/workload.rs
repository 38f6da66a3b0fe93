//! Workloads: objects with the template of a pod in them, and how many pods they make of it.

use crate::origin::Origin;
use crate::{Injected, Refusal, Settings, annotations_of, holds_kernel, inject_from, items, text};
use mew_crds::annotations::{KERNEL, pod as names};
use serde_json::Value;

/// Gives the pods of an object their agents. An object that makes no pods is as it was.
pub fn inject_object(o: &Value, s: &Settings) -> Result<Injected, Vec<Refusal>> {
    if o.get("items").is_some() && text(o, "kind").ends_with("List") {
        return list(o, s);
    }
    let unchanged = || Injected { pod: o.clone(), warnings: Vec::new() };
    let Some((pointer, prefix)) = template(o) else { return Ok(unchanged()) };
    // Without a template the object is wrong, and the API server says so better.
    let Some(pod) = o.pointer(pointer) else { return Ok(unchanged()) };
    let origin = if pointer.is_empty() { Origin::of_pod(o) } else { of_template(o) };
    let mut refusals = if holds_kernel(pod) { several(o, pod) } else { Vec::new() };
    let injected = match inject_from(pod, &origin, s) {
        Ok(i) => i,
        Err(more) => {
            refusals.extend(more.into_iter().map(|r| within(prefix, r)));
            return Err(refusals);
        }
    };
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut warnings: Vec<String> = injected.warnings.iter().map(|w| format!("{prefix}{w}")).collect();
    warnings.extend(misplaced(o, pod, prefix));
    if injected.pod != *pod {
        warnings.extend(rolling(o, pod));
    }
    let mut out = o.clone();
    if let Some(place) = out.pointer_mut(pointer) {
        *place = injected.pod;
    }
    Ok(Injected { pod: out, warnings })
}

fn list(o: &Value, s: &Settings) -> Result<Injected, Vec<Refusal>> {
    let mut out = o.clone();
    let (mut warnings, mut refusals) = (Vec::new(), Vec::new());
    for (i, item) in items(o, "items").iter().enumerate() {
        let prefix = format!("items[{i}].");
        match inject_object(item, s) {
            Ok(done) => {
                warnings.extend(done.warnings.iter().map(|w| format!("{prefix}{w}")));
                out["items"][i] = done.pod;
            }
            Err(more) => refusals.extend(more.into_iter().map(|r| within(&prefix, r))),
        }
    }
    if refusals.is_empty() { Ok(Injected { pod: out, warnings }) } else { Err(refusals) }
}

fn within(prefix: &str, r: Refusal) -> Refusal {
    Refusal { field: format!("{prefix}{}", r.field), message: r.message }
}

/// Where the pod is in an object of this kind: as a pointer, and as people write it.
fn template(o: &Value) -> Option<(&'static str, &'static str)> {
    match (text(o, "apiVersion"), text(o, "kind")) {
        ("v1", "Pod") => Some(("", "")),
        ("apps/v1", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch/v1", "Job")
        | ("v1", "ReplicationController") => Some(("/spec/template", "spec.template.")),
        ("batch/v1", "CronJob") => Some(("/spec/jobTemplate/spec/template", "spec.jobTemplate.spec.template.")),
        _ => None,
    }
}

fn of_template(o: &Value) -> Origin {
    let claims = items(&o["spec"], "volumeClaimTemplates").iter().map(|c| text(&c["metadata"], "name").to_owned());
    let ordinals_start = o.pointer("/spec/ordinals/start").and_then(Value::as_u64).unwrap_or(0);
    Origin::Template { kind: text(o, "kind").to_owned(), claims: claims.collect(), ordinals_start }
}

/// A kernel has one holder; further pods could only wait.
fn several(o: &Value, pod: &Value) -> Vec<Refusal> {
    let scope = annotations_of(pod).and_then(|a| a.get(names::KERNEL_SCOPE));
    if scope.is_some_and(|s| s == "per-pod") {
        return Vec::new();
    }
    let (pointer, what) = match text(o, "kind") {
        "Job" => ("/spec/parallelism", "pods of a Job at once"),
        "CronJob" => ("/spec/jobTemplate/spec/parallelism", "pods of a Job at once"),
        _ => ("/spec/replicas", "replicas"),
    };
    let Some(n) = o.pointer(pointer).and_then(Value::as_u64).filter(|n| *n > 1) else { return Vec::new() };
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let message = format!(
        "{n} {what}, and a kernel has one holder; say 1, or use a StatefulSet with {}: per-pod, whose pods the operator's \
         webhook injects",
        names::KERNEL_SCOPE
    );
    vec![Refusal { field, message }]
}

/// The label of the workload is not that of its pods.
fn misplaced(o: &Value, pod: &Value, prefix: &str) -> Option<String> {
    let labelled = |v: &Value| v.pointer("/metadata/labels").is_some_and(|l| l.get(KERNEL).is_some());
    (!prefix.is_empty() && labelled(o) && !labelled(pod)).then(|| {
        format!("metadata.labels[{KERNEL}]: nothing is injected, since the label belongs to {prefix}metadata.labels")
    })
}

/// A rolling update wants both pods at once, and many claims can be mounted on one node only.
fn rolling(o: &Value, pod: &Value) -> Option<String> {
    let storage = annotations_of(pod)?.get(names::STORAGE)?.as_str()?;
    let strategy = &o["spec"]["strategy"];
    let at_once = strategy["type"] != "Recreate" && strategy["rollingUpdate"]["maxSurge"] != 0;
    (text(o, "kind") == "Deployment" && !storage.starts_with("ephemeral") && at_once).then(|| {
        "spec.strategy: a rolling update starts the new pod while the old one has the data; if the claim is ReadWriteOnce \
         and the new pod may go to another node, or it is ReadWriteOncePod, say {type: Recreate}"
            .to_owned()
    })
}
