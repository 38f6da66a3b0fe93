//! The planner: all objects of an operator and the latest reports in, one snapshot per agent and every status out.
//!
//! Pure: no client, no runtime, and time is an argument. The same inputs give the same bytes.

mod buckets;
mod gates;
mod policy;
mod remote;
pub mod rotation;
mod sync;

pub use gates::{Gate, GateStatus};

use mew_contract::{FlowReport, Problem, Reason, RemoteReport, Report, Snapshot};
use mew_crds::common::LastError;
use mew_crds::{FederationPolicy, FederationPolicyStatus, Remote, RemoteStatus, Sync, SyncStatus};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// An agent that has been silent for this long is unresponsive.
pub const SILENT_MS: u64 = 30_000;
/// A fault that another object can mend counts as stalled only after this long.
pub const STALLED_AFTER_MS: u64 = 30_000;

/// `namespace/name`.
pub type Name = String;

/// A kernel as objects name it: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName {
    pub namespace: String,
    pub name: String,
}

impl KernelName {
    pub fn new(namespace: &str, name: &str) -> Self {
        KernelName { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The id under which peers know it.
    pub fn kernel_id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

/// Everything that was declared and could be read.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub remotes: BTreeMap<Name, Remote>,
    pub syncs: BTreeMap<Name, Sync>,
    pub policies: BTreeMap<Name, FederationPolicy>,
    /// Contents of the ConfigMaps that Remotes refer to: `namespace/name` → key → text.
    pub bundles: BTreeMap<Name, BTreeMap<String, String>>,
    /// Policies that exist, cannot be read and have no last good version: they may deny anything, so nothing passes.
    pub unreadable: BTreeSet<Name>,
}

/// What is known of one agent.
#[derive(Clone, Debug, Default)]
pub struct AgentState {
    pub attached: bool,
    pub report: Option<Report>,
    /// The snapshot that the report is about, if it is known which one that is. An object is programmed if its item there is
    /// the one that is planned now, whatever became of the others.
    pub confirmed: Option<Snapshot>,
    /// Since when there is a newer snapshot for it that the report is not about, on the planner's clock.
    pub behind_since_ms: Option<u64>,
    /// When the report came, on the planner's clock.
    pub reported_ms: u64,
    /// Somebody else wanted this kernel and was turned away.
    pub refused_claim: Option<Problem>,
}

#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub trust_domain: &'a str,
    /// Roots of the own trust domain, PEM.
    pub own_roots: &'a [String],
    pub objects: &'a Objects,
    pub agents: &'a BTreeMap<KernelName, AgentState>,
    pub now_ms: u64,
    /// When this planner took over: until agents had the time to report, old statuses stay.
    pub since_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub snapshots: BTreeMap<KernelName, Snapshot>,
    pub remotes: BTreeMap<Name, RemoteStatus>,
    pub syncs: BTreeMap<Name, SyncStatus>,
    pub policies: BTreeMap<Name, FederationPolicyStatus>,
}

pub fn plan(i: &Inputs<'_>) -> Plan {
    let mut out = Plan::default();
    let remotes: BTreeMap<&Name, remote::Planned> =
        i.objects.remotes.iter().map(|(n, r)| (n, remote::plan(i, n, r))).collect();
    let syncs: BTreeMap<&Name, sync::Planned> =
        i.objects.syncs.iter().map(|(n, s)| (n, sync::plan(i, n, s, &remotes))).collect();

    for k in i.agents.keys().cloned().chain(i.objects.remotes.iter().map(|(n, r)| kernel_of(n, r))) {
        out.snapshots.entry(k.clone()).or_insert_with(|| Snapshot {
            kernel_id: k.kernel_id(),
            trust_domain: i.trust_domain.to_owned(),
            remotes: remotes
                .values()
                .filter(|p| p.kernel == k)
                .filter_map(|p| serde_json::to_value(p.item.as_ref()?).ok())
                .collect(),
            syncs: syncs
                .values()
                .filter(|s| s.kernel.as_ref() == Some(&k))
                .filter_map(|s| serde_json::to_value(s.item.as_ref()?).ok())
                .collect(),
        });
    }
    for (n, r) in &i.objects.remotes {
        let p = &remotes[n];
        out.remotes.insert(n.clone(), remote::status(i, n, r, p));
    }
    for (n, s) in &i.objects.syncs {
        let p = &syncs[n];
        out.syncs.insert(n.clone(), sync::status(i, n, s, p, remotes.get(&p.remote)));
    }
    for (n, p) in &i.objects.policies {
        out.policies.insert(n.clone(), policy::status(i, n, p, &syncs, &out.syncs));
    }
    out
}

/// `namespace` of `namespace/name`.
pub fn namespace_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(ns, _)| ns)
}

