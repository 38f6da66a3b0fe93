//! `FederationPolicy`: who may send what to whom.

use crate::common::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "federation.mew.dev",
    version = "v1alpha1",
    kind = "FederationPolicy",
    plural = "federationpolicies",
    namespaced,
    status = "FederationPolicyStatus",
    derive = "PartialEq",
    shortname = "fedpol",
    category = "mew",
    doc = "Who may send what to whom. Without any policy nothing flows: no rule is a denial, and Deny wins.",
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "MODE", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "REMOTES", type_ = "integer", json_path = ".status.selectedRemotes"),
    printcolumn(name = "SYNCS", type_ = "integer", json_path = ".status.affectedSyncs"),
    printcolumn(name = "DENIED", type_ = "integer", json_path = ".status.deniedSyncs"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(has(self.mode) && self.mode != 'StrictIsolation') || !has(self.allowedKernels)").message("allowedKernels has no effect with StrictIsolation"),
)]
pub struct FederationPolicySpec {
    /// Remotes that the policy is about; `{}` is all of the namespace.
    pub remote_selector: RemoteSelector,
    /// Which foreign kernels may be dealt with at all: none by StrictIsolation, which holds if absent; those in
    /// allowedKernels by ExplicitBridging; by PermissiveBridging all that have a Remote. Of several policies the strictest
    /// holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["trustDomain".to_string()]))]
    pub allowed_kernels: Option<Vec<Kernels>>,
    /// Wins over everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["trustDomain".to_string()]))]
    pub blocked_kernels: Option<Vec<Kernels>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub rules: Option<Vec<PolicyRule>>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteSelector {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub match_expressions: Option<Vec<SelectorExpression>>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SelectorExpression {
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    pub operator: SelectorOperator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum SelectorOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl RemoteSelector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
        let expressions = self.match_expressions.iter().flatten().all(|e| {
            let have = labels.get(&e.key);
            match e.operator {
                SelectorOperator::In => have.is_some_and(|v| e.values.contains(v)),
                SelectorOperator::NotIn => have.is_none_or(|v| !e.values.contains(v)),
                SelectorOperator::Exists => have.is_some(),
                SelectorOperator::DoesNotExist => have.is_none(),
            }
        });
        equal && expressions
    }
}

/// The strictest first: the order decides. More values may be added.
// No value has a doc comment of its own: the comment of a field that may be absent would be lost in the schema.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Default)]
pub enum Mode {
    #[default]
    StrictIsolation,
    ExplicitBridging,
    PermissiveBridging,
}

/// Kernels of one trust domain.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernels {
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"))]
    pub trust_domain: String,
    /// Absent: the whole trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))
    )]
    pub kernel_ids: Option<Vec<String>>,
}

impl Kernels {
    pub fn contains(&self, trust_domain: &str, kernel_id: &str) -> bool {
        self.trust_domain == trust_domain
            && self.kernel_ids.as_ref().is_none_or(|ids| ids.iter().any(|i| i == kernel_id))
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!('*' in self.types) || self.types.size() == 1").message("'*' must stand alone"))]
pub struct PolicyRule {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    pub action: RuleAction,
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub operations: Vec<Operation>,
    /// Types with their subtypes, or `*` alone.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^(\*|[A-Za-z][A-Za-z0-9_]*)$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub types: Vec<String>,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum RuleAction {
    Allow,
    Deny,
}

/// More values may be added.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Operation {
    /// From here to the Remote.
    Export,
    /// From the Remote to here.
    Import,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FederationPolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_remotes: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affected_syncs: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_syncs: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}
