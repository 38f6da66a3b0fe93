//! Manifests as text: what makes no agents' pods comes out as it was, workloads are injected where their pods are, and
//! what cannot work is refused with its place.

mod common;

use common::{ROOTS, settings, yaml};
use mew_inject::{Manifest, manifest};
use serde_json::Value;

const DEPLOYMENT: &str = "\
# The till.
apiVersion: apps/v1
kind: Deployment
metadata: {name: till, namespace: shop}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: till}}
  template:
    metadata:
      labels: {app: till, federation.mew.dev/kernel: till}
      annotations: {federation.mew.dev/storage: 'claim:till-data', federation.mew.dev/ontology: till-ontology}
    spec:
      containers:
      - {name: web, image: 'registry.example.com/web:1', args: [\"yes\", \"0x10\", \"1e3\", 'a: b', \"null\"]}
";

fn good(source: &str) -> Manifest {
    manifest("all.yaml", source, &settings()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn bad(source: &str) -> String {
    manifest("all.yaml", source, &settings()).expect_err("it is bad").join("\n")
}

/// The deployment with one text in place of another.
fn with(from: &str, to: &str) -> String {
    assert!(DEPLOYMENT.contains(from), "{from}");
    DEPLOYMENT.replace(from, to)
}

#[test]
fn other_documents_come_out_as_they_were() {
    let source = "\
# nothing but a comment
---
apiVersion: v1
kind:   Service     # aligned by hand
metadata: {name: till}
---   
# not ours: no label
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec: {template: {spec: {containers: [{name: web}]}}}
--- # the end
--- {kind: ConfigMap, apiVersion: v1, metadata: {name: flow}}
---

a list: [of, nothing]
";
    for text in [source.to_owned(), source.replace('\n', "\r\n"), source.trim_end().to_owned(), String::new()] {
        let m = good(&text);
        assert_eq!((m.text.as_str(), m.injected, m.warnings.len()), (text.as_str(), 0, 0));
    }
}

#[test]
fn a_deployment_is_injected_between_other_documents() {
    let before = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}   # kept\n---\n";
    let after = "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: b}   # kept\n";
    let m = good(&format!("{before}{DEPLOYMENT}{after}"));
    assert_eq!((m.injected, m.warnings.len()), (1, 0), "{:?}", m.warnings);
    let rest = m.text.strip_prefix(before).expect("the document before it");
    let text = rest.strip_suffix(after).expect("the document behind it");
    assert!(text.starts_with("# The till.\n"), "{text}");
    let (was, is) = (yaml(DEPLOYMENT), yaml(text));
    let pod = &is["spec"]["template"];
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "mew-agent");
    assert_eq!(pod["metadata"]["annotations"]["federation.mew.dev/roots"], ROOTS);
    assert_eq!(pod["spec"]["containers"], was["spec"]["template"]["spec"]["containers"], "texts stay texts");
    assert_eq!(is["spec"]["selector"], was["spec"]["selector"]);
    assert_eq!(is["metadata"], was["metadata"], "only the pods are labelled");
    let again = good(&m.text);
    assert_eq!((again.injected, again.text), (0, m.text));
}

#[test]
fn all_kinds_with_a_template_are_known() {
    let pod = "{metadata: {labels: {federation.mew.dev/kernel: k}, annotations: {federation.mew.dev/storage: ephemeral, federation.mew.dev/ontology: o}}, spec: {containers: [{name: c}]}}";
    for (version, kind, spec, at) in [
        ("apps/v1", "Deployment", format!("{{template: {pod}}}"), "/spec/template"),
        ("apps/v1", "ReplicaSet", format!("{{replicas: 1, template: {pod}}}"), "/spec/template"),
        ("apps/v1", "StatefulSet", format!("{{replicas: 0, template: {pod}}}"), "/spec/template"),
        ("v1", "ReplicationController", format!("{{template: {pod}}}"), "/spec/template"),
        ("batch/v1", "Job", format!("{{completions: 5, template: {pod}}}"), "/spec/template"),
        (
            "batch/v1",
            "CronJob",
            format!("{{jobTemplate: {{spec: {{template: {pod}}}}}}}"),
            "/spec/jobTemplate/spec/template",
        ),
    ] {
        let object = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: n}}\nspec: {spec}\n");
        let there = |v: &Value| v.pointer(at).map(|p| p["spec"]["initContainers"][0]["name"].clone());
        assert_eq!(there(&yaml(&good(&object).text)), Some("mew-agent".into()), "{kind}");
        let flow = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: n}}, spec: {spec}}}");
        let list = format!("apiVersion: v1\nkind: List\nitems: [{{kind: Secret, apiVersion: v1}}, {flow}]\n");
        assert_eq!(there(&yaml(&good(&list).text)["items"][1]), Some("mew-agent".into()), "{kind} in a List");
    }
    let other = format!("apiVersion: example.com/v1\nkind: Deployment\nspec: {{template: {pod}}}\n");
    assert_eq!(good(&other).text, other, "a kind of somebody else");
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let template = "spec.template.metadata.annotations[federation.mew.dev/storage]";
    for (source, says) in [
        (with("claim:till-data", "disk"), template.to_owned()),
        (with("replicas: 1", "replicas: 2"), "spec.replicas: 2 replicas, and a kernel has one holder".to_owned()),
        (with("kind: Deployment", "kind: DaemonSet"), "labels[federation.mew.dev/kernel]: a DaemonSet".to_owned()),
        (
            with("replicas: 1", "replicas: 3").replace("Deployment", "StatefulSet"),
            "spec.replicas: 3 replicas".to_owned(),
        ),
        (
            with("claim:till-data'", "volume:data', federation.mew.dev/kernel-scope: per-pod")
                .replace("Deployment", "StatefulSet")
                .replace("replicas: 1", "replicas: 3"),
            "let the operator's webhook inject its pods".to_owned(),
        ),
        (
            with("kind: Deployment", "kind: Job")
                .replace("apps/v1", "batch/v1")
                .replace("replicas: 1", "parallelism: 4"),
            "spec.parallelism: 4 pods of a Job at once".to_owned(),
        ),
        (
            format!("a: b\n---\n{}", with("claim:till-data", "disk")),
            format!("all.yaml:3 (Deployment till): {template}"),
        ),
        (format!("a: b\n---\n{DEPLOYMENT}---\n}}\n"), "all.yaml:19: not YAML".to_owned()),
        (with("'claim:till-data'", "7"), "7 is not a string; quote it".to_owned()),
        (
            with("replicas: 1", "ordinals: {start: 4}").replace("Deployment", "StatefulSet"),
            "[federation.mew.dev/ordinals-start]: spec.ordinals.start of the StatefulSet is 4; say \"4\" here too"
                .to_owned(),
        ),
        (
            with("till-ontology}", "till-ontology, federation.mew.dev/ordinals-start: '1'}")
                .replace("Deployment", "StatefulSet"),
            "spec.ordinals.start of the StatefulSet is 0".to_owned(),
        ),
    ] {
        let said = bad(&source);
        assert!(said.contains(&says), "expected {says:?} in {said:?}\n{source}");
    }
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {labels: {federation.mew.dev/kernel: K}}}\n";
    let said = bad(list);
    assert!(said.contains("items[0].metadata.labels[federation.mew.dev/kernel]: \"K\""), "{said}");
}

