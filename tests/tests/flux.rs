//! Flux itself: its kustomize-controller applies a repository that declares both clusters, by the Kustomizations of
//! `docs/gitops.md`, and goes by what our operators say of the objects.

#[path = "flux/hub.rs"]
mod hub;

use anyhow::{Context, Result, ensure};
use hub::{Files, Hub, NAMESPACE as SYSTEM, says};
use mew_tests::apiserver::ApiServer;
use mew_tests::charts::objects;
use mew_tests::cluster::PATIENCE;
use mew_tests::dirs::root;
use mew_tests::flights::{Flights, NAMESPACE};
use mew_tests::kstatus::{Status, condition, kstatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

const PAGE: &str = "docs/gitops.md";
/// The example's third Sync is denied on purpose, and this repository shall be well.
const SYNCS: usize = 2;
/// Of Flux, as a manager of fields.
const MANAGER: &str = "kustomize-controller";
/// What [`drift`] looks at.
const KINDS: &str = "configmaps,remotes,syncs,federationpolicies";

#[test]
fn flux_applies_both_clusters_and_goes_by_what_our_operators_say() -> Result<()> {
    let p = Flights::start()?;
    p.east_agent.execute(r#"SPAWN State {code = "WA"}"#, json!({}))?;
    let hub = Hub::start(&p.east.api)?;
    let good = repository(&p)?;
    let revision = hub.push(&good)?;
    it_waits_for_the_peer(&p, &hub, &revision)?;
    applied_twice_nothing_changes(&p, &hub)?;
    what_the_server_refuses_fails_with_our_message(&p, &hub, &good)?;
    what_the_operator_refuses_fails_by_name(&p, &hub, &good)?;
    hub.applied("east", &hub.push(&good)?)?;
    what_leaves_the_repository_goes(&p, &hub, &good)
}

/// Each cluster in a folder, with what the other one sent; and the kinds, which come first.
fn repository(p: &Flights) -> Result<Files> {
    let mut files = Files::new();
    files.insert("east/west-roots.yaml".to_owned(), p.trust_in_west()?);
    files.insert("west/east-roots.yaml".to_owned(), p.trust_in_east()?);
    for (side, file) in
        [("east", "policy.yaml"), ("east", "remote.yaml"), ("west", "policy.yaml"), ("west", "remote.yaml")]
    {
        files.insert(format!("{side}/{file}"), p.manifest(&format!("us-{side}/{file}"))?);
    }
    let syncs = p.manifest("us-east/syncs.yaml")?;
    let documents: Vec<&str> = syncs.split("\n---\n").take(SYNCS).collect();
    files.insert("east/syncs.yaml".to_owned(), format!("{}\n", documents.join("\n---\n")));
    for (file, crd) in mew_crds::generate::definitions() {
        files.insert(format!("kinds/{file}"), mew_crds::generate::yaml(&crd));
    }
    Ok(files)
}

/// The Kustomizations of the page, exactly as they are there.
fn of_the_page() -> Result<BTreeMap<String, Value>> {
    let text = fs::read_to_string(root().join(PAGE))?;
    let mut blocks = text.split("```yaml\n").skip(1).filter_map(|b| b.split_once("\n```")).map(|(block, _)| block);
    let block = blocks.find(|b| b.contains("kind: Kustomization")).context("the page has no Kustomization")?;
    let name = |k: &Value| k["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(objects(block)?.into_iter().map(|k| (name(&k), k)).collect())
}

/// What the page's depend on. The operators themselves run beside, as processes.
fn operator() -> Value {
    json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": {"name": "mew-operator", "namespace": SYSTEM},
        "spec": {
            "interval": "10m", "path": "./kinds", "prune": false, "wait": true,
            "sourceRef": {"kind": "GitRepository", "name": "fleet"},
        },
    })
}

/// The east is declared, all of it is applied, and it is not ready until the west is declared too.
fn it_waits_for_the_peer(p: &Flights, hub: &Hub, revision: &str) -> Result<()> {
    let page = of_the_page()?;
    let apply = |name: &str| -> Result<()> {
        let k = page.get(name).with_context(|| format!("the page has no Kustomization {name}"))?;
        p.east.api.apply_server_side(&k.to_string()).map(drop)
    };
    let kubeconfig = p.west.api.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "west", "namespace": SYSTEM},
        "stringData": {"value": kubeconfig},
    });
    p.east.api.apply_server_side(&secret.to_string())?;
    apply("east")?;
    let waits = |k: &Value| k["status"]["inventory"].is_null() && says(k, "False");
    let k = hub.wait("east", "waits for what it depends on", waits)?;
    ensure!(condition(&k, "Ready").is_some_and(|c| c["reason"] == "DependencyNotReady"), "{k}");
    p.east.api.apply_server_side(&operator().to_string())?;

    let connecting = |r: &Value| {
        let ready = condition(r, "Ready");
        ready.is_some_and(|c| c["reason"] == "Unreachable" || c["reason"] == "TLSRefusedByPeer")
    };
    let r = p.east.api.wait_json("remote", NAMESPACE, "us-west", "finds no peer", connecting, PATIENCE)?;
    ensure!(kstatus(&r) == Status::InProgress, "a Remote without its peer is no longer waited for: {r}");
    let checks = |k: &Value| condition(k, "Healthy").is_some_and(|c| c["status"] == "Unknown");
    let k = hub.wait("east", "checks health", checks)?;
    ensure!(says(&k, "Unknown"), "Flux calls it ready, and its peer is not declared: {k}");

    apply("west")?;
    for side in ["west", "east"] {
        hub.applied(side, revision)?;
    }
    // Flux was right: looked at once, not waited for.
    for (api, kind, name) in
        [(&p.east.api, "remote", "us-west"), (&p.east.api, "sync", "airports"), (&p.west.api, "remote", "us-east")]
    {
        let o = api.get_json(kind, NAMESPACE, name)?;
        ensure!(kstatus(&o) == Status::Current, "Flux is done, and {kind} {name} is not: {o}");
    }
    p.east.api.wait_ready("sync/states", NAMESPACE, PATIENCE)?;
    let states = p.west_agent.rows("MATCH s: State RETURN s.code")?;
    ensure!(states == [json!(["WA"])], "what the repository declares does not flow: {states:?}");
    Ok(())
}

