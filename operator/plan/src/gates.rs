//! Gates in order, Ready and what follows for kstatus: one place decides what "ready" means.

use crate::STALLED_AFTER_MS;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mew_contract::{Problem, Reason};
use mew_crds::Condition;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    Accepted,
    ResolvedRefs,
    Programmed,
    Connected,
    InSync,
}

impl Gate {
    pub fn name(self) -> &'static str {
        match self {
            Gate::Accepted => "Accepted",
            Gate::ResolvedRefs => "ResolvedRefs",
            Gate::Programmed => "Programmed",
            Gate::Connected => "Connected",
            Gate::InSync => "InSync",
        }
    }

    /// The gate at which a problem is shown.
    pub fn of(reason: Reason) -> Gate {
        use Reason::*;
        match reason {
            InvalidSpec | InvalidPattern | UnsupportedField | PolicyDenied | PermissionDenied | Conflicted => {
                Gate::Accepted
            }
            RemoteNotFound | RemoteNotAccepted | BundleNotFound | TypeUnknown | OntologyMismatch | IdentityMismatch => {
                Gate::ResolvedRefs
            }
            Pending | NoAgent | AgentUnresponsive | KernelClaimed | CertificatePending => Gate::Programmed,
            DNSFailed | Unreachable | TLSUntrustedPeer | TLSRefusedByPeer | CertificateExpired | ProtocolMismatch
            | Connecting | WaitingForPeer => Gate::Connected,
            _ => Gate::InSync,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    True,
    False,
    Unknown,
}

impl Tri {
    fn name(self) -> &'static str {
        match self {
            Tri::True => "True",
            Tri::False => "False",
            Tri::Unknown => "Unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateStatus {
    pub status: Tri,
    pub reason: Reason,
    pub message: String,
}

impl GateStatus {
    pub fn yes(reason: Reason) -> Self {
        GateStatus { status: Tri::True, reason, message: String::new() }
    }
    pub fn no(p: &Problem) -> Self {
        GateStatus { status: Tri::False, reason: p.reason, message: p.message.clone() }
    }
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        GateStatus { status: Tri::Unknown, reason, message: message.into() }
    }
}

/// What is known about an object's gates, in order.
pub struct Gates {
    pub list: Vec<(Gate, GateStatus)>,
    /// Shown as Ready's reason when all gates are True.
    pub ready: GateStatus,
    /// Gates after this one do not count for Ready.
    pub up_to: Gate,
    /// Stopped on purpose, and that is known to be so.
    pub suspended: bool,
    pub was_ready: bool,
}

impl Gates {
    /// The first gate that counts and is not True.
    pub fn blocking(&self) -> Option<&(Gate, GateStatus)> {
        self.list.iter().filter(|(g, _)| *g <= self.up_to).find(|(_, s)| s.status != Tri::True)
    }

    fn ready(&self) -> GateStatus {
        let Some((gate, s)) = self.blocking() else { return self.ready.clone() };
        if self.suspended && *gate >= Gate::Connected {
            return GateStatus {
                status: Tri::True,
                reason: Reason::Suspended,
                message: "suspended; the position is kept".into(),
            };
        }
        let known_bad = s.status == Tri::False && (self.was_ready || *gate <= Gate::ResolvedRefs);
        GateStatus { status: if known_bad { Tri::False } else { Tri::Unknown }, ..s.clone() }
    }

    /// All conditions, with the times of those that have not changed.
    pub fn conditions(&self, old: &[Condition], generation: Option<i64>, now_ms: u64) -> Vec<Condition> {
        let ready = self.ready();
        let make = |kind: &str, s: &GateStatus| {
            condition(old, kind, s.status, s.reason.code(), &s.message, generation, now_ms)
        };
        let mut out = vec![make("Ready", &ready)];
        out.extend(self.list.iter().map(|(g, s)| make(g.name(), s)));
        if ready.status != Tri::True {
            // The spec alone is wrong: at once. Otherwise somebody else may still mend it, for a while.
            let blocking = self.blocking().map(|(g, _)| *g).unwrap_or(Gate::InSync);
            let since = out.iter().find(|c| c.type_ == blocking.name()).map_or(now_ms, transition_ms);
            let waited = now_ms.saturating_sub(since) >= STALLED_AFTER_MS;
            let stalled = ready.status == Tri::False
                && (ready.reason.is_terminal() || (blocking <= Gate::ResolvedRefs && waited));
            let kind = if stalled { "Stalled" } else { "Reconciling" };
            out.push(condition(old, kind, Tri::True, ready.reason.code(), &ready.message, generation, now_ms));
        }
        out
    }

    pub fn is_ready(&self) -> bool {
        self.ready().status == Tri::True
    }
}

/// What is wrong beside the gates, and does not keep anything from working. It is there only while it is true.
pub fn abnormal(old: &[Condition], kind: &str, p: &Problem, generation: Option<i64>, now_ms: u64) -> Condition {
    condition(old, kind, Tri::True, p.reason.code(), &p.message, generation, now_ms)
}

fn transition_ms(c: &Condition) -> u64 {
    u64::try_from(c.last_transition_time.0.as_millisecond()).unwrap_or(0)
}

fn condition(
    old: &[Condition],
    kind: &str,
    status: Tri,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now_ms: u64,
) -> Condition {
    let same = old.iter().find(|c| c.type_ == kind && c.status == status.name());
    let now = Timestamp::from_millisecond(now_ms as i64 / 1000 * 1000).unwrap_or_default();
    Condition {
        type_: kind.to_owned(),
        status: status.name().to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
    }
}

pub fn rfc3339(ms: u64) -> String {
    Timestamp::from_millisecond(ms as i64 / 1000 * 1000).unwrap_or_default().to_string()
}
