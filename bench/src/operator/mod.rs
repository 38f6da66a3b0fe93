//! The operator on real API servers: what a person waits for, and what very many objects cost.

mod agents;
mod board;
mod fleet;
mod loss;
mod objects;
pub mod pair;

pub use fleet::run as fleet;
