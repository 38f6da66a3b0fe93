//! What the tests of one link share: the kernel at this side, and how a peer comes.
#![allow(dead_code)] // each test file uses a part of it

use mew_contract::samples::{HERE, THERE};
use mew_kernel::Kernel;
use mew_lang::parse_ontology;
use mew_store::{MemDisk, Options, Store};
use mew_sync::{ConnId, Connected, Local};
use mew_wire as wire;
use std::sync::Arc;

pub const NOW_MS: u64 = 1_700_000_000_000;

/// An empty one with this ontology.
pub fn kernel(ontology: &str) -> Kernel {
    let o = parse_ontology(ontology).expect("the ontology is right");
    let options = Options { kernel_id: HERE.into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    Kernel::new(store)
}

/// Whatever stands for a certificate is its own name.
pub fn local(save_every: u64) -> Local {
    Local { agent_version: "0.1.0".into(), save_every, fingerprints: |pems| pems.to_vec() }
}

pub fn connected(conn: ConnId, dialled: bool, root: Option<String>) -> Connected {
    Connected { conn, dialled, endpoint: "192.0.2.1:50000".to_owned(), certificate_not_after_ms: None, root }
}

/// As the peer says it.
pub fn handshake() -> wire::Handshake {
    wire::Handshake {
        protocol_min: 1,
        protocol_max: 1,
        kernel_id: THERE.into(),
        incarnation: "there-1".into(),
        agent_version: "0.1.0".into(),
        ..wire::Handshake::default()
    }
}
