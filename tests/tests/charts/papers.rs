//! What the charts say of themselves is true: the tables of their READMEs, the descriptions of their values, the names of
//! metrics.

use crate::{CHARTS, Chart, committed};
use anyhow::{Context, Result, anyhow, bail, ensure};
use mew_tests::dirs::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// Path and comment of each value that has one, in the order of the file.
fn commented(text: &str) -> Vec<(String, String)> {
    let (mut all, mut comment, mut path) = (Vec::new(), Vec::new(), Vec::<&str>::new());
    for line in text.lines() {
        let here = line.trim_start();
        if let Some(words) = here.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        if let Some((key, _)) = here.split_once(':') {
            path.truncate((line.len() - here.len()) / 2);
            path.push(key);
            if !comment.is_empty() {
                all.push((path.join("."), comment.join(" ")));
            }
        }
        comment.clear();
    }
    all
}

/// A file with something else between `<!-- mark -->` and `<!-- /mark -->`.
fn between(text: &str, mark: &str, now: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("there is no {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("there is no {end}"))?;
    Ok(format!("{before}{begin}{now}{end}{after}"))
}

/// Of a list of strings.
pub fn words(v: &Value) -> String {
    let all: Vec<&str> = v.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    all.join(", ")
}

/// What the schema lets a value be, in a few words. Patterns are not for people: a refusal says what is wanted.
fn takes(s: &Value) -> String {
    if let Some(all) = s["enum"].as_array() {
        let all: Vec<String> = all.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        return all.join(", ");
    }
    if let Some(definition) = s["$ref"].as_str() {
        return definition.rsplit('/').next().unwrap_or_default().to_owned();
    }
    let kind = s["type"].as_str().map_or_else(|| words(&s["type"]).replace(", ", " or "), str::to_owned);
    let bounds = match (s["minimum"].as_i64(), s["maximum"].as_i64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", from {least}"),
        _ => String::new(),
    };
    match (kind.as_str(), s["properties"].as_object()) {
        ("array", _) => format!("list of {}", takes(&s["items"])),
        ("object", Some(fields)) => {
            let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
            names.sort_unstable();
            format!("{{{}}}", names.join(", "))
        }
        ("object", None) => "strings by name".to_owned(),
        _ => format!("{kind}{bounds}"),
    }
}

/// `| value | takes | default | meaning |`, from values.schema.json and values.yaml.
fn values(chart: &Chart) -> Result<String> {
    let text = chart.read("values.yaml")?;
    let all: Value = serde_json::from_str(&chart.read("values.schema.json")?)?;
    let defaults: Value = serde_saphyr::from_str(&text).map_err(|e| anyhow!("{e}"))?;
    let mut table = "| value | takes | default | meaning |\n|---|---|---|---|\n".to_owned();
    for (path, meaning) in commented(&text) {
        let default = defaults.pointer(&format!("/{}", path.replace('.', "/"))).context(path.clone())?;
        let takes = takes(schema(&all, &path).with_context(|| format!("the schema does not know {path}"))?);
        table += &format!("| `{path}` | {takes} | `{default}` | {} |\n", meaning.replace('<', "&lt;"));
    }
    Ok(table)
}

#[test]
fn tables_of_the_readmes_are_as_generated() -> Result<()> {
    for chart in CHARTS.iter().filter(|c| c.name != "mew-crds") {
        let text = between(&chart.read("README.md")?, "values", &values(chart)?)?;
        committed(&chart.dir().join("README.md"), &text)?;
    }
    Ok(())
}

/// The schema of a value.
fn schema<'a>(of: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(of, |s, key| s["properties"].get(key))
}

/// A typo is found only where nothing else is allowed.
fn closed(schema: &Value, at: &str) -> Result<()> {
    match schema {
        Value::Object(s) => {
            if s.get("properties").is_some_and(|p| p.is_object()) && s.get("type").is_some_and(|t| t == "object") {
                ensure!(s.get("additionalProperties") == Some(&Value::Bool(false)), "{at} takes anything");
            }
            s.iter().try_for_each(|(k, v)| closed(v, &format!("{at}/{k}")))
        }
        Value::Array(a) => a.iter().try_for_each(|v| closed(v, at)),
        _ => Ok(()),
    }
}

#[test]
fn the_schema_says_what_the_comments_say() -> Result<()> {
    for chart in &CHARTS {
        let all: Value = serde_json::from_str(&chart.read("values.schema.json")?)?;
        closed(&all, chart.name)?;
        for (path, comment) in commented(&chart.read("values.yaml")?) {
            let Some(s) = schema(&all, &path) else { bail!("{}: the schema does not know {path}", chart.name) };
            ensure!(
                s["description"] == comment.as_str(),
                "{}: {path} is described as {}",
                chart.name,
                s["description"]
            );
        }
    }
    Ok(())
}

/// Words of a text that look like the name of a metric of ours.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|w| ["federation_", "mew_agent_", "mew_kernel_", "mew_operator_"].iter().any(|p| w.starts_with(p)))
        .collect()
}

#[test]
fn metrics_of_alerts_and_dashboard_exist() -> Result<()> {
    let sources = ["agent/daemon/src/metrics.rs", "operator/kube/src/health.rs"];
    let code = sources.map(|f| fs::read_to_string(root().join(f)));
    let code = code.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let known = metrics(&code);
    let chart = Chart::named("mew-operator")?;
    for file in ["files/alerts.yaml", "files/dashboard.json"] {
        let text = chart.read(file)?;
        let used = metrics(&text);
        ensure!(used.len() >= 8, "{file} uses only {used:?}");
        for &name in &used {
            // Registered without the suffix that counters get.
            let counter = name.strip_suffix("_total");
            ensure!(known.contains(counter.unwrap_or(name)), "{file}: there is no metric {name}");
            let rated = text.contains(&format!("rate({name}")) || text.contains(&format!("increase({name}"));
            ensure!(counter.is_some() == rated, "{file}: {name} is shown as what it is not");
        }
    }
    let dashboard: Value = serde_json::from_str(&chart.read("files/dashboard.json")?)?;
    ensure!(dashboard["panels"].as_array().is_some_and(|p| p.len() >= 20), "the dashboard is nearly empty");
    Ok(())
}

/// Whoever dials: a side that only accepts makes no tries that could fail, and of a peer that is away neither a lag nor what it has
/// for this side is known.
#[test]
fn an_outage_is_an_alert_at_both_sides() -> Result<()> {
    let text = Chart::named("mew-operator")?.read("files/alerts.yaml")?;
    let alerts: Value = serde_saphyr::from_str(&text).map_err(|e| anyhow!("{e}"))?;
    let groups = alerts["groups"].as_array().context("no groups")?;
    let mut rules = groups.iter().flat_map(|g| g["rules"].as_array()).flatten();
    let rule = rules.find(|r| r["expr"] == "federation_remote_connected == 0").context("no alert of an outage")?;
    ensure!(rule["alert"] == "MewPeerUnreachable" && rule["labels"]["severity"] == "critical", "{rule}");
    let told = rule["annotations"]["description"].as_str().unwrap_or_default();
    ensure!(told.contains("$labels.remote"), "it does not say which Remote: {told}");
    Ok(())
}
