//! An agent's absolute state: a report replaces the one before it.

use crate::problem::{Problem, Rejection};
use crate::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub kernel_id: String,
    pub incarnation: String,
    pub agent_version: String,
    /// Digest of the snapshot that is in force.
    pub snapshot: String,
    pub rejected: Vec<Rejection>,
    pub remotes: Vec<RemoteReport>,
    pub syncs: Vec<FlowReport>,
    /// What the snapshot in force holds and none of these lists names: a link that has just begun, or is busy, says nothing yet.
    /// `None`: an agent that does not say, so nobody knows what it holds.
    pub silent: Option<Names>,
    /// End of this agent's own certificate, milliseconds since 1970.
    pub certificate_not_after_ms: Option<u64>,
    /// Which root of the own trust domain that certificate comes from, if it is known.
    pub certificate_root: Option<String>,
    /// What concerns the agent as a whole (a full disk, no certificate).
    pub problem: Option<Problem>,
}

impl Report {
    /// Completed by what the snapshot in force holds and nothing else here names.
    pub fn holding(mut self, all: &Names) -> Self {
        let remotes: HashSet<&str> = self.said_of_remotes().collect();
        let syncs: HashSet<&str> = self.said_of_syncs().collect();
        let others = |all: &[String], said: &HashSet<&str>| -> Vec<String> {
            all.iter().filter(|n| !said.contains(n.as_str())).cloned().collect()
        };
        let silent = Names { remotes: others(&all.remotes, &remotes), syncs: others(&all.syncs, &syncs) };
        self.silent = Some(silent);
        self
    }

    /// Names of all Remotes that the snapshot in force holds; `None` if the agent does not say.
    pub fn held_remotes(&self) -> Option<impl Iterator<Item = &str>> {
        let silent = self.silent.as_ref()?;
        Some(self.said_of_remotes().chain(silent.remotes.iter().map(String::as_str)))
    }

    /// Names of all Syncs that the snapshot in force holds; `None` if the agent does not say.
    pub fn held_syncs(&self) -> Option<impl Iterator<Item = &str>> {
        let silent = self.silent.as_ref()?;
        Some(self.said_of_syncs().chain(silent.syncs.iter().map(String::as_str)))
    }

    fn said_of_remotes(&self) -> impl Iterator<Item = &str> {
        self.remotes.iter().map(|r| r.name.as_str()).chain(self.refused("Remote"))
    }

    fn said_of_syncs(&self) -> impl Iterator<Item = &str> {
        self.syncs.iter().map(|s| s.name.as_str()).chain(self.refused("Sync"))
    }

    fn refused(&self, kind: &'static str) -> impl Iterator<Item = &str> {
        self.rejected.iter().filter(move |r| r.kind == kind).map(|r| r.name.as_str())
    }
}

/// Names of Remotes and of Syncs, `namespace/name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    pub remotes: Vec<String>,
    pub syncs: Vec<String>,
}

