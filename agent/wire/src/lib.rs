//! Generated messages and services of `proto/mew.proto`.

#![allow(clippy::all, clippy::unwrap_used, unused_qualifications)]

include!(concat!(env!("OUT_DIR"), "/mew.v1.rs"));

/// For server reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
