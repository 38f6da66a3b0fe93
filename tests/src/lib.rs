//! Tests across crates, and what they share: simulation, real API servers, real agents.

pub mod apiserver;
pub mod assets;
pub mod charts;
pub mod cluster;
pub mod dirs;
pub mod flights;
pub mod go;
pub mod haproxy;
pub mod http;
pub mod issuer;
pub mod kstatus;
pub mod kubectl;
pub mod output;
pub mod packages;
pub mod pki;
pub mod ports;
pub mod process;
pub mod seed;
pub mod sim;
pub mod small_disk;
pub mod standalone;
pub mod steady;
pub mod tasks;
pub mod tools;
pub mod wait;
pub mod watcher;
