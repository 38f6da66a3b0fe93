use super::{Case, mending};
use crate::breaks::KIND;
use crate::cluster::{Cluster, stays};
use crate::install::{self, CRDS, OPERATOR, SYSTEM};
use crate::load::{self, EVERY_MS, Load};
use crate::pair::Pair;
use crate::prepare::Archive;
use crate::previous;
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::root;
use serde_json::{Value, json};
use std::path::Path;

pub const CASE: Case = Case {
    name: "chart-upgrade",
    core: false,
    proves: "charts are uninstalled, installed in an older version, upgraded, rolled back: data flows, kinds never go back",
    run,
};

const VERSION_OF_KIND: &str = "federation.mew.dev/crd-version";
/// What the operator made itself, as its notes name it.
const LEFT: [(&str, &str); 4] =
    [("secret", "mew-ca"), ("configmap", "mew-roots"), ("secret", "mew-webhook-ca"), ("lease", OPERATOR)];

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let c = &w.east;
    let charts = w.prepared.logs.join("previous-charts");
    previous::write(&charts)?;
    Load::Airports.start(&p.east, EVERY_MS)?;
    p.is_whole()?;
    let before = load::acknowledged(&p.east)?;
    let since = (east.now_ms(), west.now_ms());
    let acknowledged = mending(
        || {
            uninstall(c, &p)?;
            install_previous(c, &charts, &w.prepared.next)?;
            goes_through(&p, w)?;
            upgrade(c, &p, &w.prepared.mew)?;
            goes_through(&p, w)?;
            kinds_never_go_back(c)?;
            roll_back(c, &w.prepared.next)?;
            goes_through(&p, w)?;
            east.steady(&p.east.sync_names(), since.0)?;
            west.steady(&p.west.sync_names(), since.1)?;
            load::goes_on(&p.east, before)
        },
        || {
            install::charts(c, &w.prepared.mew)?;
            load::stop(&p.east)
        },
    )?;
    Load::Airports.all_arrived_once(&p.east, &p.west, acknowledged)?;
    p.all_ready()?;
    p.same()
}

/// The operators of now serve, and meanwhile nothing stood still.
fn goes_through(p: &Pair, w: &World) -> Result<()> {
    let east = w.east_said()?;
    let airport = p.write_east()?.seen_by(east);
    p.arrives_west(&airport)?;
    east.verdict(&[airport.has_arrived(east)])?;
    p.flows_east()?;
    install::leader(&w.east)?;
    p.takes_effect(&p.east)
}

/// Helm, until everything is as it was told.
fn helm(c: &Cluster, args: &[&str], values: &str) -> Result<String> {
    c.helm(&[args, &["--namespace", SYSTEM, "--wait", "--timeout", "300s"]].concat(), values)
}

// ------------------------------------------------------------------ uninstall

fn uids(c: &Cluster) -> Result<String> {
    let kinds = "syncs,remotes,federationpolicies";
    c.kubectl(&["get", kinds, "-A", "-o", "jsonpath={range .items[*]}{.metadata.uid}{\"\\n\"}{end}"])
}

fn uninstall(c: &Cluster, p: &Pair) -> Result<()> {
    let (objects, ca) = (uids(c)?, c.get("secret", SYSTEM, "mew-ca")?["data"].take());
    let notes = c.helm(&["get", "notes", OPERATOR, "--namespace", SYSTEM], "")?;
    helm(c, &["uninstall", OPERATOR], "")?;
    until("no operator is left", PATIENCE, || {
        let pods = c.list("pods", SYSTEM, "app.kubernetes.io/name=mew-operator")?;
        Ok((!pods.iter().any(stays)).then_some(()))
    })?;
    for (kind, name) in LEFT {
        c.get(kind, SYSTEM, name).context("the operator's own went with its chart")?;
        ensure!(notes.contains(name), "the notes do not say that {kind} {name} stays: {notes}");
    }
    ensure!(c.get("secret", SYSTEM, "mew-ca")?["data"] == ca, "the CA is another one");
    let said = helm(c, &["uninstall", CRDS], "")?;
    for kind in ["remotes", "syncs", "federationpolicies"].map(|k| format!("{k}.federation.mew.dev")) {
        ensure!(said.contains(&kind), "helm does not say that {kind} stays: {said}");
        ensure!(c.get("customresourcedefinition", "", &kind).is_ok_and(|k| stays(&k)), "{kind} went with its chart");
    }
    ensure!(uids(c)? == objects, "objects went with the charts, or are other ones");
    p.flows_west()?;
    p.flows_east()
}

