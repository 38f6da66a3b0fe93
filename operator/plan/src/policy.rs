//! What policies say about a Remote: the gate for the connection, and rules for types.

use crate::gates::{Gate, GateStatus, Gates};
use crate::index::in_namespace;
use crate::sync;
use crate::{Inputs, KernelName, Name, SILENT_MS, kernel_of, namespace_of};
use mew_contract::{Problem, Reason, TypeRules};
use mew_crds::common::KernelUri;
use mew_crds::policy::{Mode, Operation, RuleAction};
use mew_crds::remote::RemoteSpec;
use mew_crds::{Condition, FederationPolicy, FederationPolicyStatus, SyncStatus, validate};
use std::collections::{BTreeMap, BTreeSet};

/// Policies that hold for a Remote, by name.
pub struct Applicable<'a>(Vec<(&'a str, &'a FederationPolicy)>);

pub fn applicable<'a>(i: &'a Inputs<'_>, remote: &str, labels: &BTreeMap<String, String>) -> Applicable<'a> {
    let here = in_namespace(&i.objects.policies, namespace_of(remote));
    let hits = here.filter(|(_, p)| p.spec.remote_selector.matches(labels));
    Applicable(hits.map(|(n, p)| (n.as_str(), p)).collect())
}

impl Applicable<'_> {
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(n, _)| (*n).to_owned()).collect()
    }

    fn list(&self) -> String {
        if self.0.is_empty() { "there is none".into() } else { format!("considered: {}", self.names().join(", ")) }
    }

    /// Whether there may be a connection at all. The own trust domain passes; of several modes the strictest holds.
    pub fn connection(&self, own: &str, domain: &str, kernel_id: &str) -> Result<(), Problem> {
        let no = |m: String| Err(Problem::new(Reason::PolicyDenied, m));
        for (name, p) in &self.0 {
            if p.spec.blocked_kernels.iter().flatten().any(|k| k.contains(domain, kernel_id)) {
                return no(format!("{kernel_id} of {domain} is blocked by policy {name}"));
            }
        }
        if own == domain {
            return Ok(());
        }
        let strictest = self.0.iter().map(|(n, p)| (p.spec.mode.unwrap_or_default(), *n)).min();
        match strictest {
            None => no(format!(
                "{domain} is a foreign trust domain and no policy of this namespace lets it pass (StrictIsolation holds)"
            )),
            Some((Mode::StrictIsolation, n)) => {
                no(format!("{domain} is a foreign trust domain and policy {n} demands StrictIsolation"))
            }
            Some((Mode::ExplicitBridging, n)) => {
                if self.lists(domain, kernel_id) {
                    Ok(())
                } else {
                    no(format!(
                        "NotAllowed: {kernel_id} of {domain} is in no allowedKernels, and policy {n} demands ExplicitBridging"
                    ))
                }
            }
            Some((Mode::PermissiveBridging, _)) => Ok(()),
        }
    }

    fn lists(&self, domain: &str, kernel_id: &str) -> bool {
        self.0.iter().any(|(_, p)| p.spec.allowed_kernels.iter().flatten().any(|k| k.contains(domain, kernel_id)))
    }

    /// Whether a foreign kernel passes without any policy naming it.
    fn is_unlisted(&self, own: &str, domain: &str, kernel_id: &str) -> bool {
        own != domain && self.connection(own, domain, kernel_id).is_ok() && !self.lists(domain, kernel_id)
    }

    fn types(&self, action: RuleAction, op: Operation) -> Vec<String> {
        let rules = self.0.iter().flat_map(|(_, p)| p.spec.rules.iter().flatten());
        let all: BTreeSet<String> =
            rules.filter(|r| r.action == action && r.operations.contains(&op)).flat_map(|r| r.types.clone()).collect();
        all.into_iter().collect()
    }

    pub fn rules(&self, spec: &RemoteSpec, op: Operation) -> TypeRules {
        let p = spec.permissions.clone().unwrap_or_default();
        let permitted = match op {
            Operation::Export => p.can_receive.into_iter().map(|t| t.ty).collect(),
            Operation::Import => p.can_send.into_iter().map(|t| t.ty).collect(),
        };
        TypeRules { allow: self.types(RuleAction::Allow, op), deny: self.types(RuleAction::Deny, op), permitted }
    }

    /// What the names alone decide about a type. `None` for the type is `any`. Ancestors and subtypes are the agent's to
    /// judge, as it knows the ontology.
    pub fn decide(&self, remote: &str, spec: &RemoteSpec, op: Operation, ty: Option<&str>) -> Result<(), Problem> {
        let what = ty.map_or_else(|| "of any type".into(), |t| format!("of type {t}"));
        let op_name = format!("{op:?}");
        for (name, p) in &self.0 {
            let rules =
                p.spec.rules.iter().flatten().filter(|r| r.action == RuleAction::Deny && r.operations.contains(&op));
            for r in rules {
                if r.types.iter().any(|x| x == "*" || Some(x.as_str()) == ty) {
                    return Err(Problem::new(
                        Reason::PolicyDenied,
                        format!("{op_name} {what}: denied by rule {} of policy {name}", r.name),
                    ));
                }
            }
        }
        let rules = self.rules(spec, op);
        if rules.allow.is_empty() {
            return Err(Problem::new(
                Reason::PolicyDenied,
                format!("{op_name} {what}: no Allow rule matches (policies {})", self.list()),
            ));
        }
        if rules.permitted.is_empty() {
            return Err(self.not_permitted(remote, op, &what));
        }
        Ok(())
    }

    fn not_permitted(&self, remote: &str, op: Operation, what: &str) -> Problem {
        let list = if op == Operation::Export { "canReceive" } else { "canSend" };
        Problem::new(
            Reason::PermissionDenied,
            format!("{op:?} {what}: permissions.{list} of Remote {remote} does not list it"),
        )
    }

    /// Says which of the two it is, when the agent found that no type may pass.
    pub fn explain(&self, remote: &str, spec: &RemoteSpec, op: Operation, ty: Option<&str>) -> Problem {
        if let Err(p) = self.decide(remote, spec, op, ty) {
            return p;
        }
        let what = ty.map_or_else(|| "of any type".into(), |t| format!("of type {t}"));
        let listed = |l: &[String]| l.iter().any(|x| x == "*" || Some(x.as_str()) == ty);
        let rules = self.rules(spec, op);
        if listed(&rules.allow) && listed(&rules.permitted) {
            // Allowed by name, and still nothing passes: an ancestor of the type is denied.
            let denying = self.0.iter().flat_map(|(n, p)| p.spec.rules.iter().flatten().map(move |r| (n, r)));
            let denying = denying.filter(|(_, r)| r.action == RuleAction::Deny && r.operations.contains(&op));
            let all: Vec<String> = denying.map(|(n, r)| format!("rule {} of policy {n}", r.name)).collect();
            let m = format!("{op:?} {what}: a supertype is denied by {}", all.join(", "));
            Problem::new(Reason::PolicyDenied, m)
        } else if listed(&rules.allow) {
            self.not_permitted(remote, op, &what)
        } else {
            Problem::new(
                Reason::PolicyDenied,
                format!("{op:?} {what}: no Allow rule matches (policies {})", self.list()),
            )
        }
    }
}

