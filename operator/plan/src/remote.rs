//! A Remote: validate, resolve, plan its item, fold the reports into its status.

use crate::gates::{Gate, GateStatus, Gates, abnormal, rfc3339};
use crate::index::{Agent, Index};
use crate::items::Item;
use crate::policy::{Applicable, applicable};
use crate::{
    CLAIM_MS, Inputs, KernelName, Name, Said, keeps_old_status, kernel_of, last_error, namespace_of, programmed,
};
use mew_contract::report::LinkState;
use mew_contract::snapshot::{Endpoint, Grant, Keepalive, Overwrite, Retry};
use mew_contract::{Problem, Reason, RemoteItem, RemoteReport};
use mew_crds::common::KernelUri;
use mew_crds::policy::Operation;
use mew_crds::quantities::duration_ms;
use mew_crds::remote::{
    Certificates, ConnectionMode, DeletePermission, InboundDenial, InboundFlows, KernelStatus, OverwriteLocal,
    PeerStatus, RemoteSpec,
};
use mew_crds::{Remote, RemoteStatus, validate};
use std::collections::BTreeMap;

/// For taking over other roots. It takes an agent a fraction of a second.
const TAKES_OVER_MS: u64 = 5_000;

pub(crate) struct Planned {
    pub kernel: KernelName,
    /// What the agent gets; `None` if the spec alone is wrong.
    pub item: Option<Item>,
    /// What this side finds wrong without asking anybody.
    pub problem: Option<Problem>,
}

fn ms(d: Option<&String>, default: u64) -> u64 {
    d.and_then(|d| duration_ms(d)).unwrap_or(default)
}

pub fn labels(r: &Remote) -> BTreeMap<String, String> {
    r.metadata.labels.clone().unwrap_or_default()
}

pub(crate) fn plan(i: &Inputs<'_>, x: &Index<'_>, name: &Name, r: &Remote) -> Planned {
    let kernel = kernel_of(name, r);
    let errors = validate::remote(&r.spec);
    let uri = KernelUri::parse(&r.spec.uri);
    let (Some(uri), true) = (uri, errors.is_empty()) else {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Planned { kernel, item: None, problem: Some(Problem::new(Reason::InvalidSpec, all.join("; "))) };
    };
    let policies = applicable(i, name, &labels(r));
    let roots = roots(i, name, r);
    let unreadable = i.objects.unreadable.iter().find(|n| namespace_of(n) == namespace_of(name));
    let unreadable = unreadable
        .map(|n| Problem::new(Reason::PolicyDenied, format!("policy {n} cannot be read, so nothing may pass")));
    let problem = x
        .conflict(name, r)
        .or_else(|| x.other_certificate(name, r))
        .or(unreadable)
        .or_else(|| policies.connection(i.trust_domain, &r.spec.peer.trust_domain, &uri.kernel_id).err())
        .or_else(|| roots.as_ref().err().cloned());
    let item = item(name, &r.spec, uri, &policies, roots.unwrap_or_default(), problem.clone());
    Planned { kernel, item: Item::of(&item), problem }
}

