//! `Remote`: another kernel, who it must prove to be, and what it may see and do.

use crate::common::{Condition, LastError, LocalRef};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "federation.mew.dev",
    version = "v1alpha1",
    kind = "Remote",
    plural = "remotes",
    namespaced,
    status = "RemoteStatus",
    derive = "PartialEq",
    shortname = "rmt",
    category = "mew",
    doc = "Another kernel: where it is, who it must prove to be, and what it may see and do here.",
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "KERNEL", type_ = "string", json_path = ".spec.kernelRef.name"),
    printcolumn(name = "PEER", type_ = "string", json_path = ".spec.uri"),
    printcolumn(name = "SYNCS", type_ = "integer", json_path = ".status.syncs"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase", priority = 1),
    printcolumn(name = "HEALTH", type_ = "string", json_path = ".status.health", priority = 1),
    printcolumn(name = "TRUST-DOMAIN", type_ = "string", json_path = ".spec.peer.trustDomain", priority = 1),
    printcolumn(name = "CERT-EXPIRES", type_ = "string", json_path = ".status.certificates.notAfter", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.kernelRef == oldSelf.kernelRef").message("kernelRef is immutable"),
    validation = Rule::new("self.uri.split('/')[3] == oldSelf.uri.split('/')[3]").message("the kernel_id at the end of uri is immutable; the address may move"),
)]
pub struct RemoteSpec {
    /// The local kernel that this Remote belongs to. Immutable.
    pub kernel_ref: LocalRef,
    /// `mew://host:port/kernel_id` of the peer. The kernel_id is immutable, the address may move.
    #[schemars(
        length(max = 512),
        regex(
            pattern = r"^mew://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
        )
    )]
    pub uri: String,
    /// Addresses to try in order, instead of the one in `uri`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub endpoints: Vec<Endpoint>,
    /// Who opens the connection, whatever the direction of data. Dial if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_mode: Option<ConnectionMode>,
    pub peer: Peer,
    /// How this side proves who it is. A certificate that the operator issued if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What to do when the ontologies do not fit for the synced types. Strict if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
    /// What the peer may do. Absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// Closes the connection and keeps every position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.serverName) || !self.serverName.matches('(^|[.])[0-9]+$')").message("serverName must be a DNS name, not an address"))]
pub struct Endpoint {
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Only what is asked for by SNI, for proxies; never an identity. A DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(
            pattern = r"^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?([.][A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$"
        )
    )]
    pub server_name: Option<String>,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Default)]
pub enum ConnectionMode {
    #[default]
    Dial,
    Accept,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Default)]
pub enum Compatibility {
    #[default]
    Strict,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.trustDomain == oldSelf.trustDomain").message("peer.trustDomain is immutable"))]
pub struct Peer {
    /// Namespace of identities that the peer's operator signs. Immutable.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"))]
    pub trust_domain: String,
    /// Where the certificates are that may sign for that trust domain. Several at once while they are rotated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".to_string(), "name".to_string()]))]
    pub trust_bundle_refs: Vec<TrustBundleRef>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// A Secret of type `kubernetes.io/tls` with the kernel's certificate and key, as cert-manager makes them. The pod mounts
    /// it by the annotation `federation.mew.dev/certificates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<LocalRef>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustBundleRef {
    pub kind: BundleKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `ca.crt` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub key: Option<String>,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum BundleKind {
    ConfigMap,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.canReceive) || !self.canReceive.exists(t, t.type == '*') || self.canReceive.size() == 1").message("'*' must stand alone in canReceive"))]
#[x_kube(validation = Rule::new("!has(self.canSend) || !self.canSend.exists(t, t.type == '*') || self.canSend.size() == 1").message("'*' must stand alone in canSend"))]
pub struct Permissions {
    /// Types that may go to the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub can_receive: Vec<TypePermission>,
    /// Types that may come from the peer, and what it may do to entities that are here already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub can_send: Vec<SendPermission>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TypePermission {
    /// A type with its subtypes, or `*` for every type.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^(\*|[A-Za-z][A-Za-z0-9_]*)$"))]
    pub ty: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendPermission {
    /// A type with its subtypes, or `*` for every type.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^(\*|[A-Za-z][A-Za-z0-9_]*)$"))]
    pub ty: String,
    /// Whether the peer may change entities that it did not introduce. Never if absent. OnConflict: yes, and of versions in
    /// conflict the later wins. Always: yes, and in a conflict the peer's wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite_local: Option<OverwriteLocal>,
    /// Allow: the peer may also delete what it did not introduce. Deny: nothing. If absent, only what it introduced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<DeletePermission>,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OverwriteLocal {
    Never,
    OnConflict,
    Always,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DeletePermission {
    Allow,
    Deny,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.connect) || duration(self.connect) >= duration('100ms')").message("connect must be at least 100ms"))]
pub struct Timeouts {
    /// To resolve, connect and shake hands, each. 30s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub connect: Option<String>,
}

/// The reconnect schedule. There is no limit to the number of tries.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.initialInterval) || duration(self.initialInterval) >= duration('10ms')").message("initialInterval must be at least 10ms"))]
#[x_kube(validation = Rule::new("!has(self.maxInterval) || duration(self.maxInterval) >= duration('10ms')").message("maxInterval must be at least 10ms"))]
#[x_kube(validation = Rule::new("!has(self.initialInterval) || !has(self.maxInterval) || duration(self.initialInterval) <= duration(self.maxInterval)").message("initialInterval must not exceed maxInterval"))]
pub struct Retry {
    /// 1s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub initial_interval: Option<String>,
    /// 60s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub max_interval: Option<String>,
    /// 2 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub multiplier: Option<i32>,
}

/// How a dead connection is noticed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.interval) || duration(self.interval) >= duration('100ms')").message("interval must be at least 100ms"))]
#[x_kube(validation = Rule::new("!has(self.timeout) || duration(self.timeout) >= duration('100ms')").message("timeout must be at least 100ms"))]
pub struct Keepalive {
    /// Between pings. 10s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub interval: Option<String>,
    /// The peer must have been silent for this long. 20s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub timeout: Option<String>,
    /// And so many pings must have stayed without an answer. 3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub failure_threshold: Option<i32>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RemoteStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For display: Declared, Connecting, Connected, Disconnected, Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// For display: Healthy, Degraded, Unhealthy, Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_endpoint: Option<String>,
    /// Syncs of this namespace that name this Remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syncs: Option<i64>,
    /// Flows that the peer declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_flows: Option<InboundFlows>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Certificates>,
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
pub struct KernelStatus {
    pub id: String,
    pub incarnation: String,
    pub agent_version: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub id: String,
    pub incarnation: String,
    pub version: String,
    pub protocol: i64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboundFlows {
    pub total: i64,
    pub denied: i64,
    pub failed: i64,
    /// The newest refusals, with the correlation ids that the peer's people see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<InboundDenial>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboundDenial {
    pub flow: String,
    pub correlation_id: String,
    pub reason: String,
    pub message: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_not_after: Option<String>,
    /// The root that this kernel's certificate of its operator comes from. Roots are named by the SHA-256 of their certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// By which the peer has verified this side on the connection that is up, as the peer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_in_use: Option<String>,
    /// By which this side has verified the peer on the connection that is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_root_in_use: Option<String>,
    /// Which ones the peer accepts for this side's trust domain, as it said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub peer_accepts_roots: Vec<String>,
}
