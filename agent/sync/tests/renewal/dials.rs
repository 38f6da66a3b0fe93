//! Several dials on their way at once: what one does says nothing of the others.

use crate::side::{NEW, OLD, REPLACE_EVERY_MS, Side};
use mew_contract::{FlowState, LinkState, Problem, Reason};
use mew_sync::Event;
use mew_wire as wire;
use wire::frame::Body;

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
