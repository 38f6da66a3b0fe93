//! The operator under the rights that its chart gives it, no more, on an API server that writes down every request: none is
//! denied, and no right is left over, for all namespaces and for a list of them.

#[path = "rbac/audit.rs"]
mod audit;

use anyhow::{Context, Result, ensure};
use audit::{Right, judge, requests, rights};
use mew_tests::apiserver::{ApiServer, Setup};
use mew_tests::charts::{accounts, installed, named, operator_args, webhook_at};
use mew_tests::cluster::{Cluster, PATIENCE, SYSTEM};
use mew_tests::dirs::root;
use mew_tests::kstatus::condition;
use mew_tests::ports::free_port;
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

const CHART: &str = "mew-operator";
const ACCOUNT: &str = "mew-operator";
const DOMAIN: &str = "rights.example";
const PEER: &str = "peer.example";
/// Where there is an agent too.
const TEAM: &str = "team-a";
const KERNEL: &str = "till";
const WEBHOOK_SECRET: &str = "mew-webhook-ca";
const ROOTS: &str = "mew-roots";

#[test]
fn for_all_namespaces_nothing_is_denied_and_nothing_left_over() -> Result<()> {
    // One namespace shows it: the right is the same in all.
    works_under_its_rights("all", &[], &[TEAM])
}

#[test]
fn for_a_list_of_namespaces_nothing_is_denied_and_nothing_left_over() -> Result<()> {
    works_under_its_rights("some", &[TEAM, "team-b"], &[TEAM, "team-b", SYSTEM])
}

/// `watched` is the chart's value; each of `namespaces` is worked in.
fn works_under_its_rights(name: &str, watched: &[&str], namespaces: &[&str]) -> Result<()> {
    let api = ApiServer::start_as(name, Setup { is_audited: true, ..Setup::default() })?;
    let mut cluster = Cluster::at(api, DOMAIN)?;
    let chart = install(&cluster, watched)?;
    start(&mut cluster, &chart)?;
    for namespace in namespaces {
        objects_come_change_and_go(&cluster, namespace)?;
    }
    an_agent_attaches(&cluster)?;
    let roots = roots_are_lost(&cluster)?;
    the_webhook_is_kept(&cluster)?;
    roots_come_back(&cluster, &roots)?;
    another_replica_takes_over(&mut cluster, &chart)?;

    let user = |account: &str, namespace: &str| format!("system:serviceaccount:{namespace}:{account}");
    let requests = requests(&cluster.api, &user(ACCOUNT, SYSTEM))?;
    let given = rights(&chart);
    ensure!(given.len() >= 20 && requests.len() >= 40, "{} rights, {} requests", given.len(), requests.len());
    judge(&given, &requests)?;
    // The judge can say no: to what nobody uses, and to what somebody needs and does not have.
    let one = |verb: &str| Right {
        place: None,
        group: String::new(),
        resource: "pods".to_owned(),
        name: None,
        verb: verb.to_owned(),
    };
    let more: BTreeSet<Right> = given.iter().cloned().chain([one("list")]).collect();
    let e = judge(&more, &requests).err().context("a right that nobody uses is not left over")?;
    ensure!(format!("{e:#}").contains("list pods"), "{e:#}");
    // An agent asks the API server for nothing at all.
    let of_agent = audit::requests(&cluster.api, &user(&format!("kernel-{KERNEL}"), TEAM))?;
    ensure!(of_agent.is_empty(), "{of_agent:?}");
    Ok(())
}

/// What the chart installs, but for what needs nodes.
fn install(cluster: &Cluster, watched: &[&str]) -> Result<Vec<Value>> {
    let values = cluster.api.dir().join("values.json");
    fs::write(&values, json!({"trustDomain": DOMAIN, "watchNamespaces": watched}).to_string())?;
    let chart = installed(CHART, CHART, SYSTEM, &[&values])?;
    let namespaces = chart.iter().filter_map(|o| o["metadata"]["namespace"].as_str());
    for namespace in namespaces.chain([TEAM]).collect::<BTreeSet<&str>>() {
        cluster.api.create_namespace(namespace)?;
    }
    cluster.api.apply_server_side(&accounts(&chart).to_string())?;
    Ok(chart)
}

/// One more replica, by the arguments of the chart's Deployment and with the rights of its account; and the webhook there.
fn start(cluster: &mut Cluster, chart: &[Value]) -> Result<()> {
    let pod = &named(chart, "Deployment", CHART)?["spec"]["template"]["spec"];
    ensure!(pod["serviceAccountName"] == ACCOUNT, "it runs as {}", pod["serviceAccountName"]);
    let address = format!("127.0.0.1:{}", free_port()?);
    let ours = [format!("--webhook-listen={address}"), "--webhook-dns=127.0.0.1".to_owned()];
    let args: Vec<String> = operator_args(chart)?.into_iter().chain(ours).collect();
    cluster.api.apply_server_side(&webhook_at(chart, &address)?.to_string())?;
    let kubeconfig = cluster.api.kubeconfig_of(SYSTEM, ACCOUNT, &cluster.api.url())?;
    cluster.start_operator_as(&kubeconfig, &args).map(drop)
}

