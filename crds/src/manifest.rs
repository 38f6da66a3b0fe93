//! Manifests as text: YAML documents to objects, each problem with its place.

use crate::validate::{self, FieldError};
use crate::{FederationPolicy, Remote, Sync};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One document of a manifest that is about federation.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Remote(Box<Remote>),
    Sync(Box<Sync>),
    Policy(Box<FederationPolicy>),
    /// Bundles; other ConfigMaps do no harm.
    ConfigMap(Box<ConfigMap>),
}

/// What is wrong with a document: `at` says which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    pub at: String,
    /// Kind, namespace and name, as far as they can be read.
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub errors: Vec<FieldError>,
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.errors.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}", self.at, all.join("; "))
    }
}

/// Aliases, so that a short text cannot stand for an endless one: so many nodes in all, and each anchor so often.
const MAX_REPLAYED: usize = 10_000;
const MAX_REPEATED: usize = 100;

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_alias_expansions_per_anchor: MAX_REPEATED,
        },
    }
}

/// Splits a stream of YAML documents at lines that are `---`.
fn documents(text: &str) -> Vec<(usize, String)> {
    let (mut out, mut part, mut start) = (Vec::new(), String::new(), 1);
    for (i, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            out.push((start, std::mem::take(&mut part)));
            start = i + 2;
        } else {
            part.push_str(line);
            part.push('\n');
        }
    }
    out.push((start, part));
    out.retain(|(_, p)| p.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    out
}

/// Reads all documents of a file. Documents of other kinds are passed over; one bad document does not spoil the others.
pub fn read(file: &str, text: &str) -> (Vec<Object>, Vec<ManifestError>) {
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for (line, doc) in documents(text) {
        let at = format!("{file}:{line}");
        let fail = |message: String| ManifestError {
            at: at.clone(),
            kind: None,
            namespace: None,
            name: None,
            errors: vec![FieldError { field: "document".into(), message }],
        };
        let v: Value = match serde_saphyr::from_str_with_options(&doc, options()) {
            Ok(v) => v,
            Err(e) => {
                errors.push(fail(format!("not YAML: {e}")));
                continue;
            }
        };
        match object(&v) {
            Ok(Some(o)) => objects.push(o),
            Ok(None) => {}
            Err(errors_) => {
                let text = |p: &str| v.pointer(p).and_then(Value::as_str).map(str::to_owned);
                let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
                let (k, n) = (kind.as_deref().unwrap_or("?"), name.as_deref().unwrap_or("?"));
                let at = format!("{at} ({k} {n})");
                errors.push(ManifestError { at, kind, namespace, name, errors: errors_ });
            }
        }
    }
    (objects, errors)
}

/// Decodes and validates one document; `None` if it is of a kind that is none of ours.
pub fn object(v: &Value) -> Result<Option<Object>, Vec<FieldError>> {
    let group = v.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    let kind = v.get("kind").and_then(Value::as_str).unwrap_or("");
    if (group, kind) == ("v1", "ConfigMap") {
        return Ok(Some(Object::ConfigMap(Box::new(decode(v)?))));
    }
    if !group.starts_with("federation.mew.dev/") {
        return Ok(None);
    }
    let err = |field: &str, message: String| Err(vec![FieldError { field: field.into(), message }]);
    if group != "federation.mew.dev/v1alpha1" {
        return err("apiVersion", format!("{group} is not served; use federation.mew.dev/v1alpha1"));
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(k) = v.as_object().into_iter().flat_map(|o| o.keys()).find(|k| !known.contains(&k.as_str())) {
        return err(k, format!("unknown field `{k}`"));
    }
    let mut errors = validate::object_name(v.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(""));
    let o = match kind {
        "Remote" => {
            let o: Remote = decode(v)?;
            errors.extend(validate::remote(&o.spec));
            Object::Remote(Box::new(o))
        }
        "Sync" => {
            let o: Sync = decode(v)?;
            errors.extend(validate::sync(&o.spec));
            Object::Sync(Box::new(o))
        }
        "FederationPolicy" => {
            let o: FederationPolicy = decode(v)?;
            errors.extend(validate::policy(&o.spec));
            Object::Policy(Box::new(o))
        }
        other => return err("kind", format!("there is no kind {other} in {group}")),
    };
    if errors.is_empty() { Ok(Some(o)) } else { Err(errors) }
}

fn decode<T: DeserializeOwned>(v: &Value) -> Result<T, Vec<FieldError>> {
    T::deserialize(v).map_err(|e| vec![FieldError { field: "spec".into(), message: e.to_string() }])
}
