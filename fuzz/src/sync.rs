//! What a peer sends to a link, and what a link finds in its own store.

use crate::samples::{self, HERE, NOW_MS, OTHERS, TASKS, THERE};
use crate::wire::fixpoint;
use mew_contract::{Problem, Reason};
use mew_kernel::{Kernel, Params};
use mew_model::EntityRef;
use mew_model::name::{kernel_of_sync_id, number};
use mew_store::{MemDisk, Store};
use mew_sync::{ConnId, Connected, Effect, Event, Link, Local, Now, OpenTime, records};
use mew_wire as wire;
use prost::Message;
use std::sync::Arc;
use wire::frame::Body;

/// Frames of one session.
const MOST_FRAMES: usize = 64;

/// A kernel with a task of its own, and its link to the peer.
struct Side {
    kernel: Kernel,
    link: Link,
    conn: ConnId,
}

/// What a link did with one event.
struct Did {
    frames: Vec<Body>,
    closed: bool,
}

impl Did {
    /// Whether it consents to a flow that the peer declares; it must say one or the other.
    fn consents(&self, flow: u32) -> bool {
        let accepts = |b: &&Body| matches!(b, Body::FlowAccept(a) if a.flow == flow);
        let refuses = |b: &&Body| matches!(b, Body::FlowRefuse(r) if r.flow == flow);
        let (yes, no) = (self.frames.iter().filter(accepts).count(), self.frames.iter().filter(refuses).count());
        assert!(yes <= 1 && yes + no >= 1, "flow {flow} is answered by {:?}", self.frames);
        yes == 1 && no == 0
    }

    fn acked(&self, flow: u32, upto: u64) -> bool {
        self.frames.iter().any(|b| matches!(b, Body::SyncAck(a) if (a.flow, a.upto) == (flow, upto)))
    }
}

