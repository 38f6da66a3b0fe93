//! Real API servers of each supported version: they take every rendering without a warning, refuse to go back to older
//! kinds, and give the operator exactly the rights that it needs.

use crate::{CHARTS, Chart, VERSION, objects};
use anyhow::{Context, Result, ensure};
use mew_tests::apiserver::{ApiServer, Setup};
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A policy counts a moment after it is stored.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kinds of the Prometheus operator, as far as a test of ours needs them: they exist.
const MONITORING: [(&str, &str); 3] =
    [("ServiceMonitor", "servicemonitors"), ("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")];
/// As strict as kubectl can be. Namespaces below warn of every template of a pod that is not "restricted".
const APPLY: [&str; 6] = ["apply", "--server-side", "--validate=strict", "--warnings-as-errors", "-f", "-"];

#[test]
fn kubernetes_1_33_takes_the_charts() -> Result<()> {
    takes_the_charts("1.33")
}

#[test]
fn kubernetes_1_34_takes_the_charts() -> Result<()> {
    takes_the_charts("1.34")
}

#[test]
fn kubernetes_1_35_takes_the_charts() -> Result<()> {
    takes_the_charts("1.35")
}

#[test]
fn kubernetes_1_36_takes_the_charts() -> Result<()> {
    takes_the_charts("1.36")
}

fn takes_the_charts(version: &str) -> Result<()> {
    let api = ApiServer::start_as(
        &format!("kubernetes-{version}"),
        Setup { emulates: Some(version.to_owned()), ..Setup::default() },
    )?;
    let said: Value = serde_json::from_str(&api.kubectl(&["get", "--raw=/version"])?)?;
    let part = |f: &str| said[f].as_str().unwrap_or_default().to_owned();
    ensure!(format!("{}.{}", part("emulationMajor"), part("emulationMinor")) == version, "it is not {version}: {said}");
    let kinds = MONITORING.map(|(kind, plural)| stub(kind, plural));
    api.apply_server_side(&json!({"apiVersion": "v1", "kind": "List", "items": kinds}).to_string())?;
    for chart in &CHARTS {
        for case in chart.cases()? {
            let namespace = format!("{}-{}", chart.name, case.name);
            let text = chart.render(&namespace, &[&case.values])?;
            prepare(&api, &objects(&text)?)?;
            api.kubectl_with(&APPLY, &text).with_context(|| namespace.clone())?;
        }
        // The kinds come first; objects of them are in what follows.
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    }
    never_goes_back(&api)?;
    gives_the_rights(&api)
}

fn stub(kind: &str, plural: &str) -> Value {
    let group = "monitoring.coreos.com";
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "versions": [version],
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
        },
    })
}

/// The namespaces of these objects, in which only pods that are "restricted" may be.
fn prepare(api: &ApiServer, all: &[Value]) -> Result<()> {
    let names: BTreeSet<&str> = all.iter().filter_map(|o| o["metadata"]["namespace"].as_str()).collect();
    for name in names {
        let levels = ["enforce", "warn"].map(|l| (format!("pod-security.kubernetes.io/{l}"), json!("restricted")));
        let labels = Value::Object(levels.into_iter().collect());
        let metadata = json!({"name": name, "labels": labels});
        api.apply_server_side(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).to_string())?;
    }
    Ok(())
}

/// Older kinds are refused, each by name and with advice; the same and newer ones are not.
fn never_goes_back(api: &ApiServer) -> Result<()> {
    let chart = Chart::named("mew-crds")?;
    let text = chart.render("mew-crds-default", &[])?;
    let now = format!("crd-version: {VERSION}");
    ensure!(text.matches(&now).count() == 3, "three kinds of version {VERSION} are expected");
    let apply = |line: &str| {
        api.kubectl_with(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &text.replace(&now, line))
    };
    let refused = until("an older version of the kinds is refused", PATIENCE, || {
        Ok(apply("crd-version: 0.0.1-rc.9").err().map(|e| format!("{e:#}")))
    })?;
    for part in ["remotes.federation", "syncs.federation", "federationpolicies.federation", "0.0.1-rc.9 is older"] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    ensure!(refused.contains("downgrade mew-operator alone"), "it gives no advice: {refused}");
    let unnamed = apply("unknown: anything").err().context("kinds of no version are taken")?;
    ensure!(format!("{unnamed:#}").contains("says no version"), "{unnamed:#}");
    for version in [VERSION.to_owned(), format!("{VERSION}+build.7"), "0.10.0".to_owned(), "1.0.0-rc.1".to_owned()] {
        apply(&format!("crd-version: {version}")).with_context(|| version.clone())?;
    }
    Ok(())
}

