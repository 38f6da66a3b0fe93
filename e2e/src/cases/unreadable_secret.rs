use super::{Case, mending};
use crate::cluster::name_of;
use crate::install::{self, OPERATOR, SYSTEM};
use crate::pair::{Pair, claim};
use crate::side::AGENT;
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use mew_tests::kstatus::condition;
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "unreadable-secret",
    core: true,
    proves: "a Remote cannot name a Secret; of a ConfigMap that its author cannot read, nothing but certificates is sent",
    run,
};

const AUTHOR: &str = "author";
/// A Secret and a ConfigMap.
const HIDDEN: &str = "hidden";
/// What nobody may find anywhere. As base64, since it is the inside of a key.
const KEY: &str = "QSBrZXkgdGhhdCB0aGUgYXV0aG9yIG1heSBub3QgcmVhZA";
/// Remotes and their trust domains: the bundle of one is only a key, that of the other a key beside a certificate.
const ONLY: (&str, &str) = ("only-a-key", "only.example");
const BESIDE: (&str, &str) = ("beside-a-key", "beside.example");

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let root = install::roots(&w.east)?;
    let objects = objects(&p, &root).to_string();
    mending(
        || {
            p.east.cluster.apply(&objects)?;
            rights(&p)?;
            is_refused(&p)?;
            is_not_sent(&p, &root)
        },
        || {
            for (name, _) in [ONLY, BESIDE] {
                let remote = ["delete", "remote", name, "-n", &p.east.namespace, "--ignore-not-found"];
                p.east.cluster.kubectl(&remote)?;
            }
            p.east.cluster.kubectl_with(&["delete", "--ignore-not-found", "-f", "-"], &objects).map(drop)
        },
    )?;
    p.all_ready()
}

fn user(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// An author who may write Remotes and nothing else, and what is none of his business.
fn objects(p: &Pair, root: &str) -> Value {
    let namespace = &p.east.namespace;
    let meta = |name: &str| json!({"name": name, "namespace": namespace});
    let key = format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n");
    let data = json!({"ca.crt": key, "mixed.pem": format!("{root}\n{key}")});
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": meta(AUTHOR),
        "rules": [{
            "apiGroups": ["federation.mew.dev"], "resources": ["remotes"], "verbs": ["get", "create", "patch"],
        }],
    });
    let binding = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": meta(AUTHOR),
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": AUTHOR},
        "subjects": [{"kind": "ServiceAccount", "name": AUTHOR, "namespace": namespace}],
    });
    let domains: Vec<Value> = [ONLY, BESIDE].iter().map(|(_, domain)| json!({"trustDomain": domain})).collect();
    let policy = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "FederationPolicy", "metadata": meta(AUTHOR),
        "spec": {
            "remoteSelector": {"matchLabels": {"by": AUTHOR}}, "mode": "ExplicitBridging", "allowedKernels": domains,
        },
    });
    let items = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(AUTHOR)},
        role,
        binding,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(HIDDEN), "data": data},
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta(HIDDEN), "stringData": data},
        policy,
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// With the bundle as it is given.
fn remote(p: &Pair, (name, domain): (&str, &str), bundle: &Value) -> Value {
    json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Remote",
        "metadata": {"name": name, "namespace": p.east.namespace, "labels": {"by": AUTHOR}},
        "spec": {
            "kernelRef": {"name": p.east.kernel}, "uri": format!("mew://{name}.invalid:9001/team.{name}"),
            "connectionMode": "Accept", "peer": {"trustDomain": domain, "trustBundleRefs": [bundle]},
        },
    })
}

/// As the author.
fn applied(p: &Pair, remote: &Value) -> Result<()> {
    let author = user(&p.east.namespace, AUTHOR);
    p.east.cluster.kubectl_with(&["apply", "-f", "-", "--as", &author], &remote.to_string()).map(drop)
}

