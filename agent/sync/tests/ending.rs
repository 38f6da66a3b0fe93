//! What a link says before its agent ends: what its peer has not confirmed, and goodbye.

mod common;

use common::{NOW_MS, connected, handshake, kernel, local};
use mew_contract::samples::{remote_item, sync_item};
use mew_contract::{Problem, Reason, RemoteItem, SyncItem};
use mew_kernel::{Kernel, Params};
use mew_sync::{ConnId, Effect, Event, Link, Now, Outstanding, shapes};
use mew_wire as wire;
use std::collections::BTreeSet;
use wire::frame::Body;

const ONTOLOGY: &str = "node Task { name: String? }\nnode Note { name: String? }";
const NOW: Now = Now { wall_ms: NOW_MS, mono_ms: 0 };
const TASK: &str = r#"SPAWN Task {name = "t"}"#;
const NOTE: &str = r#"SPAWN Note {name = "for nobody"}"#;
/// The number of this side's flow, as the peer has dialled.
const OURS: u32 = 2;
/// As in `link/outstanding.rs`.
const ASKS_WITHIN_MS: u64 = 5_000;

fn remote(dial: bool) -> RemoteItem {
    RemoteItem { dial, ..remote_item(&["Task"]) }
}

struct Side {
    kernel: Kernel,
    link: Link,
    conn: ConnId,
    dials: usize,
    closed: Vec<ConnId>,
    mono_ms: u64,
}

impl Side {
    fn new(dial: bool, syncs: Vec<SyncItem>) -> Self {
        let kernel = kernel(ONTOLOGY);
        let link = Link::new(local(1_000), remote(dial), &kernel);
        let mut s = Side { kernel, link, conn: 0, dials: 0, closed: Vec::new(), mono_ms: 0 };
        s.handle(Event::Configure(Box::new(remote(dial)), syncs));
        s
    }

    /// One whose peer has everything that is written, and how far that is.
    fn level() -> (Self, u64) {
        let mut s = Side::new(false, vec![sync_item()]);
        s.write(TASK);
        s.connected();
        s.greeted();
        let upto = s.accepted();
        s.acks(OURS, upto);
        let head = s.kernel.head();
        (s, head)
    }

    /// One whose peer has pulled everything that is written.
    fn pulled() -> Self {
        let mut s = Side::new(false, Vec::new());
        s.write(TASK);
        s.connected();
        s.greeted();
        let upto = last_push(&s.pulls("Task"));
        s.acks(1, upto);
        s
    }

    /// What it says to the peer.
    fn handle(&mut self, e: Event) -> Vec<Body> {
        let mut said = Vec::new();
        let now = Now { mono_ms: self.mono_ms, ..NOW };
        for effect in self.link.handle(now, 7, e, &self.kernel) {
            match effect {
                Effect::Send(_, f) => said.extend(f.body),
                Effect::Close(c) => self.closed.push(c),
                Effect::Dial => self.dials += 1,
            }
        }
        said
    }

