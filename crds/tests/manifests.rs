//! The table of manifests against the pure validation: what is bad is refused with its reason, what is good survives
//! being read and written. And the CustomResourceDefinitions in the repository are the ones that the types make.

mod common;

use common::{Case, Verdict, cases};
use mew_crds::generate::{definitions, yaml};
use mew_crds::manifest::{Object, object};
use mew_crds::validate::{self, FieldError};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn read(manifest: &Value) -> Result<Object, String> {
    object(manifest).map_err(|e| joined(&e))?.ok_or_else(|| "passed over".to_owned())
}

/// What the pure validation says of a case.
fn judged(c: &Case) -> Result<Object, String> {
    let new = read(&c.manifest)?;
    let Some(before) = &c.before else { return Ok(new) };
    let old = read(before).map_err(|e| format!("the object before: {e}"))?;
    let errors = match (&old, &new) {
        (Object::Remote(old), Object::Remote(new)) => validate::remote_update(&old.spec, &new.spec),
        (Object::Sync(old), Object::Sync(new)) => validate::sync_update(&old.spec, &new.spec),
        (Object::Policy(_), Object::Policy(_)) => Vec::new(),
        _ => return Err("the object before is of another kind".to_owned()),
    };
    if errors.is_empty() { Ok(new) } else { Err(joined(&errors)) }
}

fn written(o: &Object) -> Value {
    let v = match o {
        Object::Remote(o) => serde_json::to_value(&**o),
        Object::Sync(o) => serde_json::to_value(&**o),
        Object::Policy(o) => serde_json::to_value(&**o),
        Object::ConfigMap(o) => serde_json::to_value(&**o),
    };
    v.expect("an object is JSON")
}

/// All that go wrong at once, one per line.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} of the table's cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn bad_manifests_are_refused_with_their_reason() {
    let mut wrong = Vec::new();
    for c in cases() {
        let Verdict::Refused { pure, .. } = &c.verdict else { continue };
        match judged(&c) {
            Ok(_) => wrong.push(format!("{}: accepted", c.title)),
            Err(m) if !m.contains(pure) => wrong.push(format!("{}: expected {pure:?} in {m:?}", c.title)),
            Err(_) => {}
        }
    }
    none(&wrong);
}

#[test]
fn good_manifests_are_accepted_and_written_as_they_were_read() {
    let mut wrong = Vec::new();
    for c in cases().iter().filter(|c| matches!(c.verdict, Verdict::Good)) {
        match judged(c) {
            Err(m) => wrong.push(format!("{}: refused: {m}", c.title)),
            Ok(o) => {
                let (read, written) = (&c.manifest["spec"], &written(&o)["spec"]);
                if read != written {
                    wrong.push(format!("{}: read {read}, written {written}", c.title));
                }
            }
        }
    }
    none(&wrong);
}

/// A table that says nothing proves nothing.
#[test]
fn the_table_is_whole() {
    let all = cases();
    assert!(all.len() >= 45, "{} cases", all.len());
    let titles: BTreeSet<&str> = all.iter().map(|c| c.title.as_str()).collect();
    assert_eq!(titles.len(), all.len(), "two cases have one title");
    for kind in ["Remote", "Sync", "FederationPolicy"] {
        let of = |f: fn(&Case) -> bool| all.iter().any(|c| c.kind() == kind && f(c));
        assert!(of(|c| matches!(c.verdict, Verdict::Good) && c.before.is_none()), "no good {kind}");
        assert!(of(|c| matches!(c.verdict, Verdict::Good) && c.before.is_some()), "no good update of a {kind}");
        assert!(of(|c| matches!(c.verdict, Verdict::Refused { .. })), "no bad {kind}");
    }
}

