//! Sockets: sessions with peers, and the API for applications. What is said over them is decided in `mew-sync` and
//! `mew-kernel`.

pub mod api;
mod dial;
mod hub;
mod json;
mod peers;

pub use hub::{Counters, Hub, HubConfig, Observer, Passing};
pub use peers::{PeerServer, serve_federation};
