//! What operator and agent say to each other: snapshots, reports, and the messages around them.

use crate::wire::fixpoint;
use mew_contract::{Problem, Reason, RemoteItem, Report, Snapshot, SyncItem};
use mew_crds::manifest::{self, Object};
use mew_plan::{AgentState, Doubts, Incomplete, Inputs, Items, KernelName, Objects, Plan, empty_snapshot, plan};
use mew_wire as wire;
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::operator_message::Body as OperatorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// It says something, and of a line that is there.
pub(crate) fn has_a_place(e: &serde_json::Error, data: &[u8]) {
    let lines = data.iter().filter(|b| **b == b'\n').count() + 1;
    assert!(!e.to_string().is_empty() && e.line() <= lines && e.column() <= data.len() + 1, "{e}: {data:?}");
}

fn written(v: &impl Serialize) -> Json {
    serde_json::to_value(v).expect("it is JSON")
}

/// What was read can be written, and read again.
fn stays<T: Serialize + DeserializeOwned + PartialEq + Debug>(v: &T) {
    let bytes = serde_json::to_vec(v).expect("it is JSON");
    let again: T = serde_json::from_slice(&bytes).expect("what was written can be read");
    assert_eq!(again, *v);
}

/// A whole configuration. One bad item is refused by its name and does not spoil the rest; nothing is passed over.
pub fn snapshot(data: &[u8]) {
    let s = match Snapshot::decode(data) {
        Ok(s) => s,
        Err(e) => return has_a_place(&e, data),
    };
    let bytes = s.encode();
    let again = Snapshot::decode(&bytes).expect("what was written can be read");
    assert_eq!(again, s);
    assert_eq!(Snapshot::digest(&again.encode()), Snapshot::digest(&bytes), "the digest stands for the content");
    let (remotes, syncs, rejected) = s.items();
    assert_eq!(remotes.len() + syncs.len() + rejected.len(), s.remotes.len() + s.syncs.len(), "an item is lost");
    for r in &rejected {
        assert_eq!(r.problem.reason, Reason::UnsupportedField);
        assert!(!r.problem.message.is_empty() && ["Remote", "Sync"].contains(&r.kind.as_str()), "{r:?}");
        stays::<Problem>(&r.problem);
    }
    remotes.iter().for_each(stays::<RemoteItem>);
    syncs.iter().for_each(stays::<SyncItem>);
    // What was understood says what is written there: an unknown field denies.
    let said: Vec<Json> = s.remotes.iter().chain(&s.syncs).map(without_nulls).collect();
    for read in remotes.iter().map(written).chain(syncs.iter().map(written)) {
        assert!(said.contains(&without_nulls(&read)), "{read} is not in {said:?}");
    }
}

fn without_nulls(v: &Json) -> Json {
    match v {
        Json::Object(o) => o.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        Json::Array(a) => a.iter().map(without_nulls).collect(),
        v => v.clone(),
    }
}

/// A Remote, a Sync and a policy that fit together.
const DECLARED: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: eu-roots, namespace: shop}
data: {ca.crt: '-----BEGIN CERTIFICATE-----ZXU=-----END CERTIFICATE-----'}
---
apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {name: eu, namespace: shop, generation: 1}
spec:
  kernelRef: {name: shop}
  uri: mew://eu.example.com:9001/team-a.shop
  peer: {trustDomain: eu.example.com, trustBundleRefs: [{kind: ConfigMap, name: eu-roots}]}
  permissions: {canReceive: [{type: Task}], canSend: [{type: Task}]}
---
apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: shop, generation: 1}
spec: {remoteRef: {name: eu}, direction: Push, match: 't: Task'}
---
apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {name: main, namespace: shop, generation: 1}
spec:
  remoteSelector: {}
  mode: PermissiveBridging
  rules: [{name: tasks, action: Allow, operations: [Export, Import], types: [Task]}]
";