/// What would change if Flux had written anything: generations, and when it last changed a field.
fn drift(api: &ApiServer) -> Result<BTreeMap<String, Value>> {
    let text = api.kubectl(&["get", KINDS, "-n", NAMESPACE, "-o", "json", "--show-managed-fields"])?;
    let list: Value = serde_json::from_str(&text)?;
    let mut all = BTreeMap::new();
    for o in list["items"].as_array().context("no list")? {
        let managers = o["metadata"]["managedFields"].as_array().into_iter().flatten();
        let of_flux: Vec<&Value> = managers.filter(|m| m["manager"] == MANAGER).collect();
        if !of_flux.is_empty() {
            let id = format!("{} {}", o["kind"], o["metadata"]["name"]);
            all.insert(id, json!([o["metadata"]["generation"], of_flux]));
        }
    }
    Ok(all)
}

fn applied_twice_nothing_changes(p: &Flights, hub: &Hub) -> Result<()> {
    let look = || -> Result<_> { Ok((drift(&p.east.api)?, drift(&p.west.api)?)) };
    let before = look()?;
    ensure!(before.0.len() == 5 && before.1.len() == 3, "Flux has not applied what it should: {before:?}");
    for (side, request) in [("east", "1"), ("west", "2")] {
        hub.again(side, request)?;
    }
    let after = look()?;
    ensure!(after == before, "applying it again changed {after:?}, before {before:?}");
    Ok(())
}

fn changed(files: &Files, path: &str, from: &str, to: &str) -> Result<Files> {
    let mut files = files.clone();
    let text = files.get_mut(path).with_context(|| path.to_owned())?;
    ensure!(text.contains(from), "{path} has no {from:?}");
    *text = text.replace(from, to);
    Ok(files)
}

/// Nothing of such a revision is applied, what was there goes on, and Flux says what our rule says.
fn what_the_server_refuses_fails_with_our_message(p: &Flights, hub: &Hub, good: &Files) -> Result<()> {
    let bad = changed(good, "east/remote.yaml", "/flights.us-west", "/flights.us-north")?;
    let bad = changed(&bad, "east/syncs.yaml", "direction: Push", "direction: Push\n  maxLag: 30s")?;
    let said = hub.failed("east", &hub.push(&bad)?)?;
    for part in ["Remote/flights/us-west", "the kernel_id at the end of uri is immutable"] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let s = p.east.api.get_json("sync", NAMESPACE, "states")?;
    ensure!(s["spec"].get("maxLag").is_none(), "half a revision was applied: {s}");
    ensure!(kstatus(&s) == Status::Current, "a revision that was refused stopped what flows: {s}");
    Ok(())
}

/// At once, not at the timeout, and by the object's name; the object has the reason.
fn what_the_operator_refuses_fails_by_name(p: &Flights, hub: &Hub, good: &Files) -> Result<()> {
    let bad = changed(good, "east/syncs.yaml", r#"a.country = "USA""#, "a.country =")?;
    let said = hub.failed("east", &hub.push(&bad)?)?;
    for part in ["failed early due to stalled resources", "Sync/flights/airports status: 'Failed'"] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let s = p.east.api.get_json("sync", NAMESPACE, "airports")?;
    let ready = condition(&s, "Ready").context("no Ready")?;
    ensure!(ready["status"] == "False" && ready["reason"] == "InvalidPattern", "{ready}");
    Ok(())
}

/// A Sync that leaves the repository goes, with its flow; data does not.
fn what_leaves_the_repository_goes(p: &Flights, hub: &Hub, good: &Files) -> Result<()> {
    let mut less = good.clone();
    let syncs = less.get_mut("east/syncs.yaml").context("no Syncs")?;
    let (airports, _) = syncs.split_once("\n---\n").context("one Sync")?;
    *syncs = format!("{airports}\n");
    hub.applied("east", &hub.push(&less)?)?;
    ensure!(p.east.api.find_json("sync", NAMESPACE, "states")?.is_none(), "it is still there");
    let states = p.west_agent.rows("MATCH s: State RETURN s.code")?;
    ensure!(states == [json!(["WA"])], "data went with its Sync: {states:?}");
    Ok(())
}
