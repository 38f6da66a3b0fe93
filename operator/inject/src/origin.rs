//! Where a pod comes from, and which kernel it holds therefore.

use crate::annotations::Scope;
use crate::{Refusal, annotation_field, items, label_field, text};
use mew_crds::annotations::{KERNEL, pod as names};
use serde_json::Value;

pub enum Origin {
    /// It is being created, by this controller if by one.
    Pod { name: String, owner: Option<Owner> },
    /// It is the template of a workload: its pods do not exist yet.
    Template {
        kind: String,
        /// Volumes that each pod gets beside those of the template.
        claims: Vec<String>,
        /// The number of the first pod of a StatefulSet.
        ordinals_start: u64,
    },
}

pub struct Owner {
    kind: String,
    name: String,
}

/// What a kernel's name, a label of DNS, has room for.
const NAME: usize = 63;

impl Origin {
    pub fn of_pod(pod: &Value) -> Self {
        let meta = pod.get("metadata").unwrap_or(&Value::Null);
        let controls = |o: &&Value| o.get("controller") == Some(&Value::Bool(true));
        let owner = items(meta, "ownerReferences").iter().find(controls);
        let owner = owner.map(|o| Owner { kind: text(o, "kind").to_owned(), name: text(o, "name").to_owned() });
        Origin::Pod { name: text(meta, "name").to_owned(), owner }
    }

    /// Names of volumes that a pod has without saying so itself.
    pub fn claims(&self) -> &[String] {
        match self {
            Origin::Pod { .. } => &[],
            Origin::Template { claims, .. } => claims,
        }
    }

    /// The kernel of a pod of this origin. What cannot work is refused here, not found out in production.
    pub fn kernel(&self, label: &str, scope: Scope, ordinals_start: Option<u32>) -> Result<String, Refusal> {
        let of_label = |message: String| Refusal { field: label_field(KERNEL), message };
        let of_scope = |message: String| Refusal { field: annotation_field(names::KERNEL_SCOPE), message };
        if self.kind() == "DaemonSet" {
            return Err(of_label(format!(
                "a DaemonSet runs a pod on every node, and a kernel has one holder; use a Deployment of one replica, or a \
                 StatefulSet with {}: per-pod",
                names::KERNEL_SCOPE
            )));
        }
        self.check_start(scope, ordinals_start)?;
        let first = ordinals_start.unwrap_or(0);
        match (self, scope, self.ordinal()) {
            (Origin::Template { .. }, Scope::Shared, _) => Ok(label.to_owned()),
            (Origin::Template { kind, .. }, Scope::PerPod, _) if kind == "StatefulSet" => Err(of_scope(
                "the token of each pod names its kernel, and a template is the same for all pods; leave this manifest as it \
                 is and let the operator's webhook inject its pods"
                    .to_owned(),
            )),
            (Origin::Pod { .. }, Scope::Shared, None) => Ok(label.to_owned()),
            (Origin::Pod { .. }, Scope::Shared, Some(n)) if n == first => Ok(label.to_owned()),
            (Origin::Pod { name, .. }, Scope::Shared, Some(n)) => Err(of_scope(format!(
                "kernel {label} has one holder, and {name} is not the first pod of its StatefulSet, which is number {first}; say \
                 \"per-pod\", and the kernel of this pod is {label}-{n}; or, if spec.ordinals.start of the StatefulSet is {n}, \
                 say {}: \"{n}\"",
                names::ORDINALS_START
            ))),
            (Origin::Pod { .. }, Scope::PerPod, Some(n)) => {
                let kernel = format!("{label}-{n}");
                let long = format!("the kernel of this pod would be {kernel}, which is longer than {NAME} characters");
                if kernel.len() <= NAME { Ok(kernel) } else { Err(of_label(long)) }
            }
            (_, Scope::PerPod, _) => {
                Err(of_scope("\"per-pod\" needs pods with lasting numbers, which only a StatefulSet gives".to_owned()))
            }
        }
    }

    /// The first pod of a StatefulSet is told by its number alone, so the pods must say where the numbers begin.
    fn check_start(&self, scope: Scope, said: Option<u32>) -> Result<(), Refusal> {
        let wrong = |message: String| Err(Refusal { field: annotation_field(names::ORDINALS_START), message });
        if self.kind() != "StatefulSet" {
            return said.map_or(Ok(()), |_| wrong("only the pods of a StatefulSet have numbers".to_owned()));
        }
        match self {
            Origin::Template { ordinals_start: n, .. }
                if scope == Scope::Shared && u64::from(said.unwrap_or(0)) != *n =>
            {
                wrong(format!("spec.ordinals.start of the StatefulSet is {n}; say \"{n}\" here too"))
            }
            _ => Ok(()),
        }
    }

    fn kind(&self) -> &str {
        match self {
            Origin::Pod { owner, .. } => owner.as_ref().map_or("Pod", |o| o.kind.as_str()),
            Origin::Template { kind, .. } => kind,
        }
    }

    /// The number of a pod of a StatefulSet.
    fn ordinal(&self) -> Option<u32> {
        let Origin::Pod { name, owner: Some(owner) } = self else { return None };
        if owner.kind != "StatefulSet" {
            return None;
        }
        let digits = name.strip_prefix(&owner.name)?.strip_prefix('-')?;
        digits.parse().ok().filter(|n: &u32| n.to_string() == digits)
    }
}