fn kernel_of(name: &str, r: &Remote) -> KernelName {
    KernelName::new(namespace_of(name), &r.spec.kernel_ref.name)
}

/// What an agent says of one object, and whether the agent as such is the problem.
enum Said<'a, T> {
    /// Its report is about the item that is planned now.
    Current(&'a T),
    /// There is no report yet, or it is about an older version of the item.
    Not(GateStatus),
}

/// Whether what the agent confirmed holds this item exactly.
fn confirmed<T: Serialize>(
    a: &AgentState,
    name: &str,
    item: Option<&T>,
    list: impl Fn(&Snapshot) -> &Vec<serde_json::Value>,
) -> bool {
    let has = confirmed_item(a, name, list);
    has.is_some() && has == item.and_then(|i| serde_json::to_value(i).ok()).as_ref()
}

fn confirmed_item<'a>(
    a: &'a AgentState,
    name: &str,
    list: impl Fn(&Snapshot) -> &Vec<serde_json::Value>,
) -> Option<&'a serde_json::Value> {
    list(a.confirmed.as_ref()?).iter().find(|i| i["name"] == name)
}

fn programmed<'a, T>(
    i: &'a Inputs<'_>,
    kernel: &KernelName,
    confirmed: impl Fn(&AgentState) -> bool,
    find: impl Fn(&'a Report) -> Option<&'a T>,
) -> Said<'a, T> {
    let unknown = |r: Reason, m: String| Said::Not(GateStatus::unknown(r, m));
    let Some(a) = i.agents.get(kernel) else {
        return unknown(Reason::NoAgent, format!("no agent of kernel {} is attached", kernel.name));
    };
    let silent = i.now_ms.saturating_sub(a.reported_ms.max(i.since_ms));
    let Some(report) = &a.report else {
        let m = format!("no agent of kernel {} has reported yet", kernel.name);
        return unknown(if a.attached { Reason::Pending } else { Reason::NoAgent }, m);
    };
    if silent >= SILENT_MS {
        return unknown(
            Reason::AgentUnresponsive,
            format!("no report from kernel {} for more than {} s", kernel.name, SILENT_MS / 1000),
        );
    }
    if !confirmed(a) {
        return unknown(
            Reason::Pending,
            format!("the agent of kernel {} has not confirmed the configuration yet", kernel.name),
        );
    }
    // An ontology that was refused leaves the old one working: that is no reason to call nothing programmed.
    if let Some(p) = report.problem.as_ref().filter(|p| p.reason != Reason::OntologyMismatch) {
        return Said::Not(GateStatus::no(p));
    }
    match find(report) {
        Some(t) => Said::Current(t),
        None => unknown(Reason::Pending, "the agent has not reported on this object yet".into()),
    }
}

/// Until agents had the time to report to a new leader, it knows less than the old one did: the old status stays.
fn keeps_old_status(i: &Inputs<'_>, kernel: &KernelName) -> bool {
    let reported = i.agents.get(kernel).is_some_and(|a| a.report.is_some());
    !reported && i.now_ms.saturating_sub(i.since_ms) < SILENT_MS
}

/// Why the agent refuses the item that is planned now, if it does.
fn rejection<'a>(
    i: &'a Inputs<'_>,
    kernel: &KernelName,
    kind: &str,
    name: &str,
    confirmed: impl Fn(&AgentState) -> bool,
) -> Option<&'a Problem> {
    let a = i.agents.get(kernel).filter(|a| confirmed(a))?;
    let r = a.report.as_ref()?;
    r.rejected.iter().find(|x| x.kind == kind && x.name == name).map(|x| &x.problem)
}

fn find_remote<'a>(r: &'a Report, name: &str) -> Option<&'a RemoteReport> {
    r.remotes.iter().find(|x| x.name == name)
}

fn find_sync<'a>(r: &'a Report, name: &str) -> Option<&'a FlowReport> {
    r.syncs.iter().find(|x| x.name == name)
}

/// Keeps the time of an error that has not changed.
fn last_error(old: Option<&LastError>, now: Option<&Problem>, now_ms: u64) -> Option<LastError> {
    match (old, now) {
        (old, None) => old.cloned(),
        (Some(o), Some(p)) if o.reason == p.reason.code() && o.message == p.message => Some(o.clone()),
        (_, Some(p)) => Some(LastError {
            reason: p.reason.code().into(),
            message: p.message.clone(),
            time: Some(gates::rfc3339(now_ms)),
        }),
    }
}

/// Absent rather than empty: a server-side apply of an empty object may come out as null.
fn some<T: Default + PartialEq>(t: T) -> Option<T> {
    (t != T::default()).then_some(t)
}
