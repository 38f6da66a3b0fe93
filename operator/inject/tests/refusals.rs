//! The table of bad pods: each is refused with the field that is wrong, and what is allowed there.

mod common;

use common::{Change, settings, yaml};
use mew_inject::inject;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    title: String,
    #[serde(default)]
    annotations: Map<String, Value>,
    #[serde(default)]
    labels: Map<String, Value>,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    remove: Vec<String>,
    field: String,
    says: String,
}

fn table() -> Vec<Refused> {
    serde_json::from_value(yaml(include_str!("cases/refused.yaml"))).expect("the table")
}

#[test]
fn bad_pods_are_refused_with_the_field_that_is_wrong() {
    let base = yaml(include_str!("cases/base.yaml"));
    assert!(inject(&base, &settings()).is_ok(), "the base is good, so only the change is wrong");
    let mut wrong = Vec::new();
    for c in table() {
        let change = Change { annotations: c.annotations, labels: c.labels, set: c.set, remove: c.remove };
        match inject(&change.of(&base), &settings()) {
            Ok(_) => wrong.push(format!("{}: accepted", c.title)),
            Err(r) if r.iter().any(|r| r.field.ends_with(&c.field) && r.message.contains(&c.says)) => {}
            Err(r) => wrong.push(format!("{}: expected {}: {:?} in {r:?}", c.title, c.field, c.says)),
        }
    }
    assert!(wrong.is_empty(), "{} of the table:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_table_is_whole() {
    let all = table();
    assert!(all.len() >= 60, "{} cases", all.len());
    let titles: BTreeSet<&str> = all.iter().map(|c| c.title.as_str()).collect();
    assert_eq!(titles.len(), all.len(), "two cases have one title");
    for name in mew_crds::annotations::pod::ALL.into_iter().filter(|n| *n != mew_crds::annotations::pod::ROOTS) {
        assert!(all.iter().any(|c| c.field.contains(name)), "nothing is wrong with {name}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let change = Change {
        annotations: serde_json::from_str(r#"{"storage": "disk", "log-level": "loud", "storge": "x"}"#).expect("JSON"),
        set: serde_json::from_str(r#"{"/spec/hostNetwork": true}"#).expect("JSON"),
        ..Change::default()
    };
    let refused = inject(&change.of(&yaml(include_str!("cases/base.yaml"))), &settings()).expect_err("it is bad");
    // What is in the way of an agent is only known once it is known which agent.
    assert_eq!(refused.len(), 3, "{refused:?}");
}

/// Values of others come back in messages, and messages stay short.
#[test]
fn long_values_are_cut() {
    let long = Value::String("ü".repeat(10_000));
    let annotations = ["storage", "ontology", "log-level"].map(|n| (n.to_owned(), long.clone()));
    let change = Change { annotations: annotations.into_iter().collect(), ..Change::default() };
    let refused = inject(&change.of(&yaml(include_str!("cases/base.yaml"))), &settings()).expect_err("it is bad");
    assert!(refused.iter().all(|r| r.to_string().len() < 600), "{refused:?}");
}
