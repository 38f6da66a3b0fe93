//! Sockets: sessions with peers, and the API for applications. What is said over them is decided in `mew-sync` and
//! `mew-kernel`.

pub mod api;
pub mod archive;
mod backup;
mod certificates;
mod dial;
mod gate;
mod held;
mod hub;
pub mod json;
mod outbox;
mod peers;
mod records;
mod standby;
mod traffic;

pub use certificates::NamedCertificate;
pub use gate::Gate;
pub use hub::{Counters, Hub, HubConfig, Observer, Passing};
pub use peers::{PeerServer, serve_federation};
pub use standby::serve_standby;