// ----------------------------------------------------------- the previous one

/// What the API server would say to a version of the kinds.
fn tried(c: &Cluster, version: &str) -> Result<()> {
    let annotation = format!("{VERSION_OF_KIND}={version}");
    c.kubectl(&["annotate", "crd", KIND, "--overwrite", "--dry-run=server", &annotation]).map(drop)
}

fn version_of_kind(c: &Cluster) -> Result<String> {
    let kind = c.get("customresourcedefinition", "", KIND)?;
    let version = kind["metadata"]["annotations"][VERSION_OF_KIND].as_str();
    Ok(version.context("the kind says no version")?.to_owned())
}

/// What the API server would say to a Sync with the field that came later.
fn tried_field(c: &Cluster) -> Result<()> {
    let sync = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "tried", "namespace": SYSTEM},
        "spec": {
            "remoteRef": {"name": "nobody"}, "direction": "Push", "match": "s: State", (previous::FIELD): "Programmed",
        },
    });
    c.kubectl_with(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], &sync.to_string()).map(drop)
}

/// Whether the operators are told what came later, by an argument.
fn is_told(c: &Cluster) -> Result<bool> {
    let d = c.get("deployment", SYSTEM, OPERATOR)?;
    let args = d["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("no arguments")?;
    Ok(args.iter().filter_map(Value::as_str).any(|a| a.starts_with(previous::ARGUMENT)))
}

fn install_previous(c: &Cluster, charts: &Path, image: &Archive) -> Result<()> {
    // The guard went with its chart, and counts for a moment longer.
    until("nothing guards the kinds any more", PATIENCE, || tried(c, previous::VERSION).map(Some))?;
    let (crds, operator) = (path(charts, CRDS), path(charts, OPERATOR));
    helm(c, &["install", CRDS, &crds], "")?;
    ensure!(version_of_kind(c)? == previous::VERSION, "the kinds are not of the previous version");
    until("the previous kinds are in force", PATIENCE, || {
        Ok(tried_field(c).err().filter(|e| format!("{e:#}").contains(previous::FIELD)).map(drop))
    })?;
    let values = install::values(c, image)?.to_string();
    helm(c, &["install", OPERATOR, &operator, "--values", "-"], &values)?;
    ensure!(install::is_whole(c, image)? && !is_told(c)?, "the operators are not those of the previous chart");
    Ok(())
}

fn path(charts: &Path, chart: &str) -> String {
    charts.join(chart).display().to_string()
}

// --------------------------------------------------------- upgrade, rollback

/// With the values that were given to the previous one.
fn upgrade(c: &Cluster, p: &Pair, image: &Archive) -> Result<()> {
    let charts = root().join("charts");
    let (crds, operator) = (path(&charts, CRDS), path(&charts, OPERATOR));
    helm(c, &["upgrade", CRDS, &crds], "")?;
    until("the kinds of now are in force", PATIENCE, || tried_field(c).map(Some))?;
    p.flows_west()?;
    let (_, tag) = image.repository_and_tag()?;
    let tag = format!("image.tag={tag}");
    helm(c, &["upgrade", OPERATOR, &operator, "--reset-then-reuse-values", "--set", &tag], "")?;
    ensure!(install::is_whole(c, image)? && is_told(c)?, "the operators are not those of the chart of now");
    Ok(())
}

fn kinds_never_go_back(c: &Cluster) -> Result<()> {
    let now = version_of_kind(c)?;
    ensure!(now != previous::VERSION, "the kinds were not upgraded");
    until("the kinds are guarded", PATIENCE, || {
        Ok(tried(c, previous::VERSION).err().filter(|e| format!("{e:#}").contains("is older")).map(drop))
    })?;
    let refused = match helm(c, &["rollback", CRDS], "") {
        Ok(said) => bail!("the kinds went back: {said}"),
        Err(e) => format!("{e:#}"),
    };
    let why = format!("is of version {now}, and version {} is older", previous::VERSION);
    for part in [why.as_str(), "downgrade mew-operator alone"] {
        ensure!(refused.contains(part), "helm does not say {part:?}: {refused}");
    }
    ensure!(version_of_kind(c)? == now, "the kinds are of another version all the same");
    tried_field(c).context("the field that came later is gone")
}

/// The operator alone, with the kinds of now.
fn roll_back(c: &Cluster, image: &Archive) -> Result<()> {
    helm(c, &["rollback", OPERATOR], "")?;
    ensure!(install::is_whole(c, image)? && !is_told(c)?, "the operators are not those of the previous chart");
    Ok(())
}