    fn hear(&mut self, body: Body) -> Vec<Body> {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    fn write(&mut self, text: &str) -> Vec<Body> {
        self.kernel.execute(NOW.wall_ms, text, &Params::new()).expect("a statement of this ontology");
        self.handle(Event::Wake)
    }

    fn connected(&mut self) -> Vec<Body> {
        self.comes(false)
    }

    fn comes(&mut self, dialled: bool) -> Vec<Body> {
        self.conn += 1;
        self.handle(Event::Connected(connected(self.conn, dialled, None)))
    }

    fn greeted(&mut self) -> Vec<Body> {
        self.hear(Body::Handshake(handshake()))
    }

    /// The peer lets the flow pass; what it is sent.
    fn accepted(&mut self) -> u64 {
        let accept =
            wire::FlowAccept { flow: OURS, types: vec!["Task".into()], position: None, ..wire::FlowAccept::default() };
        last_push(&self.hear(Body::FlowAccept(accept)))
    }

    /// The peer asks for a flow that it declares, and takes what is of this type from here; what it is answered.
    fn pulls(&mut self, label: &str) -> Vec<Body> {
        let numbers: BTreeSet<_> = [mew_model::name::number(label)].into();
        let types = shapes::of_types(&self.kernel.ontology(), &numbers);
        self.hear(Body::FlowOpen(wire::FlowOpen {
            flow: 1,
            name: "there/tasks".into(),
            opener_is_source: false,
            r#match: format!("t: {label}"),
            initial: true,
            types,
            ..wire::FlowOpen::default()
        }))
    }

    /// The connection breaks, and another one is up.
    fn comes_back(&mut self) {
        self.handle(Event::Closed(self.conn, None));
        self.connected();
        self.greeted();
    }

    fn acks(&mut self, flow: u32, upto: u64) {
        self.hear(Body::SyncAck(wire::SyncAck { flow, upto, ..wire::SyncAck::default() }));
    }

    fn outstanding(&self) -> Vec<Outstanding> {
        self.link.outstanding(&self.kernel)
    }

    /// Of its one flow: whether it is worth waiting, and up to where the sink has everything.
    fn one(&self) -> (bool, Option<u64>) {
        match self.outstanding().as_slice() {
            [o] => (o.waits, o.confirmed),
            all => panic!("not one flow: {all:?}"),
        }
    }
}

/// Where the last batch ends.
fn last_push(said: &[Body]) -> u64 {
    let upto = said.iter().rev().find_map(|b| if let Body::SyncPush(p) = b { Some(p.upto) } else { None });
    upto.unwrap_or_else(|| panic!("nothing is sent: {said:?}"))
}

#[test]
fn what_the_sink_has_not_confirmed_is_outstanding_and_nothing_else() {
    let mut s = Side::new(false, vec![sync_item()]);
    s.write(TASK);
    s.write(TASK);
    // Nobody is there, and nobody is waited for.
    assert_eq!(s.one(), (false, None));
    s.connected();
    assert_eq!(s.one(), (true, None), "the peer is about to say who it is");
    s.greeted();
    assert_eq!(s.one(), (true, None), "it has not said yet where it stands");
    let upto = s.accepted();
    assert_eq!(s.one(), (true, Some(0)));
    assert_eq!(s.outstanding()[0].changes(), Some(2));
    s.acks(OURS, upto);
    assert!(s.outstanding().is_empty(), "it has everything");
    // What does not match is nothing to wait for, though the log goes on.
    s.write(NOTE);
    assert!(s.outstanding().is_empty());
    let confirmed = s.kernel.head();
    let upto = last_push(&s.write(TASK));
    let (waits, at) = s.one();
    assert!(waits && at.is_some_and(|at| at <= confirmed), "{at:?}, and the sink has {confirmed}");
    s.acks(OURS, upto);
    assert!(s.outstanding().is_empty());
}

#[test]
fn what_a_peer_that_is_gone_has_is_remembered() {
    let (mut s, head) = Side::level();
    s.handle(Event::Closed(s.conn, None));
    assert!(s.outstanding().is_empty(), "it has everything, and it is gone");
    s.write(TASK);
    assert_eq!(s.one(), (false, Some(head)));
    let text = s.outstanding()[0].to_string();
    for word in ["here/tasks", "here/there", &format!("up to {head}"), "of 1 changes", "broke"] {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// The peer closes the old connection when the new one is up at its end.
#[test]
fn a_peer_whose_next_connection_is_on_its_way_is_waited_for() {
    let mut s = Side::new(true, vec![sync_item()]);
    s.write(TASK);
    assert_eq!(s.one(), (false, None), "it has never been there");
    s.comes(true);
    s.greeted();
    s.handle(Event::Renewed);
    assert_eq!(s.dials, 2);
    s.handle(Event::Closed(s.conn, None));
    assert_eq!(s.one(), (true, None), "it comes anew");
    s.handle(Event::ConnectFailed(Problem::new(Reason::Unreachable, "no answer")));
    assert_eq!(s.one(), (false, None), "it does not");
}

#[test]
fn a_flow_that_is_refused_or_suspended_is_not_waited_for() {
    let mut s = Side::new(false, vec![sync_item()]);
    s.write(TASK);
    s.connected();
    s.greeted();
    let refuse =
        wire::FlowRefuse { flow: OURS, code: "Denied".into(), correlation_id: "c0ffee".into(), ..Default::default() };
    s.hear(Body::FlowRefuse(refuse));
    assert_eq!(s.one(), (false, None));
    assert!(s.outstanding()[0].to_string().contains("c0ffee"), "{}", s.outstanding()[0]);
    s.handle(Event::Configure(Box::new(remote(false)), vec![SyncItem { suspend: true, ..sync_item() }]));
    assert_eq!(s.one(), (false, None), "the peer has not got it");
    assert!(s.outstanding()[0].to_string().contains("the Sync is suspended"), "{}", s.outstanding()[0]);
}

/// Nothing is sent to it, and that is no reason to say that it has everything.
#[test]
fn a_remote_that_is_suspended_or_blocked_is_not_waited_for_and_has_not_got_everything() {
    let blocked = Problem::new(Reason::PolicyDenied, "no policy lets it pass");
    let stopped = [
        (RemoteItem { suspend: true, ..remote(false) }, "the Remote is suspended"),
        (RemoteItem { blocked: Some(blocked), ..remote(false) }, "no policy lets it pass"),
    ];
    for (item, why) in stopped {
        let (mut s, head) = Side::level();
        s.handle(Event::Configure(Box::new(item), vec![sync_item()]));
        assert!(s.outstanding().is_empty(), "it has everything: {:?}", s.outstanding());
        s.write(TASK);
        assert_eq!(s.one(), (false, Some(head)));
        assert!(s.outstanding()[0].to_string().contains(why), "{}", s.outstanding()[0]);
    }
}

/// A flow that the peer declares, and takes from here.
#[test]
fn what_the_peer_pulls_is_waited_for_as_well() {
    let mut s = Side::new(false, Vec::new());
    s.write(TASK);
    assert!(s.outstanding().is_empty());
    s.connected();
    s.greeted();
    let said = s.pulls("Task");
    assert_eq!(s.one(), (true, Some(0)));
    s.acks(1, last_push(&said));
    assert!(s.outstanding().is_empty());
    // When it is away, what it had is remembered.
    let head = s.kernel.head();
    s.handle(Event::Closed(s.conn, None));
    assert!(s.outstanding().is_empty(), "it has everything, and it is gone");
    s.write(TASK);
    assert_eq!(s.one(), (false, Some(head)));
    assert_eq!(s.outstanding()[0].flow, "there/tasks");
    // After a start of this side, that there is such a flow.
    s.link = Link::new(local(1_000), remote(false), &s.kernel);
    assert_eq!(s.one(), (false, None));
    let text = s.outstanding()[0].to_string();
    assert!(text.contains("there/tasks") && text.contains("is not known"), "{text}");
    s.connected();
    assert_eq!(s.one(), (true, None), "it may be about to open it");
    s.greeted();
    assert_eq!(s.one(), (true, None), "it asks after its handshake");
    s.pulls("Task");
    assert_eq!(s.one(), (true, Some(0)));
}

/// Between its handshake and the moment at which it asks for them, a peer has no flows.
#[test]
fn what_the_peer_pulled_before_is_waited_for_until_it_asks_again() {
    let mut s = Side::pulled();
    let head = s.kernel.head();
    s.comes_back();
    assert!(s.outstanding().is_empty(), "it has everything: {:?}", s.outstanding());
    s.write(TASK);
    assert_eq!(s.one(), (true, Some(head)), "it is about to ask");
    // However often that happens, and whether the peer closes the old connection or just comes anew.
    s.comes_back();
    s.connected();
    s.greeted();
    assert_eq!(s.one(), (true, Some(head)));

    let upto = last_push(&s.pulls("Task"));
    s.acks(1, upto);
    assert!(s.outstanding().is_empty(), "it has everything: {:?}", s.outstanding());
    let head = s.kernel.head();
    s.comes_back();
    s.write(TASK);
    s.mono_ms += ASKS_WITHIN_MS - 1;
    s.handle(Event::Wake);
    assert_eq!(s.one(), (true, Some(head)));
    s.mono_ms += 1;
    s.handle(Event::Wake);
    assert!(s.outstanding().is_empty(), "it takes it no longer: {:?}", s.outstanding());
    // How far it was then is too long ago.
    s.handle(Event::Closed(s.conn, None));
    assert_eq!(s.one(), (false, None));
}

#[test]
fn what_the_peer_may_not_pull_any_more_is_not_waited_for() {
    let mut s = Side::pulled();
    s.comes_back();
    s.write(TASK);
    assert!(s.one().0);
    let said = s.pulls("Note");
    assert!(said.iter().any(|b| matches!(b, Body::FlowRefuse(_))), "{said:?}");
    assert!(s.outstanding().is_empty(), "{:?}", s.outstanding());
}

#[test]
fn after_goodbye_nothing_is_opened_any_more() {
    let mut s = Side::new(true, vec![sync_item()]);
    assert_eq!(s.dials, 1);
    s.connected();
    s.greeted();
    let said = s.handle(Event::Goodbye);
    assert!(matches!(said.as_slice(), [Body::Disconnect(d)] if d.reason == "Stopping"), "{said:?}");
    assert!(s.closed.is_empty(), "the peer closes it, once it has heard");
    s.write(TASK);
    s.connected();
    assert_eq!((s.dials, s.closed.as_slice()), (1, [s.conn].as_slice()), "neither out nor in");
}

#[test]
fn a_peer_that_says_goodbye_is_known_to_be_gone_at_once() {
    let mut s = Side::new(false, vec![sync_item()]);
    s.connected();
    s.greeted();
    s.hear(Body::Disconnect(wire::Disconnect { reason: "Stopping".into() }));
    assert_eq!(s.closed, [s.conn]);
    let problem = s.link.report(NOW.wall_ms, &s.kernel).0.problem.expect("it says why");
    assert!(problem.reason == Reason::Unreachable && problem.message.contains("has stopped"), "{problem:?}");
}