/// (kind, message) of every CEL rule.
fn rules(kind: &str, v: &Value, out: &mut BTreeSet<(String, String)>) {
    match v {
        Value::Object(o) => {
            for r in o.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                let message = r["message"].as_str().unwrap_or_else(|| panic!("{kind}: a rule without a message: {r}"));
                out.insert((kind.to_owned(), message.to_owned()));
            }
            o.values().for_each(|v| rules(kind, v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| rules(kind, v, out)),
        _ => {}
    }
}

/// The name's rule is the same for all kinds: one case is enough.
const OF_EVERY_KIND: &str = "the name must have at most 63 characters";

#[test]
fn every_rule_of_the_schemas_has_a_case() {
    let all = cases();
    let mut found = BTreeSet::new();
    for (_, crd) in definitions() {
        let v = serde_json::to_value(&crd).expect("a definition is JSON");
        rules(&crd.spec.names.kind, &v["spec"]["versions"], &mut found);
    }
    assert!(found.len() >= 12, "only {} rules were found", found.len());
    for (kind, message) in found {
        let hit = all.iter().any(|c| {
            let Verdict::Refused { server, .. } = &c.verdict else { return false };
            (c.kind() == kind || message == OF_EVERY_KIND) && message.contains(server.as_str())
        });
        assert!(hit, "no case breaks this rule of {kind}: {message}");
    }
}

fn generated() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("generated")
}

#[test]
fn the_generated_definitions_have_not_drifted() {
    for (file, crd) in definitions() {
        let path = generated().join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let line = text.lines().zip(yaml(&crd).lines()).position(|(a, b)| a != b).map(|n| n + 1);
        assert!(text == yaml(&crd), "{file} has drifted, first at line {line:?}; run `mew crds --write`");
    }
    let files: BTreeSet<String> = std::fs::read_dir(generated())
        .expect("generated/ is there")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let made: BTreeSet<String> = definitions().iter().map(|(f, _)| (*f).to_owned()).collect();
    assert_eq!(files, made, "generated/ holds exactly what is made");
}

/// Without it, tools take an object that nobody has looked at for a ready one.
#[test]
fn a_new_object_is_not_observed_yet() {
    for (file, crd) in definitions() {
        let v = serde_json::to_value(&crd).expect("a definition is JSON");
        let status = &v["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        assert_eq!(status["default"]["observedGeneration"], -1, "{file}");
    }
}

/// Collects the lists of values.
fn listed<'v>(v: &'v Value, out: &mut Vec<&'v Value>) {
    match v {
        Value::Object(o) => {
            out.extend(o.get("enum").filter(|e| e.is_array()));
            o.values().for_each(|v| listed(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| listed(v, out)),
        _ => {}
    }
}

/// `kubectl explain` and the refusals of the API server name what is listed.
#[test]
fn only_values_that_can_be_given_are_listed() {
    for (file, crd) in definitions() {
        let v: Value = serde_saphyr::from_str(&yaml(&crd)).expect("a definition is YAML");
        let mut lists = Vec::new();
        listed(&v, &mut lists);
        assert!(!lists.is_empty(), "{file}: no list was found");
        for l in lists {
            let values = l.as_array().into_iter().flatten();
            assert!(values.clone().count() > 0 && values.clone().all(Value::is_string), "{file}: {l}");
        }
    }
}

/// The fields that need not be given and take one of a list of values.
fn optional_choices<'v>(v: &'v Value, out: &mut Vec<(&'v str, &'v Value)>) {
    match v {
        Value::Object(o) => {
            let required: Vec<&str> =
                o.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            for (name, field) in o.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if field["enum"].is_array() && !required.contains(&name.as_str()) {
                    out.push((name.as_str(), field));
                }
            }
            o.values().for_each(|v| optional_choices(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| optional_choices(v, out)),
        _ => {}
    }
}

/// A comment that a value has by itself takes the place of the field's.
#[test]
fn what_may_be_left_out_says_what_holds_then() {
    let mut seen = 0;
    for (file, crd) in definitions() {
        let v = serde_json::to_value(&crd).expect("a definition is JSON");
        let mut fields = Vec::new();
        optional_choices(&v["spec"]["versions"], &mut fields);
        seen += fields.len();
        for (name, field) in fields {
            let said = field["description"].as_str().unwrap_or_default();
            assert!(said.contains("absent"), "{file}: {name}: {said:?}");
        }
    }
    assert!(seen >= 8, "only {seen} fields were found");
}
