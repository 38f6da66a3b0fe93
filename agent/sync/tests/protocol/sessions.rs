//! The handshake, what a peer says of itself, and this side's certificate.

use crate::common::NOW_MS;
use crate::peer::{TASKS, accept, ack, batch, handshake, open, task};
use crate::side::{Did, Side, content, remote};
use mew_contract::samples::{THERE, sync_item};
use mew_contract::{Reason, RemoteItem};
use mew_sync::Event;
use mew_wire as wire;
use wire::frame::Body;

#[test]
fn what_comes_before_the_handshake_ends_the_session() {
    let early = [
        Body::SyncPush(batch(1, 0, 1, vec![task(1)])),
        ack(1, 1),
        Body::SyncNack(wire::SyncNack { flow: 1, code: "SinkError".into(), message: String::new() }),
        Body::FlowOpen(open(1, TASKS)),
        accept(2),
        Body::FlowRefuse(wire::FlowRefuse { flow: 2, ..wire::FlowRefuse::default() }),
        Body::FlowClose(wire::FlowClose { flow: 2 }),
        Body::RulesChanged(wire::RulesChanged {}),
        Body::Ping(wire::Ping { nonce: 1 }),
        Body::Pong(wire::Pong { nonce: 1, now_ms: NOW_MS }),
    ];
    for body in early {
        let mut s = Side::with_own_flow();
        let before = content(&s.kernel);
        s.connect();
        let did = s.hear(body.clone());
        assert!(did.hung_up(Reason::ProtocolMismatch), "{body:?}: {did:?}");
        let problem = s.report().0.problem.expect("it says why");
        assert!(problem.reason == Reason::ProtocolMismatch && problem.message.contains("handshake"), "{problem:?}");
        // Whatever else comes over that connection is of no interest.
        assert!(s.hear(Body::Handshake(handshake())).is_nothing(), "{body:?}");
        assert!(s.hear(Body::FlowOpen(open(1, TASKS))).is_nothing(), "{body:?}");
        assert_eq!(content(&s.kernel), before, "{body:?}");
        s.greet();
        s.open(open(1, TASKS));
        s.takes(1, 0, 1);
    }
}

#[test]
fn a_handshake_of_another_kernel_or_protocol_ends_the_session() {
    let wrong = [
        (wire::Handshake { kernel_id: "plant.third".into(), ..handshake() }, Reason::IdentityMismatch),
        (wire::Handshake { kernel_id: String::new(), ..handshake() }, Reason::IdentityMismatch),
        (wire::Handshake { protocol_min: 2, protocol_max: 9, ..handshake() }, Reason::ProtocolMismatch),
        (wire::Handshake { protocol_min: 0, protocol_max: 0, ..handshake() }, Reason::ProtocolMismatch),
    ];
    for (h, why) in wrong {
        let mut s = Side::new(Vec::new());
        s.connect();
        assert!(s.hear(Body::Handshake(h.clone())).hung_up(why), "{h:?}");
        assert_eq!(s.report().0.problem.map(|p| p.reason), Some(why), "{h:?}");
        s.greet();
        s.open(open(1, TASKS));
        s.takes(1, 0, 1);
    }
}

#[test]
fn a_second_handshake_changes_nothing() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    let other = wire::Handshake { kernel_id: "plant.third".into(), incarnation: "there-2".into(), ..handshake() };
    assert!(s.hear(Body::Handshake(other)).is_nothing());
    let peer = s.report().0.peer.expect("the peer is known");
    assert_eq!((peer.kernel_id.as_str(), peer.incarnation.as_str()), (THERE, "there-1"));
    s.takes(1, 0, 1);
}

/// What a peer says is reported, and with it what all others do.
#[test]
fn what_a_peer_says_of_itself_and_of_us_is_bounded() {
    let long = || "x".repeat(1 << 20);
    let mut s = Side::with_own_flow();
    s.greet();
    s.hear(Body::FlowRefuse(wire::FlowRefuse {
        flow: 2,
        code: "SinkError".into(),
        message: long(),
        ..wire::FlowRefuse::default()
    }));
    let problem = s.report().1.remove(0).problem.expect("it is refused");
    assert!(problem.reason == Reason::SinkError && problem.message.len() < 4096, "{} bytes", problem.message.len());
    s.hear(Body::Disconnect(wire::Disconnect { reason: long() }));
    assert!(s.report().0.problem.is_some_and(|p| p.message.len() < 4096));
    for h in [
        wire::Handshake { incarnation: long(), ..handshake() },
        wire::Handshake { agent_version: long(), ..handshake() },
    ] {
        s.connect();
        assert!(s.hear(Body::Handshake(h)).hung_up(Reason::ProtocolMismatch));
    }
    s.greet();
    let many = wire::FlowOpen { types: vec![wire::TypeShape::default(); 10_001], ..open(1, TASKS) };
    let reset = wire::FlowOpen { reset: long(), ..open(1, TASKS) };
    for o in [many, reset] {
        let did = s.hear(Body::FlowOpen(o));
        assert!(did.refused().is_some_and(|r| r.message.contains("too")), "it was not refused");
    }
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
}

/// The peer is asked to come anew; until it has, the connection with the old certificate goes on.
#[test]
fn another_certificate_asks_for_another_connection() {
    let mut s = Side::with_own_flow();
    assert!(s.handle(Event::Renewed).is_nothing(), "nobody is there to be asked");
    s.greet();
    s.open(open(1, TASKS));
    let asks = |d: &Did| !d.closed && matches!(d.frames.as_slice(), [Body::Renew(_)]);
    let did = s.handle(Event::Renewed);
    assert!(asks(&did), "{did:?}");
    let other = RemoteItem { certificate: Some("peers".into()), ..remote() };
    let did = s.handle(Event::Configure(Box::new(other.clone()), vec![sync_item()]));
    assert!(asks(&did), "{did:?}");
    let did = s.handle(Event::Configure(Box::new(other), vec![sync_item()]));
    assert!(did.is_nothing(), "the same certificate asks for nothing: {did:?}");
    s.takes(1, 0, 1);
}
