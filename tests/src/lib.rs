//! Tests across crates, and what they share: simulation, real API servers, real agents.

pub mod sim;