/// All mistakes are seen in one run.
#[test]
fn every_wrong_document_is_named() {
    let said = bad(&format!("{}---\n{}", with("claim:till-data", "disk"), with("till-ontology", "T")));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("all.yaml:1 ") && lines[0].contains("[federation.mew.dev/storage]"), "{said}");
    assert!(lines[1].starts_with("all.yaml:17 ") && lines[1].contains("[federation.mew.dev/ontology]"), "{said}");
}

/// The webhook then sees pods that say which of them is the first.
#[test]
fn numbers_may_begin_elsewhere() {
    let source = with("till-ontology}", "till-ontology, federation.mew.dev/ordinals-start: '4'}")
        .replace("replicas: 1", "ordinals: {start: 4}")
        .replace("Deployment", "StatefulSet");
    let injected = yaml(&good(&source).text);
    let mut pod = injected["spec"]["template"].clone();
    pod["metadata"]["name"] = "till-4".into();
    pod["metadata"]["ownerReferences"] =
        yaml("[{apiVersion: apps/v1, kind: StatefulSet, name: till, controller: true}]");
    assert_eq!(mew_inject::inject(&pod, &settings()).map(|i| i.pod), Ok(pod.clone()), "it stays as it is");
    pod["metadata"]["name"] = "till-5".into();
    assert!(mew_inject::inject(&pod, &settings()).is_err(), "the second pod of one kernel");
}