impl Names {
    /// Of all items of a snapshot, also of those that an agent does not understand.
    pub fn of(s: &Snapshot) -> Self {
        let names = |items: &[Value]| -> Vec<String> {
            items.iter().filter_map(|i| Some(i.get("name")?.as_str()?.to_owned())).collect()
        };
        Names { remotes: names(&s.remotes), syncs: names(&s.syncs) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteReport {
    pub name: String,
    pub state: LinkState,
    /// Why it is not connected, if something is wrong. While it is connected, what will go wrong if nobody mends it.
    pub problem: Option<Problem>,
    /// Address of the peer as it was reached or as it came.
    pub endpoint: Option<String>,
    pub peer: Option<PeerInfo>,
    pub latency_ms: Option<u64>,
    pub inbound: Inbound,
    /// End of the certificate that the Remote names, milliseconds since 1970; `None` if it names none, or there is none yet.
    pub certificate_not_after_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// Never up since the agent has it.
    Connecting,
    /// Accept only, and the peer has not come yet.
    WaitingForPeer,
    Connected,
    /// Was up.
    Disconnected,
    Suspended,
    /// This side's rules forbid the connection.
    Blocked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerInfo {
    pub kernel_id: String,
    pub incarnation: String,
    pub agent_version: String,
    pub protocol: u32,
    pub certificate_not_after_ms: Option<u64>,
    #[serde(default)]
    pub roots: Roots,
}

/// The roots by which two sides trust each other, each by the SHA-256 of its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Roots {
    /// By which the peer has verified this side on the newest connection, as the peer says.
    pub own: Option<String>,
    /// By which this side has verified the peer on it.
    pub peer: Option<String>,
    /// Which ones the peer accepts for this side's trust domain, as it said last; `None` if it has not.
    pub accepted: Option<Vec<String>>,
}

/// Flows that the peer declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    pub total: u64,
    pub denied: u64,
    pub failed: u64,
    /// The newest refusals: which flow, the correlation id that the peer was given, and the reason it was not.
    pub denials: Vec<Denial>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    pub flow: String,
    pub correlation_id: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// `namespace/name` of the Sync.
    pub name: String,
    /// `namespace/name` of the Remote.
    pub remote: String,
    pub direction: crate::snapshot::Direction,
    pub state: FlowState,
    pub problem: Option<Problem>,
    /// Age of the oldest matching change that is not durable at the sink; 0 when there is none, `None` when unknown.
    pub lag_ms: Option<u64>,
    /// Changes in the source's log behind the sink's position, while it is away behind the last that it confirmed; `None` when
    /// unknown.
    pub pending: Option<u64>,
    pub initial_percent: Option<u8>,
    /// Changes applied at the sink since the flow began.
    pub applied: u64,
    /// Changes that the sink refused for good.
    pub rejected: u64,
    /// Changes that wait at the sink for what blocks them.
    pub held: u64,
    pub conflicts: u64,
    pub needs_reconcile: bool,
    /// Hash of what the position belongs to.
    pub revision: String,
    /// The `reset` that is in force.
    pub reset: Option<String>,
    /// The last error, also when things work again.
    pub last_error: Option<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowState {
    /// The link is not up, or the peer has not answered.
    Waiting,
    Copying,
    Live,
    Suspended,
    /// Refused here or there, or stopped by an error; see the problem.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use serde_json::json;

    fn remote(name: &str) -> RemoteReport {
        RemoteReport {
            name: name.into(),
            state: LinkState::Connecting,
            problem: None,
            endpoint: None,
            peer: None,
            latency_ms: None,
            inbound: Inbound::default(),
            certificate_not_after_ms: None,
        }
    }

    fn report() -> Report {
        Report {
            kernel_id: "shop.till".into(),
            incarnation: "one".into(),
            agent_version: "0.1.0".into(),
            snapshot: "e3b0c442".into(),
            rejected: vec![Rejection {
                kind: "Sync".into(),
                name: "shop/newer".into(),
                problem: Problem::new(Reason::UnsupportedField, "unknown field `quota`"),
            }],
            remotes: vec![remote("shop/eu")],
            syncs: vec![],
            silent: None,
            certificate_not_after_ms: None,
            certificate_root: None,
            problem: None,
        }
    }

    #[test]
    fn what_is_held_is_named_once_whoever_speaks_of_it() {
        let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        let all = Names::of(&Snapshot {
            kernel_id: "shop.till".into(),
            trust_domain: "us.example.com".into(),
            remotes: named(&["shop/eu", "shop/uk"]),
            syncs: named(&["shop/newer", "shop/tasks"]),
        });
        let r = report().holding(&all);
        let silent = Names { remotes: vec!["shop/uk".into()], syncs: vec!["shop/tasks".into()] };
        assert_eq!(r.silent, Some(silent));
        let held = |names: Option<Vec<&str>>| names.map(|n| n.join(" "));
        assert_eq!(held(r.held_remotes().map(Iterator::collect)).as_deref(), Some("shop/eu shop/uk"));
        assert_eq!(held(r.held_syncs().map(Iterator::collect)).as_deref(), Some("shop/newer shop/tasks"));
    }

    #[test]
    fn of_an_agent_that_does_not_say_nothing_is_known() {
        let mut v = serde_json::to_value(report()).expect("a report is JSON");
        v.as_object_mut().expect("an object").remove("silent");
        let r: Report = serde_json::from_value(v).expect("an older agent's report");
        assert!(r.held_remotes().is_none() && r.held_syncs().is_none());
    }
}
