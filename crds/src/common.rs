//! What the kinds share.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const GROUP: &str = "federation.mew.dev";
pub const VERSION: &str = "v1alpha1";

/// An object of the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// The last thing that went wrong, also when things work again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// Parts of a kernel URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelUri {
    pub host: String,
    pub port: u16,
    pub kernel_id: String,
}

impl KernelUri {
    /// `mew://host:port/kernel_id`.
    pub fn parse(uri: &str) -> Option<Self> {
        let (authority, kernel_id) = uri.strip_prefix("mew://")?.split_once('/')?;
        let (host, port) = authority.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|p| *p > 0 && !port.starts_with(['0', '+']))?;
        let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)),
        };
        if !host_ok || !is_kernel_id(kernel_id) {
            return None;
        }
        Some(KernelUri { host: host.to_owned(), port, kernel_id: kernel_id.to_owned() })
    }
}

pub fn is_kernel_id(s: &str) -> bool {
    s.len() <= 128
        && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub fn is_trust_domain(s: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    s.len() <= 255
        && edge(s.bytes().next())
        && edge(s.bytes().last())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// A type of an ontology, or all of them. Names that begin with `_` are system records, which never sync.
pub fn is_type_name(s: &str) -> bool {
    let word = |s: &str| {
        s.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    s == "*" || (s.len() <= 128 && word(s))
}

/// A DNS subdomain, as object names are.
pub fn is_object_name(s: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    s.len() <= 253
        && edge(s.bytes().next())
        && edge(s.bytes().last())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// A name as TLS asks for it: labels of at most 63 letters, digits, `-` and `_`, with dots between them. No address.
pub fn is_dns_name(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| word(b) || b == b'-')
            && l.bytes().next().is_some_and(word)
            && l.bytes().last().is_some_and(word)
    };
    let digits = |l: &str| l.bytes().all(|b| b.is_ascii_digit());
    s.len() <= 253 && s.split('.').all(label) && !s.rsplit('.').next().is_some_and(digits)
}