fn item(
    name: &Name,
    s: &RemoteSpec,
    uri: KernelUri,
    policies: &Applicable<'_>,
    roots: Vec<String>,
    blocked: Option<Problem>,
) -> RemoteItem {
    let mode = s.connection_mode.unwrap_or_default();
    let endpoints = if s.endpoints.is_empty() {
        vec![Endpoint { host: uri.host.clone(), port: uri.port, server_name: None }]
    } else {
        s.endpoints
            .iter()
            .map(|e| Endpoint { host: e.host.clone(), port: e.port as u16, server_name: e.server_name.clone() })
            .collect()
    };
    let retry = s.retry.as_ref();
    let keepalive = s.keepalive.as_ref();
    RemoteItem {
        name: name.clone(),
        peer_kernel_id: uri.kernel_id,
        peer_trust_domain: s.peer.trust_domain.clone(),
        endpoints,
        dial: mode == ConnectionMode::Dial,
        accept: mode == ConnectionMode::Accept,
        roots,
        certificate: certificate(s).map(str::to_owned),
        connect_timeout_ms: ms(s.timeouts.as_ref().and_then(|t| t.connect.as_ref()), 30_000),
        retry: Retry {
            initial_ms: ms(retry.and_then(|r| r.initial_interval.as_ref()), 1_000),
            max_ms: ms(retry.and_then(|r| r.max_interval.as_ref()), 60_000),
            multiplier: retry.and_then(|r| r.multiplier).unwrap_or(2) as u32,
            jitter_percent: 10,
        },
        keepalive: Keepalive {
            interval_ms: ms(keepalive.and_then(|k| k.interval.as_ref()), 10_000),
            timeout_ms: ms(keepalive.and_then(|k| k.timeout.as_ref()), 20_000),
            failure_threshold: keepalive.and_then(|k| k.failure_threshold).unwrap_or(3) as u32,
        },
        suspend: s.suspend.unwrap_or(false),
        blocked,
        export: policies.rules(s, Operation::Export),
        import: policies.rules(s, Operation::Import),
        grants: s
            .permissions
            .iter()
            .flat_map(|p| &p.can_send)
            .map(|t| Grant {
                ty: t.ty.clone(),
                overwrite_local: match t.overwrite_local {
                    None | Some(OverwriteLocal::Never) => Overwrite::Never,
                    Some(OverwriteLocal::OnConflict) => Overwrite::OnConflict,
                    Some(OverwriteLocal::Always) => Overwrite::Always,
                },
                delete: t.delete.map(|d| d == DeletePermission::Allow),
            })
            .collect(),
    }
}

/// The Secret whose certificate this side shows, if not the one of the operator.
pub(crate) fn certificate(s: &RemoteSpec) -> Option<&str> {
    s.auth.as_ref()?.certificate_ref.as_ref().map(|r| r.name.as_str())
}

/// Certificates that may sign for the peer's trust domain; the own domain's are known.
fn roots(i: &Inputs<'_>, name: &Name, r: &Remote) -> Result<Vec<String>, Problem> {
    let peer = &r.spec.peer;
    if peer.trust_domain == i.trust_domain {
        return Ok(i.own_roots.to_vec());
    }
    let missing = |m: String| Err(Problem::new(Reason::BundleNotFound, m));
    if peer.trust_bundle_refs.is_empty() {
        return missing(format!(
            "the trust domain {} is foreign and peer.trustBundleRefs is empty; import the peer's bundle (mew trust export there)",
            peer.trust_domain
        ));
    }
    let mut out = Vec::new();
    for b in &peer.trust_bundle_refs {
        let key = b.key.as_deref().unwrap_or("ca.crt");
        let at = format!("{}/{}", namespace_of(name), b.name);
        let Some(map) = i.objects.bundles.get(&at) else {
            return missing(format!("ConfigMap {} does not exist", b.name));
        };
        match map.get(key).map(|text| certificates(text)) {
            Some(Ok(pem)) => out.push(pem),
            Some(Err(why)) => return missing(format!("ConfigMap {}: the key {key} {why}", b.name)),
            None => return missing(format!("ConfigMap {} has no key {key}", b.name)),
        }
    }
    Ok(out)
}

/// The certificates in a text, and nothing else of it: whoever writes a Remote may name a ConfigMap that he cannot read,
/// and what lies beside the certificates, such as a key, must not reach his agent.
fn certificates(text: &str) -> Result<String, &'static str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b.is_ascii_whitespace() || b"+/=".contains(&b);
    let mut out = String::new();
    for block in text.split(BEGIN).skip(1) {
        let body = block.split_once(END).map(|(body, _)| body).filter(|body| body.bytes().all(is_base64));
        let body = body.ok_or("holds a certificate that is not whole")?;
        out.extend([BEGIN, body, END, "\n"]);
    }
    if out.is_empty() { Err("holds no certificate") } else { Ok(out) }
}

/// What is wrong now: of a connection that is up, a report only says what will go wrong.
pub fn present(r: &RemoteReport) -> Option<&Problem> {
    r.problem.as_ref().filter(|_| r.state != LinkState::Connected)
}