/// All three kinds, of a kernel without an agent. The Sync's status goes back and forth, so that an event is repeated.
fn objects_come_change_and_go(cluster: &Cluster, namespace: &str) -> Result<()> {
    let api = &cluster.api;
    let meta = |name: &str| json!({"name": name, "namespace": namespace});
    let ours = "federation.mew.dev/v1alpha1";
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("roots"), "data": {"ca.crt": cluster.roots()?},
    });
    let policy = json!({
        "apiVersion": ours, "kind": "FederationPolicy", "metadata": meta("all"), "spec": {"remoteSelector": {}},
    });
    let remote = json!({
        "apiVersion": ours, "kind": "Remote", "metadata": meta("peer"),
        "spec": {
            "kernelRef": {"name": "nobody"}, "uri": format!("mew://127.0.0.1:9/{namespace}.peer"),
            "peer": {"trustDomain": PEER, "trustBundleRefs": [{"kind": "ConfigMap", "name": "roots"}]},
        },
    });
    let sync = json!({
        "apiVersion": ours, "kind": "Sync", "metadata": meta("states"),
        "spec": {"remoteRef": {"name": "peer"}, "direction": "Push", "match": "s: State"},
    });
    let shows = |kind: &str, name: &str, reason: &str| {
        let good = |s: &Value| condition(s, "Ready").is_some_and(|c| c["reason"] == reason);
        api.wait_json(kind, namespace, name, reason, good, PATIENCE).map(drop)
    };
    let delete =
        |kind: &str, name: &str| api.kubectl(&["delete", kind, name, "-n", namespace, "--timeout=30s"]).map(drop);
    for o in [&bundle, &policy, &sync] {
        api.apply_server_side(&o.to_string())?;
    }
    shows("sync", "states", "RemoteNotFound")?;
    shows("federationpolicy", "all", "Enforced")?;
    api.apply_server_side(&remote.to_string())?;
    shows("remote", "peer", "PolicyDenied")?;
    shows("sync", "states", "PolicyDenied")?;
    delete("remote", "peer")?;
    shows("sync", "states", "RemoteNotFound")?;
    until("an event is repeated", PATIENCE, || {
        let events = api.client().list("events.events.k8s.io", namespace, "")?;
        let of_sync = |e: &&Value| e["regarding"]["kind"] == "Sync" && e["series"]["count"].as_u64() >= Some(2);
        Ok(events.iter().find(of_sync).map(|_| ()))
    })?;
    for (kind, name) in [("sync", "states"), ("federationpolicy", "all"), ("configmap", "roots")] {
        delete(kind, name)?;
    }
    Ok(())
}

/// Its token is reviewed.
fn an_agent_attaches(cluster: &Cluster) -> Result<()> {
    let agent = cluster.start_agent(TEAM, KERNEL, &root().join("examples/airports/flights.ontology"))?;
    let remote = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Remote", "metadata": {"name": "peer", "namespace": TEAM},
        "spec": {
            "kernelRef": {"name": KERNEL}, "uri": format!("mew://127.0.0.1:9/{TEAM}.peer"), "peer": {"trustDomain": DOMAIN},
        },
    });
    cluster.api.apply_server_side(&remote.to_string())?;
    let attached = |r: &Value| r["status"]["kernel"]["id"] == agent.kernel_id;
    cluster.api.wait_json("remote", TEAM, "peer", "knows its kernel", attached, PATIENCE).map(drop)
}

/// The public roots are deleted; what they were.
fn roots_are_lost(cluster: &Cluster) -> Result<String> {
    let roots = cluster.roots()?;
    cluster.api.kubectl(&["delete", "configmap", ROOTS, "-n", SYSTEM, "--timeout=30s"])?;
    Ok(roots)
}

/// By the operator that runs: none has started since.
fn roots_come_back(cluster: &Cluster, roots: &str) -> Result<()> {
    let same = |m: &Value| m["data"]["ca.crt"] == roots;
    cluster.api.wait_json("configmap", SYSTEM, ROOTS, "is published again", same, PATIENCE).map(drop)
}

/// Pods are injected; a Secret that is damaged is written anew, and a caBundle that is taken away too.
fn the_webhook_is_kept(cluster: &Cluster) -> Result<()> {
    injects(cluster)?;
    let nonsense = "bm9uc2Vuc2U=";
    let patch = json!({"data": {"tls.crt": nonsense}}).to_string();
    cluster.api.kubectl(&["patch", "secret", WEBHOOK_SECRET, "-n", SYSTEM, "--type=merge", "-p", &patch])?;
    let mended = |s: &Value| s["data"]["tls.crt"].is_string() && s["data"]["tls.crt"] != nonsense;
    cluster.api.wait_json("secret", SYSTEM, WEBHOOK_SECRET, "is mended", mended, PATIENCE)?;
    injects(cluster)
}

fn injects(cluster: &Cluster) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "till", "namespace": TEAM, "labels": {"federation.mew.dev/kernel": "till"},
            "annotations": {"federation.mew.dev/storage": "ephemeral", "federation.mew.dev/ontology": "till"},
        },
        "spec": {
            "serviceAccountName": "till", "containers": [{"name": "web", "image": "registry.example.com/web:1"}],
        },
    });
    cluster.api.create_service_account(TEAM, "till")?;
    // The API server notices a changed webhook after a moment.
    let mut last = String::new();
    let done = until("a pod gets its agent", PATIENCE, || {
        let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        last = cluster.api.kubectl_with(&args, &pod.to_string()).unwrap_or_else(|e| format!("{e:#}"));
        Ok(last.contains("\"mew-agent\"").then_some(()))
    });
    done.with_context(|| last)
}

/// The first one ends in order: it gives the Lease up, and the other one takes it.
fn another_replica_takes_over(cluster: &mut Cluster, chart: &[Value]) -> Result<()> {
    start(cluster, chart)?;
    cluster.operators[0].stop();
    until("the other replica leads", PATIENCE, || Ok(cluster.operators[1].leads().then_some(())))?;
    injects(cluster)
}
