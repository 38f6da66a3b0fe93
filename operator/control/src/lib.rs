//! The gRPC service that agents attach to: who holds which kernel, the snapshot each one gets, the reports they send, and
//! the certificates they are given. How a caller is authenticated is the backend's matter.

mod claims;
mod service;
mod strangers;

pub use claims::{Claim, Registry};
pub use service::{Backend, ControlService};
pub use strangers::Bounded;