/// What is known of the connection.
pub fn connected(r: &RemoteReport) -> GateStatus {
    match (r.state, &r.problem) {
        (LinkState::Connected, _) => GateStatus::yes(Reason::Connected),
        (LinkState::Suspended, _) => GateStatus::unknown(Reason::Suspended, "the Remote is suspended"),
        (_, Some(p)) => GateStatus::no(p),
        (LinkState::WaitingForPeer, None) => {
            GateStatus::unknown(Reason::WaitingForPeer, "the peer opens this connection and has not done so yet")
        }
        _ => GateStatus::unknown(Reason::Connecting, "connecting"),
    }
}

/// Whether the agent has the Remote's item as it is planned now. Other roots change nothing of what is known of a connection,
/// and one agent after the other takes them over: it gets a moment before they are missed.
pub(crate) fn is_confirmed(i: &Inputs<'_>, a: Option<&Agent<'_>>, name: &str, p: &Planned) -> bool {
    let (Some(a), Some(item)) = (a, &p.item) else { return false };
    let in_time = || a.state.behind_since_ms.is_none_or(|since| i.now_ms.saturating_sub(since) < TAKES_OVER_MS);
    a.has_remote(name, item.mark) || (in_time() && a.has_remote_but_for_roots(name, item.mark))
}

pub(crate) fn status(i: &Inputs<'_>, x: &Index<'_>, name: &Name, r: &Remote, p: &Planned) -> RemoteStatus {
    let old = r.status.clone().unwrap_or_default();
    let syncs = x.syncs_of(name);
    let agent = x.agent(&p.kernel);
    if keeps_old_status(i, agent)
        && p.problem.is_none()
        && old.observed_generation == r.metadata.generation
        && !old.conditions.is_empty()
    {
        return RemoteStatus { syncs: Some(syncs as i64), ..old };
    }
    let is_confirmed = is_confirmed(i, agent, name, p);
    let said = programmed(i, &p.kernel, agent, is_confirmed, agent.and_then(|a| a.remote(name)));
    let report = match &said {
        Said::Current(r) => Some(*r),
        Said::Not(_) => None,
    };
    // Some faults only the agent can see belong to an earlier gate. What is still to come is none yet.
    let seen = report.and_then(present).cloned().filter(|x| Gate::of(x.reason) <= Gate::ResolvedRefs);
    let rejection = agent.filter(|_| is_confirmed).and_then(|a| a.rejection("Remote", name));
    let problem = rejection.cloned().or_else(|| p.problem.clone()).or(seen);
    let at = problem.as_ref().map(|x| Gate::of(x.reason));
    let own = |g: Gate, good: Reason| match &problem {
        Some(x) if at == Some(g) => GateStatus::no(x),
        Some(x) if at < Some(g) => GateStatus::unknown(x.reason, "not looked at yet"),
        _ => GateStatus::yes(good),
    };
    let (prog, conn) = match &said {
        Said::Current(r) => (GateStatus::yes(Reason::Programmed), connected(r)),
        Said::Not(s) => (s.clone(), GateStatus::unknown(s.reason, s.message.clone())),
    };
    let gates = Gates {
        list: vec![
            (Gate::Accepted, own(Gate::Accepted, Reason::Accepted)),
            (Gate::ResolvedRefs, own(Gate::ResolvedRefs, Reason::Resolved)),
            (Gate::Programmed, prog),
            (Gate::Connected, conn.clone()),
        ],
        ready: GateStatus::yes(Reason::Connected),
        up_to: Gate::Connected,
        suspended: report.is_some_and(|r| r.state == LinkState::Suspended),
        was_ready: old.first_ready_time.is_some(),
    };
    let claim = agent.and_then(|a| a.state.refused_claim.as_ref());
    let claim = claim.filter(|c| i.now_ms.saturating_sub(c.at_ms) < CLAIM_MS).map(|c| &c.problem);
    // The one that was in force still is.
    let says = agent.filter(|a| a.state.attached).and_then(|a| a.state.report.as_ref()?.problem.as_ref());
    let ontology = says.filter(|p| p.reason == Reason::OntologyMismatch);
    let error = problem.clone().or_else(|| report.and_then(|r| r.problem.clone()));
    let error = error.or_else(|| claim.or(ontology).cloned());
    let mut conditions = gates.conditions(&old.conditions, r.metadata.generation, i.now_ms);
    // The agent works all the same, so nothing is less ready for them.
    let beside = claim.into_iter().chain(ontology);
    conditions.extend(beside.map(|c| abnormal(&old.conditions, c.reason.code(), c, r.metadata.generation, i.now_ms)));
    let attached = agent.map(|a| a.state).filter(|a| a.attached);
    let peer = report.and_then(|r| r.peer.as_ref());
    let roots = peer.filter(|_| report.is_some_and(|r| r.state == LinkState::Connected)).map(|p| &p.roots);
    RemoteStatus {
        observed_generation: r.metadata.generation,
        phase: Some(phase(r, report, &old).into()),
        health: Some(health(report).into()),
        kernel: agent
            .and_then(|a| a.state.report.as_ref())
            .map(|a| KernelStatus {
                id: a.kernel_id.clone(),
                incarnation: a.incarnation.clone(),
                agent_version: a.agent_version.clone(),
            })
            .or(old.kernel),
        peer: peer
            .map(|x| PeerStatus {
                id: x.kernel_id.clone(),
                incarnation: x.incarnation.clone(),
                version: x.agent_version.clone(),
                protocol: x.protocol.into(),
            })
            .or(old.peer),
        // A peer that dials comes from a port that means nothing.
        connected_endpoint: report.filter(|r| r.state == LinkState::Connected).and_then(|x| x.endpoint.clone()).map(
            |e| {
                if r.spec.connection_mode == Some(ConnectionMode::Accept) {
                    e.rsplit_once(':').map_or(e.clone(), |(h, _)| h.to_owned())
                } else {
                    e
                }
            },
        ),
        syncs: Some(syncs as i64),
        inbound_flows: report.map(inbound).or(old.inbound_flows),
        certificates: crate::some(Certificates {
            not_after: match certificate(&r.spec) {
                Some(_) => report.and_then(|r| r.certificate_not_after_ms),
                None => agent.and_then(|a| a.state.report.as_ref()?.certificate_not_after_ms),
            }
            .map(rfc3339),
            peer_not_after: peer.and_then(|p| p.certificate_not_after_ms).map(rfc3339),
            root: attached.and_then(|a| a.report.as_ref()?.certificate_root.clone()),
            root_in_use: roots.and_then(|r| r.own.clone()),
            peer_root_in_use: roots.and_then(|r| r.peer.clone()),
            peer_accepts_roots: peer.and_then(|p| p.roots.accepted.clone()).unwrap_or_default(),
        }),
        first_ready_time: old.first_ready_time.clone().or_else(|| gates.is_ready().then(|| rfc3339(i.now_ms))),
        last_error: last_error(old.last_error.as_ref(), error.as_ref(), i.now_ms),
        conditions,
    }
}

