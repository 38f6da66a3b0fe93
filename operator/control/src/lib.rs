//! The gRPC service that agents attach to: who holds which kernel, the snapshot each one gets, the reports they send, the
//! certificates they are given and the CAs that these come from. How a caller is authenticated is the backend's matter.

mod authorities;
mod claims;
mod service;
mod strangers;

pub use authorities::{Authorities, Ca, State, Step, StepError, StoredError};
pub use claims::{Claim, Registry};
pub use service::{Backend, ControlService};
pub use strangers::Bounded;
