//! This side: a kernel and its link to the peer, and what can be seen of them.

use crate::common::{NOW_MS, connected, kernel, local};
use crate::peer::{ONTOLOGY, batch, handshake, task};
use bytes::Bytes;
use mew_contract::samples::{THERE, remote_item, sync_item};
use mew_contract::{FlowReport, Reason, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::{Kernel, Params};
use mew_model::EntityRef;
use mew_sync::{ConnId, Effect, Event, Link, Now, records};
use mew_wire as wire;
use wire::frame::Body;

pub fn remote() -> RemoteItem {
    remote_item(&["Task", "links"])
}

/// What a link did with one event.
#[derive(Debug, Default)]
pub struct Did {
    pub frames: Vec<Body>,
    pub closed: bool,
}

impl Did {
    pub fn acked(&self) -> Option<&wire::SyncAck> {
        self.frames.iter().find_map(|b| if let Body::SyncAck(a) = b { Some(a) } else { None })
    }

    pub fn nacked(&self) -> Option<&wire::SyncNack> {
        self.frames.iter().find_map(|b| if let Body::SyncNack(n) = b { Some(n) } else { None })
    }

    pub fn accepted(&self) -> Option<&wire::FlowAccept> {
        self.frames.iter().find_map(|b| if let Body::FlowAccept(a) = b { Some(a) } else { None })
    }

    pub fn refused(&self) -> Option<&wire::FlowRefuse> {
        self.frames.iter().find_map(|b| if let Body::FlowRefuse(r) = b { Some(r) } else { None })
    }

    pub fn pushed(&self) -> Option<&wire::SyncPush> {
        self.frames.iter().find_map(|b| if let Body::SyncPush(p) = b { Some(p) } else { None })
    }

    pub fn is_nothing(&self) -> bool {
        self.frames.is_empty() && !self.closed
    }

    /// Whether the connection was closed and the peer told so.
    pub fn hung_up(&self, why: Reason) -> bool {
        let told = |b: &Body| matches!(b, Body::Disconnect(d) if d.reason == why.code());
        self.closed && self.frames.iter().any(told)
    }
}

pub struct Side {
    pub kernel: Kernel,
    pub link: Link,
    pub conn: ConnId,
    pub mono_ms: u64,
}

impl Side {
    pub fn new(syncs: Vec<SyncItem>) -> Self {
        let kernel = kernel(ONTOLOGY);
        let link = Link::new(local(10), remote(), &kernel);
        let mut s = Side { kernel, link, conn: 0, mono_ms: 0 };
        s.handle(Event::Configure(Box::new(remote()), syncs));
        s
    }

    /// With a task of its own and the flow that pushes it: number 2, as the peer has dialled.
    pub fn with_own_flow() -> Self {
        let mut s = Side::new(vec![sync_item()]);
        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "own"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.handle(Event::Wake);
        s
    }

    pub fn handle(&mut self, e: Event) -> Did {
        let now = Now { wall_ms: NOW_MS + self.mono_ms, mono_ms: self.mono_ms };
        let mut did = Did::default();
        for effect in self.link.handle(now, 7, e, &self.kernel) {
            match effect {
                Effect::Send(c, f) if c == self.conn => did.frames.extend(f.body),
                Effect::Close(c) if c == self.conn => did.closed = true,
                Effect::Send(..) | Effect::Close(..) => {}
                Effect::Dial => panic!("this side only accepts"),
            }
        }
        did
    }

    pub fn hear(&mut self, body: Body) -> Did {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    pub fn push(&mut self, p: wire::SyncPush) -> Did {
        self.hear(Body::SyncPush(p))
    }

    pub fn connect(&mut self) {
        self.conn += 1;
        let did = self.handle(Event::Connected(connected(self.conn, false, None)));
        assert!(matches!(did.frames.as_slice(), [Body::Handshake(_)]) && !did.closed, "{did:?}");
    }

    pub fn greet(&mut self) -> Did {
        self.connect();
        let did = self.hear(Body::Handshake(handshake()));
        assert!(!did.closed && self.report().0.problem.is_none(), "{did:?}");
        did
    }

    /// Opens a flow by which the peer sends.
    pub fn open(&mut self, o: wire::FlowOpen) -> wire::FlowAccept {
        let did = self.hear(Body::FlowOpen(o));
        did.accepted().cloned().unwrap_or_else(|| panic!("the flow was not accepted: {did:?}"))
    }

    /// A batch of one more task goes through.
    pub fn takes(&mut self, flow: u32, after: u64, n: u32) {
        let did = self.push(batch(flow, after, after + 1, vec![task(n)]));
        assert!(did.acked().is_some_and(|a| (a.flow, a.upto) == (flow, after + 1)), "flow {flow}: {did:?}");
        assert!(ids(&self.kernel).contains(&format!("{THERE}/{n}")), "task {n} is not here");
    }

    pub fn report(&self) -> (RemoteReport, Vec<FlowReport>) {
        self.link.report(NOW_MS + self.mono_ms, &self.kernel)
    }
}

/// Everything in a kernel: seq and bytes.
pub fn content(k: &Kernel) -> Vec<(u64, Bytes)> {
    let view = k.view();
    let all = (0..view.next_entity()).filter_map(|n| view.get(n).expect("a disk in memory"));
    all.map(|s| (s.seq, s.bytes)).collect()
}

pub fn ids(k: &Kernel) -> Vec<String> {
    let all = content(k);
    all.iter().map(|(_, b)| EntityRef::validate(b).expect("what is stored is valid").sync_id.to_owned()).collect()
}

/// How far a flow of the peer has come, as the store says.
pub fn position(k: &Kernel, name: &str) -> Option<u64> {
    let key = records::sink_key(&records::flow_key(THERE, THERE, name));
    let state = k.view().fact(&key).expect("a disk in memory");
    records::read::<wire::SinkState>(state).and_then(|s| s.position).map(|p| p.seq)
}
