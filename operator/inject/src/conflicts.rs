//! What is in the way of an agent: refused before it fails, each with its field.

use crate::agent::{ROOTS_VOLUME, USER, VOLUMES};
use crate::annotations::{Scope, Storage, Wishes};
use crate::origin::Origin;
use crate::{Refusal, annotation_field, cut, items, text};
use mew_crds::annotations::pod as names;
use serde_json::Value;

/// With less, the agent may be killed before it has given its kernel to the next pod.
const GRACE_SECONDS: u64 = 10;
/// Kinds of volumes that nothing can be written to.
const READ_ONLY: [&str; 6] = ["configMap", "secret", "downwardAPI", "projected", "image", "gitRepo"];
/// Kinds of volumes whose files outlive the pod, and change their group with the pod's `fsGroup`.
const LASTING: [&str; 3] = ["persistentVolumeClaim", "ephemeral", "csi"];

pub fn find(pod: &Value, origin: &Origin, w: &Wishes) -> Vec<Refusal> {
    let wrong = shape(pod);
    if !wrong.is_empty() {
        return wrong;
    }
    let mut found = Found { spec: &pod["spec"], refusals: Vec::new() };
    found.pod();
    found.ports(w);
    found.volumes();
    match &w.storage {
        Storage::Claim(claim) => found.claim(claim, w.scope),
        Storage::Volume(volume) => found.volume(volume, origin),
        Storage::Ephemeral(_) => {}
    }
    if !matches!(w.storage, Storage::Ephemeral(_)) {
        found.group(w);
    }
    found.refusals
}

/// What does no harm at once.
pub fn warnings(pod: &Value) -> Vec<String> {
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
    let short = grace.filter(|s| *s < GRACE_SECONDS).map(|s| {
        format!(
            "spec.terminationGracePeriodSeconds: the agent ends after the application and has what is left of {s} s; \
             {GRACE_SECONDS} or more are better"
        )
    });
    short.into_iter().collect()
}

/// A manifest may hold anything; what the API server gives has this shape.
fn shape(pod: &Value) -> Vec<Refusal> {
    let is = |pointer: &str, what: &str, good: fn(&Value) -> bool, needed: bool| {
        let value = pod.pointer(pointer).filter(|v| !v.is_null());
        let bad = value.map_or(needed, |v| !good(v));
        let field = pointer.trim_start_matches('/').replace('/', ".");
        bad.then(|| Refusal { field, message: format!("is not {what}") })
    };
    let full = |v: &Value| v.as_array().is_some_and(|a| !a.is_empty() && a.iter().all(Value::is_object));
    let list = |v: &Value| v.as_array().is_some_and(|a| a.iter().all(Value::is_object));
    [
        is("/metadata", "an object", Value::is_object, true),
        is("/metadata/annotations", "an object", Value::is_object, false),
        is("/spec", "an object", Value::is_object, true),
        is("/spec/containers", "a list of containers", full, true),
        is("/spec/initContainers", "a list of containers", list, false),
        is("/spec/volumes", "a list of volumes", list, false),
        is("/spec/securityContext", "an object", Value::is_object, false),
    ]
    .into_iter()
    .flatten()
    .collect()
}

struct Found<'a> {
    spec: &'a Value,
    refusals: Vec<Refusal>,
}

