//! A Remote and a Sync as plain as they come, for tests, fuzzing and benchmarks of other crates: each says only what it needs
//! to be otherwise.

use crate::snapshot::{Direction, Edges, Initial, Keepalive, Retry};
use crate::{RemoteItem, SyncItem, TypeRules};

/// This kernel, and its peer.
pub const HERE: &str = "plant.here";
pub const THERE: &str = "plant.there";

/// Nothing but these types passes.
pub fn rules(types: &[&str]) -> TypeRules {
    let types = || types.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    TypeRules { allow: types(), deny: Vec::new(), permitted: types() }
}

/// The peer dials, and these types pass both ways.
pub fn remote_item(types: &[&str]) -> RemoteItem {
    RemoteItem {
        name: "here/there".into(),
        peer_kernel_id: THERE.into(),
        peer_trust_domain: "there.example".into(),
        endpoints: Vec::new(),
        dial: false,
        accept: true,
        roots: Vec::new(),
        certificate: None,
        connect_timeout_ms: 3_000,
        retry: Retry { initial_ms: 200, max_ms: 2_000, multiplier: 2, jitter_percent: 0 },
        keepalive: Keepalive { interval_ms: 2_000, timeout_ms: 5_000, failure_threshold: 2 },
        suspend: false,
        blocked: None,
        export: rules(types),
        import: rules(types),
        grants: Vec::new(),
    }
}

/// Pushes all tasks to that peer.
pub fn sync_item() -> SyncItem {
    SyncItem {
        name: "here/tasks".into(),
        remote: "here/there".into(),
        direction: Direction::Push,
        pattern: "t: Task".into(),
        initial: Initial::Full,
        edges: Edges::None,
        delete_at_sink: true,
        delete_on_unmatch: false,
        suspend: false,
        reset: None,
        blocked: None,
    }
}
