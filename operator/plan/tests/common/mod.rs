//! What the planner's tests share: a world of objects, one agent and a clock, and kstatus as cli-utils computes it.
#![allow(dead_code)]

use mew_contract::report::{Inbound, Names, Roots};
use mew_contract::snapshot::Direction;
use mew_contract::{
    FlowReport, FlowState, LinkState, PeerInfo, Problem, Reason, RemoteItem, RemoteReport, Report, Snapshot, SyncItem,
};
use mew_plan::{AgentState, Doubts, Inputs, Items, KernelName, Objects, Plan, plan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const OWN: &str = "us.example.com";
pub const FOREIGN: &str = "eu.example.com";
pub const PEER: &str = "team-a.shop";
pub const REMOTE: &str = "shop/eu";
pub const SYNC: &str = "shop/tasks";
pub const POLICY: &str = "shop/main";
pub const BUNDLE: &str = "shop/eu-roots";
pub const PEM: &str = "-----BEGIN CERTIFICATE-----\nZXU=\n-----END CERTIFICATE-----\n";
pub const OWN_PEM: &str = "-----BEGIN CERTIFICATE-----\ndXM=\n-----END CERTIFICATE-----\n";
/// A whole second, so that 30 s are 30 s.
pub const START_MS: u64 = 1_795_251_600_000;
const HOUR_MS: u64 = 3_600_000;

pub fn kernel() -> KernelName {
    KernelName::new("shop", "shop")
}

pub fn decode<T: DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).expect("the value is right")
}

fn encoded(v: &impl Serialize) -> Value {
    serde_json::to_value(v).expect("the value is JSON")
}

pub fn remote_spec() -> Value {
    json!({
        "kernelRef": {"name": "shop"},
        "uri": format!("mew://{FOREIGN}:9001/{PEER}"),
        "peer": {"trustDomain": FOREIGN, "trustBundleRefs": [{"kind": "ConfigMap", "name": "eu-roots"}]},
        "permissions": {"canReceive": [{"type": "Task"}], "canSend": [{"type": "Task"}]},
    })
}

pub fn sync_spec() -> Value {
    json!({"remoteRef": {"name": "eu"}, "direction": "Push", "match": "t: Task"})
}

pub fn policy_spec() -> Value {
    json!({
        "remoteSelector": {},
        "mode": "PermissiveBridging",
        "rules": [{"name": "tasks", "action": "Allow", "operations": ["Export", "Import"], "types": ["Task"]}],
    })
}

/// Objects as a cluster holds them, at most one agent, and the time.
#[derive(Clone)]
pub struct World {
    pub objects: Objects,
    pub agents: BTreeMap<KernelName, AgentState>,
    pub now_ms: u64,
    pub since_ms: u64,
    pub doubts: Doubts,
}

impl World {
    pub fn empty() -> Self {
        World {
            objects: Objects::default(),
            agents: BTreeMap::new(),
            now_ms: START_MS,
            // The planner is no new leader.
            since_ms: START_MS - HOUR_MS,
            doubts: Doubts::default(),
        }
    }

    /// A foreign Remote, its bundle, a policy and a Sync that fit together. No agent yet.
    pub fn declared() -> Self {
        let mut w = World::empty();
        w.bundle(BUNDLE, "ca.crt", PEM);
        w.put("Remote", REMOTE, remote_spec());
        w.put("Sync", SYNC, sync_spec());
        w.put("FederationPolicy", POLICY, policy_spec());
        w
    }

    /// As [`World::declared`], in sync for ten seconds.
    pub fn in_sync() -> Self {
        let mut w = World::declared();
        w.report(up(), flow(FlowState::Live, None));
        w.settle();
        w.pass(10_000);
        w
    }

    pub fn put(&mut self, kind: &str, name: &str, spec: Value) {
        let (namespace, own) = name.split_once('/').expect("namespace/name");
        let v = json!({
            "apiVersion": "federation.mew.dev/v1alpha1",
            "kind": kind,
            "metadata": {
                "namespace": namespace,
                "name": own,
                "generation": 1,
                "creationTimestamp": "2026-11-21T08:00:00Z",
            },
            "spec": spec,
            "status": {"observedGeneration": -1},
        });
        let name = name.to_owned();
        match kind {
            "Remote" => drop(self.objects.remotes.insert(name, decode(v))),
            "Sync" => drop(self.objects.syncs.insert(name, decode(v))),
            "FederationPolicy" => drop(self.objects.policies.insert(name, decode(v))),
            other => panic!("no kind {other}"),
        }
    }

