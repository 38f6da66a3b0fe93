//! Reason codes: one vocabulary for conditions, reports, events and the documentation (`docs/reasons/<Code>.md`).

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// The spec was read and is sound.
    Accepted,
    /// Everything that the object refers to was found.
    Resolved,
    /// The agent has the configuration.
    Programmed,
    /// The connection to the peer is up.
    Connected,
    /// What the source has, the sink has.
    InSync,
    /// As InSync, with entities that could not be applied.
    InSyncWithFailures,
    /// A policy is in force.
    Enforced,
    /// Stopped by `suspend: true`; the position is kept.
    Suspended,

    /// The agent was told and has not confirmed yet, or keeps what it has.
    Pending,
    /// A connection is being made for the first time.
    Connecting,
    /// The peer opens this connection and has not yet.
    WaitingForPeer,
    /// Existing entities are being copied.
    InitialCopy,
    /// The peer refuses the flow; it says why only to its own people.
    DeniedByPeer,
    /// No agent of this kernel is attached.
    NoAgent,
    /// The agent has not reported for too long.
    AgentUnresponsive,

    /// The spec breaks a rule of its own kind.
    InvalidSpec,
    /// The pattern cannot be parsed.
    InvalidPattern,
    /// The agent does not know a field that it was sent.
    UnsupportedField,

    /// A policy of this side forbids it.
    PolicyDenied,
    /// The Remote's permissions of this side forbid it.
    PermissionDenied,
    /// The Sync names a Remote that does not exist.
    RemoteNotFound,
    /// The Remote itself is not accepted.
    RemoteNotAccepted,
    /// A trust bundle does not exist or holds no certificate.
    BundleNotFound,
    /// The pattern names a type that the ontology lacks.
    TypeUnknown,
    /// The kernels' ontologies do not fit for the synced types.
    OntologyMismatch,
    /// An older object already claims the same.
    Conflicted,
    /// Another kernel answers at the address.
    IdentityMismatch,
    /// Another holder already serves this kernel.
    KernelClaimed,

    /// The host name cannot be resolved.
    DNSFailed,
    /// The address does not answer, or the connection broke.
    Unreachable,
    /// The peer's certificate is not signed by a root configured for its trust domain.
    TLSUntrustedPeer,
    /// The peer does not trust this side's certificate.
    TLSRefusedByPeer,
    /// A certificate has expired.
    CertificateExpired,
    /// No certificate could be had yet.
    CertificatePending,
    /// The peer speaks no common version of the protocol.
    ProtocolMismatch,
    /// The source's data directory is another one than the position belongs to.
    SourceReset,
    /// The oldest change that has not arrived is older than maxLag.
    Lagging,
    /// The sink cannot store what it is sent.
    SinkError,
    /// The source cannot read its log.
    SourceError,
    /// The two clocks are too far apart.
    ClockSkew,
}

impl Reason {
    /// Whether only another spec can help; everything else is retried for ever.
    pub fn is_terminal(self) -> bool {
        matches!(self, Reason::InvalidSpec | Reason::InvalidPattern | Reason::UnsupportedField)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