/// Verb, group, resource (with a subresource), name, whether in the operator's namespace or another one, and the answer.
const RIGHTS: [(&str, &str, &str, &str, bool, bool); 27] = [
    ("list", "federation.mew.dev", "remotes", "", false, true),
    ("watch", "federation.mew.dev", "federationpolicies", "", false, true),
    ("patch", "federation.mew.dev", "syncs/status", "a", false, true),
    ("update", "federation.mew.dev", "syncs", "a", false, false),
    ("delete", "federation.mew.dev", "remotes", "a", false, false),
    ("create", "authentication.k8s.io", "tokenreviews", "", false, true),
    ("create", "events.k8s.io", "events", "", false, true),
    ("get", "", "configmaps", "eu-roots", false, true),
    ("list", "", "configmaps", "", false, false),
    ("patch", "", "configmaps", "mew-roots", true, true),
    ("create", "", "configmaps", "mew-roots", true, true),
    ("create", "", "configmaps", "another", true, false),
    ("patch", "", "configmaps", "mew-roots", false, false),
    ("create", "coordination.k8s.io", "leases", "", true, true),
    ("update", "coordination.k8s.io", "leases", "mew-operator", true, true),
    ("update", "coordination.k8s.io", "leases", "another", true, false),
    ("get", "", "secrets", "mew-ca", true, true),
    ("update", "", "secrets", "mew-ca", true, false),
    ("get", "", "secrets", "mew-webhook-ca", true, true),
    ("update", "", "secrets", "mew-webhook-ca", true, true),
    ("get", "", "secrets", "another", true, false),
    ("get", "", "secrets", "mew-ca", false, false),
    ("list", "", "secrets", "", true, false),
    ("list", "", "pods", "", false, false),
    ("get", "", "namespaces", "kube-system", false, false),
    ("patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "mew-operator.{}", false, true),
    ("patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "another", false, false),
];

fn gives_the_rights(api: &ApiServer) -> Result<()> {
    for (verb, group, resource, name, own, answer) in RIGHTS {
        let namespace = "mew-operator-default";
        let other = if own { namespace } else { "team-b" };
        ensure!(
            may(api, namespace, (verb, group, resource), name, other)? == answer,
            "{verb} {resource} {name:?} in {other}"
        );
    }
    // With a list of namespaces, all of this ends at their borders.
    let namespace = "mew-operator-namespaced";
    for (place, answer) in [("team-a", true), ("team-b", true), (namespace, true), ("default", false), ("", false)] {
        let remotes = ("list", "federation.mew.dev", "remotes");
        ensure!(may(api, namespace, remotes, "", place)? == answer, "Remotes in {place:?}");
        let map = ("get", "", "configmaps");
        ensure!(may(api, namespace, map, "eu-roots", place)? == answer, "ConfigMaps in {place:?}");
    }
    Ok(())
}

/// Whether the operator of a namespace has a right elsewhere; everywhere, if the place is empty.
fn may(
    api: &ApiServer,
    operator: &str,
    (verb, group, resource): (&str, &str, &str),
    name: &str,
    place: &str,
) -> Result<bool> {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{operator}:mew-operator"),
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": sub,
                "name": name.replace("{}", operator), "namespace": place,
            },
        },
    });
    let answer = api.kubectl_with(&["create", "-o", "json", "-f", "-"], &review.to_string())?;
    let answer: Value = serde_json::from_str(&answer)?;
    answer["status"]["allowed"].as_bool().with_context(|| format!("no answer: {answer}"))
}
