use super::Case;
use crate::cluster::name_of;
use crate::pair::nobody;
use crate::side::{APP, Side};
use crate::workload::{sidecar, started_in_order};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub const CASE: Case = Case {
    name: "inject",
    core: true,
    proves: "a labelled Deployment gets its agent, and starts after it; wrong annotations are refused by name",
    run,
};

const STORAGE: &str = "federation.mew.dev/storage";
const ONTOLOGY: &str = "federation.mew.dev/ontology";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    for s in p.sides() {
        has_a_sidecar(s, &s.pod()?)?;
        starts_in_order(s)?;
    }
    only_labelled_pods(&p.east)?;
    wrong_ones_are_named(&p.east)?;
    twice_changes_nothing(&p.east)
}

/// Volumes whose content is a token, by name, with its audience (empty: the API server's).
fn tokens(pod: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for v in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for source in v["projected"]["sources"].as_array().into_iter().flatten() {
            if let Some(t) = source.get("serviceAccountToken") {
                out.push((name_of_volume(v), t["audience"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }
    out
}

fn name_of_volume(v: &Value) -> String {
    v["name"].as_str().unwrap_or_default().to_owned()
}

fn mounts(container: &Value, volume: &str) -> bool {
    container["volumeMounts"].as_array().is_some_and(|all| all.iter().any(|m| m["name"] == volume))
}

fn has_a_sidecar(s: &Side, pod: &Value) -> Result<()> {
    let a = sidecar(pod).with_context(|| format!("{}: no agent in {}", s.cluster.name, pod["spec"]))?;
    ensure!(a["restartPolicy"] == "Always", "the agent is no sidecar: {a}");
    let audience = format!("federation.mew.dev/{}/kernel/{}", s.cluster.trust_domain, s.kernel);
    let tokens = tokens(pod);
    let (volume, _) = tokens.iter().find(|(_, a)| *a == audience).context("no token for the kernel's audience")?;
    let app = pod["spec"]["containers"].as_array().and_then(|all| all.iter().find(|c| c["name"] == APP));
    ensure!(mounts(a, volume), "the agent has no token of its kernel");
    ensure!(!mounts(app.context("no application")?, volume), "the application has the agent's token");
    for (volume, _) in tokens.iter().filter(|(_, a)| a.is_empty()) {
        ensure!(!mounts(a, volume), "the agent has a token for the API server");
    }
    Ok(())
}

fn starts_in_order(s: &Side) -> Result<()> {
    let pod = s.pod()?;
    started_in_order(&pod)?;
    let said = s.cluster.kubectl(&["logs", &name_of(&pod), "-n", &s.namespace, "-c", APP])?;
    ensure!(said.starts_with("the kernel answered the first statement"), "{said}");
    Ok(())
}

fn pod(s: &Side, labels: &Value, annotations: &Value) -> Value {
    let app = json!({
        "name": APP, "image": "localhost/none:1",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "tried", "namespace": s.namespace, "labels": labels, "annotations": annotations},
        "spec": {
            "securityContext": nobody(),
            "containers": [app],
        },
    })
}

/// What the API server would make of it, with everything that has a say.
fn tried(s: &Side, pod: &Value) -> Result<Value> {
    let text = s.cluster.kubectl_with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &pod.to_string())?;
    Ok(serde_json::from_str(&text)?)
}

fn kernel() -> Value {
    json!({"federation.mew.dev/kernel": "tried"})
}

fn only_labelled_pods(s: &Side) -> Result<()> {
    let plain = tried(s, &pod(s, &json!({"app": "other"}), &json!({})))?;
    ensure!(sidecar(&plain).is_none(), "a pod without the label has an agent");
    Ok(())
}

fn wrong_ones_are_named(s: &Side) -> Result<()> {
    for (annotations, named) in [
        (json!({STORAGE: "tape", ONTOLOGY: "flights"}), STORAGE),
        (json!({ONTOLOGY: "flights"}), STORAGE),
        (json!({STORAGE: "ephemeral"}), ONTOLOGY),
        (json!({STORAGE: "ephemeral", ONTOLOGY: "flights", "federation.mew.dev/storrage": "x"}), "storrage"),
    ] {
        match tried(s, &pod(s, &kernel(), &annotations)) {
            Ok(_) => bail!("accepted: {annotations}"),
            Err(e) => ensure!(format!("{e:#}").contains(named), "{annotations}: {named} is not named: {e:#}"),
        }
    }
    Ok(())
}

fn twice_changes_nothing(s: &Side) -> Result<()> {
    let once = tried(s, &pod(s, &kernel(), &json!({STORAGE: "ephemeral", ONTOLOGY: "flights"})))?;
    ensure!(sidecar(&once).is_some(), "no agent: {once}");
    let meta = &once["metadata"];
    let again = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": once["spec"],
        "metadata": {
            "name": "tried", "namespace": s.namespace, "labels": meta["labels"], "annotations": meta["annotations"],
        },
    });
    let twice = tried(s, &again)?;
    for part in ["initContainers", "containers", "volumes"] {
        ensure!(
            twice["spec"][part] == once["spec"][part],
            "{part}: {}, then {}",
            once["spec"][part],
            twice["spec"][part]
        );
    }
    Ok(())
}
