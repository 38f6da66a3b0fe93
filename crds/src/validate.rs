//! The rules of each kind by itself, for manifests that no API server has checked. The same as the schemas' and CEL's.

use crate::common::{KernelUri, is_dns_name, is_kernel_id, is_object_name, is_trust_domain, is_type_name};
use crate::policy::{FederationPolicySpec, Mode};
use crate::quantities::duration_ms;
use crate::remote::RemoteSpec;
use crate::sync::SyncSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is wrong with a field, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Shorter, an attempt at TLS on a busy machine or a ping across an ocean would fail where nothing is wrong, and pings alone
/// would keep both ends busy.
const LEAST_WAIT_MS: u64 = 100;
/// Shorter, tries to reach a peer that is down would keep this side busy.
const LEAST_RETRY_MS: u64 = 10;

#[derive(Default)]
struct Check(Vec<FieldError>);

impl Check {
    fn that(&mut self, ok: bool, field: impl Into<String>, message: impl Into<String>) {
        if !ok {
            self.0.push(FieldError { field: field.into(), message: message.into() });
        }
    }

    fn duration(&mut self, d: Option<&String>, field: &str) -> Option<u64> {
        let ms = d.map(|d| duration_ms(d));
        self.that(ms != Some(None), field, format!("{:?} is not a duration such as 1m30s", d.map_or("", |d| d)));
        ms.flatten()
    }

    /// A duration that must not be shorter; the rule of the schema calls it by its last name.
    fn duration_from(&mut self, least_ms: u64, d: Option<&String>, field: &str) -> Option<u64> {
        let ms = self.duration(d, field);
        let name = field.rsplit('.').next().unwrap_or(field);
        self.that(ms.is_none_or(|ms| ms >= least_ms), field, format!("{name} must be at least {least_ms}ms"));
        ms
    }

    fn name(&mut self, n: &str, field: &str) {
        self.that(is_object_name(n), field, format!("{n:?} is not a name: lower-case letters, digits, '-' and '.'"));
    }

    fn at_most(&mut self, n: usize, max: usize, field: &str) {
        self.that(n <= max, field, format!("has {n} items; at most {max} are allowed"));
    }

    fn unique<T: Ord>(&mut self, items: impl Iterator<Item = T>, field: &str) {
        let mut seen = BTreeSet::new();
        let mut twice = false;
        for i in items {
            twice |= !seen.insert(i);
        }
        self.that(!twice, field, "holds the same key twice");
    }

    fn types<'a>(&mut self, types: impl Iterator<Item = &'a str> + Clone, field: &str) {
        for t in types.clone() {
            let why =
                if t.starts_with('_') { "a system type: system records never sync" } else { "not the name of a type" };
            self.that(is_type_name(t), field, format!("{t:?} is {why}"));
        }
        let n = types.clone().count();
        self.that(n <= 1 || !types.clone().any(|t| t == "*"), field, "'*' must stand alone");
        self.unique(types, field);
    }
}

/// The object's own name.
pub fn object_name(name: &str) -> Vec<FieldError> {
    let mut c = Check::default();
    c.name(name, "metadata.name");
    c.that(name.len() <= 63, "metadata.name", "the name must have at most 63 characters");
    c.0
}

pub fn remote(s: &RemoteSpec) -> Vec<FieldError> {
    let mut c = Check::default();
    c.name(&s.kernel_ref.name, "spec.kernelRef.name");
    c.that(
        KernelUri::parse(&s.uri).is_some() && s.uri.len() <= 512,
        "spec.uri",
        format!("{:?} is not mew://host:port/kernel_id", s.uri),
    );
    c.at_most(s.endpoints.len(), 8, "spec.endpoints");
    for (i, e) in s.endpoints.iter().enumerate() {
        let at = format!("spec.endpoints[{i}]");
        c.that(!e.host.is_empty() && e.host.len() <= 253, format!("{at}.host"), "must have 1 to 253 characters");
        c.that((1..=65535).contains(&e.port), format!("{at}.port"), "must be 1 to 65535");
        let bad = e.server_name.as_ref().filter(|n| !is_dns_name(n));
        c.that(bad.is_none(), format!("{at}.serverName"), format!("{:?} is not a DNS name", bad.map_or("", |n| n)));
    }
    c.that(
        is_trust_domain(&s.peer.trust_domain),
        "spec.peer.trustDomain",
        format!("{:?} is not a trust domain", s.peer.trust_domain),
    );
    c.at_most(s.peer.trust_bundle_refs.len(), 8, "spec.peer.trustBundleRefs");
    c.unique(s.peer.trust_bundle_refs.iter().map(|r| &r.name), "spec.peer.trustBundleRefs");
    for (i, r) in s.peer.trust_bundle_refs.iter().enumerate() {
        let at = format!("spec.peer.trustBundleRefs[{i}]");
        c.that((1..=253).contains(&r.name.chars().count()), format!("{at}.name"), "must have 1 to 253 characters");
        let short = r.key.as_ref().is_none_or(|k| k.chars().count() <= 253);
        c.that(short, format!("{at}.key"), "must have at most 253 characters");
    }
    if let Some(r) = s.auth.as_ref().and_then(|a| a.certificate_ref.as_ref()) {
        c.name(&r.name, "spec.auth.certificateRef.name");
    }
    if let Some(p) = &s.permissions {
        c.at_most(p.can_receive.len(), 64, "spec.permissions.canReceive");
        c.at_most(p.can_send.len(), 64, "spec.permissions.canSend");
        c.types(p.can_receive.iter().map(|t| t.ty.as_str()), "spec.permissions.canReceive");
        c.types(p.can_send.iter().map(|t| t.ty.as_str()), "spec.permissions.canSend");
    }
    let connect = s.timeouts.as_ref().and_then(|t| t.connect.as_ref());
    c.duration_from(LEAST_WAIT_MS, connect, "spec.timeouts.connect");
    if let Some(r) = &s.retry {
        let initial = c.duration_from(LEAST_RETRY_MS, r.initial_interval.as_ref(), "spec.retry.initialInterval");
        let max = c.duration_from(LEAST_RETRY_MS, r.max_interval.as_ref(), "spec.retry.maxInterval");
        let ordered = initial.is_none() || max.is_none() || initial <= max;
        c.that(ordered, "spec.retry", "initialInterval must not exceed maxInterval");
        c.that(r.multiplier.is_none_or(|m| (1..=10).contains(&m)), "spec.retry.multiplier", "must be 1 to 10");
    }
    if let Some(k) = &s.keepalive {
        c.duration_from(LEAST_WAIT_MS, k.interval.as_ref(), "spec.keepalive.interval");
        c.duration_from(LEAST_WAIT_MS, k.timeout.as_ref(), "spec.keepalive.timeout");
        c.that(
            k.failure_threshold.is_none_or(|m| (1..=10).contains(&m)),
            "spec.keepalive.failureThreshold",
            "must be 1 to 10",
        );
    }
    c.0
}

