//! The three kinds: types, the rules that hold for each by itself, and the CustomResourceDefinitions made from them.
//!
//! The same rules are written twice, as CEL for the API server and as [`validate`] for manifests without one; one table of
//! cases (`tests/cases`) runs through both.

pub mod annotations;
pub mod common;
pub mod generate;
pub mod manifest;
pub mod policy;
pub mod quantities;
pub mod remote;
pub mod sync;
pub mod validate;

pub use common::{Condition, GROUP, VERSION};
pub use policy::{FederationPolicy, FederationPolicySpec, FederationPolicyStatus};
pub use remote::{Remote, RemoteSpec, RemoteStatus};
pub use sync::{Sync, SyncSpec, SyncStatus};
