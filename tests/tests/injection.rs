//! The injecting webhook, called by a real API server: what becomes of pods, that every replica answers, and that the
//! certificate, its CA and the caBundle mend themselves. And `mew inject`, whose result the webhook leaves alone.

#[path = "injection/mend.rs"]
mod mend;

use anyhow::{Context, Result, ensure};
use mew_tests::cluster::{Cluster, PATIENCE};
use mew_tests::http;
use mew_tests::ports::free_port;
use mew_tests::process::mew_once;
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::fs;

const DOMAIN: &str = "inject.example";
const NAMESPACE: &str = "shop";
const ACCOUNT: &str = "till";
const CONFIGURATION: &str = "mew-injection";
const IMAGE: &str = "registry.example.com/mew:1";
const OPERATOR: &str = "mew-operator.mew-system.svc:9443";

#[test]
fn labelled_pods_get_an_agent_from_whichever_replica_is_asked() -> Result<()> {
    let mut cluster = start()?;
    let pod = a_pod_gets_its_agent(&cluster)?;
    an_injected_pod_stays_as_it_is(&cluster, &pod)?;
    a_changed_label_changes_nothing(&cluster)?;
    wrong_pods_are_refused_by_name(&cluster)?;
    a_manifest_can_be_injected_before(&cluster)?;
    mend::a_bundle_that_is_taken_away_comes_back(&cluster)?;
    mend::a_secret_that_is_deleted_comes_back(&cluster)?;
    mend::an_old_authority_is_replaced_with_an_overlap(&cluster)?;
    a_follower_answers_too(&mut cluster)
}

fn start() -> Result<Cluster> {
    let mut cluster = Cluster::start("injection", DOMAIN)?;
    let port = free_port()?;
    cluster.api.create_namespace(NAMESPACE)?;
    // Agents must fit in where nothing is allowed that is not needed.
    cluster.api.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"])?;
    cluster.api.create_service_account(NAMESPACE, ACCOUNT)?;
    cluster.api.apply_server_side(&configuration(port).to_string())?;
    with_webhook(&mut cluster, 0, port)?;
    Ok(cluster)
}

/// The operator again, this time with a webhook at this port.
fn with_webhook(cluster: &mut Cluster, operator: usize, port: u16) -> Result<()> {
    let listen = format!("127.0.0.1:{port}");
    let o = &mut cluster.operators[operator];
    o.stop();
    o.start_with(&[
        "--webhook-configuration",
        CONFIGURATION,
        "--webhook-listen",
        &listen,
        "--webhook-dns",
        "127.0.0.1",
        "--agent-image",
        IMAGE,
        "--agent-operator",
        OPERATOR,
    ])
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}/inject")
}

fn configuration(port: u16) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": [{
            "name": "inject.federation.mew.dev",
            "clientConfig": {"url": url(port)},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced",
            }],
            "objectSelector": {"matchExpressions": [{"key": "federation.mew.dev/kernel", "operator": "Exists"}]},
            "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded", "sideEffects": "None", "timeoutSeconds": 10,
            "admissionReviewVersions": ["v1"],
        }],
    })
}

fn till(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {"app": "till", "federation.mew.dev/kernel": "till"},
            "annotations": {
                "federation.mew.dev/storage": "claim:till-data", "federation.mew.dev/ontology": "till-ontology",
                // As it is not written back.
                "federation.mew.dev/cpu-request": "0.5",
            },
        },
        "spec": {
            "serviceAccountName": ACCOUNT,
            "containers": [{
                "name": "web", "image": "registry.example.com/web:1", "ports": [{"containerPort": 8080}],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }],
        },
    })
}

/// As the API server has it then.
fn create(cluster: &Cluster, pod: &Value, how: &[&str]) -> Result<Value> {
    let args = [["create", "-o", "json", "-f", "-"].as_slice(), how].concat();
    Ok(serde_json::from_str(&cluster.api.kubectl_with(&args, &pod.to_string())?)?)
}

