//! Everything that reads what others wrote, one function each: `f(data)` returns if the bytes were read or refused as they
//! should be, and panics if not. Not only that nothing breaks: what is read can be written, and is then the same; what is
//! refused is refused with a place within the input; what one reader accepts, the other does.
//!
//! The same functions run on kept inputs and on changes of them in every build (`tests/corpus.rs`, which also measures what
//! each call allocates), and under libFuzzer (`cargo-fuzz`; see the README).
//!
//! Checksums would hide all that lies behind them from changed bytes. What they guard is read twice: as it is, and with
//! checksums that fit ([`seal`]).

mod contract;
mod crds;
mod lang;
mod model;
mod net;
pub mod samples;
pub mod seal;
mod store;
mod sync;
mod tls;
mod wire;

pub use contract::{control, report, snapshot};
pub use crds::{manifest, names};
pub use lang::{literal, ontology, pattern, script, timestamp};
pub use model::{entity, versions};
pub use net::{archive, restore, value_json};
pub use store::{checkpoint, directory, pack, segment};
pub use sync::{fact, session};
pub use tls::{bundle, certificate, request};
pub use wire::{frame, message};

/// Name and function of each; kept inputs are in `corpus/<name>`.
pub const DECODERS: &[(&str, fn(&[u8]))] = &[
    ("archive", archive),
    ("bundle", bundle),
    ("certificate", certificate),
    ("checkpoint", checkpoint),
    ("control", control),
    ("directory", directory),
    ("entity", entity),
    ("fact", fact),
    ("frame", frame),
    ("literal", literal),
    ("manifest", manifest),
    ("message", message),
    ("names", names),
    ("ontology", ontology),
    ("pattern", pattern),
    ("report", report),
    ("request", request),
    ("restore", restore),
    ("script", script),
    ("segment", segment),
    ("session", session),
    ("snapshot", snapshot),
    ("timestamp", timestamp),
    ("value_json", value_json),
    ("versions", versions),
];
