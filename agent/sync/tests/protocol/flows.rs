//! Flows: which may be opened and where they begin, what is acknowledged, and frames of flows that are not there.

use crate::peer::{OTHERS, TASKS, accept, ack, batch, edge, open, pull, shapes_of, task};
use crate::side::{Side, content, ids};
use mew_contract::problem::MAX_TEXT;
use mew_contract::samples::THERE;
use mew_contract::{FlowState, Problem, Reason};
use mew_sync::Event;
use mew_wire as wire;
use wire::frame::Body;

/// As in `link/consent.rs`.
const MAX_PEER_FLOWS: u32 = 256;

#[test]
fn frames_of_flows_that_are_not_there_are_passed_over() {
    let nobodys = |pushed: u64| {
        [
            Body::SyncPush(batch(99, 0, 1, vec![task(5)])),
            // This side is the source of it.
            Body::SyncPush(batch(2, pushed, pushed + 1, vec![task(5)])),
            ack(99, 1),
            // This side is the sink of it.
            ack(1, 1),
            accept(99),
            accept(1),
            Body::FlowAccept(wire::FlowAccept {
                flow: 2,
                types: vec!["Secret".into()],
                position: None,
                ..wire::FlowAccept::default()
            }),
            Body::FlowClose(wire::FlowClose { flow: 99 }),
            Body::FlowRefuse(wire::FlowRefuse { flow: 99, ..wire::FlowRefuse::default() }),
            Body::SyncNack(wire::SyncNack { flow: 99, ..wire::SyncNack::default() }),
            Body::Pong(wire::Pong { nonce: 12_345, now_ms: 0 }),
        ]
    };
    let mut s = Side::with_own_flow();
    let did = s.greet();
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowOpen(o) if o.flow == 2)), "{did:?}");
    let did = s.hear(accept(2));
    let sent = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}")).upto;
    s.open(open(1, TASKS));
    let before = content(&s.kernel);
    for body in nobodys(sent) {
        let did = s.hear(body.clone());
        assert!(did.is_nothing(), "{body:?}: {did:?}");
        assert_eq!(content(&s.kernel), before, "{body:?}");
    }
    assert!(s.handle(Event::Frame(s.conn, wire::Frame { body: None })).is_nothing());
    assert_eq!(s.report().0.latency_ms, None, "a pong to no ping measures nothing");
    s.takes(1, 0, 1);
    s.hear(ack(2, sent));
    assert_eq!(s.report().1[0].state, FlowState::Live);
}

/// Otherwise a flow would be called live that has sent nothing.
#[test]
fn an_acknowledgement_of_what_was_never_sent_ends_the_flow() {
    let mut s = Side::with_own_flow();
    s.greet();
    let sent = s.hear(accept(2)).pushed().map(|p| p.upto).expect("a batch");
    s.open(open(1, TASKS));
    let before = content(&s.kernel);
    let did = s.hear(ack(2, sent + 1));
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowClose(c) if c.flow == 2)) && !did.closed, "{did:?}");
    let flow = s.report().1.remove(0);
    let problem = flow.problem.expect("it says why");
    assert!(flow.state == FlowState::Failed && problem.reason == Reason::SinkError, "{problem:?}");
    assert!(problem.message.contains("acknowledges"), "{problem:?}");
    assert_eq!(content(&s.kernel), before);
    s.takes(1, 0, 1);
    // It is opened again by the retry schedule.
    s.mono_ms += 200;
    let did = s.handle(Event::Wake);
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowOpen(o) if o.flow == 4)), "{did:?}");
    let sent = s.hear(accept(4)).pushed().map(|p| p.upto).expect("a batch");
    s.hear(ack(4, sent));
    assert_eq!(s.report().1[0].state, FlowState::Live);
}

