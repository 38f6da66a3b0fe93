//! Two flows out of a kernel to a peer that takes everything: what the source keeps of them is what is looked at, so the
//! peer is played here and keeps nothing.

use crate::embedded::now_ms;
use anyhow::{Result, bail};
use mew_contract::samples::{remote_item, sync_item};
use mew_contract::snapshot::{Keepalive, Retry};
use mew_contract::{RemoteItem, SyncItem, TypeRules};
use mew_kernel::Kernel;
use mew_sync::{Connected, Effect, Event, Link, Local, Now, PROTOCOL_MAX, PROTOCOL_MIN, SAVE_EVERY};
use mew_wire as wire;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;
use wire::frame::Body;

const REMOTE: &str = "bench/peer";
const PEER: &str = "bench.peer";
const TYPE: &str = "Task";
/// The only connection.
const CONN: u64 = 1;
/// Half of the rows each, and not the same half.
const PATTERNS: [&str; 2] = ["t: Task WHERE t.shared = true", "t: Task WHERE t.due < 1705000000000"];

/// A link with two flows that have copied everything.
pub fn two(k: &Kernel) -> Result<Link> {
    let local = Local { agent_version: "0.1.0".into(), save_every: SAVE_EVERY, fingerprints: |pems| pems.to_vec() };
    let mut s = Session { link: Link::new(local, remote(), k), kernel: k, started: Instant::now() };
    let mut said = s.says(Event::Configure(Box::new(remote()), PATTERNS.iter().enumerate().map(sync).collect()));
    let endpoint = "the bench".to_owned();
    let connected = Connected { conn: CONN, dialled: false, endpoint, certificate_not_after_ms: None, root: None };
    said.extend(s.says(Event::Connected(connected)));
    let mut live = BTreeSet::new();
    while live.len() < PATTERNS.len() {
        let answer = match said.pop_front() {
            Some(Body::Handshake(h)) => Body::Handshake(wire::Handshake {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL_MAX,
                kernel_id: PEER.into(),
                incarnation: "peer".into(),
                now_ms: h.now_ms,
                ..wire::Handshake::default()
            }),
            Some(Body::Ping(p)) => Body::Pong(wire::Pong { nonce: p.nonce, now_ms: now_ms() }),
            Some(Body::FlowOpen(o)) => Body::FlowAccept(wire::FlowAccept {
                flow: o.flow,
                types: vec![TYPE.into()],
                position: None,
                ..wire::FlowAccept::default()
            }),
            Some(Body::SyncPush(p)) => {
                if p.live && p.pending == 0 {
                    live.insert(p.flow);
                }
                Body::SyncAck(wire::SyncAck { flow: p.flow, upto: p.upto, ..wire::SyncAck::default() })
            }
            Some(other) => bail!("the link says what the peer does not expect: {other:?}"),
            None => bail!("the link stands still with {} of {} flows live", live.len(), PATTERNS.len()),
        };
        said.extend(s.says(Event::Frame(CONN, wire::Frame { body: Some(answer) })));
    }
    Ok(s.link)
}

struct Session<'k> {
    link: Link,
    kernel: &'k Kernel,
    started: Instant,
}

impl Session<'_> {
    /// What the link sends because of an event.
    fn says(&mut self, e: Event) -> VecDeque<Body> {
        let now = Now { wall_ms: now_ms(), mono_ms: self.started.elapsed().as_millis() as u64 };
        let frames = self.link.handle(now, 0, e, self.kernel).into_iter().filter_map(|e| match e {
            Effect::Send(_, frame) => frame.body,
            Effect::Dial | Effect::Close(_) => None,
        });
        frames.collect()
    }
}

/// Patient: what is measured is not how soon a busy machine answers.
fn remote() -> RemoteItem {
    RemoteItem {
        name: REMOTE.into(),
        peer_kernel_id: PEER.into(),
        peer_trust_domain: "bench.example".into(),
        connect_timeout_ms: 30_000,
        retry: Retry { initial_ms: 1_000, max_ms: 60_000, multiplier: 2, jitter_percent: 0 },
        keepalive: Keepalive { interval_ms: 10_000, timeout_ms: 20_000, failure_threshold: 3 },
        import: TypeRules::default(),
        ..remote_item(&[TYPE])
    }
}

fn sync((i, pattern): (usize, &&str)) -> SyncItem {
    SyncItem { name: format!("bench/flow-{i}"), remote: REMOTE.into(), pattern: (*pattern).to_owned(), ..sync_item() }
}
