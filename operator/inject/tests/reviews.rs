//! AdmissionReviews as an API server sends them, and everything else that somebody may send.

mod common;

use common::{settings, yaml};
use k8s_openapi::ByteString;
use mew_inject::{Outcome, Review, inject, review};
use serde_json::{Value, json};

fn pod() -> Value {
    yaml(include_str!("cases/base.yaml"))
}

/// A request with one of its fields changed.
fn asked(field: &str, value: Value) -> Review {
    let mut review_ = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "name": "till-7d4b9",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod(), "oldObject": null, "dryRun": false,
        },
    });
    if !field.is_empty() {
        *review_.pointer_mut(field).expect("the field is there") = value;
    }
    review(review_.to_string().as_bytes(), &settings())
}

fn operations(r: &Review) -> Value {
    let patch: ByteString = serde_json::from_value(r.answer["response"]["patch"].clone()).expect("base64");
    serde_json::from_slice(&patch.0).expect("a JSON patch")
}

#[test]
fn a_pod_that_is_created_is_patched() {
    let r = asked("", Value::Null);
    let response = &r.answer["response"];
    assert_eq!(r.outcome, Outcome::Injected);
    assert_eq!(
        (&r.answer["apiVersion"], &r.answer["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("705ab4f5"), &json!(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    let operations: json_patch::Patch = serde_json::from_value(operations(&r)).expect("a JSON patch");
    let mut patched = pod();
    json_patch::patch(&mut patched, &operations).expect("the patch fits");
    assert_eq!(patched, inject(&pod(), &settings()).expect("it is good").pod);
}

#[test]
fn a_pod_that_is_wrong_is_refused_with_everything() {
    let mut wrong = pod();
    wrong["metadata"]["annotations"] = json!({"federation.mew.dev/storge": "ephemeral"});
    let r = asked("/request/object", wrong);
    let response = &r.answer["response"];
    assert_eq!(
        (r.outcome, &response["uid"], &response["allowed"]),
        (Outcome::Refused, &json!("705ab4f5"), &json!(false))
    );
    assert_eq!((&response["status"]["code"], &response["status"]["reason"]), (&json!(400), &json!("BadRequest")));
    let message = response["status"]["message"].as_str().expect("a message");
    for part in [
        "did you mean federation.mew.dev/storage?",
        "[federation.mew.dev/storage]: is needed",
        "[federation.mew.dev/ontology]: is needed",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(response.get("patch").is_none());
}

#[test]
fn a_warning_comes_with_the_patch() {
    let mut hasty = pod();
    hasty["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let r = asked("/request/object", hasty);
    assert_eq!(r.outcome, Outcome::Injected);
    assert_eq!(r.answer["response"]["warnings"].as_array().map(Vec::len), Some(1), "{:?}", r.answer["response"]);
}

#[test]
fn what_is_no_new_pod_passes_as_it_is() {
    for (field, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/operation", json!("DELETE")),
        ("/request/resource/resource", json!("configmaps")),
        ("/request/resource/group", json!("metrics.k8s.io")),
        ("/request/object/metadata/labels", json!({"app": "till"})),
        ("/request/object/metadata/annotations", json!({"federation.mew.dev/inject": "false"})),
    ] {
        let r = asked(field, value.clone());
        let response = &r.answer["response"];
        assert_eq!((r.outcome, &response["allowed"]), (Outcome::Unchanged, &json!(true)), "{field} {value}");
        assert!(response.get("patch").is_none() && response["uid"] == "705ab4f5", "{field} {value}");
    }
}

#[test]
fn what_is_no_review_is_refused_and_says_so() {
    let bad = |r: Review, says: &str| {
        let message = r.answer["response"]["status"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(r.outcome, Outcome::Malformed, "{message}");
        assert!(r.answer["response"]["allowed"] == false && message.contains(says), "{message}");
    };
    bad(asked("/apiVersion", json!("admission.k8s.io/v1beta1")), "v1beta1");
    bad(asked("/kind", json!("ConversionReview")), "ConversionReview");
    bad(asked("/request", Value::Null), "uid");
    bad(asked("/request/uid", json!("")), "uid");
    bad(asked("/request/object", Value::Null), "no object");
    bad(asked("/request/object", json!([])), "no object");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in ["", "{", "null", "[]", "\"AdmissionReview\"", "{\"request\": 7}", nested.as_str(), "\u{0}\u{1}"] {
        let r = review(text.as_bytes(), &settings());
        assert_eq!(r.outcome, Outcome::Malformed, "{:?}", r.answer);
    }
}
