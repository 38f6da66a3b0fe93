//! Roots that come and go: who is let in by them, what is told of them, and when another certificate is shown.

use crate::side::{Did, NEW, OLD, REPLACE_EVERY_MS, Side, remote};
use mew_contract::samples::sync_item;
use mew_contract::{FlowState, LinkState, Problem, Reason, RemoteItem};
use mew_sync::Event;
use mew_wire as wire;
use wire::frame::Body;

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