/// What a new version of a Remote may not change.
pub fn remote_update(old: &RemoteSpec, new: &RemoteSpec) -> Vec<FieldError> {
    let mut c = Check::default();
    let id = |s: &RemoteSpec| KernelUri::parse(&s.uri).map(|u| u.kernel_id);
    c.that(old.kernel_ref == new.kernel_ref, "spec.kernelRef", "kernelRef is immutable");
    c.that(id(old) == id(new), "spec.uri", "the kernel_id at the end of uri is immutable; the address may move");
    c.that(old.peer.trust_domain == new.peer.trust_domain, "spec.peer.trustDomain", "peer.trustDomain is immutable");
    c.0
}

pub fn sync(s: &SyncSpec) -> Vec<FieldError> {
    let mut c = Check::default();
    c.name(&s.remote_ref.name, "spec.remoteRef.name");
    c.that((1..=4096).contains(&s.match_.chars().count()), "spec.match", "must have 1 to 4096 characters");
    c.duration(s.max_lag.as_ref(), "spec.maxLag");
    c.0
}

/// What a new version of a Sync may not change.
pub fn sync_update(old: &SyncSpec, new: &SyncSpec) -> Vec<FieldError> {
    let mut c = Check::default();
    c.that(old.remote_ref == new.remote_ref, "spec.remoteRef", "remoteRef is immutable");
    c.that(old.direction == new.direction, "spec.direction", "direction is immutable");
    c.that(
        old.initial == new.initial,
        "spec.initial",
        "initial is immutable; use the annotation federation.mew.dev/reset",
    );
    c.0
}

pub fn policy(s: &FederationPolicySpec) -> Vec<FieldError> {
    let mut c = Check::default();
    let strict = s.mode.unwrap_or_default() == Mode::StrictIsolation;
    c.that(
        !strict || s.allowed_kernels.is_none(),
        "spec.allowedKernels",
        "allowedKernels has no effect with StrictIsolation",
    );
    for (list, field) in [(&s.allowed_kernels, "spec.allowedKernels"), (&s.blocked_kernels, "spec.blockedKernels")] {
        let list = list.as_deref().unwrap_or_default();
        c.at_most(list.len(), 64, field);
        c.unique(list.iter().map(|k| &k.trust_domain), field);
        for k in list {
            c.that(is_trust_domain(&k.trust_domain), field, format!("{:?} is not a trust domain", k.trust_domain));
            c.at_most(k.kernel_ids.as_ref().map_or(0, Vec::len), 256, &format!("{field}.kernelIds"));
            for id in k.kernel_ids.iter().flatten() {
                c.that(is_kernel_id(id), field, format!("{id:?} is not a kernel_id"));
            }
            c.that(
                k.kernel_ids.as_ref().is_none_or(|ids| !ids.is_empty()),
                field,
                "an empty kernelIds would mean no kernel; leave it out for all",
            );
        }
    }
    let sel = &s.remote_selector;
    c.at_most(sel.match_labels.as_ref().map_or(0, BTreeMap::len), 16, "spec.remoteSelector.matchLabels");
    c.at_most(sel.match_expressions.as_ref().map_or(0, Vec::len), 16, "spec.remoteSelector.matchExpressions");
    for (i, e) in sel.match_expressions.iter().flatten().enumerate() {
        let at = format!("spec.remoteSelector.matchExpressions[{i}]");
        c.that((1..=316).contains(&e.key.chars().count()), format!("{at}.key"), "must have 1 to 316 characters");
        c.at_most(e.values.len(), 32, &format!("{at}.values"));
        for (j, v) in e.values.iter().enumerate() {
            c.that(v.chars().count() <= 63, format!("{at}.values[{j}]"), "must have at most 63 characters");
        }
    }
    let rules = s.rules.as_deref().unwrap_or_default();
    c.at_most(rules.len(), 64, "spec.rules");
    c.unique(rules.iter().map(|r| &r.name), "spec.rules");
    for (i, r) in rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        c.that(!r.name.is_empty() && r.name.len() <= 63, format!("{at}.name"), "must have 1 to 63 characters");
        c.that(!r.operations.is_empty(), format!("{at}.operations"), "must not be empty");
        c.unique(r.operations.iter().map(|o| *o as u8), &format!("{at}.operations"));
        c.at_most(r.types.len(), 64, &format!("{at}.types"));
        c.that(!r.types.is_empty(), format!("{at}.types"), "must not be empty");
        c.types(r.types.iter().map(String::as_str), &format!("{at}.types"));
    }
    c.0
}
