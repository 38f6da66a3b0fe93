//! Whether a step of replacing the CA is held up, from what an agent reports to what is found: through the status, as people and
//! `mew trust rotate` see it.

mod common;

use common::{BUNDLE, PEM, REMOTE, SYNC, World, flow, is, link, problem, since, up};
use mew_contract::{FlowState, LinkState, Reason, RemoteReport, Roots};
use mew_plan::rotation::{Finding, Standing, before_retiring, before_signing};

const OLD: &str = "AA:01";
const NEW: &str = "BB:02";
const THEIRS: &str = "CC:03";
const UP: (&str, &str) = ("True/Connected", "True/InSync");

/// The peer's words, in a connection that is up.
fn says(own: Option<&str>, accepted: Option<&[&str]>) -> RemoteReport {
    let mut r = up();
    let text = |t: &str| t.to_owned();
    if let Some(p) = &mut r.peer {
        p.roots = Roots {
            own: own.map(text),
            peer: Some(THEIRS.to_owned()),
            accepted: accepted.map(|a| a.iter().copied().map(text).collect()),
        };
    }
    r
}

/// The statuses after an agent with a certificate of that root has reported this.
fn world(root: Option<&str>, link: RemoteReport) -> World {
    let mut w = World::declared();
    w.report(link, flow(FlowState::Live, None));
    w.last_report().certificate_root = root.map(str::to_owned);
    w.settle();
    w
}

fn only(mut f: Vec<Finding>) -> Finding {
    assert_eq!(f.len(), 1, "{f:?}");
    f.remove(0)
}

fn signing(w: &World) -> Standing {
    only(before_signing(&w.objects.remotes, NEW)).standing
}

fn retiring(w: &World) -> Standing {
    only(before_retiring(&w.objects.remotes, OLD)).standing
}

fn hinders(s: &Standing, word: &str) -> bool {
    matches!(s, Standing::Hinders(why) if why.contains(word))
}

fn is_away(s: &Standing, word: &str) -> bool {
    matches!(s, Standing::Away(why) if why.contains(word))
}

#[test]
fn a_status_says_which_roots_are_in_use() {
    let w = world(Some(OLD), says(Some(OLD), Some(&[OLD, NEW])));
    let c = &w.remote(REMOTE)["status"]["certificates"];
    assert!(c["root"] == OLD && c["rootInUse"] == OLD && c["peerRootInUse"] == THEIRS, "{c}");
    assert_eq!(c["peerAcceptsRoots"], serde_json::json!([OLD, NEW]));
    // Of a connection that is gone, only what the peer accepted then.
    let mut gone = says(Some(OLD), Some(&[OLD]));
    (gone.state, gone.problem) = (LinkState::Disconnected, problem(Reason::Unreachable));
    let w = world(Some(OLD), gone);
    let c = &w.remote(REMOTE)["status"]["certificates"];
    assert!(c["rootInUse"].is_null() && c["peerRootInUse"].is_null(), "{c}");
    assert_eq!(c["peerAcceptsRoots"], serde_json::json!([OLD]));
}

/// A bundle with another root in it, or with one less, is told to agents and taken over by them; nothing that was true is less
/// so meanwhile.
#[test]
fn other_roots_make_no_status_flap() {
    let mut w = World::in_sync();
    let before = (since(&w.remote(REMOTE), "Ready"), since(&w.sync(SYNC), "Ready"));
    let two = format!("{PEM}-----BEGIN CERTIFICATE-----\nbmV3\n-----END CERTIFICATE-----\n");
    for bundle in [two.as_str(), PEM] {
        w.bundle(BUNDLE, "ca.crt", bundle);
        // Planned and told, and not confirmed yet.
        w.settle();
        w.agent().behind_since_ms = Some(w.now_ms);
        w.pass(1_000);
        w.settle();
        assert_eq!((is(&w.remote(REMOTE), "Ready").as_str(), is(&w.sync(SYNC), "Ready").as_str()), UP);
        w.report(up(), flow(FlowState::Live, None));
        w.agent().behind_since_ms = None;
        w.settle();
        assert_eq!((since(&w.remote(REMOTE), "Ready"), since(&w.sync(SYNC), "Ready")), before, "{bundle}");
    }
    // An agent that does not take them over is missed.
    w.bundle(BUNDLE, "ca.crt", &two);
    w.agent().behind_since_ms = Some(w.now_ms);
    w.pass(5_000);
    w.heartbeat();
    w.settle();
    assert_eq!(is(&w.remote(REMOTE), "Programmed"), "Unknown/Pending");
    assert_eq!(is(&w.remote(REMOTE), "Ready"), "Unknown/Pending");
}