fn inbound(r: &RemoteReport) -> InboundFlows {
    let n = &r.inbound;
    InboundFlows {
        total: n.total as i64,
        denied: n.denied as i64,
        failed: n.failed as i64,
        denials: n
            .denials
            .iter()
            .map(|d| InboundDenial {
                flow: d.flow.clone(),
                correlation_id: d.correlation_id.clone(),
                reason: d.problem.reason.code().into(),
                message: d.problem.message.clone(),
            })
            .collect(),
    }
}

fn phase(r: &Remote, report: Option<&RemoteReport>, old: &RemoteStatus) -> &'static str {
    if r.spec.suspend == Some(true) {
        return "Disabled";
    }
    match report.map(|r| r.state) {
        Some(LinkState::Connected) => "Connected",
        Some(LinkState::Disconnected) => "Disconnected",
        Some(LinkState::Connecting) if old.first_ready_time.is_some() => "Disconnected",
        Some(LinkState::Connecting) => "Connecting",
        Some(LinkState::Suspended | LinkState::Blocked) => "Disabled",
        Some(LinkState::WaitingForPeer) | None => "Declared",
    }
}

fn health(report: Option<&RemoteReport>) -> &'static str {
    match report.map(|r| r.state) {
        Some(LinkState::Connected) => "Healthy",
        Some(LinkState::Disconnected | LinkState::Blocked) => "Unhealthy",
        _ => "Unknown",
    }
}
