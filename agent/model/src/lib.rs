//! What an entity *is*: values, names, clocks, versions, the one byte form of an entity, and the shape of an ontology.
//!
//! Everything here is pure: no clock is read, no randomness drawn, nothing is opened. Time comes in as an argument.

pub mod clock;
pub mod entity;
pub mod name;
pub mod ontology;
pub mod shape;
pub mod value;
pub mod version;

pub use clock::Hlc;
pub use entity::{Draft, EntityRef};
pub use name::{KernelKey, Number};
pub use ontology::Ontology;
pub use value::{Kind, Value, ValueRef};
pub use version::{Causality, Vector, Version};