impl Side {
    fn new() -> Self {
        let disk = Arc::new(MemDisk::new());
        let options = samples::options(HERE, 1 << 20);
        let (store, _) = Store::open(disk, samples::work(), options).expect("an empty store opens");
        let kernel = Kernel::new(store);
        let spawned = kernel.execute(NOW_MS, r#"SPAWN Task {title = "own"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        let fingerprints = |pems: &[String]| pems.to_vec();
        let local = Local { agent_version: "0.1.0".into(), save_every: 10, fingerprints };
        let link = Link::new(local, samples::remote_item(), &kernel);
        let mut s = Side { kernel, link, conn: 0 };
        s.handle(Event::Configure(Box::new(samples::remote_item()), vec![samples::sync_item()]));
        s
    }

    fn handle(&mut self, e: Event) -> Did {
        let now = Now { wall_ms: NOW_MS, mono_ms: 0 };
        let mut did = Did { frames: Vec::new(), closed: false };
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

    fn hear(&mut self, body: Body) -> Did {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    fn connect(&mut self) {
        self.conn += 1;
        let endpoint = "192.0.2.1:50000".to_owned();
        let c = Connected { conn: self.conn, dialled: false, endpoint, certificate_not_after_ms: None, root: None };
        let did = self.handle(Event::Connected(c));
        assert!(matches!(did.frames.as_slice(), [Body::Handshake(_)]) && !did.closed, "{:?}", did.frames);
    }

    fn greet(&mut self) {
        self.connect();
        let did = self.hear(samples::handshake());
        assert!(!did.closed, "{:?}", did.frames);
    }

    /// Everything that is stored is valid, of a type and a kernel that may come, and not from the future.
    fn is_sound(&self) {
        let view = self.kernel.view();
        let types = ["Task", "links"].map(number);
        for n in 0..view.next_entity() {
            let Some(s) = view.get(n).expect("a disk in memory") else { continue };
            let e = EntityRef::validate(&s.bytes).unwrap_or_else(|why| panic!("stored and not valid: {why}: {s:?}"));
            assert!(types.contains(&e.ty) && !e.time.is_too_far_ahead(NOW_MS), "{e:?}");
            assert!(kernel_of_sync_id(e.sync_id).is_none_or(|k| k == THERE || k == HERE), "{e:?}");
        }
        let _ = self.link.report(NOW_MS, &self.kernel);
    }

    /// Whatever was said before, an honest session works.
    fn works(&mut self) {
        self.greet();
        let did = self.hear(Body::FlowOpen(samples::open(1, "there/again", "after the fuzz")));
        assert!(did.consents(1), "{:?}", did.frames);
        let did = self.hear(Body::SyncPush(samples::batch(1, 0, 1, &[samples::task(8)])));
        assert!(did.acked(1, 1) && !did.closed, "{:?}", did.frames);
        let id = format!("{THERE}/8");
        assert!(self.kernel.view().find(&id).expect("a disk in memory").is_some(), "{id} is not here");
    }
}

/// The frames of a session, each behind its length. Nothing comes of them that may not, and the link goes on.
pub fn session(data: &[u8]) {
    let mut s = Side::new();
    s.connect();
    let mut rest = data;
    for _ in 0..MOST_FRAMES {
        if rest.is_empty() {
            break;
        }
        match wire::Frame::decode_length_delimited(&mut rest) {
            Ok(f) => drop(s.handle(Event::Frame(s.conn, f))),
            Err(e) => {
                // As agent/net does: what is no frame ends the connection.
                let p = Problem::new(Reason::Unreachable, e.to_string());
                s.handle(Event::Closed(s.conn, Some(p)));
                break;
            }
        }
    }
    s.is_sound();
    s.works();
    s.is_sound();
}

/// A fact of the store; the first byte says which. A link that finds it there answers its peer, and tells no less.
pub fn fact(data: &[u8]) {
    const MOST: usize = 1 << 20;
    let Some((which, value)) = data.split_first().filter(|(_, v)| v.len() <= MOST) else { return };
    // What it receives of the peer, and what it sends.
    let (sink, source) = (records::flow_key(THERE, THERE, TASKS), records::flow_key(HERE, THERE, OTHERS));
    let members = |part: &str| records::members_key(THERE, &source, part);
    let id = format!("{THERE}/1");
    let key = match which % 9 {
        0 => {
            fixpoint::<wire::SinkState>(value);
            records::sink_key(&sink)
        }
        1 => {
            fixpoint::<wire::FlowMembers>(value);
            members("head")
        }
        2 => members("unsure"),
        3 => members("00000000"),
        4 => {
            fixpoint::<wire::FlowDefinition>(value);
            records::definition_key(THERE, &source, "0123456789abcdef")
        }
        5 => {
            fixpoint::<wire::Held>(value);
            records::held_key(&sink, &id)
        }
        6 => records::blocked_key(&id, &sink, &id),
        7 => {
            fixpoint::<wire::Conflict>(value);
            [records::CONFLICT, &b"00000000000000000001-00000000-here/there"[..]].concat()
        }
        _ => [&b"conflicts/\0here/there\0"[..], records::LOCAL_KEPT.as_bytes()].concat(),
    };
    let mut s = Side::new();
    let value = value.to_vec();
    let written = s.kernel.write(NOW_MS, move |tx| {
        tx.set_fact(key, value);
        Ok(())
    });
    written.expect("a disk in memory takes it");
    let _ = mew_sync::floor(&s.kernel, &mut OpenTime::default());
    let _ = records::conflict_totals(&s.kernel.view());
    s.greet();
    let pushes = s.hear(Body::FlowOpen(samples::open(1, TASKS, ""))).consents(1);
    let position = wire::Position {
        incarnation: s.kernel.incarnation().to_owned(),
        seq: s.kernel.head(),
        revision: "0123456789abcdef".into(),
        ..wire::Position::default()
    };
    s.hear(Body::FlowOpen(samples::pull(3, OTHERS, Some(position)))).consents(3);
    if pushes {
        s.hear(Body::SyncPush(samples::batch(1, 0, 1, &[samples::task(1)])));
    }
    s.handle(Event::Wake);
    s.is_sound();
    s.works();
}
