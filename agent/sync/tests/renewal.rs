//! Connections that take the place of others, and what two sides tell each other of roots, against one link.

mod common;

use common::{NOW_MS, connected, handshake, kernel, local};
use mew_contract::samples::{remote_item, sync_item};
use mew_contract::snapshot::{Direction, Keepalive};
use mew_contract::{FlowReport, FlowState, LinkState, Problem, Reason, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::{Kernel, Params};
use mew_sync::{ConnId, Effect, Event, Link, Now};
use mew_wire as wire;
use wire::frame::Body;

/// Names of roots. In this test they stand for the certificates as well.
const OLD: &str = "AA:01";
const NEW: &str = "BB:02";
/// As in `link/renewal.rs`.
const REPLACE_EVERY_MS: u64 = 10_000;
const HANDOVER_MS: u64 = 5_000;

fn remote(dial: bool, roots: &[&str]) -> RemoteItem {
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
struct Did {
    frames: Vec<Body>,
    closed: Vec<ConnId>,
    dials: usize,
}

impl Did {
    fn roots(&self) -> Option<&wire::Roots> {
        self.frames.iter().find_map(|b| if let Body::Roots(r) = b { Some(r) } else { None })
    }

    fn opened(&self) -> Option<u32> {
        self.frames.iter().find_map(|b| if let Body::FlowOpen(o) = b { Some(o.flow) } else { None })
    }

    fn pushed(&self) -> Option<u64> {
        self.frames.iter().find_map(|b| if let Body::SyncPush(p) = b { Some(p.upto) } else { None })
    }

    fn renews(&self) -> bool {
        self.frames.iter().any(|b| matches!(b, Body::Renew(_)))
    }
}

struct Side {
    kernel: Kernel,
    link: Link,
    conn: ConnId,
    dials: bool,
    mono_ms: u64,
}

impl Side {
    fn new(dials: bool) -> Self {
        let kernel = kernel("node Task { name: String? }");
        let link = Link::new(local(10), remote(dials, &[OLD]), &kernel);
        let mut s = Side { kernel, link, conn: 0, dials, mono_ms: 1_000 };
        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "own"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.configure(&[OLD]);
        s
    }

    fn handle(&mut self, e: Event) -> Did {
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

    fn configure(&mut self, roots: &[&str]) -> Did {
        self.handle(Event::Configure(Box::new(remote(self.dials, roots)), vec![sync_item()]))
    }

    fn hear(&mut self, body: Body) -> Did {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    fn wake(&mut self) -> Did {
        self.handle(Event::Wake)
    }

    /// Another connection, by which the peer was verified with this root.
    fn connect(&mut self, root: &str) -> Did {
        self.conn += 1;
        self.handle(Event::Connected(connected(self.conn, self.dials, Some(root.to_owned()))))
    }

    fn greet(&mut self) -> Did {
        self.hear(Body::Handshake(handshake()))
    }

    /// The peer takes the flow that this side declares.
    fn take(&mut self, flow: u32) -> Did {
        let types = vec!["Task".to_owned()];
        let did = self.hear(Body::FlowAccept(wire::FlowAccept {
            flow,
            types,
            position: None,
            ..wire::FlowAccept::default()
        }));
        let upto = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}"));
        self.hear(Body::SyncAck(wire::SyncAck { flow, upto, counts: None }))
    }

    /// Up, with a live flow.
    fn live(dials: bool) -> Self {
        let mut s = Side::new(dials);
        s.connect(OLD);
        let flow = s.greet().opened().expect("the flow is declared");
        s.take(flow);
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        s
    }

    fn says(&mut self, accepted: &[&str], in_use: &str) -> Did {
        let accepted = accepted.iter().map(|r| (*r).to_owned()).collect();
        self.hear(Body::Roots(wire::Roots { accepted, in_use: in_use.to_owned() }))
    }

    fn report(&self) -> (RemoteReport, Vec<FlowReport>) {
        self.link.report(NOW_MS + self.mono_ms, &self.kernel)
    }

    fn states(&self) -> (LinkState, FlowState) {
        let (remote, flows) = self.report();
        (remote.state, flows[0].state)
    }
}

#[test]
fn roots_are_told_after_the_handshake_and_when_they_change() {
    let mut s = Side::new(false);
    assert!(s.connect(OLD).roots().is_none(), "before the handshake");
    let did = s.greet();
    let told = did.roots().unwrap_or_else(|| panic!("no roots: {did:?}"));
    assert_eq!((told.accepted.as_slice(), told.in_use.as_str()), ([OLD.to_owned()].as_slice(), OLD));
    let did = s.configure(&[OLD, NEW]);
    assert!(did.roots().is_some_and(|r| r.accepted == [OLD, NEW]) && did.closed.is_empty(), "{did:?}");
    assert!(s.configure(&[OLD, NEW]).roots().is_none(), "nothing has changed");
}

/// A root that is gone may have been stolen: what it let in must prove itself again, and nothing else must.
#[test]
fn a_root_that_goes_ends_what_it_let_in() {
    for (root, ends) in [(OLD, true), (NEW, false)] {
        let mut s = Side::new(false);
        s.configure(&[OLD, NEW]);
        s.connect(root);
        s.greet();
        let did = s.configure(&[NEW]);
        assert_eq!(did.closed == [s.conn], ends, "{root}: {did:?}");
        assert_eq!(did.roots().is_some(), !ends, "{root}: {did:?}");
        assert_eq!(s.states().0 == LinkState::Connected, !ends, "{root}");
    }
    // One that was verified just before comes too late.
    let mut s = Side::new(true);
    s.configure(&[NEW]);
    let did = s.connect(OLD);
    assert_eq!((did.closed.as_slice(), did.frames.len()), ([s.conn].as_slice(), 0), "{did:?}");
    assert!(s.report().0.problem.is_some_and(|p| p.reason == Reason::TLSUntrustedPeer));
}

#[test]
fn what_a_peer_says_of_roots_is_bounded_and_plain() {
    let mut s = Side::live(false);
    let roots = |s: &Side| s.report().0.peer.expect("the peer is known").roots;
    assert_eq!((roots(&s).peer.as_deref(), roots(&s).own, roots(&s).accepted), (Some(OLD), None, None));
    s.says(&[OLD, "", "<script>", &"A".repeat(96), NEW], "no name");
    assert_eq!((roots(&s).own, roots(&s).accepted), (None, Some(vec![OLD.to_owned(), NEW.to_owned()])));
    s.says(&["AB:CD"; 1000], OLD);
    assert_eq!((roots(&s).own.as_deref(), roots(&s).accepted.map(|a| a.len())), (Some(OLD), Some(64)));
    // The last words are remembered; that a connection is verified is not.
    s.handle(Event::Closed(s.conn, None));
    s.says(&[NEW], NEW);
    assert_eq!(roots(&s).accepted.map(|a| a.len()), Some(64), "over a connection that is gone");
}

#[test]
fn a_certificate_of_another_root_is_shown_once_the_peer_accepts_it() {
    for dials in [true, false] {
        let asks = |d: &Did| (d.dials, d.renews()) == (usize::from(dials), !dials);
        let nothing = |d: &Did| d.dials == 0 && !d.renews();
        let mut s = Side::live(dials);
        s.says(&[OLD], OLD);
        s.handle(Event::OwnRoot(Some(OLD.to_owned())));
        assert!(nothing(&s.wake()), "it is shown already");
        s.handle(Event::OwnRoot(Some(NEW.to_owned())));
        assert!(nothing(&s.wake()), "the peer would refuse it");
        s.says(&[OLD, NEW], OLD);
        assert!(asks(&s.wake()), "dials: {dials}");
        assert!(nothing(&s.wake()), "it is under way");
        // Tried again if nothing comes of it, and not at once.
        s.handle(Event::ConnectFailed(Problem::new(Reason::Unreachable, "for a moment")));
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        assert!(nothing(&s.wake()));
        s.mono_ms += REPLACE_EVERY_MS;
        assert!(asks(&s.wake()), "dials: {dials}");
        s.connect(OLD);
        s.greet();
        s.says(&[OLD, NEW], NEW);
        s.mono_ms += REPLACE_EVERY_MS;
        assert!(nothing(&s.wake()), "it is shown now");
    }
}

/// The root of the operator's certificate is not that of one of another issuer, and never will be.
#[test]
fn another_issuers_certificate_is_not_replaced_for_the_sake_of_the_operators_root() {
    for dials in [true, false] {
        let asks = |d: &Did| (d.dials, d.renews()) == (usize::from(dials), !dials);
        let mut s = Side::live(dials);
        let named = RemoteItem { certificate: Some("peers".into()), ..remote(dials, &[OLD]) };
        assert!(asks(&s.handle(Event::Configure(Box::new(named), vec![sync_item()]))), "dials: {dials}");
        s.connect(OLD);
        s.greet();
        s.handle(Event::OwnRoot(Some(NEW.to_owned())));
        s.says(&[OLD, NEW], "CC:03");
        s.mono_ms += REPLACE_EVERY_MS;
        let did = s.wake();
        assert!(did.dials == 0 && !did.renews(), "dials: {dials}, {did:?}");
        assert!(asks(&s.configure(&[OLD])), "the operator's is shown again, dials: {dials}");
    }
}

/// One that is on its way may show the certificate of before.
#[test]
fn another_certificate_is_shown_by_a_connection_that_is_begun_after_it() {
    let mut s = Side::live(true);
    assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
    assert_eq!(s.handle(Event::Renewed).dials, 1);
    // The peer may not trust its issuer yet: what is up goes on, and it is tried again once nothing is on its way.
    let refused = || Event::ConnectFailed(Problem::new(Reason::TLSRefusedByPeer, "unknown issuer"));
    for dials_later in [0, 1] {
        s.handle(refused());
        assert_eq!((s.states(), s.wake().dials), ((LinkState::Connected, FlowState::Live), 0));
        s.mono_ms += REPLACE_EVERY_MS;
        assert_eq!(s.wake().dials, dials_later);
    }
}

/// That the first of two fails says nothing of the second, whenever the old connection ends.
#[test]
fn the_second_of_two_that_are_on_their_way_is_waited_for() {
    let failed = || Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers"));
    for closed_first in [false, true] {
        let two = || {
            let mut s = Side::live(true);
            assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
            assert_eq!(s.handle(Event::Renewed).dials, 1);
            let ends = if closed_first {
                [Event::Closed(s.conn, None), failed()]
            } else {
                [failed(), Event::Closed(s.conn, None)]
            };
            for e in ends {
                assert_eq!(s.handle(e).dials, 0);
                assert_eq!(s.states(), (LinkState::Connected, FlowState::Live), "closed first: {closed_first}");
            }
            s
        };
        let mut s = two();
        s.connect(OLD);
        let flow = s.greet().opened().expect("the flow is declared again");
        s.take(flow);
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        // And if it fails as well, that is said, and it is dialled again.
        let mut s = two();
        s.handle(failed());
        assert_eq!(s.states().0, LinkState::Disconnected);
        s.mono_ms += REPLACE_EVERY_MS;
        assert_eq!(s.wake().dials, 1);
    }
}

/// Nor that the first of two is there: the second takes its place, or is tried again.
#[test]
fn the_second_of_two_counts_when_the_first_has_come() {
    let greet = |s: &mut Side| {
        let flow = s.greet().opened().expect("the flow is declared again");
        s.take(flow);
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
    };
    for greeted in [false, true] {
        let first_is_there = || {
            let mut s = Side::live(true);
            assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
            assert_eq!(s.handle(Event::Renewed).dials, 1);
            s.connect(OLD);
            if greeted {
                greet(&mut s);
            }
            s
        };
        // What is up shows the certificate of before.
        let mut s = first_is_there();
        s.handle(Event::ConnectFailed(Problem::new(Reason::TLSRefusedByPeer, "unknown issuer")));
        if !greeted {
            greet(&mut s);
        }
        assert_eq!((s.states(), s.wake().dials), ((LinkState::Connected, FlowState::Live), 0));
        s.mono_ms += REPLACE_EVERY_MS;
        assert_eq!(s.wake().dials, 1, "greeted: {greeted}");
        // The peer has the second one, and closes the first before this side hears of that.
        let mut s = first_is_there();
        let did = s.handle(Event::Closed(s.conn, None));
        assert_eq!((did.dials, s.states()), (0, (LinkState::Connected, FlowState::Live)), "greeted: {greeted}");
        s.connect(OLD);
        greet(&mut s);
        // Nothing else is on its way then.
        s.handle(Event::Closed(s.conn, None));
        assert_eq!(s.states().0, LinkState::Disconnected);
    }
    // A third one is not asked for while the second is on its way.
    let mut s = Side::live(true);
    s.hear(Body::Renew(wire::Renew {}));
    s.handle(Event::Renewed);
    s.connect(OLD);
    greet(&mut s);
    assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 0);
    s.connect(OLD);
    greet(&mut s);
    assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
}

/// A dial that was given up says nothing of the one that was begun in its place.
#[test]
fn a_dial_to_an_address_of_before_does_not_end_the_one_of_now() {
    let failed = || Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers"));
    let mut s = Side::new(true);
    assert_eq!(s.configure(&[NEW]).dials, 1, "a new root deserves a try at once");
    s.handle(failed());
    assert_eq!(s.report().0.state, LinkState::Connecting);
    s.mono_ms += REPLACE_EVERY_MS;
    assert_eq!(s.wake().dials, 0, "the other one is on its way");
    s.handle(failed());
    s.mono_ms += REPLACE_EVERY_MS;
    assert_eq!(s.wake().dials, 1, "none is");
}

/// Nothing is on its way any more: when the old connection ends, the peer is dialled again.
#[test]
fn one_that_comes_by_a_withdrawn_root_is_not_waited_for() {
    let mut s = Side::live(true);
    let old = s.conn;
    s.configure(&[OLD, NEW]);
    assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
    s.configure(&[OLD]);
    let did = s.connect(NEW);
    assert_eq!(did.closed, [s.conn]);
    assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
    s.conn = old;
    s.handle(Event::Closed(old, None));
    assert_eq!(s.states().0, LinkState::Disconnected);
    s.mono_ms += REPLACE_EVERY_MS;
    assert_eq!(s.wake().dials, 1);
}

/// Whichever comes first: the new connection, or the end of the old one.
#[test]
fn nothing_is_missed_while_one_connection_takes_the_place_of_another() {
    for closed_first in [false, true] {
        let mut s = Side::live(true);
        assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
        assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 0, "one is under way");
        if closed_first {
            let did = s.handle(Event::Closed(s.conn, None));
            assert_eq!(did.dials, 0, "{did:?}");
            assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        }
        let old = s.conn;
        let did = s.connect(OLD);
        assert_eq!(did.closed == [old], !closed_first, "{did:?}");
        // A change that waits may be as old as this.
        s.mono_ms += 700;
        let (remote, flows) = s.report();
        assert_eq!((remote.state, flows[0].state), (LinkState::Connected, FlowState::Live));
        assert_eq!((flows[0].lag_ms, flows[0].pending), (Some(700), None), "{flows:?}");
        let flow = s.greet().opened().expect("the flow is declared again");
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        s.take(flow);
        let (_, flows) = s.report();
        assert_eq!((flows[0].state, flows[0].lag_ms), (FlowState::Live, Some(0)));
        assert!(flows[0].pending.is_some(), "it is known again: {flows:?}");
    }
}

/// What was sent over the old connection may not be confirmed: an agent that ends just then waits for the new one.
#[test]
fn an_end_waits_for_the_connection_that_is_on_its_way() {
    let mut s = Side::live(true);
    s.hear(Body::Renew(wire::Renew {}));
    let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "late"}"#, &Params::new());
    spawned.expect("a statement of this ontology");
    s.handle(Event::Closed(s.conn, None));
    let waits = |s: &Side| s.link.outstanding(&s.kernel).iter().map(|o| o.waits).collect::<Vec<_>>();
    assert_eq!(waits(&s), [true]);
    // Nobody is waited for who does not come.
    s.handle(Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers")));
    assert_eq!(waits(&s), [false]);
}

/// And nothing else is said with it.
#[test]
fn what_goes_wrong_is_said_at_once() {
    let said = |s: &Side| {
        let (remote, flows) = s.report();
        (remote.state, flows.iter().map(|f| f.state).collect::<Vec<_>>())
    };
    let mut s = Side::live(true);
    let both = vec![sync_item(), SyncItem { name: "here/urgent".into(), ..sync_item() }];
    let did = s.handle(Event::Configure(Box::new(remote(true, &[OLD])), both.clone()));
    s.take(did.opened().expect("the other flow is declared"));
    s.connect(OLD);
    let flow = s.greet().opened().expect("the flows are declared again");
    assert_eq!(said(&s), (LinkState::Connected, vec![FlowState::Live, FlowState::Live]));
    s.hear(Body::FlowRefuse(wire::FlowRefuse { flow, code: "Denied".into(), ..wire::FlowRefuse::default() }));
    assert_eq!(said(&s), (LinkState::Connected, vec![FlowState::Failed, FlowState::Live]));
    let suspended = RemoteItem { suspend: true, ..remote(true, &[OLD]) };
    s.handle(Event::Configure(Box::new(suspended), both));
    let (link, flows) = said(&s);
    assert_eq!((link, flows[1]), (LinkState::Suspended, FlowState::Waiting));

    // The new connection breaks as well.
    let mut s = Side::live(true);
    s.connect(OLD);
    s.greet();
    assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
    s.handle(Event::Closed(s.conn, Some(Problem::new(Reason::Unreachable, "it broke"))));
    assert_eq!(s.states(), (LinkState::Disconnected, FlowState::Waiting));
}

#[test]
fn what_is_not_known_for_long_is_not_said() {
    // The new connection cannot be made.
    let mut s = Side::live(true);
    s.hear(Body::Renew(wire::Renew {}));
    s.handle(Event::Closed(s.conn, None));
    s.handle(Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers")));
    assert_eq!(s.states(), (LinkState::Disconnected, FlowState::Waiting));

    // It is made, and nobody speaks.
    let mut s = Side::live(true);
    s.hear(Body::Renew(wire::Renew {}));
    s.connect(OLD);
    s.mono_ms += HANDOVER_MS - 1;
    s.wake();
    assert_eq!(s.states(), (LinkState::Disconnected, FlowState::Waiting), "the handshake has timed out");

    // The peer greets, and does not take the flow any more.
    let mut s = Side::live(false);
    s.connect(OLD);
    let flow = s.greet().opened().expect("the flow is declared again");
    s.mono_ms += HANDOVER_MS - 1;
    s.wake();
    assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
    s.mono_ms += 1;
    s.wake();
    assert_ne!(s.states().1, FlowState::Live);
    s.hear(Body::FlowRefuse(wire::FlowRefuse { flow, code: "Denied".into(), ..wire::FlowRefuse::default() }));
    assert_eq!(s.states(), (LinkState::Connected, FlowState::Failed));

    // A connection that just breaks is gone.
    let mut s = Side::live(true);
    s.handle(Event::Closed(s.conn, None));
    assert_eq!(s.states(), (LinkState::Disconnected, FlowState::Waiting));
}

/// The new connection knows at once that a copy is complete, and a little later how far behind it is. Until then it says what
/// was known.
#[test]
fn a_flow_that_is_pulled_is_live_with_its_lag_while_its_connection_is_replaced() {
    let mut s = Side::new(false);
    let item = SyncItem { direction: Direction::Pull, ..sync_item() };
    s.handle(Event::Configure(Box::new(remote(false, &[OLD])), vec![item]));
    let accept = |flow| {
        Body::FlowAccept(wire::FlowAccept {
            flow,
            types: vec!["Task".to_owned()],
            position: None,
            ..wire::FlowAccept::default()
        })
    };
    let first = wire::SyncPush { revision: "r".into(), upto: 5, live: true, ..wire::SyncPush::default() };
    s.connect(OLD);
    let flow = s.greet().opened().expect("the flow is declared");
    s.hear(accept(flow));
    s.hear(Body::SyncPush(wire::SyncPush { flow, ..first.clone() }));
    assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));

    s.connect(OLD);
    let flow = s.greet().opened().expect("the flow is declared");
    s.mono_ms += 100;
    s.hear(accept(flow));
    let (_, flows) = s.report();
    assert_eq!((flows[0].state, flows[0].lag_ms), (FlowState::Live, Some(100)), "at most");
    s.hear(Body::SyncPush(wire::SyncPush { flow, after: 5, ..first }));
    let (_, flows) = s.report();
    assert_eq!((flows[0].state, flows[0].lag_ms), (FlowState::Live, Some(0)));
}
