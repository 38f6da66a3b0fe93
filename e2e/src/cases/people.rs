use super::{Case, mending};
use crate::cluster::Cluster;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Result, bail, ensure};
use serde_json::json;

pub const CASE: Case = Case {
    name: "people",
    core: true,
    proves: "the cluster's own roles get rights on the kinds: view reads, edit writes Remotes and Syncs, admin policies too",
    run,
};

const NAMESPACE: &str = "people";
/// Role, verb, resource, and whether it may.
const RIGHTS: [(&str, &str, &str, bool); 14] = [
    ("view", "list", "remotes", true),
    ("view", "watch", "federationpolicies", true),
    ("view", "create", "syncs", false),
    ("view", "patch", "remotes", false),
    ("edit", "get", "federationpolicies", true),
    ("edit", "create", "syncs", true),
    ("edit", "delete", "remotes", true),
    ("edit", "create", "federationpolicies", false),
    ("edit", "patch", "federationpolicies", false),
    ("edit", "patch", "syncs/status", false),
    ("admin", "create", "syncs", true),
    ("admin", "patch", "federationpolicies", true),
    ("admin", "delete", "federationpolicies", true),
    ("admin", "patch", "remotes/status", false),
];

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    let c = &w.east;
    mending(|| they_may(c), || c.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]).map(drop))
}

fn they_may(c: &Cluster) -> Result<()> {
    c.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string())?;
    for role in ["view", "edit", "admin"] {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user(role)}],
        });
        c.apply(&binding.to_string())?;
    }
    // The cluster adds our roles to its own a moment after they are there.
    until("the cluster's own roles have our rights", PATIENCE, || {
        for (role, verb, resource, _) in RIGHTS.into_iter().filter(|(.., answer)| *answer) {
            if !may(c, role, verb, resource, NAMESPACE)? {
                bail!("{role}: no right to {verb} {resource}");
            }
        }
        Ok(Some(()))
    })?;
    for (role, verb, resource, answer) in RIGHTS {
        ensure!(may(c, role, verb, resource, NAMESPACE)? == answer, "{role}: {verb} {resource} is not {answer}");
        ensure!(!may(c, role, verb, resource, "default")?, "{role} of one namespace may {verb} {resource} in another");
    }
    Ok(())
}

fn user(role: &str) -> String {
    format!("somebody-with-{role}")
}

fn may(c: &Cluster, role: &str, verb: &str, resource: &str, namespace: &str) -> Result<bool> {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": user(role), "groups": ["system:authenticated"],
            "resourceAttributes": {
                "verb": verb, "group": "federation.mew.dev", "resource": resource, "subresource": sub, "namespace": namespace,
            },
        },
    });
    let args = ["create", "-o", "jsonpath={.status.allowed}", "-f", "-"];
    Ok(c.kubectl_with(&args, &review.to_string())?.trim() == "true")
}
