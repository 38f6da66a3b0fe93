//! Whole pods before and after, and a table of what each annotation changes. Whatever is injected is the same when it is
//! injected again, and its patch makes it of what was there.

mod common;

use common::{Change, settings, yaml};
use mew_inject::{Injected, inject, patch};
use serde::Deserialize;
use serde_json::{Map, Value, json};

fn injected(pod: &Value) -> Injected {
    inject(pod, &settings()).unwrap_or_else(|r| panic!("refused: {r:?}"))
}

fn patched(pod: &Value, to: &Value) -> Value {
    let operations: json_patch::Patch = serde_json::from_value(json!(patch(pod, to))).expect("a JSON patch");
    let mut out = pod.clone();
    json_patch::patch(&mut out, &operations).expect("the patch fits");
    out
}

fn golden(text: &str) {
    let (before, after) = text.split_once("\n---\n").expect("two documents");
    let (before, after) = (yaml(before), yaml(after));
    let found = injected(&before);
    let lines = |v: &Value| serde_saphyr::to_string(v).expect("YAML");
    let (got, wanted) = (lines(&found.pod), lines(&after));
    let differ = got.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(found.pod == after, "first difference: {differ:?}\n{got}");
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    assert_eq!(
        injected(&after),
        Injected { pod: after.clone(), warnings: Vec::new() },
        "a second time changes nothing"
    );
    assert_eq!(patched(&before, &after), after);
}

#[test]
fn a_pod_with_a_claim() {
    golden(include_str!("golden/claim.yaml"));
}

#[test]
fn a_pod_of_a_stateful_set_with_everything() {
    golden(include_str!("golden/stateful.yaml"));
}

#[derive(Deserialize)]
struct Accepted {
    title: String,
    #[serde(default)]
    annotations: Map<String, Value>,
    #[serde(default)]
    labels: Map<String, Value>,
    #[serde(default)]
    set: Map<String, Value>,
    expect: Map<String, Value>,
}

#[test]
fn every_annotation_does_what_it_says() {
    let base = yaml(include_str!("cases/base.yaml"));
    let table: Vec<Accepted> = serde_json::from_value(yaml(include_str!("cases/accepted.yaml"))).expect("the table");
    let mut wrong = Vec::new();
    for c in &table {
        let change = Change {
            annotations: c.annotations.clone(),
            labels: c.labels.clone(),
            set: c.set.clone(),
            ..Change::default()
        };
        let pod = change.of(&base);
        let once = match inject(&pod, &settings()) {
            Ok(i) => i.pod,
            Err(r) => {
                wrong.push(format!("{}: refused: {r:?}", c.title));
                continue;
            }
        };
        for (pointer, value) in &c.expect {
            let found = once.pointer(pointer).unwrap_or(&Value::Null);
            if found != value {
                wrong.push(format!("{}: {pointer} is {found}, not {value}", c.title));
            }
        }
        if injected(&once).pod != once {
            wrong.push(format!("{}: a second time changes it", c.title));
        }
        if patched(&pod, &once) != once {
            wrong.push(format!("{}: the patch makes something else of it", c.title));
        }
    }
    assert!(wrong.is_empty(), "{} of the table:\n{}", wrong.len(), wrong.join("\n"));
    for name in mew_crds::annotations::pod::ALL {
        let short = name.strip_prefix("federation.mew.dev/").expect("our prefix");
        assert!(table.iter().any(|c| c.annotations.contains_key(short)) || short == "storage", "no case of {name}");
    }
}