    pub fn bundle(&mut self, name: &str, key: &str, text: &str) {
        self.objects.bundles.insert(name.to_owned(), BTreeMap::from([(key.to_owned(), text.to_owned())]));
    }

    /// Another version of the Sync's spec, as a user applies it.
    pub fn edit_sync(&mut self, field: &str, value: Value) {
        let s = self.objects.syncs.get_mut(SYNC).expect("the Sync is there");
        let mut spec = encoded(&s.spec);
        spec[field] = value;
        s.spec = decode(spec);
        s.metadata.generation = s.metadata.generation.map(|g| g + 1);
    }

    /// Another version of the Remote's spec, as a user applies it.
    pub fn edit_remote(&mut self, field: &str, value: Value) {
        let r = self.objects.remotes.get_mut(REMOTE).expect("the Remote is there");
        let mut spec = encoded(&r.spec);
        spec[field] = value;
        r.spec = decode(spec);
        r.metadata.generation = r.metadata.generation.map(|g| g + 1);
    }

    pub fn plan(&self) -> Plan {
        self.with(plan)
    }

    /// What is made of all that is known.
    pub fn with<T>(&self, make: impl FnOnce(&Inputs<'_>) -> T) -> T {
        make(&Inputs {
            trust_domain: OWN,
            own_roots: &[OWN_PEM.to_owned()],
            objects: &self.objects,
            agents: &self.agents,
            now_ms: self.now_ms,
            since_ms: self.since_ms,
            doubts: self.doubts,
        })
    }

    /// Plans, and writes the statuses into the objects as the API server would keep them.
    pub fn settle(&mut self) -> Plan {
        let p = self.plan();
        for (n, s) in &p.remotes {
            self.objects.remotes.get_mut(n).expect("a planned Remote").status = Some(decode(encoded(s)));
        }
        for (n, s) in &p.syncs {
            self.objects.syncs.get_mut(n).expect("a planned Sync").status = Some(decode(encoded(s)));
        }
        for (n, s) in &p.policies {
            self.objects.policies.get_mut(n).expect("a planned policy").status = Some(decode(encoded(s)));
        }
        p
    }

    pub fn snapshot(&self) -> Snapshot {
        self.plan().snapshots.get(&kernel()).cloned().expect("the kernel has a snapshot")
    }

    /// The items of the snapshot, as an agent reads them; it understands all of them.
    pub fn items(&self) -> (Vec<RemoteItem>, Vec<SyncItem>) {
        let (remotes, syncs, rejected) = self.snapshot().items();
        assert!(rejected.is_empty(), "the planner writes what the agent does not read: {rejected:?}");
        (remotes, syncs)
    }

    /// The agent reports, about the snapshot that is planned now.
    pub fn report(&mut self, link: RemoteReport, flow: FlowReport) {
        self.report_all(vec![link], vec![flow]);
    }

    pub fn report_all(&mut self, remotes: Vec<RemoteReport>, syncs: Vec<FlowReport>) {
        let a = self.agents.entry(kernel()).or_default();
        a.attached = true;
        a.report = None;
        let snapshot = self.snapshot();
        let report = Report {
            kernel_id: "shop.shop".into(),
            incarnation: "first".into(),
            agent_version: "0.1.0".into(),
            snapshot: Snapshot::digest(&snapshot.encode()),
            rejected: vec![],
            remotes,
            syncs,
            silent: None,
            certificate_not_after_ms: Some(START_MS + 72 * HOUR_MS),
            certificate_root: None,
            problem: None,
        };
        let now_ms = self.now_ms;
        let a = self.agent();
        a.report = Some(Arc::new(report.holding(&Names::of(&snapshot))));
        a.confirmed = Some(Arc::new(Items::of(&snapshot)));
        a.reported_ms = now_ms;
    }

    pub fn agent(&mut self) -> &mut AgentState {
        self.agents.get_mut(&kernel()).expect("an agent is attached")
    }

    pub fn last_report(&mut self) -> &mut Report {
        Arc::make_mut(self.agent().report.as_mut().expect("the agent has reported"))
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// The agent reports the same again.
    pub fn heartbeat(&mut self) {
        let now_ms = self.now_ms;
        self.agent().reported_ms = now_ms;
    }

    /// Settles, and gives the Sync as a cluster would.
    pub fn settled_sync(&mut self) -> Value {
        self.settle();
        self.sync(SYNC)
    }

    pub fn settled_remote(&mut self) -> Value {
        self.settle();
        self.remote(REMOTE)
    }

    pub fn sync(&self, name: &str) -> Value {
        encoded(&self.objects.syncs[name])
    }

    pub fn remote(&self, name: &str) -> Value {
        encoded(&self.objects.remotes[name])
    }

    pub fn policy(&self, name: &str) -> Value {
        encoded(&self.objects.policies[name])
    }

    /// All statuses, to compare.
    pub fn statuses(&self) -> String {
        let all: [Value; 3] = [
            self.objects.remotes.values().map(|o| encoded(&o.status)).collect(),
            self.objects.syncs.values().map(|o| encoded(&o.status)).collect(),
            self.objects.policies.values().map(|o| encoded(&o.status)).collect(),
        ];
        serde_json::to_string_pretty(&all).expect("statuses are JSON")
    }
}

pub fn problem(reason: Reason) -> Option<Problem> {
    Some(Problem::new(reason, format!("the reason is {reason}")))
}

pub fn link(state: LinkState, problem: Option<Problem>) -> RemoteReport {
    RemoteReport {
        name: REMOTE.into(),
        state,
        problem,
        endpoint: (state == LinkState::Connected).then(|| format!("{FOREIGN}:9001")),
        peer: (state == LinkState::Connected).then(|| PeerInfo {
            kernel_id: PEER.into(),
            incarnation: "theirs".into(),
            agent_version: "0.1.0".into(),
            protocol: 1,
            certificate_not_after_ms: Some(START_MS + HOUR_MS),
            roots: Roots::default(),
        }),
        latency_ms: Some(12),
        inbound: Inbound::default(),
        certificate_not_after_ms: None,
    }
}

pub fn up() -> RemoteReport {
    link(LinkState::Connected, None)
}

pub fn flow(state: FlowState, problem: Option<Problem>) -> FlowReport {
    let live = state == FlowState::Live;
    FlowReport {
        name: SYNC.into(),
        remote: REMOTE.into(),
        direction: Direction::Push,
        state,
        problem,
        lag_ms: live.then_some(0),
        pending: live.then_some(0),
        initial_percent: live.then_some(100),
        applied: 7,
        rejected: 0,
        held: 0,
        conflicts: 0,
        needs_reconcile: false,
        revision: "r1".into(),
        reset: None,
        last_error: None,
    }
}

pub fn condition<'a>(o: &'a Value, kind: &str) -> Option<&'a Value> {
    o.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == kind)
}

