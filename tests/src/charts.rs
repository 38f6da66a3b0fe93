//! The charts, as helm renders them.

use crate::dirs::root;
use crate::output::output_within;
use crate::tools::helm;
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// It takes a tenth of a second; this is for a machine that is busy with something else.
const HELM: Duration = Duration::from_secs(60);
/// The oldest Kubernetes that the charts are for.
pub const OLDEST: &str = "1.33";

/// The manifests of a release in this namespace; of two files with values the later one wins.
pub fn render(chart: &str, release: &str, namespace: &str, values: &[&Path]) -> Result<String> {
    let mut c = helm();
    c.args(["template", release]).arg(root().join("charts").join(chart));
    c.args(["--namespace", namespace, "--kube-version", &format!("{OLDEST}.0")]);
    for v in values {
        c.arg("--values").arg(v);
    }
    says(c)
}

/// What helm prints; what it complains of is the error.
pub fn says(helm: Command) -> Result<String> {
    output_within(helm, "", HELM)
}

/// The objects of a rendering.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| anyhow!("{e}"))?;
    Ok(all.into_iter().filter(|o| !o.is_null()).collect())
}

/// Only those that stay: what is for `helm test` comes and goes.
pub fn installed(chart: &str, release: &str, namespace: &str, values: &[&Path]) -> Result<Vec<Value>> {
    let is_hook = |o: &Value| o["metadata"]["annotations"].get("helm.sh/hook").is_some();
    let all = objects(&render(chart, release, namespace, values)?)?;
    Ok(all.into_iter().filter(|o| !is_hook(o)).collect())
}

/// The one object of this kind and name.
pub fn named<'a>(all: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.with_context(|| format!("the chart has no {kind} {name}"))
}

/// Arguments of the operator's Deployment that are another thing outside a pod.
const OF_A_POD: [&str; 5] = ["operator", "--trust-domain=", "--listen=", "--health=", "--webhook-listen="];

/// The others: a test says itself where its operator listens, and whose it is.
pub fn operator_args(all: &[Value]) -> Result<Vec<String>> {
    let pod = &named(all, "Deployment", "mew-operator")?["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().context("the operator has no arguments")?;
    let args = args.iter().filter_map(Value::as_str).filter(|a| !OF_A_POD.iter().any(|o| a.starts_with(o)));
    Ok(args.map(str::to_owned).collect())
}

/// The MutatingWebhookConfiguration, of an operator that answers at this address instead of behind a Service.
pub fn webhook_at(all: &[Value], address: &str) -> Result<Value> {
    let found = all.iter().find(|o| o["kind"] == "MutatingWebhookConfiguration");
    let mut configuration = found.context("the chart has no webhook")?.clone();
    for w in configuration["webhooks"].as_array_mut().context("it has no webhooks")? {
        w["clientConfig"] = json!({"url": format!("https://{address}/inject")});
    }
    Ok(configuration)
}

/// What gives the operator its rights.
pub fn accounts(all: &[Value]) -> Value {
    let wanted = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let items: Vec<&Value> = all.iter().filter(|o| wanted.iter().any(|k| o["kind"] == *k)).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
