//! Laws of injection: twice is once, the patch makes what was promised, and nothing that comes in makes it panic.

mod common;

use common::{entry, settings, yaml};
use mew_inject::{Outcome, inject, manifest, patch, review};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn base() -> Value {
    yaml(include_str!("cases/base.yaml"))
}

/// Values that are right somewhere, and some that are right nowhere.
fn value() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "till",
        "claim:a",
        "volume:v",
        "ephemeral",
        "ephemeral:1Gi",
        "a/b",
        "9000",
        "9001",
        "19464",
        "1Gi",
        "100m",
        "1",
        "true",
        "false",
        "shared",
        "per-pod",
        "debug",
        "StatefulSet",
        "till-3",
        "mew-agent",
        "mew-agent-data",
        "MEW_KERNEL",
    ];
    let leaf = prop_oneof![
        4 => select(texts.to_vec()).prop_map(|t| json!(t)),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => "[ -~ä→]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        let keys = select(vec![
            "name",
            "ports",
            "containerPort",
            "protocol",
            "env",
            "value",
            "persistentVolumeClaim",
            "claimName",
        ]);
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::Array),
            vec((keys, inner), 0..4).prop_map(|all| all.into_iter().collect::<Value>()),
        ]
    })
}

/// Places of a pod that injection reads.
fn place() -> impl Strategy<Value = String> {
    let fixed = [
        "/metadata",
        "/metadata/name",
        "/metadata/labels",
        "/metadata/labels/federation.mew.dev~1kernel",
        "/metadata/annotations",
        "/metadata/ownerReferences",
        "/metadata/ownerReferences/0",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/0/name",
        "/spec/containers/0/ports",
        "/spec/containers/0/ports/0",
        "/spec/containers/0/volumeMounts",
        "/spec/initContainers",
        "/spec/volumes",
        "/spec/volumes/0",
        "/spec/securityContext",
        "/spec/securityContext/fsGroup",
        "/spec/hostNetwork",
        "/spec/os",
        "/spec/terminationGracePeriodSeconds",
    ];
    let annotation = select(mew_crds::annotations::pod::ALL.to_vec())
        .prop_map(|n| format!("/metadata/annotations/{}", n.replace('/', "~1")));
    prop_oneof![2 => select(fixed.to_vec()).prop_map(str::to_owned), 3 => annotation]
}

fn pod() -> impl Strategy<Value = Value> {
    vec((place(), value()), 0..5).prop_map(|changes| {
        let mut pod = base();
        for (pointer, value) in changes {
            // A list has no place for a name, and perhaps none at that index.
            let mut above = pointer.match_indices('/').map(|(i, _)| &pointer[..i]);
            let in_list = above.any(|p| pod.pointer(p).is_some_and(Value::is_array));
            if !in_list || pod.pointer(&pointer).is_some() {
                *entry(&mut pod, &pointer) = value;
            }
        }
        pod
    })
}

fn review_of(pod: &Value) -> Vec<u8> {
    let request = json!({
        "uid": "7", "operation": "CREATE", "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod,
    });
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn twice_is_once_and_the_patch_makes_it(pod in pod()) {
        let Ok(once) = inject(&pod, &settings()) else { return Ok(()) };
        let operations: json_patch::Patch = serde_json::from_value(json!(patch(&pod, &once.pod))).expect("a JSON patch");
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &operations).expect("the patch fits");
        prop_assert_eq!(&patched, &once.pod);
        let twice = inject(&once.pod, &settings()).expect("what was injected is good");
        prop_assert_eq!(&twice.pod, &once.pod);
    }

    #[test]
    fn a_review_is_always_answered(pod in pod(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut body = review_of(&pod);
        let whole = damage.is_empty();
        for (at, byte) in damage {
            let i = at.index(body.len());
            body[i] = byte;
        }
        let r = review(&body, &settings());
        let response = &r.answer["response"];
        prop_assert_eq!(&r.answer["kind"], "AdmissionReview");
        prop_assert_eq!(response["allowed"] == true, matches!(r.outcome, Outcome::Injected | Outcome::Unchanged));
        prop_assert_eq!(response["patch"].is_string(), r.outcome == Outcome::Injected);
        if response["allowed"] == false {
            prop_assert!(response["status"]["message"].as_str().is_some_and(|m| !m.is_empty()));
        }
        if whole {
            prop_assert_eq!(&response["uid"], "7");
        }
    }

    #[test]
    fn a_manifest_is_injected_or_refused(pod in pod(), text in "(?s).{0,40}") {
        let source = format!("# a comment\n{text}\n---\n{}\n", serde_saphyr::to_string(&pod).expect("YAML"));
        if let Ok(m) = manifest("f.yaml", &source, &settings()) {
            prop_assert_eq!(m.injected == 0, m.text == source);
            let again = manifest("f.yaml", &m.text, &settings()).expect("what was injected is good");
            prop_assert_eq!((again.injected, &again.text), (0, &m.text));
        }
    }
}
