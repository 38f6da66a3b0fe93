//! An agent's absolute state: a report replaces the one before it.

use crate::problem::{Problem, Rejection};
use serde::{Deserialize, Serialize};

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
    /// End of this agent's own certificate, milliseconds since 1970.
    pub certificate_not_after_ms: Option<u64>,
    /// Which root of the own trust domain that certificate comes from, if it is known.
    pub certificate_root: Option<String>,
    /// What concerns the agent as a whole (a full disk, no certificate).
    pub problem: Option<Problem>,
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
    /// Changes in the source's log behind the sink's position; `None` when unknown.
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
