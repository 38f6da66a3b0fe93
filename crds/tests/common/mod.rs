//! The table of manifests (`cases/manifests.yaml`) as whole manifests and verdicts, for any judge.
#![allow(dead_code)]

use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("../cases/manifests.yaml");

#[derive(Clone, Debug)]
pub struct Case {
    pub title: String,
    /// What exists before; the manifest is an update of it.
    pub before: Option<Value>,
    pub manifest: Value,
    pub verdict: Verdict,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Good,
    /// A part of the message that the pure validation and the API server give.
    Refused {
        pure: String,
        server: String,
    },
}

impl Case {
    pub fn kind(&self) -> &str {
        self.manifest["kind"].as_str().unwrap_or("")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    title: String,
    is: Option<String>,
    kind: Option<String>,
    spec: Option<Value>,
    base: Option<String>,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    repeat: BTreeMap<String, Repeat>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    manifest: Map<String, Value>,
    update_of: Option<Edit>,
    ok: Option<bool>,
    refused: Option<Refused>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    repeat: BTreeMap<String, Repeat>,
    #[serde(default)]
    remove: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    count: usize,
    text: Option<String>,
    #[serde(default)]
    before: String,
    #[serde(default)]
    after: String,
    item: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Refused {
    Same(String),
    Each { pure: String, server: String },
}

/// All cases, in the order of the file.
pub fn cases() -> Vec<Case> {
    let table: Value = serde_saphyr::from_str(TABLE).expect("the table is YAML");
    let raws: Vec<Raw> = serde_json::from_value(table).expect("the table holds cases");
    let mut bases: BTreeMap<String, (String, Value)> = BTreeMap::new();
    raws.into_iter().enumerate().map(|(i, raw)| case(i, raw, &mut bases)).collect()
}

fn case(i: usize, raw: Raw, bases: &mut BTreeMap<String, (String, Value)>) -> Case {
    let title = raw.title;
    let (kind, spec) = match (raw.kind, raw.spec, raw.base) {
        (Some(kind), Some(spec), None) => (kind, spec),
        (None, None, Some(base)) => bases.get(&base).unwrap_or_else(|| panic!("{title}: no base {base}")).clone(),
        _ => panic!("{title}: kind and spec, or base"),
    };
    if let Some(name) = raw.is {
        bases.insert(name, (kind.clone(), spec.clone()));
    }
    let name = format!("case-{i}");
    let whole = |spec: Value| {
        json!({
            "apiVersion": "federation.mew.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        })
    };
    let before = raw.update_of.map(|e| whole(edited(spec.clone(), &e)));
    let mut manifest = whole(edited(spec, &Edit { set: raw.set, repeat: raw.repeat, remove: raw.remove }));
    for (pointer, value) in raw.manifest {
        *entry(&mut manifest, &pointer) = value;
    }
    let verdict = match (raw.ok, raw.refused) {
        (Some(true), None) => Verdict::Good,
        (None, Some(Refused::Same(m))) => Verdict::Refused { pure: m.clone(), server: m },
        (None, Some(Refused::Each { pure, server })) => Verdict::Refused { pure, server },
        _ => panic!("{title}: ok: true, or refused"),
    };
    Case { title, before, manifest, verdict }
}

fn edited(mut spec: Value, e: &Edit) -> Value {
    for (pointer, value) in &e.set {
        *entry(&mut spec, pointer) = value.clone();
    }
    for (pointer, r) in &e.repeat {
        *entry(&mut spec, pointer) = match (&r.text, &r.item) {
            (Some(text), None) => Value::String(format!("{}{}{}", r.before, text.repeat(r.count), r.after)),
            (None, Some(item)) => (0..r.count).map(|i| numbered(item, i)).collect(),
            _ => panic!("repeat a text or an item"),
        };
    }
    for pointer in &e.remove {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let gone = spec.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|o| o.remove(key));
        assert!(gone.is_some(), "{pointer} is not there to be removed");
    }
    spec
}

/// The place that a JSON pointer names, made if it is not there.
fn entry<'a>(root: &'a mut Value, pointer: &str) -> &'a mut Value {
    let mut at = root;
    for token in pointer.split('/').skip(1) {
        at = step(at, token);
    }
    at
}

fn step<'a>(at: &'a mut Value, token: &str) -> &'a mut Value {
    if at.is_array() {
        let items = at.as_array_mut().expect("an array");
        let i = if token == "-" { items.len() } else { token.parse().expect("an index") };
        if i == items.len() {
            items.push(Value::Null);
        }
        return &mut items[i];
    }
    if !at.is_object() {
        *at = json!({});
    }
    at.as_object_mut().expect("an object").entry(token).or_insert(Value::Null)
}

fn numbered(v: &Value, i: usize) -> Value {
    match v {
        Value::String(s) => Value::String(s.replace("{i}", &i.to_string())),
        Value::Array(a) => a.iter().map(|v| numbered(v, i)).collect(),
        Value::Object(o) => Value::Object(o.iter().map(|(k, v)| (k.clone(), numbered(v, i))).collect()),
        other => other.clone(),
    }
}