#[test]
fn so_does_one_of_a_flow_that_the_peer_declares() {
    let mut s = Side::with_own_flow();
    s.greet();
    let did = s.hear(Body::FlowOpen(pull(1, TASKS)));
    let sent = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}")).upto;
    s.open(open(3, OTHERS));
    let did = s.hear(ack(1, sent + 1));
    let refuse = did.refused().unwrap_or_else(|| panic!("{did:?}"));
    assert!(refuse.flow == 1 && refuse.code == Reason::SinkError.code(), "{refuse:?}");
    assert!(refuse.message.contains("acknowledges") && !did.closed, "{did:?}");
    assert!(s.hear(ack(1, sent)).is_nothing());
    s.takes(3, 0, 1);
}

/// As of a flow that is pulled, where this side refuses it. A peer's words are as long as it likes.
#[test]
fn why_the_sink_refused_an_entity_is_said_by_the_flow_that_pushes_it() {
    let mut s = Side::with_own_flow();
    s.greet();
    let sent = s.hear(accept(2)).pushed().map(|p| p.upto).expect("a batch");
    let refused = |why: &str| {
        let counts = Some(wire::Counts { rejected: 1, ..wire::Counts::default() });
        Body::SyncAck(wire::SyncAck { flow: 2, upto: sent, counts, refusal: why.into() })
    };
    s.hear(refused("malformed entity"));
    let flow = s.report().1.remove(0);
    assert_eq!((flow.state, flow.rejected, flow.problem), (FlowState::Live, 1, None), "the flow goes on");
    assert_eq!(flow.last_error, Some(Problem::new(Reason::SinkError, "malformed entity")));
    // It is the last one, until there is another.
    s.hear(refused(""));
    assert_eq!(s.report().1.remove(0).last_error.map(|p| p.message), Some("malformed entity".to_owned()));
    s.hear(refused(&"x".repeat(1 << 20)));
    let message = s.report().1.remove(0).last_error.map(|p| p.message).unwrap_or_default();
    assert!(message.starts_with('x') && message.len() < MAX_TEXT + 4, "{} bytes", message.len());
}

