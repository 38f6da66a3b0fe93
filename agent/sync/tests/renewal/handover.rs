//! What is said while one connection takes the place of another: what was known, for as long as it is true.

use crate::common::NOW_MS;
use crate::side::{HANDOVER_MS, OLD, Side, remote};
use mew_contract::samples::sync_item;
use mew_contract::snapshot::Direction;
use mew_contract::{FlowState, LinkState, Problem, Reason, RemoteItem, SyncItem};
use mew_kernel::Params;
use mew_sync::Event;
use mew_wire as wire;
use wire::frame::Body;

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
        assert_eq!((flows[0].lag_ms, flows[0].pending), (Some(700), Some(0)), "{flows:?}");
        let flow = s.greet().opened().expect("the flow is declared again");
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        s.take(flow);
        let (_, flows) = s.report();
        assert_eq!((flows[0].state, flows[0].lag_ms), (FlowState::Live, Some(0)));
        assert_eq!(flows[0].pending, Some(0), "{flows:?}");
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
    let types = || vec!["Task".to_owned()];
    let accept = |flow| Body::FlowAccept(wire::FlowAccept { flow, types: types(), ..wire::FlowAccept::default() });
    let first = wire::SyncPush { revision: "r".into(), upto: 5, live: true, ..wire::SyncPush::default() };
    s.connect(OLD);
    let flow = s.greet().opened().expect("the flow is declared");
    s.hear(accept(flow));
    s.hear(Body::SyncPush(wire::SyncPush { flow, ..first.clone() }));
    s.hear(Body::SyncPush(wire::SyncPush { flow, after: 5, pending: 7, ..first.clone() }));
    let (_, flows) = s.report();
    assert_eq!((flows[0].state, flows[0].pending), (FlowState::Live, Some(7)));

    s.connect(OLD);
    let flow = s.greet().opened().expect("the flow is declared");
    s.mono_ms += 100;
    s.hear(accept(flow));
    let (_, flows) = s.report();
    assert_eq!((flows[0].state, flows[0].lag_ms), (FlowState::Live, Some(100)), "at most");
    assert_eq!(flows[0].pending, Some(7), "as it was said last");
    s.hear(Body::SyncPush(wire::SyncPush { flow, after: 5, ..first }));
    let (_, flows) = s.report();
    assert_eq!((flows[0].state, flows[0].lag_ms, flows[0].pending), (FlowState::Live, Some(0), Some(0)));
}
