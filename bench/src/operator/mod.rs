//! The operator on real API servers: what a person waits for.

pub mod pair;