/// The API server notices a changed webhook after a moment; nothing is kept of these tries.
fn injects_again(cluster: &Cluster, what: &str) -> Result<()> {
    let mut last = String::new();
    let pod = till("probe");
    let done = until(what, PATIENCE, || {
        match create(cluster, &pod, &["--dry-run=server"]) {
            Ok(p) if agents(&p) == 1 => return Ok(Some(())),
            Ok(p) => last = p["spec"].to_string(),
            Err(e) => last = format!("{e:#}"),
        }
        Ok(None)
    });
    done.with_context(|| last)
}

fn agents(pod: &Value) -> usize {
    let all = pod["spec"]["initContainers"].as_array();
    all.map_or(0, |all| all.iter().filter(|c| c["name"] == "mew-agent").count())
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().and_then(|l| l.iter().find(|x| x["name"] == name)).unwrap_or(&Value::Null)
}

/// Which volume is mounted where tokens for the API server are.
fn api_token(container: &Value) -> &str {
    let at = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounts = container["volumeMounts"].as_array();
    let mount = mounts.and_then(|m| m.iter().find(|m| m["mountPath"] == at));
    mount.and_then(|m| m["name"].as_str()).unwrap_or("nothing")
}

fn a_pod_gets_its_agent(cluster: &Cluster) -> Result<Value> {
    injects_again(cluster, "the webhook is called")?;
    let pod = create(cluster, &till("till-0"), &[])?;
    let (spec, agent) = (&pod["spec"], &pod["spec"]["initContainers"][0]);
    ensure!(agents(&pod) == 1 && agent["restartPolicy"] == "Always" && agent["image"] == IMAGE, "{spec}");
    ensure!(named(&agent["env"], "MEW_OPERATOR")["value"] == OPERATOR, "{agent}");
    let token = &named(&spec["volumes"], "mew-agent-token")["projected"]["sources"][0]["serviceAccountToken"];
    ensure!(token["audience"] == format!("federation.mew.dev/{DOMAIN}/kernel/till"), "{token}");
    let roots = pod["metadata"]["annotations"]["federation.mew.dev/roots"].as_str().unwrap_or_default();
    ensure!(roots.trim() == cluster.roots()?.trim() && !roots.is_empty(), "{roots}");
    ensure!(spec["securityContext"]["fsGroup"] == 65532, "{spec}");
    // The API server's own admission has seen the agent: it is the application that gets a token for the API server.
    let (theirs, ours) = (api_token(&spec["containers"][0]), api_token(agent));
    ensure!(theirs.starts_with("kube-api-access-") && ours == "mew-agent-nothing", "{theirs}, {ours}");

    let mut other = till("other");
    other["metadata"]["labels"] = json!({"app": "till"});
    ensure!(agents(&create(cluster, &other, &["--dry-run=server"])?) == 0, "a pod without the label");
    let health = cluster.leader()?.health;
    let counted = http::metric(health, "mew_operator_pods_injected_total")?;
    ensure!(counted.is_some_and(|n| n >= 2.0), "{counted:?}");
    Ok(pod)
}

/// With all that the API server has filled in.
fn an_injected_pod_stays_as_it_is(cluster: &Cluster, pod: &Value) -> Result<()> {
    let mut again = till("again");
    again["spec"] = pod["spec"].clone();
    again["metadata"]["annotations"] = pod["metadata"]["annotations"].clone();
    let found = create(cluster, &again, &[])?;
    for part in ["initContainers", "volumes", "securityContext"] {
        ensure!(found["spec"][part] == pod["spec"][part], "{part}: {}", found["spec"][part]);
    }
    // Its kernel is in its token's audience, so it is not taken for another one.
    again["metadata"]["labels"]["federation.mew.dev/kernel"] = json!("office");
    let e = create(cluster, &again, &["--dry-run=server"]).err().context("the agent of another kernel was accepted")?;
    ensure!(format!("{e:#}").contains("holds an agent of kernel \"till\""), "{e:#}");
    Ok(())
}

fn a_changed_label_changes_nothing(cluster: &Cluster) -> Result<()> {
    let kernel = || -> Result<Value> {
        let pod = cluster.api.get_json("pod", NAMESPACE, "till-0")?;
        Ok(named(&pod["spec"]["initContainers"][0]["env"], "MEW_KERNEL")["value"].clone())
    };
    let label = |l: &str| cluster.api.kubectl(&["label", "--overwrite", "pod", "till-0", "-n", NAMESPACE, l]);
    label("federation.mew.dev/kernel=office")?;
    ensure!(kernel()? == "till", "a pod that runs became another kernel");
    label("federation.mew.dev/kernel-")?;
    ensure!(kernel()? == "till", "a pod that runs lost its kernel");
    Ok(())
}

