//! Annotations and labels that mean something.

/// On a Sync: a time; another value than the last one makes the flow begin from zero. Acknowledged in
/// `status.lastHandled.reset`.
pub const RESET: &str = "federation.mew.dev/reset";
/// On a pod: which kernel it holds.
pub const KERNEL: &str = "federation.mew.dev/kernel";