/// Whether this side forbids it.
pub(crate) fn is_denied(s: &SyncStatus) -> bool {
    let accepted = s.conditions.iter().find(|c| c.type_ == Gate::Accepted.name());
    accepted.is_some_and(|c| [Reason::PolicyDenied, Reason::PermissionDenied].iter().any(|r| r.code() == c.reason))
}

pub(crate) fn status(
    i: &Inputs<'_>,
    kept: &BTreeMap<KernelName, String>,
    name: &str,
    p: &FederationPolicy,
    syncs: &BTreeMap<&Name, sync::Planned>,
    denied: &BTreeSet<&Name>,
) -> FederationPolicyStatus {
    let old = p.status.clone().unwrap_or_default();
    let ns = namespace_of(name);
    let selected: BTreeSet<&Name> = in_namespace(&i.objects.remotes, ns)
        .filter(|(_, r)| p.spec.remote_selector.matches(&r.metadata.labels.clone().unwrap_or_default()))
        .map(|(n, _)| n)
        .collect();
    let here = in_namespace(&i.objects.syncs, ns).map(|(n, _)| n);
    let affected: Vec<&Name> = here.filter(|n| syncs.get(n).is_some_and(|s| selected.contains(&s.remote))).collect();
    let denied = affected.iter().filter(|n| denied.contains(*n)).count();
    let errors = validate::policy(&p.spec);
    let accepted = match errors.first() {
        None => GateStatus::yes(Reason::Accepted),
        Some(_) => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            GateStatus::no(&Problem::new(Reason::InvalidSpec, all.join("; ")))
        }
    };
    let gates = Gates {
        list: vec![(Gate::Accepted, accepted), (Gate::Programmed, programmed(i, kept, name, p, &selected))],
        ready: GateStatus { message: unlisted(i, &selected), ..GateStatus::yes(Reason::Enforced) },
        up_to: Gate::Programmed,
        suspended: false,
        was_ready: false,
    };
    FederationPolicyStatus {
        observed_generation: p.metadata.generation,
        selected_remotes: Some(selected.len() as i64),
        affected_syncs: Some(affected.len() as i64),
        denied_syncs: Some(denied as i64),
        conditions: gates.conditions(&old.conditions, p.metadata.generation, i.now_ms),
    }
}

