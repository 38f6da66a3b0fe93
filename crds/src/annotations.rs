//! Annotations and labels that mean something.

/// On a Sync: a time; another value than the last one makes the flow begin from zero. Acknowledged in
/// `status.lastHandled.reset`.
pub const RESET: &str = "federation.mew.dev/reset";
/// On a pod: which kernel it holds.
pub const KERNEL: &str = "federation.mew.dev/kernel";
/// On the ConfigMap of an operator's public roots: the trust domain that they are of.
pub const TRUST_DOMAIN: &str = "federation.mew.dev/trust-domain";
