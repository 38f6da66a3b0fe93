//! `mew get` and `mew describe`

use crate::objects::{Kind, SourceArgs, json_path, list};
use crate::out;
use crate::table::render;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

#[derive(Args)]
pub struct GetArgs {
    /// remotes, syncs, policies, or several with commas
    #[arg(default_value = "remotes,syncs,policies")]
    kinds: String,
    /// One object
    name: Option<String>,
    /// How objects are shown; wide has the message and more
    #[arg(short, long, default_value = "table")]
    output: Output,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
    Yaml,
}

#[derive(Args)]
pub struct DescribeArgs {
    /// remote, sync or policy
    kind: String,
    /// Name of the object
    name: String,
    #[command(flatten)]
    source: SourceArgs,
}

pub async fn get(a: GetArgs) -> Result<()> {
    let kinds = a.kinds.split(',').map(Kind::parse).collect::<Result<Vec<_>>>()?;
    let several = kinds.len() > 1;
    let mut parts = Vec::new();
    for k in kinds {
        let objects = list(&a.source, k, a.name.as_deref().unwrap_or("")).await?;
        if let (Some(name), true) = (&a.name, objects.is_empty()) {
            bail!("{} {name} not found", k.singular());
        }
        match a.output {
            Output::Json => parts.extend(objects.iter().map(|o| serde_json::to_string_pretty(o).unwrap_or_default())),
            Output::Yaml => parts.extend(objects.iter().map(|o| serde_saphyr::to_string(o).unwrap_or_default())),
            Output::Table | Output::Wide => {
                if objects.is_empty() {
                    continue;
                }
                parts.push(table(k, &objects, a.output == Output::Wide, several, a.source.all_namespaces));
            }
        }
    }
    let separator = match a.output {
        Output::Yaml => "---\n",
        Output::Json => "\n",
        _ => "\n\n",
    };
    if parts.is_empty() {
        eprintln!("No resources found.");
    } else {
        out::line(parts.join(separator));
    }
    if let Some(state) = &a.source.state {
        for p in crate::client::standalone_objects(state, "problems", "").await.unwrap_or_default() {
            eprintln!("not applied: {}", p.as_str().unwrap_or(""));
        }
    }
    Ok(())
}

fn text(v: Option<&Value>) -> String {
    match v {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(v) => v.to_string(),
    }
}

pub fn table(k: Kind, objects: &[Value], wide: bool, several: bool, namespaces: bool) -> String {
    let columns: Vec<_> = k.columns().into_iter().filter(|c| wide || c.priority.unwrap_or(0) == 0).collect();
    let mut header: Vec<String> = if namespaces { vec!["NAMESPACE".into()] } else { vec![] };
    header.push("NAME".into());
    header.extend(columns.iter().map(|c| c.name.clone()));
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|o| {
            let name = text(json_path(o, ".metadata.name"));
            let mut row = if namespaces { vec![text(json_path(o, ".metadata.namespace"))] } else { vec![] };
            row.push(if several { format!("{}/{name}", k.singular()) } else { name });
            for c in &columns {
                let v = json_path(o, &c.json_path);
                row.push(if c.type_ == "date" { age(v.and_then(Value::as_str), now) } else { text(v) });
            }
            row
        })
        .collect();
    render(&header, &rows)
}

/// As kubectl writes it: the largest units that matter.
fn age(created: Option<&str>, now: Timestamp) -> String {
    let Some(t) = created.and_then(|c| c.parse::<Timestamp>().ok()) else { return "<unknown>".into() };
    let s = now.duration_since(t).as_secs().max(0);
    match s {
        0..=119 => format!("{s}s"),
        120..=7199 => format!("{}m", s / 60),
        7200..=172_799 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

pub async fn describe(a: DescribeArgs) -> Result<()> {
    let kind = Kind::parse(&a.kind)?;
    let objects = list(&a.source, kind, &a.name).await?;
    let Some(o) = objects.first() else { bail!("{} {} not found", kind.singular(), a.name) };
    out::line(describe_text(o));
    Ok(())
}

/// Name, spec, figures, and each condition with its reason, message and where to read on.
pub fn describe_text(o: &Value) -> String {
    let mut out = Vec::new();
    let field = |p: &str| text(json_path(o, p));
    out.push(format!("{:<14}{}", "Name:", field(".metadata.name")));
    out.push(format!("{:<14}{}", "Namespace:", field(".metadata.namespace")));
    out.push(format!("{:<14}{}", "Kind:", field(".kind")));
    out.push("Spec:".into());
    out.push(indent(&serde_saphyr::to_string(&o["spec"]).unwrap_or_default()));
    let mut status = o["status"].clone();
    let conditions = status.as_object_mut().and_then(|s| s.remove("conditions")).unwrap_or_default();
    out.push("Status:".into());
    out.push(indent(&serde_saphyr::to_string(&status).unwrap_or_default()));
    out.push("Conditions:".into());
    let header = ["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"].map(str::to_owned);
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = conditions
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            let f = |k: &str| text(c.get(k));
            vec![f("type"), f("status"), f("reason"), age(c["lastTransitionTime"].as_str(), now), f("message")]
        })
        .collect();
    out.push(indent(&render(&header, &rows)));
    let ready = json_path(o, r#".status.conditions[?(@.type=="Ready")]"#);
    if let Some(c) = ready.filter(|c| c["status"] != "True") {
        out.push(format!("Read on:      docs/reasons/{}.md", text(c.get("reason"))));
    }
    out.join("\n")
}

fn indent(s: &str) -> String {
    s.trim_end().lines().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
}