#[test]
fn flows_that_may_not_be_opened_are_refused_one_by_one() {
    let sink = Reason::SinkError.code();
    let mismatch = Reason::OntologyMismatch.code();
    let pattern = |m: &str| wire::FlowOpen { r#match: m.into(), ..open(3, OTHERS) };
    let mut whole_number = open(3, OTHERS);
    for t in &mut whole_number.types {
        t.attrs.iter_mut().for_each(|a| a.kind = "Int".into());
    }
    let secret = wire::FlowOpen { types: shapes_of(&["Secret"]), edges: false, ..pattern("s: Secret") };
    let wrong = [
        ("a number of this side's", open(4, OTHERS), sink, "number"),
        ("a number that is taken", open(1, OTHERS), sink, "number"),
        ("a name that is too long", open(3, &"x".repeat(318)), sink, "too long"),
        ("a pattern that is too long", pattern(&format!("t: Task{}", " ".repeat(16_384))), sink, "too long"),
        ("no pattern", pattern("t Task"), Reason::InvalidPattern.code(), "expected"),
        ("two patterns", pattern("t: Task, u: Task"), Reason::InvalidPattern.code(), "one node"),
        ("a type that is not here", pattern("t: Nothing"), mismatch, "Nothing"),
        ("a type of another shape", whole_number, mismatch, "name"),
        // Not even the reason is said.
        ("a type that may not come", secret.clone(), "Denied", ""),
        ("a type that may not go", wire::FlowOpen { opener_is_source: false, ..secret }, "Denied", ""),
    ];
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    for (i, (what, o, code, word)) in wrong.into_iter().enumerate() {
        let flow = o.flow;
        let did = s.hear(Body::FlowOpen(o));
        let refuse = did.refused().unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert!(refuse.flow == flow && refuse.code == code && refuse.message.contains(word), "{what}: {refuse:?}");
        if code == "Denied" {
            assert!(refuse.message.is_empty() && !refuse.correlation_id.is_empty(), "{what}: {refuse:?}");
        }
        assert!(!did.closed, "{what}");
        s.takes(1, i as u64, i as u32);
    }
    s.open(open(3, OTHERS));
}

#[test]
fn a_peer_can_open_only_so_many_flows() {
    let mut s = Side::new(Vec::new());
    s.greet();
    for n in 0..MAX_PEER_FLOWS {
        s.open(open(2 * n + 1, &format!("there/{n}")));
    }
    let did = s.hear(Body::FlowOpen(open(2 * MAX_PEER_FLOWS + 1, TASKS)));
    assert!(did.refused().is_some_and(|r| r.message.contains("too many")), "{did:?}");
    s.takes(1, 0, 1);
    // One that ends makes room.
    s.hear(Body::FlowClose(wire::FlowClose { flow: 1 }));
    s.open(open(2 * MAX_PEER_FLOWS + 3, TASKS));
}

/// The log may have been put back to an earlier copy of itself: what is written then would pass for sent.
#[test]
fn a_position_that_is_not_of_this_log_is_refused() {
    let at = |incarnation: &str, seq: u64, start: u64| wire::Position {
        incarnation: incarnation.into(),
        seq,
        revision: "0123456789abcdef".into(),
        start,
        ..wire::Position::default()
    };
    let wrong = [at("here-1", 2, 0), at("here-1", u64::MAX, 0), at("here-1", 0, u64::MAX), at("here-0", 1, 0)];
    for p in wrong {
        let mut s = Side::with_own_flow();
        assert_eq!(s.kernel.head(), 1);
        s.greet();
        let did = s.hear(Body::FlowOpen(wire::FlowOpen { position: Some(p.clone()), ..pull(1, TASKS) }));
        let refuse = did.refused().unwrap_or_else(|| panic!("{p:?}: {did:?}"));
        assert_eq!((refuse.flow, refuse.code.as_str()), (1, Reason::SourceReset.code()), "{p:?}");
        let types = vec!["Task".to_owned()];
        let did = s.hear(Body::FlowAccept(wire::FlowAccept {
            flow: 2,
            types,
            position: Some(p.clone()),
            ..wire::FlowAccept::default()
        }));
        assert!(matches!(did.frames.as_slice(), [Body::FlowClose(c)] if c.flow == 2), "{p:?}: {did:?}");
        let problem = s.report().1.remove(0).problem.map(|p| p.reason);
        assert_eq!(problem, Some(Reason::SourceReset), "{p:?}");
        s.open(open(3, OTHERS));
        s.takes(3, 0, 1);
    }
    let mut s = Side::with_own_flow();
    s.greet();
    s.open(wire::FlowOpen { position: Some(at("here-1", 1, 1)), ..pull(1, TASKS) });
}

/// The store's position may be of an earlier revision, or from before a reset: acknowledged, it would make a copy that has
/// just begun look complete.
#[test]
fn a_retry_of_what_is_held_acknowledges_nothing_that_was_not_sent() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    let did = s.push(batch(1, 0, 5, vec![task(1), edge(1, 2)]));
    let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{did:?}"));
    assert_eq!((counts.applied, counts.held), (1, 1));
    s.hear(Body::FlowClose(wire::FlowClose { flow: 1 }));
    s.open(open(3, OTHERS));
    s.takes(3, 0, 2);
    let did = s.hear(Body::FlowOpen(wire::FlowOpen { reset: "again".into(), ..open(5, TASKS) }));
    assert!(did.accepted().is_some_and(|a| a.position.is_none()), "{did:?}");
    let told = did.acked().unwrap_or_else(|| panic!("the retry is not told: {did:?}"));
    assert_eq!((told.flow, told.upto, told.counts.map(|c| c.held)), (5, 0, Some(0)));
    assert!(ids(&s.kernel).contains(&format!("{THERE}/1-2")), "the edge is not here");
}