impl<'a> Found<'a> {
    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.refusals.push(Refusal { field: field.into(), message: message.into() });
    }

    fn refuse_storage(&mut self, message: String) {
        self.refuse(annotation_field(names::STORAGE), message);
    }

    /// Each container with its path.
    fn containers(&self) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers"].into_iter().flat_map(move |list| {
            items(spec, list).iter().enumerate().map(move |(i, c)| (format!("spec.{list}[{i}]"), c))
        })
    }

    fn pod(&mut self) {
        if self.spec["hostNetwork"] == true {
            let message = "is true: the kernel's port for applications, on 127.0.0.1, would be open to the whole node";
            self.refuse("spec.hostNetwork", message);
        }
        if self.spec["os"]["name"] == "windows" {
            self.refuse("spec.os.name", "is windows, and agents run on linux only");
        }
    }

    fn ports(&mut self, w: &Wishes) {
        let ours = [
            (w.ports.client, "serves applications on", names::CLIENT_PORT),
            (w.ports.federation, "serves peers on", names::FEDERATION_PORT),
            (w.ports.health, "answers probes on", names::HEALTH_PORT),
        ];
        for (path, c) in self.containers() {
            for (i, p) in items(c, "ports").iter().enumerate() {
                if !["", "TCP"].contains(&text(p, "protocol")) {
                    continue;
                }
                let port = p["containerPort"].as_u64();
                let Some((n, what, name)) = ours.iter().find(|(n, ..)| port == Some(u64::from(*n))) else { continue };
                let container = cut(text(c, "name"));
                let message = format!(
                    "container {container} listens on {n}, which the agent {what}; choose another port here, or for the \
                     agent by the annotation {name}"
                );
                self.refuse(format!("{path}.ports[{i}].containerPort"), message);
            }
        }
    }

    fn volumes(&mut self) {
        for (i, v) in items(self.spec, "volumes").iter().enumerate() {
            let name = text(v, "name");
            if name.starts_with(VOLUMES) {
                let message =
                    format!("{} is a name of the agent's volumes, such as {ROOTS_VOLUME}; choose another", cut(name));
                self.refuse(format!("spec.volumes[{i}].name"), message);
            }
        }
    }

    fn claim(&mut self, claim: &str, scope: Scope) {
        if scope == Scope::PerPod {
            self.refuse_storage(format!(
                "claim {claim} is one directory, and each pod has a kernel of its own; say \"volume:<name of a \
                 volumeClaimTemplate>\" or \"ephemeral\""
            ));
        }
        for (i, v) in items(self.spec, "volumes").iter().enumerate() {
            if v["persistentVolumeClaim"]["claimName"] == claim {
                self.refuse_storage(format!(
                    "claim {claim} is used by spec.volumes[{i}] too; the kernel's data needs a claim of its own"
                ));
            }
        }
    }

    fn volume(&mut self, volume: &str, origin: &Origin) {
        let all = items(self.spec, "volumes");
        match all.iter().find(|v| text(v, "name") == volume) {
            None if origin.claims().iter().any(|c| c == volume) => {}
            None => {
                let mut there: Vec<&str> = all.iter().map(|v| text(v, "name")).collect();
                there.extend(origin.claims().iter().map(String::as_str));
                let there = if there.is_empty() { "none".to_owned() } else { cut(&there.join(", ")) };
                self.refuse_storage(format!("the pod has no volume {volume}; it has {there}"));
            }
            Some(v) => {
                if let Some(kind) = READ_ONLY.iter().find(|k| !v[**k].is_null()) {
                    self.refuse_storage(format!("volume {volume} is a {kind}, which cannot be written to"));
                }
            }
        }
        for (path, c) in self.containers() {
            if items(c, "volumeMounts").iter().any(|m| text(m, "name") == volume) {
                let container = cut(text(c, "name"));
                self.refuse_storage(format!(
                    "volume {volume} is mounted by container {container} too ({path}); the kernel's data needs a volume of its own"
                ));
            }
        }
    }

    /// Without a group for the pod's files the agent could not write its data; giving the pod one also changes the files of
    /// the application, which is not for us to decide.
    fn group(&mut self, w: &Wishes) {
        if !self.spec["securityContext"]["fsGroup"].is_null() {
            return;
        }
        let data = match &w.storage {
            Storage::Volume(name) => name.as_str(),
            Storage::Claim(_) | Storage::Ephemeral(_) => "",
        };
        let others = items(self.spec, "volumes").iter().filter(|v| text(v, "name") != data);
        let other = others.filter(|v| !is_read_only(v)).find(|v| LASTING.iter().any(|k| !v[*k].is_null()));
        if let Some(v) = other {
            let message = format!(
                "is not set, and setting it to {USER} for the kernel's data would give that group the files of volume {} too; \
                 set it to a group that suits both",
                cut(text(v, "name"))
            );
            self.refuse("spec.securityContext.fsGroup", message);
        }
    }
}

fn is_read_only(volume: &Value) -> bool {
    LASTING.iter().any(|k| volume[*k]["readOnly"] == true)
}
