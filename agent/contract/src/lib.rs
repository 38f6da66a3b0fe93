//! What operator and agent say to each other: the whole configuration of one agent, numbered and with a digest
//! ([`Snapshot`]), and an agent's absolute state ([`Report`]). Pure types, JSON on the wire and on disk.
//!
//! Fail closed: an unknown field in an item makes the agent reject that item by name and apply the rest.

pub mod guide;
pub mod problem;
pub mod reason;
pub mod report;
#[cfg(feature = "samples")]
pub mod samples;
pub mod snapshot;

/// Bytes of one message between them. Snapshots and reports are absolute: with ten thousand Syncs either has some 10 MiB,
/// and gRPC's own limit of 4 MiB would end the attachment for ever.
pub const MAX_MESSAGE: usize = 32 << 20;

pub use problem::{Problem, Rejection};
pub use reason::Reason;
pub use report::{FlowReport, FlowState, LinkState, PeerInfo, RemoteReport, Report, Roots};
pub use snapshot::{Grant, RemoteItem, Snapshot, SyncItem, TypeRules};