#[test]
fn a_claim_of_a_stateful_set_may_come_from_its_templates() {
    let source = with("claim:till-data", "volume:data").replace("Deployment", "StatefulSet");
    let said = bad(&source);
    assert!(said.contains("the pod has no volume data"), "{said}");
    let whole = format!("{source}  volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{}}}}]\n");
    let m = good(&whole);
    let mounts = &yaml(&m.text)["spec"]["template"]["spec"]["initContainers"][0]["volumeMounts"];
    assert_eq!(mounts[0], yaml("{name: data, mountPath: /data}"));
}

#[test]
fn likely_mistakes_are_warned_of() {
    for (source, says) in [
        (with("  strategy: {type: Recreate}\n", ""), "spec.strategy: a rolling update"),
        (
            with(
                "metadata: {name: till, namespace: shop}",
                "metadata: {name: till, labels: {federation.mew.dev/kernel: till}}",
            )
            .replace("labels: {app: till, federation.mew.dev/kernel: till}", "labels: {app: till}"),
            "the label belongs to spec.template.metadata.labels",
        ),
        (
            with("app: till, federation.mew.dev/kernel: till", "app: till, federation.mew.dev/kernal: till"),
            "nothing is injected, since the pod has no label federation.mew.dev/kernel",
        ),
        (with("      containers:", "      terminationGracePeriodSeconds: 5\n      containers:"), "what is left of 5 s"),
    ] {
        let m = good(&source);
        let named = |w: &&String| w.contains(says) && w.starts_with("all.yaml:1 (Deployment till): ");
        assert!(m.warnings.iter().any(|w| named(&w)), "{says}: {:?}", m.warnings);
    }
    let fine = with("type: Recreate", "type: RollingUpdate, rollingUpdate: {maxSurge: 0}");
    assert!(good(&fine).warnings.is_empty());
    assert!(good(&with("claim:till-data", "ephemeral")).warnings.is_empty());
}

/// Another release would inject something else: what is in Git stays, and is named.
#[test]
fn an_agent_that_is_there_stays() {
    let before = good(DEPLOYMENT).text;
    let newer = mew_inject::Settings { image: "registry.example.com/mew:2".into(), ..settings() };
    let m = manifest("all.yaml", &before, &newer).expect("it is good");
    assert_eq!((m.injected, &m.text), (0, &before));
    assert!(m.warnings.len() == 1 && m.warnings[0].contains("would now differ in image"), "{:?}", m.warnings);
    // The roots alone follow.
    let rotated = mew_inject::Settings { roots: format!("{ROOTS}{ROOTS}"), ..settings() };
    let m = manifest("all.yaml", &before, &rotated).expect("it is good");
    let annotations = &yaml(&m.text)["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["federation.mew.dev/roots"], format!("{ROOTS}{ROOTS}"));
    assert_eq!((m.injected, m.warnings.len()), (1, 0), "{:?}", m.warnings);
    // One that somebody wrote by hand explains itself, and gets the roots if it asks for them.
    let asks = "federation.mew.dev/storage: 'claim:till-data', federation.mew.dev/ontology: till-ontology";
    let own = |annotation: &str| with("{name: web,", "{name: mew-agent,").replace(asks, annotation);
    assert_eq!(good(&own("a: b")).text, own("a: b"));
    let (was, is) = (yaml(&own("a: b")), yaml(&good(&own("federation.mew.dev/roots: ''")).text));
    let (was, is) = (&was["spec"]["template"], &is["spec"]["template"]);
    assert_eq!(
        (&is["spec"], &is["metadata"]["annotations"]["federation.mew.dev/roots"]),
        (&was["spec"], &Value::from(ROOTS))
    );
}
