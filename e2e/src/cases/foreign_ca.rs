//! The impostor is a whole organisation in a pod: `mew run` with a CA of its own for our trust domain, and an agent that
//! gets our kernel's identity from it and dials as ours does.

use super::{Case, mending};
use crate::install::restricted_namespace;
use crate::pair::{Pair, nobody};
use crate::side::AGENT;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Result, ensure};
use mew_tests::dirs::root;
use serde_json::{Value, json};
use std::fs;

pub const CASE: Case = Case {
    name: "foreign-ca",
    core: false,
    proves: "another CA mints our kernel's identity and dials the peer: refused by name, and our data flows on",
    run,
};

const NAME: &str = "impostor";
const OPERATOR: &str = "operator";
const STATE: &str = "/scratch/operator";
const FILES: &str = "/etc/mew";
/// No code of the suite: those of the load are hexadecimal, and those of probes begin with a P.
const FORGED: &str = "FAKE";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    let connected = [p.east.connected_since()?, p.west.connected_since()?];
    let c = &w.east;
    mending(
        || {
            let before = p.west.agent_log()?.len();
            let impostor = impostor(&p, &w.prepared.mew.name)?.to_string();
            // A namespace gets the account that pods need a moment after it is made.
            until("the impostor is there", PATIENCE, || c.apply(&impostor).map(Some))?;
            forge(&p)?;
            is_refused_by_name(&p, before)
        },
        || c.delete_namespace(NAME),
    )?;
    let airport = p.write_east()?.seen_by(east);
    p.arrives_west(&airport)?;
    let inspection = p.write_west()?.seen_by(west);
    p.arrives_east(&inspection)?;
    ensure!(p.west.rows(&forged())?.is_empty(), "what the impostor wrote is in the west");
    ensure!(
        connected == [p.east.connected_since()?, p.west.connected_since()?],
        "the connection was not up all the time"
    );
    p.same()?;
    east.verdict(&[airport.has_arrived(east)])?;
    west.verdict(&[inspection.has_arrived(west)])?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}

fn forged() -> String {
    format!(r#"MATCH a: Airport WHERE a.iata = "{FORGED}" RETURN a.iata"#)
}

/// It has everything that ours has, but for our CA's key.
fn impostor(p: &Pair, image: &str) -> Result<Value> {
    let (bundle, objects) = p.east_commits()?;
    let ontology = fs::read_to_string(root().join("examples/airports/flights.ontology"))?;
    let container = |name: &str, args: &[&str]| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "args": args,
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "files", "mountPath": FILES}],
        })
    };
    let (trust, manifests) = (format!("{FILES}/trust.yaml"), format!("{FILES}/objects.yaml"));
    let (ontology_file, socket) = (format!("{FILES}/flights.ontology"), format!("unix:{STATE}/operator.sock"));
    let domain = p.east.cluster.trust_domain;
    let import = container("import", &["trust", "import", "--state", STATE, &trust]);
    let operator = [
        "run",
        "--manifests",
        &manifests,
        "--state",
        STATE,
        "--namespace",
        &p.east.namespace,
        "--trust-domain",
        domain,
    ];
    let agent = [
        "agent",
        "--kernel",
        p.east.kernel,
        "--operator",
        &socket,
        "--ontology",
        &ontology_file,
        "--data",
        "/scratch/data",
    ];
    let meta = json!({"name": NAME, "namespace": NAME});
    let files = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
        "data": {"trust.yaml": bundle, "objects.yaml": objects.join("\n---\n"), "flights.ontology": ontology},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {
            "securityContext": nobody(),
            "automountServiceAccountToken": false,
            "initContainers": [import],
            "containers": [container(OPERATOR, &operator), container(AGENT, &agent)],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "files", "configMap": {"name": NAME}}],
        },
    });
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": [restricted_namespace(NAME), files, pod]}))
}

fn within(p: &Pair, container: &str, command: &[&str]) -> Result<String> {
    let mut args = vec!["exec", NAME, "-n", NAME, "-c", container, "--", "mew"];
    args.extend(command);
    p.east.cluster.kubectl(&args)
}

/// Something that its Sync would send.
fn forge(p: &Pair) -> Result<()> {
    until("the impostor's kernel is open", PATIENCE, || within(p, AGENT, &["query", &forged()]).map(Some))?;
    let text = format!(
        r#"SPAWN Airport {{iata = "{FORGED}", name = "forged", country = "USA", latitude = 1.5, longitude = 2.5}}"#
    );
    within(p, AGENT, &["exec", &text]).map(drop)
}

/// At the peer with the identity and why; to the impostor as little as to anybody.
fn is_refused_by_name(p: &Pair, before: usize) -> Result<()> {
    let id = format!("spiffe://{}/kernel/{}.{}", p.east.cluster.trust_domain, p.east.namespace, p.east.kernel);
    let refusal = format!("the certificate of {id} is not signed by any root configured for its trust domain");
    until("the west's agent says whom it refuses", PATIENCE, || {
        let log = p.west.agent_log()?;
        Ok(log.get(before..).is_some_and(|new| new.contains(&refusal)).then_some(()))
    })?;
    until("the impostor learns that it is refused", PATIENCE, || {
        let seen = within(p, OPERATOR, &["get", "remotes", p.east.peer, "--state", STATE])?;
        Ok(seen.contains("TLSRefusedByPeer").then_some(()))
    })
}
