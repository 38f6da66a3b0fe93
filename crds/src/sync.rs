//! `Sync`: which entities flow, which way, under which rules.

use crate::common::{Condition, LastError, LocalRef};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "federation.mew.dev",
    version = "v1alpha1",
    kind = "Sync",
    plural = "syncs",
    namespaced,
    status = "SyncStatus",
    derive = "PartialEq",
    shortname = "syn",
    category = "mew",
    doc = "A declared flow of the entities that match a pattern, between a local kernel and a Remote.",
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "REMOTE", type_ = "string", json_path = ".spec.remoteRef.name"),
    printcolumn(name = "DIRECTION", type_ = "string", json_path = ".spec.direction"),
    printcolumn(name = "LAG", type_ = "string", json_path = ".status.lag"),
    printcolumn(name = "FAILED", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "IN-SYNC", type_ = "string", json_path = r#".status.conditions[?(@.type=="InSync")].status"#, priority = 1),
    printcolumn(name = "PENDING", type_ = "integer", json_path = ".status.pending", priority = 1),
    printcolumn(name = "INITIAL", type_ = "string", json_path = ".status.initial", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.remoteRef == oldSelf.remoteRef").message("remoteRef is immutable"),
    validation = Rule::new("self.direction == oldSelf.direction").message("direction is immutable"),
    validation = Rule::new("has(self.initial) == has(oldSelf.initial) && (!has(self.initial) || self.initial == oldSelf.initial)").message("initial is immutable; use the annotation federation.mew.dev/reset"),
)]
pub struct SyncSpec {
    /// The Remote of the same namespace. Immutable.
    pub remote_ref: LocalRef,
    /// Push: from here to the Remote. Pull: from the Remote to here. Immutable.
    pub direction: Direction,
    /// `variable: Type [WHERE condition on its own attributes]`; `_: any` is every node, said explicitly.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 4096))]
    pub match_: String,
    /// When changes are sent. Immediate if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// What happens to entities that exist when the flow begins. Full if absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Initial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
    /// Whether edges come along. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Edges>,
    /// What the sink does when the source deletes. Delete if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// What the sink does when an entity no longer matches. Keep if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_unmatch: Option<OnUnmatch>,
    /// Older than this, a change that has not arrived makes the Sync not ready. 60s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub max_lag: Option<String>,
    /// Programmed: ready as soon as the agent has it. InSync if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_when: Option<ReadyWhen>,
    /// Stops the flow and keeps its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Direction {
    Push,
    Pull,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    #[serde(rename = "type")]
    pub ty: TriggerType,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum TriggerType {
    Immediate,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Initial {
    pub mode: InitialMode,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum InitialMode {
    Full,
    None,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conflict {
    pub strategy: ConflictStrategy,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum ConflictStrategy {
    LastWriteWins,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edges {
    pub mode: EdgesMode,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum EdgesMode {
    None,
    Incident,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OnDelete {
    Delete,
    Keep,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OnUnmatch {
    Keep,
    Delete,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum ReadyWhen {
    InSync,
    Programmed,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For display: Pending, Initializing, Active, Paused, Error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Age of the oldest change that has not arrived, coarse; `-` when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Changes in the source's log behind the sink's position, coarse; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// Progress of the initial copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// Entities that the sink refused or holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<i64>,
    /// True while the source does not know what the sink had before: what was deleted since may still be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_reconcile: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<Conflicts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled: Option<LastHandled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conflicts {
    pub total: i64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// `namespace/name` of the policies that were considered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Identifies what is sent; another revision rescans.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastHandled {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
}
