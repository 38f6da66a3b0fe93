//! The planner: all objects of an operator and the latest reports in, one snapshot per agent and every status out.
//!
//! Pure: no client, no runtime, and time is an argument. The same inputs give the same bytes.

mod buckets;
mod gates;
mod index;
mod items;
mod keeping;
mod policy;
mod remote;
pub mod rotation;
mod sync;

pub use gates::{Gate, GateStatus};
pub use items::Items;
pub use keeping::{Doubts, Incomplete};

use index::{Agent, Index};
use items::Item;
use mew_contract::{Problem, Reason, Report, Snapshot};
use mew_crds::common::LastError;
use mew_crds::{FederationPolicy, FederationPolicyStatus, Remote, RemoteStatus, Sync, SyncStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An agent that has been silent for this long is unresponsive.
pub const SILENT_MS: u64 = 30_000;
/// A fault that another object can mend counts as stalled only after this long.
pub const STALLED_AFTER_MS: u64 = 30_000;
/// Whoever was refused a kernel and has not asked again for this long has given up: agents ask every ten seconds at least.
pub const CLAIM_MS: u64 = 30_000;

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
    pub report: Option<Arc<Report>>,
    /// What the snapshot holds that the report is about, if it is known which one that is. An object is programmed if its item
    /// there is the one that is planned now, whatever became of the others.
    pub confirmed: Option<Arc<Items>>,
    /// Since when there is a newer snapshot for it that the report is not about, on the planner's clock.
    pub behind_since_ms: Option<u64>,
    /// When the report came, on the planner's clock.
    pub reported_ms: u64,
    /// Somebody else wanted this kernel and was turned away.
    pub refused_claim: Option<RefusedClaim>,
}

/// Who was turned away, why, and when the last time was, on the planner's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedClaim {
    pub instance: String,
    pub problem: Problem,
    pub at_ms: u64,
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
    /// Which of the objects' kinds may lack some that nobody withdrew.
    pub doubts: Doubts,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub snapshots: BTreeMap<KernelName, Snapshot>,
    /// Kernels whose agents keep what they have, and why: they might lose what nobody withdrew. There is no
    /// snapshot for them here, and they are not unused.
    pub kept: BTreeMap<KernelName, String>,
    /// Kernels that no agent holds and no Remote names.
    pub unused: BTreeSet<KernelName>,
    pub remotes: BTreeMap<Name, RemoteStatus>,
    pub syncs: BTreeMap<Name, SyncStatus>,
    pub policies: BTreeMap<Name, FederationPolicyStatus>,
}

pub fn plan(i: &Inputs<'_>) -> Plan {
    let (mut p, statuses) = draft(i);
    let mut syncs = BTreeMap::new();
    statuses.make(&mut p, &mut |n, s| drop(syncs.insert(n.clone(), s)));
    Plan { syncs, ..p }
}

/// The first part of a plan: what agents get, and no status yet. Of thousands of objects the statuses take many times as long,
/// and no agent has to wait for them.
pub fn draft<'a>(i: &'a Inputs<'a>) -> (Plan, Statuses<'a>) {
    let mut x = Index::new(i);
    let mut remotes: BTreeMap<&'a Name, remote::Planned> =
        i.objects.remotes.iter().map(|(n, r)| (n, remote::plan(i, &x, n, r))).collect();
    let mut syncs: BTreeMap<&'a Name, sync::Planned> =
        i.objects.syncs.iter().map(|(n, s)| (n, sync::plan(i, &x, n, s, &remotes))).collect();

    let mut out = Plan::default();
    let empty = |k: &KernelName| empty_snapshot(i.trust_domain, k);
    out.snapshots.extend(i.agents.keys().map(|k| (k.clone(), empty(k))));
    out.unused.extend(i.agents.iter().filter(|(_, a)| !a.attached).map(|(k, _)| k.clone()));
    for p in remotes.values_mut() {
        out.unused.remove(&p.kernel);
        let s = out.snapshots.entry(p.kernel.clone()).or_insert_with(|| empty(&p.kernel));
        s.remotes.extend(p.item.as_mut().map(Item::take));
    }
    for p in syncs.values_mut() {
        if let Some(s) = p.kernel.as_ref().and_then(|k| out.snapshots.get_mut(k)) {
            s.syncs.extend(p.item.as_mut().map(Item::take));
        }
    }
    out.kept = keeping::kept(i, &out.snapshots);
    out.snapshots.retain(|k, _| !out.kept.contains_key(k));
    // A Remote that names it may be missing.
    out.unused.retain(|k| !out.kept.contains_key(k));
    x.keep(&out.kept);
    (out, Statuses { i, x, remotes, syncs })
}