fn rights(p: &Pair) -> Result<()> {
    let namespace = &p.east.namespace;
    let (author, operator) = (user(namespace, AUTHOR), user(SYSTEM, OPERATOR));
    for (who, verb, group, resource, wanted) in [
        (&author, "create", "federation.mew.dev", "remotes", true),
        (&author, "get", "", "configmaps", false),
        (&author, "get", "", "secrets", false),
        (&operator, "get", "", "configmaps", true),
        (&operator, "get", "", "secrets", false),
        (&operator, "list", "", "secrets", false),
    ] {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": who, "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": HIDDEN,
                },
            },
        });
        let told = p.east.cluster.kubectl_with(&["create", "-o", "json", "-f", "-"], &review.to_string())?;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(told["status"]["allowed"] == wanted, "{who} may {verb} {resource}, or not: {}", told["status"]);
    }
    Ok(())
}

/// A kind, a namespace and a field that would lead elsewhere.
fn is_refused(p: &Pair) -> Result<()> {
    let bundle = json!({"kind": "ConfigMap", "name": HIDDEN});
    let mut token = remote(p, ONLY, &bundle);
    token["spec"]["auth"] = json!({"tokenRef": {"name": HIDDEN}});
    let elsewhere = json!({"kind": "ConfigMap", "name": HIDDEN, "namespace": SYSTEM});
    for (what, named) in [
        (remote(p, ONLY, &json!({"kind": "Secret", "name": HIDDEN})), "spec.peer.trustBundleRefs[0].kind"),
        (remote(p, ONLY, &elsewhere), "spec.peer.trustBundleRefs[0].namespace"),
        (token, "spec.auth"),
    ] {
        match applied(p, &what) {
            Ok(()) => bail!("accepted: {}", what["spec"]),
            Err(e) => ensure!(format!("{e:#}").contains(named), "{named} is not named: {e:#}"),
        }
    }
    Ok(())
}

fn is_not_sent(p: &Pair, root: &str) -> Result<()> {
    applied(p, &remote(p, ONLY, &json!({"kind": "ConfigMap", "name": HIDDEN})))?;
    applied(p, &remote(p, BESIDE, &json!({"kind": "ConfigMap", "name": HIDDEN, "key": "mixed.pem"})))?;
    p.east.shows("remote", ONLY.0, "False", "BundleNotFound")?;
    let programmed = |r: &Value| {
        let is = |kind: &str| condition(r, kind).is_some_and(|c| c["status"] == "True");
        is("ResolvedRefs") && is("Programmed")
    };
    p.east.wait("remote", BESIDE.0, "is programmed", programmed)?;

    // What the agent was sent, it has kept.
    let pod = p.east.pod()?;
    let kept = snapshot(p, &pod)?;
    let line = root.lines().find(|l| !l.is_empty() && !l.starts_with('-')).context("an empty certificate")?;
    ensure!(kept.contains(BESIDE.0) && kept.contains(line), "the agent has no certificate of {}: {kept}", BESIDE.0);
    let logs = |pod: &str, namespace: &str, container: &str| {
        p.east.cluster.kubectl(&["logs", pod, "-n", namespace, "-c", container])
    };
    let mut places = vec![
        ("the agent's directory".to_owned(), kept),
        ("the agent's log".to_owned(), logs(&name_of(&pod), &p.east.namespace, AGENT)?),
    ];
    for operator in install::pods(&p.east.cluster)? {
        let name = name_of(&operator);
        let log = logs(&name, SYSTEM, install::CONTAINER)?;
        places.push((name, log));
    }
    for kind in ["remotes", "events"] {
        places.push((kind.to_owned(), p.east.cluster.kubectl(&["get", kind, "-A", "-o", "yaml"])?));
    }
    for (place, text) in places {
        ensure!(!text.contains(KEY), "the key is in {place}");
    }
    Ok(())
}

/// The agent's copy of its configuration, on the disk of its node.
fn snapshot(p: &Pair, pod: &Value) -> Result<String> {
    let node = pod["spec"]["nodeName"].as_str().context("the pod runs nowhere")?;
    let volume = p.east.object("persistentvolumeclaim", &claim(&p.east))?;
    let volume =
        p.east.cluster.get("persistentvolume", "", volume["spec"]["volumeName"].as_str().unwrap_or_default())?;
    let spec = &volume["spec"];
    let path = spec["hostPath"]["path"].as_str().or_else(|| spec["local"]["path"].as_str());
    let path = path.with_context(|| format!("the volume is in no directory of a node: {spec}"))?;
    p.east.cluster.on_node(node, &["cat", &format!("{path}/snapshot.json")])
}