fn objects() -> Objects {
    let (all, errors) = manifest::read("declared.yaml", DECLARED);
    assert!(errors.is_empty(), "{errors:?}");
    let name = |namespace: &Option<String>, name: &Option<String>| {
        format!("{}/{}", namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
    };
    let mut out = Objects::default();
    for o in all {
        match o {
            Object::Remote(r) => drop(out.remotes.insert(name(&r.metadata.namespace, &r.metadata.name), *r)),
            Object::Sync(s) => drop(out.syncs.insert(name(&s.metadata.namespace, &s.metadata.name), *s)),
            Object::Policy(p) => drop(out.policies.insert(name(&p.metadata.namespace, &p.metadata.name), *p)),
            Object::ConfigMap(c) => {
                let at = name(&c.metadata.namespace, &c.metadata.name);
                out.bundles.insert(at, c.data.unwrap_or_default());
            }
        }
    }
    out
}

fn planned(objects: &Objects, agents: &BTreeMap<KernelName, AgentState>, doubts: Doubts) -> Plan {
    const NOW_MS: u64 = 1_795_251_600_000;
    plan(&Inputs {
        trust_domain: "us.example.com",
        own_roots: &["-----BEGIN CERTIFICATE-----".to_owned()],
        objects,
        agents,
        now_ms: NOW_MS,
        since_ms: NOW_MS - 3_600_000,
        doubts,
    })
}

/// An agent's report, and the statuses that are made of it.
pub fn report(data: &[u8]) {
    let r = match serde_json::from_slice::<Report>(data) {
        Ok(r) => r,
        Err(e) => return has_a_place(&e, data),
    };
    stays(&r);
    makes_statuses(r);
}

fn makes_statuses(r: Report) {
    static WORLD: OnceLock<(Objects, Snapshot)> = OnceLock::new();
    let kernel = KernelName::new("shop", "shop");
    let (objects, snapshot) = WORLD.get_or_init(|| {
        let objects = objects();
        let p = planned(&objects, &BTreeMap::new(), Doubts::default());
        let snapshot = p.snapshots.get(&kernel).cloned().expect("a snapshot for the Remote's kernel");
        (objects, snapshot)
    });
    let reported_ms = 1_795_251_600_000;
    let state = AgentState {
        attached: true,
        report: Some(Arc::new(r)),
        confirmed: Some(Arc::new(Items::of(snapshot))),
        reported_ms,
        ..AgentState::default()
    };
    is_given_or_keeps(objects, &kernel, AgentState { confirmed: None, ..state.clone() });
    let agents = BTreeMap::from([(kernel, state)]);
    let of_agents = || planned(objects, &agents, Doubts::default());
    let (p, again) = (of_agents(), of_agents());
    assert!(p.remotes == again.remotes && p.syncs == again.syncs && p.policies == again.policies, "the same twice");
    assert_eq!((p.remotes.len(), p.syncs.len(), p.policies.len()), (1, 1, 1));
    for s in p.remotes.values() {
        assert!(s.conditions.iter().any(|c| c.type_ == "Ready") && written(s).is_object(), "{s:?}");
    }
    for s in p.syncs.values() {
        assert!(s.conditions.iter().any(|c| c.type_ == "Ready") && written(s).is_object(), "{s:?}");
        let counts = [s.failed, s.held, s.pending, s.conflicts.as_ref().map(|c| c.total)];
        assert!(counts.iter().flatten().all(|n| *n >= 0), "{s:?}");
    }
}

/// While lists may lack something, an agent is given what lacks nothing that it holds, or it is said why not.
fn is_given_or_keeps(objects: &Objects, kernel: &KernelName, agent: AgentState) {
    let back = Some(Incomplete::Back { since_ms: 1_795_251_540_000, until_ms: 1_795_252_140_000 });
    let doubts = Doubts { remotes: back, syncs: back, policies: None };
    let agents = BTreeMap::from([(kernel.clone(), agent)]);
    let p = planned(objects, &agents, doubts);
    match (p.snapshots.get(kernel), p.kept.get(kernel)) {
        (None, Some(why)) => assert!(why.contains("was deleted and came back"), "{why}"),
        (Some(_), None) => {
            let report = agents.get(kernel).and_then(|a| a.report.as_deref()).expect("it has reported");
            let mut held = report.held_remotes().into_iter().flatten().chain(report.held_syncs().into_iter().flatten());
            let is_declared = |n: &str| objects.remotes.contains_key(n) || objects.syncs.contains_key(n);
            let has = |s: &Snapshot| report.snapshot == Snapshot::digest(&s.encode());
            let loses = report.silent.is_none() || held.any(|n| !is_declared(n));
            let is_empty = report.snapshot.is_empty() || has(&empty_snapshot("us.example.com", kernel));
            assert!(!loses || is_empty || p.snapshots.get(kernel).is_some_and(has), "{report:?}");
        }
        both => panic!("{both:?}"),
    }
}

/// A message of the attachment, the first byte says whose; and what is in it.
pub fn control(data: &[u8]) {
    let Some((whose, data)) = data.split_first() else { return };
    if whose % 2 == 0 {
        match fixpoint::<wire::AgentMessage>(data).and_then(|m| m.body) {
            Some(AgentBody::Report(b)) => report(&b),
            Some(AgentBody::Hello(_) | AgentBody::Accepted(_) | AgentBody::Drained(_)) | None => {}
        }
    } else {
        match fixpoint::<wire::OperatorMessage>(data).and_then(|m| m.body) {
            Some(OperatorBody::Snapshot(b)) => snapshot(&b),
            Some(OperatorBody::Standby(_) | OperatorBody::Welcome(_) | OperatorBody::Roots(_)) | None => {}
        }
    }
}
