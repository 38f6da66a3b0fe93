//! Every manifest under `examples/`, applied to a real API server: the spec comes back exactly as it is in the file, and
//! applying it again changes nothing. Otherwise GitOps tools would see a difference for ever.

use anyhow::{Context, Result, anyhow, ensure};
use mew_tests::apiserver::ApiServer;
use mew_tests::cluster::install_crds;
use mew_tests::dirs::root;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All YAML files of a folder, with those of its folders.
fn manifests(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for e in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = e?.path();
        if path.is_dir() {
            out.extend(manifests(&path)?);
        } else if path.extension().is_some_and(|x| x == "yaml" || x == "yml") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// Kind and name of an object, which tell the objects of one file apart.
fn id(o: &Value) -> String {
    let text = |p: &str| o.pointer(p).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// The objects as they are written.
fn written(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut out = BTreeMap::new();
    for document in text.split("\n---\n") {
        let o: Value = serde_saphyr::from_str(document).map_err(|e| anyhow!("{e}"))?;
        out.insert(id(&o), o);
    }
    Ok(out)
}

/// The objects as the server has them.
fn found(api: &ApiServer, file: &str) -> Result<BTreeMap<String, Value>> {
    let all: Value = serde_json::from_str(&api.kubectl(&["get", "-f", file, "-o", "json"])?)?;
    let one = || vec![all.clone()];
    let items = all["items"].as_array().cloned().unwrap_or_else(one);
    Ok(items.into_iter().map(|o| (id(&o), o)).collect())
}

/// Applies a file again and again; the objects must be as written, and from then on nothing may change.
fn again(api: &ApiServer, path: &Path, how: &[&str]) -> Result<usize> {
    let file = path.display().to_string();
    let apply = || {
        let args = [["apply", "--validate=strict", "-f", file.as_str()].as_slice(), how].concat();
        api.kubectl(&args)
    };
    let expected = written(&fs::read_to_string(path)?)?;
    apply()?;
    let first = found(api, &file)?;
    ensure!(first.keys().eq(expected.keys()), "{:?} came back of {:?}", first.keys(), expected.keys());
    for (id, o) in &expected {
        ensure!(first[id]["spec"] == o["spec"], "{id}: {} came back of {}", first[id]["spec"], o["spec"]);
        ensure!(first[id]["metadata"]["labels"] == o["metadata"]["labels"], "{id}: other labels came back");
    }
    // The server stores the default of a status only with the next write, which is the operator's where there is one.
    apply()?;
    let first = found(api, &file)?;
    let said = apply()?;
    let second = found(api, &file)?;
    for (id, o) in &second {
        let version = |o: &Value| o["metadata"]["resourceVersion"].clone();
        ensure!(version(o) == version(&first[id]), "{id}: applying it again changed it: {said}");
        ensure!(o["metadata"]["generation"] == 1, "{id}: its spec was changed: {o}");
    }
    // The two coasts have objects of the same names; each file is looked at by itself.
    api.kubectl(&["delete", "-f", &file, "--timeout=30s"])?;
    Ok(expected.len())
}

#[test]
fn examples_come_back_as_they_are_and_applying_them_again_changes_nothing() -> Result<()> {
    let api = ApiServer::start("examples")?;
    install_crds(&api)?;
    let files = manifests(&root().join("examples"))?;
    let mut namespaces = Vec::new();
    for f in &files {
        for o in written(&fs::read_to_string(f)?)?.values() {
            let ns = o["metadata"]["namespace"].as_str().with_context(|| format!("{}: no namespace", f.display()))?;
            namespaces.push(ns.to_owned());
        }
    }
    namespaces.sort();
    namespaces.dedup();
    for ns in &namespaces {
        api.create_namespace(ns)?;
    }
    let mut objects = 0;
    for f in &files {
        let at = |how: &str| format!("{} with kubectl apply{how}", f.display());
        objects += again(&api, f, &[]).with_context(|| at(""))?;
        again(&api, f, &["--server-side"]).with_context(|| at(" --server-side"))?;
        by_two_managers(&api, f).with_context(|| at(" by two managers"))?;
    }
    ensure!(files.len() >= 5 && objects >= 7, "only {objects} objects in {} files", files.len());
    two_managers_share_lists(&api, &namespaces[0])
}

fn apply_as(api: &ApiServer, manager: &str, manifest: &str) -> Result<String> {
    let args = ["apply", "--server-side", "--validate=strict", "--field-manager", manager, "-f", "-"];
    api.kubectl_with(&args, manifest)
}

/// Both hold every field, neither is in the other's way, and nothing changes by applying it in turn.
fn by_two_managers(api: &ApiServer, path: &Path) -> Result<()> {
    let (file, text) = (path.display().to_string(), fs::read_to_string(path)?);
    let versions = || -> Result<Vec<Value>> {
        Ok(found(api, &file)?.values().map(|o| o["metadata"]["resourceVersion"].clone()).collect())
    };
    for manager in ["platform", "security", "platform"] {
        apply_as(api, manager, &text)?;
    }
    let before = versions()?;
    for manager in ["platform", "security"] {
        apply_as(api, manager, &text)?;
    }
    ensure!(versions()? == before, "applying it in turn changes it");
    api.kubectl(&["delete", "-f", &file, "--timeout=30s"]).map(drop)
}

/// Of the lists that are merged by a key each has its own entries; what both would say differently conflicts, by name.
fn two_managers_share_lists(api: &ApiServer, namespace: &str) -> Result<()> {
    let object = |kind: &str, spec: Value| {
        let (version, metadata) = ("federation.mew.dev/v1alpha1", json!({"name": "shared", "namespace": namespace}));
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}).to_string()
    };
    let rule = |name: &str, action: &str| json!({"name": name, "action": action, "operations": ["Export"], "types": ["State"]});
    let bundle = |name: &str| json!({"kind": "ConfigMap", "name": name});
    // Kind, what the platform says, what security adds, and where its additions are.
    let cases = [
        (
            "FederationPolicy",
            json!({
                "remoteSelector": {}, "mode": "ExplicitBridging", "allowedKernels": [{"trustDomain": "west.example"}],
                "rules": [rule("ours", "Allow")],
            }),
            json!({"allowedKernels": [{"trustDomain": "north.example"}], "rules": [rule("never", "Deny")]}),
            ["/spec/allowedKernels", "/spec/rules"],
        ),
        (
            "Remote",
            json!({
                "kernelRef": {"name": "us-east"}, "uri": "mew://127.0.0.1:9101/flights.us-west",
                "peer": {"trustDomain": "west.example", "trustBundleRefs": [bundle("old-roots")]},
                "permissions": {"canReceive": [{"type": "State"}]},
            }),
            json!({
                "peer": {"trustBundleRefs": [bundle("new-roots")]},
                "permissions": {"canReceive": [{"type": "Airport"}]},
            }),
            ["/spec/peer/trustBundleRefs", "/spec/permissions/canReceive"],
        ),
    ];
    for (kind, platform, security, lists) in cases {
        let (platform, security) = (object(kind, platform), object(kind, security));
        let entries = || -> Result<Vec<usize>> {
            let o = api.get_json(kind, namespace, "shared")?;
            Ok(lists.iter().map(|l| o.pointer(l).and_then(Value::as_array).map_or(0, Vec::len)).collect())
        };
        for (manager, manifest) in [("platform", &platform), ("security", &security)] {
            apply_as(api, manager, manifest)?;
        }
        ensure!(entries()? == [2, 2], "{kind}: {:?} entries, not one of each", entries()?);
        let version =
            || -> Result<Value> { Ok(api.get_json(kind, namespace, "shared")?["metadata"]["resourceVersion"].take()) };
        let before = version()?;
        for (manager, manifest) in [("platform", &platform), ("security", &security)] {
            apply_as(api, manager, manifest)?;
        }
        ensure!(version()? == before, "{kind}: applying it in turn changes it");
        apply_as(api, "security", &object(kind, json!({})))?;
        ensure!(entries()? == [1, 1], "{kind}: more than security's entries went, or less");
    }
    let other = object("FederationPolicy", json!({"mode": "PermissiveBridging"}));
    let e = apply_as(api, "security", &other).err().context("what the platform says was overwritten")?;
    let said = format!("{e:#}");
    ensure!(said.contains("conflict with \"platform\"") && said.contains(".spec.mode"), "{said}");
    Ok(())
}
