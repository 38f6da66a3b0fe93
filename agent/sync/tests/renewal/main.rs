//! Connections that take the place of others, and what two sides tell each other of roots, against one link.

#[path = "../common/mod.rs"]
mod common;
mod dials;
mod handover;
mod roots;
mod side;
