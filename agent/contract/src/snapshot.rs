//! The whole configuration of one agent. Absolute: what it does not name, does not exist.

use crate::problem::{Problem, Rejection};
use crate::reason::Reason;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    pub kernel_id: String,
    pub trust_domain: String,
    /// [`RemoteItem`]s, ascending by name. Kept as JSON so that one bad item does not spoil the rest.
    pub remotes: Vec<serde_json::Value>,
    /// [`SyncItem`]s, ascending by name.
    pub syncs: Vec<serde_json::Value>,
}

impl Snapshot {
    /// The same inputs give the same bytes, so the digest stands for the content.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub fn digest(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().take(16).map(|b| format!("{b:02x}")).collect()
    }

    /// The items that this agent understands, and those that it does not, by name.
    pub fn items(&self) -> (Vec<RemoteItem>, Vec<SyncItem>, Vec<Rejection>) {
        let mut rejected = Vec::new();
        let remotes = read(&self.remotes, "Remote", &mut rejected);
        let syncs = read(&self.syncs, "Sync", &mut rejected);
        (remotes, syncs, rejected)
    }
}

fn read<T: DeserializeOwned>(items: &[serde_json::Value], kind: &str, rejected: &mut Vec<Rejection>) -> Vec<T> {
    let mut out = Vec::new();
    for i in items {
        match T::deserialize(i) {
            Ok(t) => out.push(t),
            Err(e) => rejected.push(Rejection {
                kind: kind.to_owned(),
                name: i.get("name").and_then(|n| n.as_str()).unwrap_or("?").to_owned(),
                problem: Problem::new(Reason::UnsupportedField, format!("the agent does not accept it: {e}")),
            }),
        }
    }
    out
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteItem {
    /// `namespace/name` of the Remote.
    pub name: String,
    pub peer_kernel_id: String,
    pub peer_trust_domain: String,
    /// Tried in order.
    pub endpoints: Vec<Endpoint>,
    pub dial: bool,
    pub accept: bool,
    /// PEM certificates that may sign for the peer's trust domain.
    pub roots: Vec<String>,
    /// Secret of the certificate that this side shows; the operator's own if absent. Not sent where it is not used, so that an
    /// agent which does not know it refuses only what needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    pub connect_timeout_ms: u64,
    pub retry: Retry,
    pub keepalive: Keepalive,
    pub suspend: bool,
    /// Why no connection may be made or accepted, if so.
    pub blocked: Option<Problem>,
    pub export: TypeRules,
    pub import: TypeRules,
    /// What the peer may do to what is here, by type.
    pub grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// Only for SNI; never an identity.
    pub server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    pub initial_ms: u64,
    pub max_ms: u64,
    pub multiplier: u32,
    /// Each wait varies by up to so many per cent either way.
    pub jitter_percent: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keepalive {
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub failure_threshold: u32,
}

/// Which types may pass. A listed type includes its subtypes; `*` is every type. A type passes if some policy rule allows
/// it, none denies it, and the Remote's permissions list it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TypeRules {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub permitted: Vec<String>,
}

impl TypeRules {
    /// `is_one_of(list)` says whether the type or an ancestor is in the list.
    pub fn passes(&self, is_one_of: impl Fn(&[String]) -> bool) -> bool {
        is_one_of(&self.allow) && !is_one_of(&self.deny) && is_one_of(&self.permitted)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    #[serde(rename = "type")]
    pub ty: String,
    pub overwrite_local: Overwrite,
    /// `None`: the peer may delete what it introduced.
    pub delete: Option<bool>,
}

/// What the peer may do to entities that it did not introduce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overwrite {
    #[default]
    Never,
    /// As the conflict strategy decides.
    OnConflict,
    Always,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncItem {
    /// `namespace/name` of the Sync.
    pub name: String,
    /// `namespace/name` of the Remote.
    pub remote: String,
    pub direction: Direction,
    #[serde(rename = "match")]
    pub pattern: String,
    pub initial: Initial,
    pub edges: Edges,
    pub delete_at_sink: bool,
    pub delete_on_unmatch: bool,
    pub suspend: bool,
    /// Another value than at the last start begins from zero, whatever the position says.
    pub reset: Option<String>,
    /// Why it may not run, if so.
    pub blocked: Option<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    Push,
    Pull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initial {
    Full,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edges {
    None,
    Incident,
}