fn wrong_pods_are_refused_by_name(cluster: &Cluster) -> Result<()> {
    let refused = |change: &dyn Fn(&mut Value)| -> Result<String> {
        let mut pod = till("wrong");
        change(&mut pod);
        let e = create(cluster, &pod, &[]).err().context("it was accepted")?;
        ensure!(cluster.api.find_json("pod", NAMESPACE, "wrong")?.is_none(), "it is there all the same");
        Ok(format!("{e:#}"))
    };
    let said = refused(&|p| p["metadata"]["annotations"] = json!({"federation.mew.dev/ontology": "o"}))?;
    ensure!(said.contains("denied the request") && said.contains("annotations[federation.mew.dev/storage]"), "{said}");
    ensure!(said.contains("claim:<PersistentVolumeClaim>") && said.contains("ephemeral"), "{said}");
    let said = refused(&|p| p["metadata"]["annotations"]["federation.mew.dev/log-levle"] = json!("debug"))?;
    ensure!(said.contains("did you mean federation.mew.dev/log-level?"), "{said}");
    let said = refused(&|p| p["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9001))?;
    ensure!(said.contains("spec.containers[0].ports[0].containerPort") && said.contains("container web"), "{said}");
    Ok(())
}

/// Roots from the cluster, strictly valid for it, and the webhook leaves what comes of it alone.
fn a_manifest_can_be_injected_before(cluster: &Cluster) -> Result<()> {
    let pod = till("");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "till", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "till"}}, "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]},
                "spec": pod["spec"],
            },
        },
    });
    let file = cluster.api.dir().join("till.yaml");
    let kubeconfig = cluster.api.kubeconfig();
    let path = file.display().to_string();
    let inject = |d: &Value| -> Result<String> {
        fs::write(&file, d.to_string())?;
        let args =
            ["inject", "-f", &path, "--trust-domain", DOMAIN, "--agent-image", IMAGE, "--agent-operator", OPERATOR];
        Ok(String::from_utf8(mew_once(args, &[("KUBECONFIG", kubeconfig.as_path())])?.stdout)?)
    };
    cluster.api.kubectl_with(&["apply", "--validate=strict", "-f", "-"], &inject(&deployment)?)?;
    let template = &cluster.api.get_json("deployment", NAMESPACE, "till")?["spec"]["template"];
    ensure!(template["metadata"]["annotations"]["federation.mew.dev/roots"].is_string(), "{template}");
    let mut made =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    made["metadata"]["name"] = json!("from-git");
    made["metadata"]["namespace"] = json!(NAMESPACE);
    let found = create(cluster, &made, &[])?;
    let (was, is) = (&template["spec"]["initContainers"][0], &found["spec"]["initContainers"][0]);
    ensure!(agents(&found) == 1 && was["env"] == is["env"] && was["volumeMounts"] == is["volumeMounts"], "{is}");

    let mut wrong = deployment.clone();
    wrong["spec"]["replicas"] = json!(2);
    let e = inject(&wrong).err().context("two replicas were accepted")?;
    ensure!(format!("{e:#}").contains("spec.replicas: 2 replicas"), "{e:#}");
    Ok(())
}

fn a_follower_answers_too(cluster: &mut Cluster) -> Result<()> {
    let follower = cluster.start_operator()?;
    let port = free_port()?;
    with_webhook(cluster, follower, port)?;
    mend::patch_configuration(
        cluster,
        &json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url(port)}]),
    )?;
    let health = cluster.operators[follower].health;
    let asked = || http::metric(health, "mew_operator_pods_injected_total").map(|n| n.filter(|n| *n > 0.0));
    until("the follower is asked", PATIENCE, || {
        injects_again(cluster, "pods are injected by a follower")?;
        asked()
    })?;
    ensure!(!cluster.operators[follower].leads(), "it leads");
    Ok(())
}
