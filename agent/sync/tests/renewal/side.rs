//! One link whose peer is the test: it greets, takes flows, and says which roots it accepts.

use crate::common::{NOW_MS, connected, handshake, kernel, local};
use mew_contract::samples::{remote_item, sync_item};
use mew_contract::snapshot::Keepalive;
use mew_contract::{FlowReport, FlowState, LinkState, RemoteItem, RemoteReport};
use mew_kernel::{Kernel, Params};
use mew_sync::{ConnId, Effect, Event, Link, Now};
use mew_wire as wire;
use wire::frame::Body;

/// Names of roots. In this test they stand for the certificates as well.
pub const OLD: &str = "AA:01";
pub const NEW: &str = "BB:02";
/// As in `link/renewal.rs`.
pub const REPLACE_EVERY_MS: u64 = 10_000;
pub const HANDOVER_MS: u64 = 5_000;

pub fn remote(dial: bool, roots: &[&str]) -> RemoteItem {
    RemoteItem {
        dial,
        accept: !dial,
        roots: roots.iter().map(|r| (*r).to_owned()).collect(),
        // Longer than anything here takes.
        keepalive: Keepalive { interval_ms: 60_000, timeout_ms: 120_000, failure_threshold: 2 },
        ..remote_item(&["Task"])
    }
}

/// What a link did with one event.
#[derive(Debug, Default)]
pub struct Did {
    pub frames: Vec<Body>,
    pub closed: Vec<ConnId>,
    pub dials: usize,
}

impl Did {
    pub fn roots(&self) -> Option<&wire::Roots> {
        self.frames.iter().find_map(|b| if let Body::Roots(r) = b { Some(r) } else { None })
    }

    pub fn opened(&self) -> Option<u32> {
        self.frames.iter().find_map(|b| if let Body::FlowOpen(o) = b { Some(o.flow) } else { None })
    }

    pub fn pushed(&self) -> Option<u64> {
        self.frames.iter().find_map(|b| if let Body::SyncPush(p) = b { Some(p.upto) } else { None })
    }

    pub fn renews(&self) -> bool {
        self.frames.iter().any(|b| matches!(b, Body::Renew(_)))
    }
}

pub struct Side {
    pub kernel: Kernel,
    pub link: Link,
    pub conn: ConnId,
    pub dials: bool,
    pub mono_ms: u64,
}

impl Side {
    pub fn new(dials: bool) -> Self {
        let kernel = kernel("node Task { name: String? }");
        let link = Link::new(local(10), remote(dials, &[OLD]), &kernel);
        let mut s = Side { kernel, link, conn: 0, dials, mono_ms: 1_000 };
        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "own"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.configure(&[OLD]);
        s
    }

    pub fn handle(&mut self, e: Event) -> Did {
        let now = Now { wall_ms: NOW_MS + self.mono_ms, mono_ms: self.mono_ms };
        let mut did = Did::default();
        for effect in self.link.handle(now, 7, e, &self.kernel) {
            match effect {
                Effect::Send(c, f) if c == self.conn => did.frames.extend(f.body),
                Effect::Send(..) => {}
                Effect::Close(c) => did.closed.push(c),
                Effect::Dial => did.dials += 1,
            }
        }
        did
    }

    pub fn configure(&mut self, roots: &[&str]) -> Did {
        self.handle(Event::Configure(Box::new(remote(self.dials, roots)), vec![sync_item()]))
    }

    pub fn hear(&mut self, body: Body) -> Did {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    pub fn wake(&mut self) -> Did {
        self.handle(Event::Wake)
    }

    /// Another connection, by which the peer was verified with this root.
    pub fn connect(&mut self, root: &str) -> Did {
        self.conn += 1;
        self.handle(Event::Connected(connected(self.conn, self.dials, Some(root.to_owned()))))
    }

    pub fn greet(&mut self) -> Did {
        self.hear(Body::Handshake(handshake()))
    }

    /// The peer takes the flow that this side declares.
    pub fn take(&mut self, flow: u32) -> Did {
        let types = vec!["Task".to_owned()];
        let did = self.hear(Body::FlowAccept(wire::FlowAccept { flow, types, ..wire::FlowAccept::default() }));
        let upto = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}"));
        self.hear(Body::SyncAck(wire::SyncAck { flow, upto, ..wire::SyncAck::default() }))
    }

    /// Up, with a live flow.
    pub fn live(dials: bool) -> Self {
        let mut s = Side::new(dials);
        s.connect(OLD);
        let flow = s.greet().opened().expect("the flow is declared");
        s.take(flow);
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        s
    }

    pub fn says(&mut self, accepted: &[&str], in_use: &str) -> Did {
        let accepted = accepted.iter().map(|r| (*r).to_owned()).collect();
        self.hear(Body::Roots(wire::Roots { accepted, in_use: in_use.to_owned() }))
    }

    pub fn report(&self) -> (RemoteReport, Vec<FlowReport>) {
        self.link.report(NOW_MS + self.mono_ms, &self.kernel)
    }

    pub fn states(&self) -> (LinkState, FlowState) {
        let (remote, flows) = self.report();
        (remote.state, flows[0].state)
    }
}