/// A policy is in force as soon as it is planned, but for agents that keep what they have: those have it only if it was in
/// force before. Once it is said it stays, so it is not said before it is known: an agent that has not come may keep something,
/// and a Remote that may be missing may be one that the policy selects.
fn programmed(
    i: &Inputs<'_>,
    kept: &BTreeMap<KernelName, String>,
    name: &str,
    p: &FederationPolicy,
    selected: &BTreeSet<&Name>,
) -> GateStatus {
    let was = |c: &Condition| c.type_ == Gate::Programmed.name() && c.status == "True";
    let known = p.status.as_ref().filter(|old| old.observed_generation == p.metadata.generation);
    if known.is_some_and(|old| old.conditions.iter().any(was)) {
        return GateStatus::yes(Reason::Enforced);
    }
    let keeps = |n: &&Name| kept.get(&kernel_of(n, i.objects.remotes.get(*n)?));
    let may_lead_anywhere = i.doubts.remotes.is_some();
    let first_here = || {
        let ns = namespace_of(name);
        let here = kept.range(KernelName::new(ns, "")..).next().filter(|(k, _)| k.namespace == ns);
        here.filter(|_| may_lead_anywhere).map(|(_, why)| why)
    };
    match selected.iter().find_map(keeps).or_else(first_here) {
        Some(why) => GateStatus::unknown(Reason::Pending, why.clone()),
        // Nobody knows of which kernels there are agents that are on their way.
        None if may_lead_anywhere && i.now_ms.saturating_sub(i.since_ms) < SILENT_MS => GateStatus::unknown(
            Reason::Pending,
            "Remotes may be missing that it selects, and agents have not said yet what they have",
        ),
        None => GateStatus::yes(Reason::Enforced),
    }
}

/// Names the selected Remotes whose kernels pass only because the mode is permissive.
fn unlisted(i: &Inputs<'_>, selected: &BTreeSet<&Name>) -> String {
    let passes = |n: &&&Name| {
        i.objects.remotes.get(**n).is_some_and(|r| {
            let labels = r.metadata.labels.clone().unwrap_or_default();
            let kernel_id = KernelUri::parse(&r.spec.uri).map(|u| u.kernel_id).unwrap_or_default();
            applicable(i, n, &labels).is_unlisted(i.trust_domain, &r.spec.peer.trust_domain, &kernel_id)
        })
    };
    let all: Vec<&str> = selected.iter().filter(passes).map(|n| n.as_str()).collect();
    match all.len() {
        0 => String::new(),
        n => format!(
            "Unlisted: {n} of {} selected Remotes lead to kernels that no policy lists: {}",
            selected.len(),
            all.join(", ")
        ),
    }
}
