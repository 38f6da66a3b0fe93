//! What a peer says.

use crate::common::{self, NOW_MS};
use bytes::Bytes;
use mew_contract::samples::THERE;
use mew_lang::parse_ontology;
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Number, Ontology, Value};
use mew_sync::shapes;
use mew_wire as wire;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use wire::frame::Body;

/// At both sides.
pub const ONTOLOGY: &str = "
node Task { name: String? }
node Secret { name: String? }
edge links(a: Task, b: Task)
";
/// Flows that the peer declares.
pub const TASKS: &str = "there/tasks";
pub const OTHERS: &str = "there/others";

fn ontology() -> &'static Ontology {
    static PARSED: OnceLock<Ontology> = OnceLock::new();
    PARSED.get_or_init(|| parse_ontology(ONTOLOGY).expect("the ontology is right"))
}

pub fn handshake() -> wire::Handshake {
    wire::Handshake { head: 9, now_ms: NOW_MS, ..common::handshake() }
}

pub fn shapes_of(types: &[&str]) -> Vec<wire::TypeShape> {
    let numbers: BTreeSet<Number> = types.iter().map(|t| number(t)).collect();
    shapes::of_types(ontology(), &numbers)
}

/// The peer would send its tasks and the edges between them.
pub fn open(flow: u32, name: &str) -> wire::FlowOpen {
    wire::FlowOpen {
        flow,
        name: name.into(),
        opener_is_source: true,
        r#match: "t: Task".into(),
        edges: true,
        initial: true,
        delete_at_sink: true,
        delete_on_unmatch: false,
        types: shapes_of(&["Task", "links"]),
        reset: String::new(),
        position: None,
    }
}

/// The peer would have ours.
pub fn pull(flow: u32, name: &str) -> wire::FlowOpen {
    wire::FlowOpen { opener_is_source: false, ..open(flow, name) }
}

pub fn accept(flow: u32) -> Body {
    Body::FlowAccept(wire::FlowAccept {
        flow,
        types: vec!["Task".into()],
        position: None,
        ..wire::FlowAccept::default()
    })
}

pub fn draft(ty: &str, id: &str) -> Draft {
    let mut d = Draft::new(number(ty), id.to_owned());
    d.set(number("name"), Value::String(id.to_owned()));
    d.stamp(KernelKey::of(THERE), NOW_MS - 1_000, None);
    d
}

pub fn bytes(d: &Draft) -> Bytes {
    d.encode().into()
}

/// The peer's own task of that number.
pub fn task(n: u32) -> Bytes {
    bytes(&draft("Task", &format!("{THERE}/{n}")))
}

/// An edge between two of them.
pub fn edge(a: u32, b: u32) -> Bytes {
    let mut d = draft("links", &format!("{THERE}/{a}-{b}"));
    d.attrs.clear();
    d.ends = vec![format!("{THERE}/{a}"), format!("{THERE}/{b}")];
    bytes(&d)
}

/// What lies between two positions, with the right checksums.
pub fn batch(flow: u32, after: u64, upto: u64, entities: Vec<Bytes>) -> wire::SyncPush {
    wire::SyncPush {
        flow,
        revision: "0123456789abcdef".into(),
        start: 0,
        after,
        upto,
        crcs: entities.iter().map(|b| crc32c::crc32c(b)).collect(),
        entities,
        leaves: Vec::new(),
        pending: 0,
        oldest_ms: 0,
        live: false,
        percent: 10,
    }
}

pub fn ack(flow: u32, upto: u64) -> Body {
    Body::SyncAck(wire::SyncAck { flow, upto, ..wire::SyncAck::default() })
}
