//! Annotations and labels that mean something.

/// On a Sync: a time; another value than the last one makes the flow begin from zero. Acknowledged in
/// `status.lastHandled.reset`.
pub const RESET: &str = "federation.mew.dev/reset";
/// Of all our annotations and labels.
pub const PREFIX: &str = "federation.mew.dev/";
/// Label of a pod: which kernel it holds.
pub const KERNEL: &str = "federation.mew.dev/kernel";
/// On the ConfigMap of an operator's public roots: the trust domain that they are of.
pub const TRUST_DOMAIN: &str = "federation.mew.dev/trust-domain";

/// What a labelled pod says of the agent that is injected into it; `mew-inject` reads them, docs/injection.md explains them.
pub mod pod {
    pub const INJECT: &str = "federation.mew.dev/inject";
    pub const STORAGE: &str = "federation.mew.dev/storage";
    pub const ONTOLOGY: &str = "federation.mew.dev/ontology";
    /// Secrets that Remotes may name by `auth.certificateRef`.
    pub const CERTIFICATES: &str = "federation.mew.dev/certificates";
    pub const KERNEL_SCOPE: &str = "federation.mew.dev/kernel-scope";
    /// `spec.ordinals.start` of the StatefulSet, which a pod does not know.
    pub const ORDINALS_START: &str = "federation.mew.dev/ordinals-start";
    pub const CPU_REQUEST: &str = "federation.mew.dev/cpu-request";
    pub const CPU_LIMIT: &str = "federation.mew.dev/cpu-limit";
    pub const MEMORY_REQUEST: &str = "federation.mew.dev/memory-request";
    pub const MEMORY_LIMIT: &str = "federation.mew.dev/memory-limit";
    pub const CLIENT_PORT: &str = "federation.mew.dev/client-port";
    pub const FEDERATION_PORT: &str = "federation.mew.dev/federation-port";
    pub const HEALTH_PORT: &str = "federation.mew.dev/health-port";
    pub const LOG_LEVEL: &str = "federation.mew.dev/log-level";
    /// Written, not read: the public roots of the trust domain, which the agent has mounted as a file.
    pub const ROOTS: &str = "federation.mew.dev/roots";

    /// All of them.
    pub const ALL: [&str; 15] = [
        INJECT,
        STORAGE,
        ONTOLOGY,
        CERTIFICATES,
        KERNEL_SCOPE,
        ORDINALS_START,
        CPU_REQUEST,
        CPU_LIMIT,
        MEMORY_REQUEST,
        MEMORY_LIMIT,
        CLIENT_PORT,
        FEDERATION_PORT,
        HEALTH_PORT,
        LOG_LEVEL,
        ROOTS,
    ];
}
