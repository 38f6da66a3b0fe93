//! What the tests share: settings, pods as YAML, and changes of pods as the tables write them.
#![allow(dead_code)]

use mew_inject::{Bounds, Resources, Settings};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

pub fn settings() -> Settings {
    let bounds = |request: &str, limit: Option<&str>| Bounds {
        request: Some(request.to_owned()),
        limit: limit.map(str::to_owned),
    };
    Settings {
        trust_domain: "eu.example.com".into(),
        operator: "mew-operator.mew-system.svc:9443".into(),
        image: "registry.example.com/mew:1.2.3".into(),
        pull_policy: None,
        resources: Resources { cpu: bounds("50m", None), memory: bounds("64Mi", Some("512Mi")) },
        roots: ROOTS.into(),
    }
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// A change of a pod: annotations and labels by their short names (null removes one), and JSON pointers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    #[serde(default)]
    pub annotations: Map<String, Value>,
    #[serde(default)]
    pub labels: Map<String, Value>,
    /// `-` appends to a list.
    #[serde(default)]
    pub set: Map<String, Value>,
    #[serde(default)]
    pub remove: Vec<String>,
}

impl Change {
    pub fn of(&self, pod: &Value) -> Value {
        let mut pod = pod.clone();
        for (field, values) in [("annotations", &self.annotations), ("labels", &self.labels)] {
            for (name, value) in values {
                let there = entry(&mut pod, &format!("/metadata/{field}"));
                let there = there.as_object_mut().unwrap_or_else(|| panic!("{field} is not an object"));
                let name = format!("federation.mew.dev/{name}");
                match value {
                    Value::Null => assert!(there.remove(&name).is_some(), "{name} is not there to be removed"),
                    v => drop(there.insert(name, v.clone())),
                }
            }
        }
        for (pointer, value) in &self.set {
            *entry(&mut pod, pointer) = value.clone();
        }
        for pointer in &self.remove {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
            let gone = pod.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|o| o.remove(key));
            assert!(gone.is_some(), "{pointer} is not there to be removed");
        }
        pod
    }
}

/// The place that a JSON pointer names, made if it is not there.
pub fn entry<'a>(root: &'a mut Value, pointer: &str) -> &'a mut Value {
    let mut at = root;
    for token in pointer.split('/').skip(1) {
        at = step(at, &token.replace("~1", "/").replace("~0", "~"));
    }
    at
}

fn step<'a>(at: &'a mut Value, token: &str) -> &'a mut Value {
    if at.is_array() {
        let items = at.as_array_mut().expect("a list");
        let i = if token == "-" { items.len() } else { token.parse().expect("an index") };
        if i == items.len() {
            items.push(Value::Null);
        }
        return &mut items[i];
    }
    if !at.is_object() {
        *at = if token == "-" { json!([]) } else { json!({}) };
        return step(at, token);
    }
    at.as_object_mut().expect("an object").entry(token).or_insert(Value::Null)
}