/// The second part of a plan. It goes by the same inputs as the first, so what agents do meanwhile with what they got changes
/// nothing of it.
pub struct Statuses<'a> {
    i: &'a Inputs<'a>,
    x: Index<'a>,
    remotes: BTreeMap<&'a Name, remote::Planned>,
    syncs: BTreeMap<&'a Name, sync::Planned>,
}

impl Statuses<'_> {
    /// Adds those of Remotes and policies to the plan, and hands over each Sync's as it is made: they are by far the most, and
    /// most are what they were.
    pub fn make(self, out: &mut Plan, each_sync: &mut dyn FnMut(&Name, SyncStatus)) {
        let Statuses { i, x, remotes, syncs } = self;
        for (n, r) in &i.objects.remotes {
            let p = &remotes[n];
            out.remotes.insert(n.clone(), remote::status(i, &x, n, r, p));
        }
        let mut denied = BTreeSet::new();
        for (n, s) in &i.objects.syncs {
            let p = &syncs[n];
            let status = sync::status(i, &x, n, s, p, remotes.get(&p.remote));
            if policy::is_denied(&status) {
                denied.insert(n);
            }
            each_sync(n, status);
        }
        for (n, p) in &i.objects.policies {
            let status = policy::status(i, &out.kept, n, p, &syncs, &denied);
            out.policies.insert(n.clone(), status);
        }
    }
}

/// The snapshot of a kernel for which nothing is declared.
pub fn empty_snapshot(trust_domain: &str, k: &KernelName) -> Snapshot {
    Snapshot { kernel_id: k.kernel_id(), trust_domain: trust_domain.to_owned(), remotes: Vec::new(), syncs: Vec::new() }
}

/// `namespace` of `namespace/name`.
pub fn namespace_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(ns, _)| ns)
}

/// The kernel that a Remote belongs to.
pub fn kernel_of(name: &str, r: &Remote) -> KernelName {
    KernelName::new(namespace_of(name), &r.spec.kernel_ref.name)
}

/// What an agent says of one object, and whether the agent as such is the problem.
enum Said<'a, T> {
    /// Its report is about the item that is planned now.
    Current(&'a T),
    /// There is no report yet, or it is about an older version of the item.
    Not(GateStatus),
}

/// `confirmed`: whether the agent's report is about the item that is planned now; `found` is what it says there.
fn programmed<'a, T>(
    i: &Inputs<'_>,
    kernel: &KernelName,
    agent: Option<&Agent<'a>>,
    confirmed: bool,
    found: Option<&'a T>,
) -> Said<'a, T> {
    let unknown = |r: Reason, m: String| Said::Not(GateStatus::unknown(r, m));
    let Some(agent) = agent else {
        return unknown(Reason::NoAgent, format!("no agent of kernel {} is attached", kernel.name));
    };
    let a = agent.state;
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
    if !confirmed {
        let m = || format!("the agent of kernel {} has not confirmed the configuration yet", kernel.name);
        return unknown(Reason::Pending, agent.keeps.clone().unwrap_or_else(m));
    }
    // An ontology that was refused leaves the old one working: that is no reason to call nothing programmed.
    if let Some(p) = report.problem.as_ref().filter(|p| p.reason != Reason::OntologyMismatch) {
        return Said::Not(GateStatus::no(p));
    }
    match found {
        Some(t) => Said::Current(t),
        None => unknown(Reason::Pending, "the agent has not reported on this object yet".into()),
    }
}

/// Until agents had the time to report to a new leader, and it to learn what their reports are about, it knows less than the
/// old one did: the old status stays.
fn keeps_old_status(i: &Inputs<'_>, agent: Option<&Agent<'_>>) -> bool {
    let is_known = agent.is_some_and(|a| a.state.report.is_some() && a.state.confirmed.is_some());
    !is_known && i.now_ms.saturating_sub(i.since_ms) < SILENT_MS
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