/// `status/reason` of a condition, `-` if it is absent.
pub fn is(o: &Value, kind: &str) -> String {
    let text = |c: &Value, f: &str| c[f].as_str().unwrap_or("?").to_owned();
    condition(o, kind).map_or_else(|| "-".into(), |c| format!("{}/{}", text(c, "status"), text(c, "reason")))
}

pub fn message(o: &Value, kind: &str) -> String {
    condition(o, kind).and_then(|c| c["message"].as_str()).unwrap_or("no such condition").to_owned()
}

pub fn since(o: &Value, kind: &str) -> String {
    condition(o, kind).and_then(|c| c["lastTransitionTime"].as_str()).unwrap_or("no such condition").to_owned()
}

/// Reconciling, Stalled or neither; both would be a lie.
pub fn also(o: &Value) -> &'static str {
    match (is(o, "Reconciling").starts_with("True"), is(o, "Stalled").starts_with("True")) {
        (true, true) => panic!("both Reconciling and Stalled: {o}"),
        (true, false) => "Reconciling",
        (false, true) => "Stalled",
        (false, false) => "",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kstatus {
    Current,
    InProgress,
    Failed,
}

/// cli-utils' `status.Compute` for a kind that it does not know: the generic properties, then Ready.
pub fn kstatus(o: &Value) -> Kstatus {
    let observed = o.pointer("/status/observedGeneration");
    if observed.is_some() && observed != o.pointer("/metadata/generation") {
        return Kstatus::InProgress;
    }
    let conditions = o.pointer("/status/conditions").and_then(Value::as_array);
    for c in conditions.into_iter().flatten().filter(|c| c["status"] == "True") {
        match c["type"].as_str() {
            Some("Reconciling") => return Kstatus::InProgress,
            Some("Stalled") => return Kstatus::Failed,
            _ => {}
        }
    }
    match condition(o, "Ready").and_then(|c| c["status"].as_str()) {
        Some("False" | "Unknown") => Kstatus::InProgress,
        _ => Kstatus::Current,
    }
}

/// What a row of the design's table says of an object: Ready, what it is also, and what kstatus makes of it.
pub fn row(o: &Value) -> (String, &'static str, Kstatus) {
    (is(o, "Ready"), also(o), kstatus(o))
}