#[test]
fn signing_waits_for_every_connected_peer() {
    let both = world(Some(OLD), says(Some(OLD), Some(&[OLD, NEW])));
    assert_eq!(signing(&both), Standing::Fits);
    let old_only = world(Some(OLD), says(Some(OLD), Some(&[OLD])));
    assert!(hinders(&signing(&old_only), "does not accept the new root"), "{:?}", signing(&old_only));
    // An agent that is too old to say, or that has just connected.
    for silent in [says(None, None), says(Some(OLD), Some(&[]))] {
        let w = world(Some(OLD), silent);
        assert!(hinders(&signing(&w), "has not said"), "{:?}", signing(&w));
    }
    let f = only(before_signing(&old_only.objects.remotes, NEW));
    assert_eq!((f.remote.as_str(), f.kernel.as_str()), (REMOTE, "shop.shop"));
    assert_eq!(f.peer, "team-a.shop of eu.example.com");
}

#[test]
fn a_peer_that_is_away_is_named_and_holds_nothing_up() {
    let away = |accepted: Option<&[&str]>| {
        let mut r = says(Some(OLD), accepted);
        (r.state, r.problem) = (LinkState::Disconnected, problem(Reason::Unreachable));
        signing(&world(Some(OLD), r))
    };
    assert!(is_away(&away(None), "nobody knows"));
    assert!(is_away(&away(Some(&[OLD])), "did not accept"));
    assert!(is_away(&away(Some(&[OLD, NEW])), "it accepted"));
    // Nor does an agent of ours that is away: what it said is not known any more.
    let mut w = world(Some(OLD), says(Some(OLD), Some(&[OLD])));
    w.agent().attached = false;
    w.pass(mew_plan::SILENT_MS);
    w.settle();
    assert!(is_away(&signing(&w), "nobody knows"), "{:?}", signing(&w));
    assert!(is_away(&retiring(&w), ""), "{:?}", retiring(&w));
    // One that never was there.
    let mut w = World::declared();
    w.settle();
    assert!(is_away(&signing(&w), "nobody knows") && is_away(&retiring(&w), ""));
}

#[test]
fn retiring_waits_until_nothing_depends_on_the_old_root() {
    let moved = world(Some(NEW), says(Some(NEW), Some(&[OLD, NEW])));
    assert_eq!(retiring(&moved), Standing::Fits);
    let kept = world(Some(OLD), says(Some(OLD), Some(&[OLD, NEW])));
    assert!(hinders(&retiring(&kept), "still has a certificate"), "{:?}", retiring(&kept));
    let open = world(Some(NEW), says(Some(OLD), Some(&[OLD, NEW])));
    assert!(hinders(&retiring(&open), "was made by the root that goes"), "{:?}", retiring(&open));
    let silent = world(Some(NEW), says(None, None));
    assert!(hinders(&retiring(&silent), "has not said"), "{:?}", retiring(&silent));
    let waiting = world(Some(NEW), link(LinkState::WaitingForPeer, None));
    assert!(is_away(&retiring(&waiting), ""), "{:?}", retiring(&waiting));
    // Its agent is there, its peer is not: that it has the old certificate is known.
    let lone = world(Some(OLD), link(LinkState::WaitingForPeer, None));
    assert!(hinders(&retiring(&lone), "still has a certificate"), "{:?}", retiring(&lone));
}

/// A Remote that names a certificate shows another issuer's: its peer need not know the roots of this side.
#[test]
fn where_another_issuers_certificate_is_shown_no_root_of_ours_is_needed() {
    const OTHER: &str = "EE:05";
    let named = |root: &str, report: RemoteReport| {
        let mut w = world(Some(root), report);
        assert_ne!(signing(&w), Standing::Fits, "the operator's certificate is shown");
        w.edit_remote("auth", serde_json::json!({"certificateRef": {"name": "peers"}}));
        w
    };
    let away = link(LinkState::WaitingForPeer, None);
    for report in [says(Some(OTHER), Some(&[OTHER])), says(None, None), away] {
        let w = named(NEW, report);
        assert_eq!((signing(&w), retiring(&w)), (Standing::Fits, Standing::Fits));
    }
    // What its agent shows elsewhere, and what a connection that is still up was made by, is not another issuer's.
    let kept = named(OLD, says(Some(OTHER), Some(&[OTHER])));
    assert!(hinders(&retiring(&kept), "still has a certificate"), "{:?}", retiring(&kept));
    let open = named(NEW, says(Some(OLD), Some(&[OLD])));
    assert!(hinders(&retiring(&open), "was made by the root that goes"), "{:?}", retiring(&open));
}
