//! Several dials on their way at once: what one does says nothing of the others, and what leads nowhere is not waited for.

use crate::side::{Did, NEW, OLD, REPLACE_EVERY_MS, Side, remote};
use mew_contract::samples::sync_item;
use mew_contract::snapshot::Endpoint;
use mew_contract::{FlowState, LinkState, Problem, Reason, RemoteItem};
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

/// The Remote has another address, where the peer is now.
fn moves(s: &mut Side) -> Did {
    let endpoints = vec![Endpoint { host: "moved.example".into(), port: 9001, server_name: None }];
    let moved = RemoteItem { endpoints, ..remote(true, &[OLD]) };
    s.handle(Event::Configure(Box::new(moved), vec![sync_item()]))
}

/// What is on its way there may never be answered.
#[test]
fn what_is_on_its_way_to_an_address_of_before_is_not_waited_for() {
    // Nothing is on its way, and what is up is as good as before.
    let mut s = Side::live(true);
    assert_eq!((moves(&mut s).dials, s.states()), (0, (LinkState::Connected, FlowState::Live)));

    let replaced = || {
        let mut s = Side::live(true);
        assert_eq!(s.hear(Body::Renew(wire::Renew {})).dials, 1);
        assert_eq!(moves(&mut s).dials, 1, "the one that is on its way leads nowhere");
        s
    };
    // Nothing else is waited for when the old connection ends, whenever that is.
    for closed_first in [false, true] {
        let mut s = replaced();
        let mut ends = [Event::GivenUp, Event::Closed(s.conn, None)];
        if closed_first {
            ends.reverse();
        }
        for e in ends {
            assert_eq!(s.handle(e).dials, 0);
            assert_eq!(s.states(), (LinkState::Connected, FlowState::Live), "closed first: {closed_first}");
        }
        s.connect(OLD);
        let flow = s.greet().opened().expect("the flow is declared again");
        s.take(flow);
        assert_eq!(s.states(), (LinkState::Connected, FlowState::Live));
        s.handle(Event::Closed(s.conn, None));
        assert_eq!(s.states().0, LinkState::Disconnected, "nothing else is on its way");
    }
    // If the new address does not answer, it is tried again, whichever is heard of first.
    let failed = || Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers"));
    for ends in [[Event::GivenUp, failed()], [failed(), Event::GivenUp]] {
        let mut s = replaced();
        for e in ends {
            s.handle(e);
        }
        assert_eq!((s.states(), s.wake().dials), ((LinkState::Connected, FlowState::Live), 0));
        s.mono_ms += REPLACE_EVERY_MS;
        assert_eq!(s.wake().dials, 1);
    }
}

/// That it was given up is no problem of the peer's.
#[test]
fn an_address_is_no_worse_for_the_one_of_before() {
    let failed = || Event::ConnectFailed(Problem::new(Reason::Unreachable, "nobody answers"));
    for given_up_last in [false, true] {
        let mut s = Side::new(true);
        assert_eq!(moves(&mut s).dials, 1, "a new address deserves a try at once");
        let problem = |s: &Side| s.report().0.problem.map(|p| p.message);
        if given_up_last {
            s.handle(failed());
            s.handle(Event::GivenUp);
        } else {
            s.handle(Event::GivenUp);
            assert_eq!(problem(&s), None);
            s.handle(failed());
        }
        assert_eq!(problem(&s).as_deref(), Some("nobody answers"));
        s.mono_ms += REPLACE_EVERY_MS;
        assert_eq!(s.wake().dials, 1, "it is tried again");
    }
}
