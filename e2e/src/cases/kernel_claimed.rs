use super::{Case, mending};
use crate::cluster::{is_ready, name_of};
use crate::install::restricted_namespace;
use crate::pair::{AIRPORTS, POLICY, Pair, claim, claim_object};
use crate::side::{AGENT, Side};
use crate::wait::{PATIENCE, until};
use crate::workload::{self, Workload};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use mew_tests::kstatus::condition;
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "kernel-claimed",
    core: false,
    proves: "others claim a kernel, in its namespace with other data or from another one: refused by name, the first flows on",
    run,
};

/// The Deployment, and what its kernel would be called.
const USURPER: &str = "usurper";
const NAMESPACE: &str = "claimants";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let app = &w.prepared.app.name;
    let usurper = Side { kernel: USURPER, syncs: &[], ..p.east.clone() };
    let delete = |objects: &[&str]| {
        let args = [&["delete", "--ignore-not-found", "--timeout=120s"][..], objects].concat();
        w.east.kubectl(&args).map(drop)
    };
    let workload = format!("deployment/{USURPER}");
    let volume = format!("persistentvolumeclaim/{}", claim(&usurper));
    mending(|| with_other_data(&p, &usurper, app), || delete(&["-n", &usurper.namespace, &workload, &volume]))?;
    mending(|| from_another_namespace(&p, app), || delete(&["namespace", NAMESPACE]))?;
    p.flows_west()?;
    p.flows_east()?;
    p.all_ready()?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)?;
    p.same()
}

/// A second workload of the same namespace takes the label of the first, and brings a volume of its own.
fn with_other_data(p: &Pair, usurper: &Side, app: &str) -> Result<()> {
    let (holder, incarnation) = (name_of(&p.east.pod()?), p.east.incarnation()?);
    let storage = format!("claim:{}", claim(usurper));
    let namespace = &usurper.namespace;
    let deployment = Workload { namespace, name: USURPER, kernel: p.east.kernel, storage: &storage, app }.deployment();
    let items = [claim_object(usurper), deployment];
    usurper.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;

    let refused = until("the other agent says who holds the kernel", PATIENCE, || {
        let pod = name_of(usurper.pods()?.first().context("no pod yet")?);
        let log = usurper.cluster.kubectl(&["logs", &pod, "-n", namespace, "-c", AGENT])?;
        let why = format!("kernel {} is held by {holder} with another data directory", p.east.kernel);
        Ok(log.contains(&why).then_some(pod))
    })?;
    let named = |r: &Value| {
        let error = &r["status"]["lastError"];
        error["reason"] == "KernelClaimed" && error["message"].as_str().is_some_and(|m| m.contains(&refused))
    };
    let r = p.east.wait("remote", p.east.peer, "names the one that was refused", named)?;
    ensure!(is_ready(&r), "the holder is worse off: {}", r["status"]);
    ensure!(usurper.pods()?.iter().all(|pod| !is_ready(pod)), "a pod without a kernel calls itself ready");
    p.flows_west()?;
    p.flows_east()?;
    ensure!(name_of(&p.east.pod()?) == holder && p.east.incarnation()? == incarnation, "the kernel has another holder");
    Ok(())
}

/// Another namespace has everything that the first one has: label, Remote, bundle, policy, Sync. Its kernel is another one all
/// the same, since the namespace comes from the token and not from the caller.
fn from_another_namespace(p: &Pair, app: &str) -> Result<()> {
    let first = &p.east;
    let claimant = Side { namespace: NAMESPACE.to_owned(), syncs: &[AIRPORTS], ..first.clone() };
    first.cluster.apply(&restricted_namespace(NAMESPACE).to_string())?;
    let (namespace, kernel) = (NAMESPACE, first.kernel);
    let workload = Workload { namespace, name: kernel, kernel, storage: "ephemeral", app }.deployment();
    let mut items = vec![workload::ontology_map(NAMESPACE, &workload::ontology()?), workload];
    let remote = first.object("remote", first.peer)?;
    for b in remote["spec"]["peer"]["trustBundleRefs"].as_array().context("the Remote names no bundle")? {
        items.push(moved(&first.object("configmap", b["name"].as_str().unwrap_or_default())?, "data"));
    }
    items.push(moved(&first.object("federationpolicy", POLICY)?, "spec"));
    items.push(moved(&first.object("sync", AIRPORTS)?, "spec"));
    items.push(moved(&remote, "spec"));
    first.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    claimant.rolled_out()?;
    is_no_label(&claimant, &format!("{}.{}", first.namespace, first.kernel))?;
    claimant.execute(
        r#"SPAWN Airport {iata = "XXX", name = "claimed", country = "USA", latitude = 1.5, longitude = 2.5}"#,
    )?;

    let id = format!("{NAMESPACE}.{kernel}");
    let r = claimant.wait("remote", claimant.peer, "is refused by the peer", |r| {
        let why = condition(r, "Ready").and_then(|c| c["reason"].as_str());
        // Which of the two depends on whether the refusal or the end of the connection is read first.
        let is_refused = why.is_some_and(|why| why == "TLSRefusedByPeer" || why == "Unreachable");
        is_refused && r["status"]["kernel"]["id"] == id.as_str()
    })?;
    ensure!(!is_ready(&r), "it is connected as somebody else: {}", r["status"]);
    let s = claimant.object("sync", AIRPORTS)?;
    ensure!(!is_ready(&s), "nothing may flow, and the Sync is ready: {}", s["status"]);
    p.flows_west()?;
    let theirs = p.west.becomes_ready("remote", p.west.peer)?;
    let peer = &theirs["status"]["peer"];
    ensure!(peer["incarnation"] == first.incarnation()?.as_str(), "the peer is connected to another one: {peer}");
    let claimed = p.west.rows(r#"MATCH a: Airport WHERE a.iata = "XXX" RETURN a.iata"#)?;
    ensure!(claimed.is_empty(), "what another namespace wrote has arrived");
    Ok(())
}

/// The id of another namespace's kernel is no name that a pod could ask for.
fn is_no_label(s: &Side, label: &str) -> Result<()> {
    let w = Workload { namespace: &s.namespace, name: "tried", kernel: label, storage: "ephemeral", app: "none" };
    match s.cluster.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &w.pod().to_string()) {
        Ok(_) => bail!("a pod may call itself {label}"),
        Err(e) => {
            ensure!(format!("{e:#}").contains("is no name of a kernel"), "it is not said what is wrong: {e:#}");
            Ok(())
        }
    }
}

/// The same declaration in the other namespace.
fn moved(object: &Value, part: &str) -> Value {
    let mut o = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": object["metadata"]["name"], "namespace": NAMESPACE},
    });
    o[part] = object[part].clone();
    o
}
